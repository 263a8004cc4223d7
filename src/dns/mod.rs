//! Names: a DNS proxy for a workload (contract, 2.8), and host names that connections are made to.
//!
//! Names of the mesh are answered from the snapshot ([`lookup`](lookup()) says how), all others by
//! the nameservers of the process, with messages passed on as they are. The room knows DNS and
//! where a pod's resolver is configured. It must not know which workload it serves, nor how
//! connections go on from an address.

#[cfg(test)]
mod fixture;
mod forward;
mod hosts;
mod listeners;
mod lookup;
mod message;
mod metrics;
mod proxy;
mod resolv_conf;
mod search;
#[cfg(test)]
mod tests;

pub use hosts::Resolver;
pub use listeners::Listeners;
pub use lookup::{Client, Cluster, Family, Found, Match, Outcome, find, lookup};
pub use proxy::{Config, DnsProxy, Limits, Source};
pub use resolv_conf::ResolvConf;
pub use search::Search;

/// The port of the proxy on localhost.
pub const DNS_PORT: u16 = 15053;
