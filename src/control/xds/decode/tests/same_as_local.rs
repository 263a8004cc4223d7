//! same_as_local
