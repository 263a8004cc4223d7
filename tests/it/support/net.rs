//! A network of its own for each test, in 127.0.0.0/8.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU32, Ordering},
};

/// `127.A.B.0/24`.
#[derive(Debug, Clone, Copy)]
pub struct Net(u8, u8);

impl Net {
    /// A network in which no other test of this machine listens.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            // Starts at a place that differs between processes; the bind below settles what is left of chance.
            let n = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(61));
            let net = Self(64 + (n >> 8) as u8 % 128, n as u8);
            if TcpListener::bind((net.ip(254), 15999)).map(std::mem::forget).is_ok() {
                return net;
            }
        }
    }

    /// The address with this last number.
    pub fn ip(self, host: u8) -> IpAddr {
        Ipv4Addr::new(127, self.0, self.1, host).into()
    }

    /// Address and port.
    pub fn addr(self, host: u8, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(host), port)
    }

    /// Fills in `NET` in a text.
    pub fn fill(self, text: &str) -> String {
        text.replace("NET.", &format!("127.{}.{}.", self.0, self.1))
    }
}
