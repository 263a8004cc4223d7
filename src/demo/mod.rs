//! The bookinfo mesh in one process.
