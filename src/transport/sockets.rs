//! Where sockets are made, and how they are set up: one value for a whole proxy, so that no socket
//! of a pod is ever made outside of the pod or without its mark.

use super::{
    Netns,
    listener::{self, ListenOptions},
    socket::{self, ConnectOptions, Keepalive},
};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Source ports that are tried for one connection, where they are not the kernel's choice.
const PORT_TRIES: usize = 4;

/// Makes sockets. Clones make them alike.
#[derive(Debug, Clone, Default)]
pub struct Sockets {
    netns: Option<Arc<Netns>>,
    options: SocketOptions,
}

/// How all sockets of a proxy are set up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// SO_MARK, by which redirection rules tell the proxy's packets from the workload's
    /// (CAP_NET_ADMIN).
    pub mark: Option<u32>,
    /// Keepalive of TCP connections.
    pub keepalive: Keepalive,
    /// Listeners let another process listen beside them (SO_REUSEPORT): the one that takes over
    /// before this one has ended.
    pub reuse_port: bool,
}

impl Sockets {
    /// Sockets in the namespace of the process.
    pub fn new(options: SocketOptions) -> Self {
        Self { netns: None, options }
    }

    /// The same, in another namespace.
    pub fn inside(&self, netns: Arc<Netns>) -> Self {
        Self { netns: Some(netns), options: self.options }
    }

    /// The namespace; `None` for that of the process.
    pub fn netns(&self) -> Option<&Arc<Netns>> {
        self.netns.as_ref()
    }

    /// Runs `make` where the sockets belong.
    ///
    /// # Errors
    /// When the namespace cannot be entered, and those of `make`.
    pub fn run<T>(&self, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match &self.netns {
            Some(netns) => netns.run(make)?,
            None => make(),
        }
    }

    /// Listens on `addr`; see [`listener::bind`].
    ///
    /// # Errors
    /// As there.
    pub fn listen(&self, addr: SocketAddr, options: ListenOptions) -> io::Result<TcpListener> {
        let options = ListenOptions {
            reuse_port: options.reuse_port || self.options.reuse_port,
            mark: options.mark.or(self.options.mark),
            ..options
        };
        self.run(|| listener::bind(addr, options))
    }

    /// Connects; see [`socket::connect_with`].
    ///
    /// # Errors
    /// As there.
    pub async fn connect(&self, addr: SocketAddr, options: ConnectOptions) -> io::Result<TcpStream> {
        let options = ConnectOptions { mark: options.mark.or(self.options.mark), keepalive: self.options.keepalive, ..options };
        let tries = if options.port_apart { PORT_TRIES } else { 1 };
        for _ in 1..tries {
            let made = self.run(|| socket::prepare(addr, options))?;
            match socket::finish(made, addr, options.timeout).await {
                // The port that was taken at random is in use towards this very destination.
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
                other => return other,
            }
        }
        let made = self.run(|| socket::prepare(addr, options))?;
        socket::finish(made, addr, options.timeout).await
    }

    /// Sets up an accepted connection: keepalive, as on those that are opened.
    ///
    /// # Errors
    /// When the socket refuses an option.
    pub fn keep_alive(&self, stream: &TcpStream) -> io::Result<()> {
        self.options.keepalive.set(stream.into())
    }

    /// A UDP socket bound to `addr`.
    ///
    /// # Errors
    /// When the address is taken or not ours, or an option is not permitted.
    pub fn udp(&self, addr: SocketAddr) -> io::Result<UdpSocket> {
        self.make_udp(addr, self.options.reuse_port)
    }

    /// A UDP socket that speaks with one peer only, from a random port of its own: a shared one might
    /// be that of another such socket.
    ///
    /// # Errors
    /// When an option is not permitted, or there is no way to the peer.
    pub async fn udp_to(&self, peer: SocketAddr) -> io::Result<UdpSocket> {
        let any: IpAddr = if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = self.make_udp(SocketAddr::new(any, 0), false)?;
        socket.connect(peer).await?;
        Ok(socket)
    }

    fn make_udp(&self, addr: SocketAddr, reuse_port: bool) -> io::Result<UdpSocket> {
        let make = || {
            let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
            if addr.is_ipv6() {
                socket.set_only_v6(!addr.ip().is_unspecified())?;
            }
            socket.set_reuse_port(reuse_port)?;
            if let Some(mark) = self.options.mark {
                socket.set_mark(mark)?;
            }
            socket.set_nonblocking(true)?;
            socket.bind(&addr.into())?;
            UdpSocket::from_std(socket.into())
        };
        self.run(make)
    }
}
