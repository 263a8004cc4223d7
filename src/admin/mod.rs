//! What operators, kubelets and Prometheus ask the process: three small HTTP/1.1 servers from one
//! kind of [`Router`].
//!
//! The room answers questions and passes two wishes on, a log level and the end; where the answers
//! come from is the affair of whoever hands in the closures.

mod debug;
mod metrics;
mod profile;
mod readiness;
mod router;
mod server;
#[cfg(test)]
mod tests;

pub use debug::debug;
pub use metrics::metrics;
pub use readiness::readiness;
pub use router::{Answer, Answering, Asked, Router};
pub use server::serve;
