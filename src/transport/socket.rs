//! What sockets can tell and be told: original destinations, keepalive, marks, outgoing connections.

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::net::{TcpSocket, TcpStream};

/// How the kernel finds out that an idle peer is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Whether it asks at all.
    pub enabled: bool,
    /// Idle time before the first probe.
    pub time: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Probes without an answer until the connection is given up.
    pub retries: u32,
    /// Sent bytes that stay unacknowledged for as long as all probes would take also end the
    /// connection (TCP_USER_TIMEOUT).
    pub user_timeout: bool,
}

impl Default for Keepalive {
    /// Istio's defaults.
    fn default() -> Self {
        let time = Duration::from_secs(180);
        Self { enabled: true, time, interval: time, retries: 9, user_timeout: false }
    }
}

impl Keepalive {
    /// Sets it on a socket.
    ///
    /// # Errors
    /// When the socket refuses an option.
    pub fn set(&self, socket: SockRef<'_>) -> io::Result<()> {
        if self.enabled {
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(self.time).with_interval(self.interval).with_retries(self.retries))?;
        }
        if self.user_timeout {
            socket.set_tcp_user_timeout(Some(self.time + self.interval * self.retries))?;
        }
        Ok(())
    }
}

/// Where the client meant to go before its connection was redirected to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OriginalDst(pub SocketAddr);

/// How to open a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Limit for the TCP handshake.
    pub timeout: Duration,
    /// SO_MARK, by which the node's rules tell our packets from the workload's (CAP_NET_ADMIN).
    pub mark: Option<u32>,
    /// Speak from this address although it is not ours (IP_TRANSPARENT, CAP_NET_ADMIN). When that
    /// is not possible, the connection is made from our own address, with a warning.
    pub source: Option<IpAddr>,
    /// Take a port of `source` that its owner does not take: one below those that systems choose for
    /// their own connections. For connections to where the owner connects to by itself, by way of
    /// redirection: to conntrack both are one connection if they have one port.
    pub port_apart: bool,
    /// Which of our own addresses to speak from; the routing table decides when absent.
    pub local: Option<IpAddr>,
    /// Keepalive.
    pub keepalive: Keepalive,
}

impl ConnectOptions {
    /// No mark, our own address.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, mark: None, source: None, port_apart: false, local: None, keepalive: Keepalive::default() }
    }
}

/// The destination before redirection: what conntrack remembers (SO_ORIGINAL_DST, REDIRECT rules),
/// else the local address, which is the destination under TPROXY and without any redirection.
///
/// # Errors
/// When the local address cannot be read.
pub fn original_dst(stream: &TcpStream) -> io::Result<OriginalDst> {
    let socket = SockRef::from(stream);
    let remembered = socket.original_dst_v4().or_else(|_| socket.original_dst_v6());
    let addr = match remembered.ok().and_then(|addr| addr.as_socket()) {
        Some(addr) => addr,
        None => stream.local_addr()?,
    };
    Ok(OriginalDst(canonical(addr)))
}

/// Makes the close of a connection a reset: the peer learns that it was broken off, and cannot take
/// what it has for everything. Bytes that are not sent yet are lost.
pub fn reset_on_close(stream: &TcpStream) {
    // Fails only on a socket that is broken anyway.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Connects within `timeout`; NODELAY and keepalive are set. Cancel safe: dropping the future
/// closes the socket.
///
/// # Errors
/// Those of connect(2), and [`io::ErrorKind::TimedOut`].
pub async fn connect(addr: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    connect_with(addr, ConnectOptions::new(timeout)).await
}

/// As [`connect`], with options.
///
/// # Errors
/// As [`connect`], and when the mark is not permitted.
pub async fn connect_with(addr: SocketAddr, options: ConnectOptions) -> io::Result<TcpStream> {
    finish(prepare(addr, options)?, addr, options.timeout).await
}

/// The socket of [`connect_with`], made in the namespace that the thread is in now.
pub(super) fn prepare(addr: SocketAddr, options: ConnectOptions) -> io::Result<Socket> {
    let addr = canonical(addr);
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    options.keepalive.set(SockRef::from(&socket))?;
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    if let Some(local) = options.local {
        bind_source(&socket, local)?;
    }
    // To itself no workload needs a borrowed address, and such packets would not come back to us.
    if let Some(source) = options.source.filter(|source| *source != addr.ip())
        && let Err(error) = borrow_source(&socket, source, options.port_apart)
    {
        tracing::warn!(%source, destination = %addr, %error, "the client's address cannot be kept");
    }
    Ok(socket)
}

/// Connects a socket that is prepared; it stays in the namespace where it was made.
pub(super) async fn finish(socket: Socket, addr: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let connecting = TcpSocket::from_std_stream(socket.into()).connect(canonical(addr));
    match tokio::time::timeout(timeout, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "connect timed out")),
    }
}

