//! Listening sockets and what is accepted from them.

use super::socket::canonical;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::{io, net::SocketAddr, time::Duration};
use tokio::net::{TcpListener, TcpStream};

/// Connections the kernel may complete before we accept them.
const BACKLOG: i32 = 1024;
/// First pause after the process ran out of descriptors or memory; doubles from there.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
/// Longest such pause: a full table empties when connections end, which is not at once.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// How to listen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListenOptions {
    /// Several sockets share the address and the kernel spreads connections over them.
    pub reuse_port: bool,
    /// Accept connections to addresses that are not ours (IP_TRANSPARENT, needs CAP_NET_ADMIN).
    pub transparent: bool,
    /// SO_MARK of the listener and, by inheritance, of what it accepts (CAP_NET_ADMIN).
    pub mark: Option<u32>,
}

/// A connection that has come in.
#[derive(Debug)]
pub struct Accepted {
    /// The connection, with NODELAY.
    pub stream: TcpStream,
    /// Where it comes from; IPv4 in its own form also on an IPv6 socket.
    pub peer: SocketAddr,
    /// The address it arrived at, in the same form.
    pub local: SocketAddr,
}

/// A connection on its way to another runtime.
#[derive(Debug)]
pub struct Detached {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
}

impl Accepted {
    /// Takes it out of this runtime.
    ///
    /// # Errors
    /// When the system refuses; the connection is closed.
    pub fn detach(self) -> io::Result<Detached> {
        Ok(Detached { stream: self.stream.into_std()?, peer: self.peer, local: self.local })
    }
}

impl Detached {
    /// Puts it into the runtime of the caller.
    ///
    /// # Errors
    /// When the system refuses; the connection is closed.
    pub fn attach(self) -> io::Result<Accepted> {
        Ok(Accepted { stream: TcpStream::from_std(self.stream)?, peer: self.peer, local: self.local })
    }
}

/// Listens on `addr`; `[::]` takes IPv4 as well. Must be called in a tokio runtime, and in the
/// network namespace where the socket shall live.
///
/// # Errors
/// When the address is taken or not ours, or an option is not permitted.
pub fn bind(addr: SocketAddr, options: ListenOptions) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    if options.transparent {
        // The IPv4 option suffices for both families on listening sockets.
        socket.set_ip_transparent_v4(true)?;
    }
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The next connection. Never fails: a connection that was gone before it was accepted is skipped,
/// and a lack of descriptors or memory is waited out (5 ms, doubling to 1 s) with a warning.
///
/// Cancel safe: no connection is lost.
pub async fn accept(listener: &TcpListener) -> Accepted {
    let mut backoff = BACKOFF_MIN;
    loop {
        match listener.accept().await.and_then(|(stream, peer)| accepted(stream, peer)) {
            Ok(accepted) => return accepted,
            Err(error) if is_of_connection(&error) => tracing::debug!(%error, "connection gone before it was accepted"),
            Err(error) => {
                tracing::warn!(%error, ?backoff, "cannot accept connections");
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}

fn accepted(stream: TcpStream, peer: SocketAddr) -> io::Result<Accepted> {
    SockRef::from(&stream).set_tcp_nodelay(true)?;
    let local = canonical(stream.local_addr()?);
    Ok(Accepted { stream, peer: canonical(peer), local })
}

/// Errors that concern only the connection at hand. Linux hands errors that are already pending on
/// the new socket to `accept` (accept(2), "Error handling").
fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::ConnectionRefused
            | Kind::NotConnected
            | Kind::Interrupted
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::HostUnreachable
            | Kind::TimedOut
            | Kind::InvalidInput
            | Kind::PermissionDenied
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    #[tokio::test]
    async fn addresses_are_canonical_on_a_dual_stack_listener() {
        let Ok(listener) = bind((Ipv6Addr::UNSPECIFIED, 0).into(), ListenOptions::default()) else {
            return; // A machine without IPv6.
        };
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let accepted = accept(&listener).await;
        assert_eq!(accepted.peer, client.local_addr().unwrap());
        assert_eq!(accepted.local, client.peer_addr().unwrap());
        assert!(accepted.stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn a_port_is_shared_only_on_request() {
        let shared = ListenOptions { reuse_port: true, ..ListenOptions::default() };
        let first = bind("127.0.0.1:0".parse().unwrap(), shared).unwrap();
        let addr = first.local_addr().unwrap();
        bind(addr, shared).unwrap();
        assert_eq!(bind(addr, ListenOptions::default()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
