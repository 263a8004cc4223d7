//! any_bytes