/// The address with an IPv4-mapped IPv6 address as plain IPv4.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, addr.port()),
        // Left alone: it may carry a scope.
        IpAddr::V6(_) => addr,
    }
}

fn borrow_source(socket: &Socket, source: IpAddr, port_apart: bool) -> io::Result<()> {
    match source {
        IpAddr::V4(_) => {
            socket.set_ip_transparent_v4(true)?;
            socket.set_freebind_v4(true)?;
        }
        IpAddr::V6(_) => {
            socket.set_ip_transparent_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    if port_apart { bind_apart(socket, source) } else { bind_source(socket, source) }
}

/// Binds to an address, and to no port yet. The port is chosen once the destination is known, when
/// one that is in use towards another will do: otherwise the many short connections that one client
/// makes to all workloads of a pod could not be more than there are ports, and long before that
/// most of the time would go into looking for a free one.
fn bind_source(socket: &Socket, source: IpAddr) -> io::Result<()> {
    setsockopt(socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::new(source, 0).into())
}

/// Below what systems choose from for themselves (Linux: from 32768), above what is mostly listened
/// on. The kernel itself would not choose from there: its range for a socket (IP_LOCAL_PORT_RANGE)
/// must lie in that of the system.
const PORTS_APART: std::ops::RangeInclusive<u16> = 10_240..=32_767;
/// Ports that are tried.
const PORT_TRIES: usize = 8;

/// Binds to an address and to a port apart. A port that is in use towards another destination will do.
fn bind_apart(socket: &Socket, source: IpAddr) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    for _ in 0..PORT_TRIES {
        match socket.bind(&SocketAddr::new(source, fastrand::u16(PORTS_APART)).into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            other => return other,
        }
    }
    // One that the kernel chooses at random is seldom the owner's.
    socket.bind(&SocketAddr::new(source, 0).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::listener::{ListenOptions, accept, bind};

    #[tokio::test]
    async fn without_redirection_the_original_destination_is_the_local_address() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), ListenOptions::default()).unwrap();
        let addr = listener.local_addr().unwrap();
        let client = connect(addr, Duration::from_secs(5)).await.unwrap();
        let accepted = accept(&listener).await;
        assert_eq!(original_dst(&accepted.stream).unwrap(), OriginalDst(addr));
        assert!(client.nodelay().unwrap());
        let socket = SockRef::from(&client);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(180));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 9);
        assert!(SockRef::from(&accepted.stream).keepalive().is_ok_and(|on| !on), "only on request");
    }

    #[tokio::test]
    async fn a_source_address_takes_no_port_before_it_is_known_where_to() {
        for (destination, source) in [("127.0.0.1:0", "127.0.0.2"), ("[::1]:0", "::1")] {
            let listener = bind(destination.parse().unwrap(), ListenOptions::default()).unwrap();
            let addr = listener.local_addr().unwrap();
            let timeout = Duration::from_secs(5);
            let options = ConnectOptions { local: Some(source.parse().unwrap()), ..ConnectOptions::new(timeout) };
            let socket = prepare(addr, options).unwrap();
            let local = |socket: &Socket| socket.local_addr().unwrap().as_socket().unwrap();
            assert_eq!(local(&socket).to_string(), SocketAddr::new(source.parse().unwrap(), 0).to_string());
            let stream = finish(socket, addr, timeout).await.unwrap();
            assert_eq!(stream.local_addr().unwrap().ip().to_string(), source);
            assert_eq!(accept(&listener).await.peer, stream.local_addr().unwrap());
        }
    }

    #[tokio::test]
    async fn a_port_apart_is_none_that_systems_choose_for_themselves() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), ListenOptions::default()).unwrap();
        let addr = listener.local_addr().unwrap();
        for _ in 0..8 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
            socket.set_nonblocking(true).unwrap();
            bind_apart(&socket, "127.0.0.3".parse().unwrap()).unwrap();
            let stream = finish(socket, addr, Duration::from_secs(5)).await.unwrap();
            let port = stream.local_addr().unwrap().port();
            assert!((10_240..=32_767).contains(&port), "{port}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_an_error_of_connect() {
        let addr = bind("127.0.0.1:0".parse().unwrap(), ListenOptions::default()).unwrap().local_addr().unwrap();
        assert_eq!(connect(addr, Duration::from_secs(5)).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn mapped_addresses_become_plain() {
        let cases = [("[::ffff:10.0.0.1]:80", "10.0.0.1:80"), ("10.0.0.1:80", "10.0.0.1:80"), ("[fd00::1]:80", "[fd00::1]:80")];
        for (from, to) in cases {
            assert_eq!(canonical(from.parse().unwrap()), to.parse().unwrap());
        }
    }
}
