//! The connections that are open, for whoever looks at the proxy.

use super::{Connections, InboundConnection, OutboundConnection};
use crate::model::Name;
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// All open connections of a proxied workload.
#[derive(Debug, Default)]
pub(super) struct OpenConnections {
    list: Mutex<HashMap<u64, Open>>,
    next: AtomicU64,
}

/// An open connection.
#[derive(Debug, Clone)]
pub(super) enum Open {
    /// To the workload.
    Inbound { src: SocketAddr, service: Option<Name>, actual_dst: SocketAddr, is_hbone: bool },
    /// From the workload.
    Outbound { src: SocketAddr, original_dst: SocketAddr, actual_dst: SocketAddr, protocol: Protocol },
}

/// How a connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Hbone,
    DoubleHbone,
}

impl Protocol {
    fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Hbone => "HBONE",
            Self::DoubleHbone => "DOUBLEHBONE",
        }
    }
}

/// A connection in the list, for as long as this lives.
#[derive(Debug)]
pub(super) struct Listed {
    open: Arc<OpenConnections>,
    id: u64,
}

impl OpenConnections {
    /// Adds a connection.
    pub(super) fn list_one(self: &Arc<Self>, open: Open) -> Listed {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(id, open);
        Listed { open: self.clone(), id }
    }

    /// All of them, oldest first.
    pub(super) fn list(&self) -> Connections {
        let mut all: Vec<(u64, Open)> = self.lock().iter().map(|(id, open)| (*id, open.clone())).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        let mut connections = Connections::default();
        for (_, open) in all {
            match open {
                Open::Inbound { src, service, actual_dst, is_hbone } => {
                    let protocol = if is_hbone { Protocol::Hbone } else { Protocol::Tcp };
                    let protocol = protocol.as_str().into();
                    connections.inbound.push(InboundConnection { src, original_dst: service, actual_dst, protocol });
                }
                Open::Outbound { src, original_dst, actual_dst, protocol } => {
                    let protocol = protocol.as_str().into();
                    connections.outbound.push(OutboundConnection { src, original_dst, actual_dst, protocol });
                }
            }
        }
        connections
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Open>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut list = self.open.lock();
        list.remove(&self.id);
        // A table that was large once is not kept so.
        let room = list.capacity();
        if room > 64 && list.len() < room / 8 {
            list.shrink_to(room / 4);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_listed_until_they_end() {
        let (open, at) = (Arc::new(OpenConnections::default()), |n: u16| SocketAddr::from(([10, 0, 0, 1], n)));
        let out = |n, protocol| Open::Outbound { src: at(n), original_dst: at(80), actual_dst: at(15008), protocol };
        let kept = [Protocol::DoubleHbone, Protocol::Tcp].map(|protocol| open.list_one(out(1, protocol)));
        let gone = open.list_one(out(2, Protocol::Hbone));
        let inbound = Open::Inbound { src: at(3), service: Some("a.b".into()), actual_dst: at(8080), is_hbone: true };
        let inbound = open.list_one(inbound);
        drop(gone);
        let list = open.list();
        assert_eq!(list.outbound.iter().map(|c| &*c.protocol).collect::<Vec<_>>(), ["DOUBLEHBONE", "TCP"]);
        assert_eq!((list.inbound.len(), &*list.inbound[0].protocol), (1, "HBONE"));
        drop((kept, inbound));
        assert_eq!(open.list(), Connections::default());
    }
}
