//! What tells tunnels apart.

use crate::model::{Identity, Name};
use std::{net::SocketAddr, sync::Arc};

/// What tells tunnels apart. Two workloads never share one, and a tunnel to an address is not used
/// for another identity that has taken the address over.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// Whose certificate is presented.
    pub source: Identity,
    /// The identities of which the peer must have one, exactly.
    pub destinations: Arc<[Identity]>,
    /// How the peer is reached.
    pub via: Via,
}

/// How the peer of a tunnel is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Via {
    /// By a TCP connection to this address.
    Direct(SocketAddr),
    /// By a stream of another tunnel, which leads to the gateway of the peer's network (contract,
    /// 1.7).
    Through {
        /// The tunnel to the gateway.
        gateway: Arc<PoolKey>,
        /// What the gateway is asked for.
        authority: Name,
    },
}

impl PoolKey {
    /// A tunnel from `source` over a TCP connection to `address`.
    pub fn direct(source: Identity, destinations: Arc<[Identity]>, address: SocketAddr) -> Self {
        Self { source, destinations, via: Via::Direct(address) }
    }

    /// A tunnel inside a stream to `authority` of the tunnel `gateway`, with the same certificate.
    pub fn through(gateway: Self, authority: Name, destinations: Arc<[Identity]>) -> Self {
        Self { source: gateway.source.clone(), destinations, via: Via::Through { gateway: Arc::new(gateway), authority } }
    }

    /// Where the packets go: the peer, or the gateway on the way to it.
    pub fn address(&self) -> SocketAddr {
        match &self.via {
            Via::Direct(address) => *address,
            Via::Through { gateway, .. } => gateway.address(),
        }
    }

    /// This key, and those of the tunnels that it is inside of.
    pub(super) fn layers(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |key| match &key.via {
            Via::Direct(_) => None,
            Via::Through { gateway, .. } => Some(&**gateway),
        })
    }
}
