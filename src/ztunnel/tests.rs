//! The proxy on real sockets. Each pod has a loopback address of its own, since a proxy is always
//! dialled at port 15008.

mod demand;
pub(super) mod fixture;
mod inbound;
mod outbound;
mod plaintext;
mod relay;
mod revocation;
mod stand;
