//! How a process starts and ends: readiness, drain, signals.
//!
//! This room does not know what is started or drained; it only knows when.

pub mod drain;
pub mod ready;
pub mod signal;

pub use drain::{DrainGuard, DrainTrigger, DrainWatch};
pub use ready::{BlockReady, Readiness};
