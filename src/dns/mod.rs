//! Names: a DNS proxy for a workload (contract, 2.8), and host names that connections are made to.
//!
//! Names of the mesh are answered from the snapshot ([`lookup`](lookup()) says how), all others by
//! the nameservers of the process, with messages passed on as they are. The room knows DNS and
//! where a pod's resolver is configured. It must not know which workload it serves, nor how
//! connections go on from an address.

#[cfg(test)]
mod fixture;
mod lookup;

pub use lookup::{Client, Cluster, Family, Found, Match, Outcome, find, lookup};
