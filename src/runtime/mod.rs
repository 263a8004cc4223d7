//! How a process starts, runs and ends: readiness, worker threads, drain, signals.
//!
//! This room does not know what is started or drained; it only knows when and where.

pub mod drain;
pub mod priority;
pub mod ready;
pub mod signal;
pub mod workers;

pub use drain::{DrainGuard, DrainTrigger, DrainWatch};
pub use ready::{BlockReady, Readiness};
pub use workers::{Place, Workers};
