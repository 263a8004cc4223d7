//! Which addresses are this proxy's own sockets: nothing may be sent there on a workload's behalf.

use crate::hbone::HBONE_PORT;
use std::net::SocketAddr;

/// Inbound, plaintext inbound, outbound, SOCKS5: reserved in every workload, whether we listen or not.
const RESERVED: [u16; 4] = [HBONE_PORT, 15006, 15001, 15080];

/// The ports that lead back into the proxy.
#[derive(Debug, Clone, Default)]
pub struct OwnPorts {
    bound: Vec<SocketAddr>,
}

impl OwnPorts {
    /// `bound`: where this proxy listens.
    pub fn new(bound: Vec<SocketAddr>) -> Self {
        Self { bound }
    }

    /// Whether a connection to `address`, which is the workload's own, would come to this proxy.
    pub fn serves(&self, address: SocketAddr) -> bool {
        RESERVED.contains(&address.port()) || self.is_bound(address)
    }

    /// Whether this proxy listens at exactly this address, given that it is the workload's own.
    fn is_bound(&self, address: SocketAddr) -> bool {
        self.bound.iter().any(|b| b.port() == address.port() && (b.ip().is_unspecified() || b.ip() == address.ip()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_and_bound_sockets_are_ours() {
        let own = OwnPorts::new(vec!["127.0.0.1:4000".parse().unwrap(), "[::]:4001".parse().unwrap()]);
        let rows = [
            ("10.0.0.1:15001", true),
            ("10.0.0.1:15006", true),
            ("10.0.0.1:15008", true),
            ("[fd00::1]:15080", true),
            ("127.0.0.1:4000", true),
            ("10.0.0.1:4000", false),
            ("10.0.0.1:4001", true),
            ("10.0.0.1:80", false),
        ];
        for (address, want) in rows {
            assert_eq!(own.serves(address.parse().unwrap()), want, "{address}");
        }
    }
}
