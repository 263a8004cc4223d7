//! A control plane as the source (contract, 3): Istio's workload API over incremental ADS.

mod backoff;
mod client;
mod codec;
pub mod decode;
mod demand;
mod requests;
mod resources;
mod status;
mod stream;
mod table;
#[cfg(test)]
mod tests;

pub use client::{Client, Config, Node, Rejection, Types, Update, client};
#[cfg(test)]
pub(crate) use demand::Answers;
pub use demand::{Demand, Key};
pub use status::{Connection, Status};
