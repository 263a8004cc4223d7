//! SOCKS5 (RFC 1928): CONNECT without authentication. Explicit capture, for clients that choose to.

use super::{
    names::{self, Meaning},
    outbound::{self, OpenError, Opened},
    shared::Shared,
};
use crate::{dns, runtime::Place, transport::Accepted};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const DOMAIN: u8 = 3;
const IPV6: u8 = 4;
/// Addresses of a foreign name that are tried.
const TRIES: usize = 3;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Address(SocketAddr),
    Name(String, u16),
}

/// What a client is told (RFC 1928, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Succeeded = 0,
    Failure = 1,
    NotAllowed = 2,
    NetworkUnreachable = 3,
    HostUnreachable = 4,
    ConnectionRefused = 5,
    CommandNotSupported = 7,
    AddressTypeNotSupported = 8,
}

/// Why there is no request.
#[derive(Debug, thiserror::Error)]
enum SocksError {
    #[error("not socks version 5")]
    Version,
    #[error("client does not offer to go without authentication")]
    Method,
    #[error("command is not CONNECT")]
    Command,
    #[error("unknown address type")]
    AddressType,
    #[error("destination is not valid")]
    Destination,
    #[error("connection broke")]
    Io(#[from] io::Error),
}

impl SocksError {
    /// The answer; `None` where the client cannot be expected to understand one.
    fn answer(&self) -> Option<Vec<u8>> {
        match self {
            Self::Version | Self::Io(_) => None,
            Self::Method => Some(vec![VERSION, NO_ACCEPTABLE_METHOD]),
            Self::Command => Some(Reply::CommandNotSupported.bytes()),
            Self::AddressType => Some(Reply::AddressTypeNotSupported.bytes()),
            Self::Destination => Some(Reply::Failure.bytes()),
        }
    }
}

impl Reply {
    /// The message, with no address: none that we could name would be of use to the client.
    fn bytes(self) -> Vec<u8> {
        vec![VERSION, self as u8, 0, IPV4, 0, 0, 0, 0, 0, 0]
    }

    fn of(error: &OpenError) -> Self {
        match error {
            OpenError::Denied(_) | OpenError::Loop => Self::NotAllowed,
            OpenError::Unresolved(_) | OpenError::Name(_) | OpenError::Timeout(_) => Self::HostUnreachable,
            OpenError::PeerRefused(_) => Self::ConnectionRefused,
            OpenError::UnknownWorkload | OpenError::Tunnel(_) => Self::Failure,
            OpenError::Connect(error) => Self::of_connect(error),
        }
    }

    fn of_connect(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        let kind = error.kind();
        if kind == Kind::ConnectionRefused {
            Self::ConnectionRefused
        } else if kind == Kind::NetworkUnreachable {
            Self::NetworkUnreachable
        } else if matches!(kind, Kind::HostUnreachable | Kind::TimedOut) {
            Self::HostUnreachable
        } else {
            Self::Failure
        }
    }
}

/// Serves one client. Unlike the reference, it says that it succeeded only when it has.
pub(super) async fn serve(shared: Arc<Shared>, Accepted { mut stream, peer, .. }: Accepted, place: Place) {
    let asked = tokio::time::timeout(shared.config.socks5_handshake_timeout, negotiate(&mut stream));
    let Some(asked) = shared.unless_forced(asked).await else { return };
    let target = match asked {
        Ok(Ok(target)) => target,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "socks5 request refused");
            if let Some(answer) = error.answer() {
                say(&mut stream, &answer).await;
            }
            return;
        }
        Err(_) => return tracing::debug!(%peer, "socks5 request did not come in time"),
    };
    shared.keep_alive(&stream);
    match shared.unless_forced(Box::pin(open(&shared, &place, peer, target))).await.unwrap_or(Err(Reply::Failure)) {
        Ok(opened) => {
            if let Err(error) = stream.write_all(&Reply::Succeeded.bytes()).await {
                return opened.abandon(&error);
            }
            opened.relay(&shared, stream).await;
        }
        Err(reply) => say(&mut stream, &reply.bytes()).await,
    }
}

/// The last word to a client, who may have gone already.
async fn say(stream: &mut TcpStream, answer: &[u8]) {
    if let Err(error) = stream.write_all(answer).await {
        tracing::debug!(%error, "socks5 answer not delivered");
    }
}

async fn open(shared: &Shared, place: &Place, peer: SocketAddr, target: Target) -> Result<Opened, Reply> {
    let mut last = Reply::HostUnreachable;
    for address in addresses(shared, target).await?.into_iter().take(TRIES) {
        match outbound::open(shared, place, peer, address).await {
            Ok(opened) => return Ok(opened),
            Err(error) => last = Reply::of(&error),
        }
    }
    Err(last)
}

/// The addresses of a target: one, if the mesh knows it.
async fn addresses(shared: &Shared, target: Target) -> Result<Vec<SocketAddr>, Reply> {
    let (name, port) = match target {
        Target::Address(address) => return Ok(vec![address]),
        Target::Name(name, port) => (name, port),
    };
    let (snapshot, local) = shared.world().await.ok_or(Reply::Failure)?;
    let (namespace, cluster) = (&*local.workload.namespace, dns::Cluster::new(&shared.config.cluster_domain));
    let client = dns::Client { namespace, search: &cluster.search(namespace), cluster: &cluster };
    match names::lookup(&snapshot, client, &name, port) {
        Meaning::Address(address) => Ok(vec![address]),
        Meaning::Nowhere => Err(Reply::HostUnreachable),
        Meaning::Foreign => Ok(shared.names.lookup_all(&name).await.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()),
    }
}

/// Agrees on the method and reads the request. Reads not one byte more: what follows is payload.
async fn negotiate<IO: AsyncRead + AsyncWrite + Unpin>(io: &mut IO) -> Result<Target, SocksError> {
    let [version, count] = read(io).await?;
    if version != VERSION {
        return Err(SocksError::Version);
    }
    let mut methods = [0; 255];
    let methods = &mut methods[..count.into()];
    io.read_exact(methods).await?;
    if !methods.contains(&NO_AUTHENTICATION) {
        return Err(SocksError::Method);
    }
    io.write_all(&[VERSION, NO_AUTHENTICATION]).await?;
    let [version, command, _reserved, kind] = read(io).await?;
    if version != VERSION {
        return Err(SocksError::Version);
    }
    if command != CONNECT {
        return Err(SocksError::Command);
    }
    destination(io, kind).await
}

async fn destination<IO: AsyncRead + Unpin>(io: &mut IO, kind: u8) -> Result<Target, SocksError> {
    let target = match kind {
        IPV4 => Target::Address(SocketAddr::new(IpAddr::from(read::<_, 4>(io).await?), port(io).await?)),
        IPV6 => Target::Address(SocketAddr::new(IpAddr::from(read::<_, 16>(io).await?).to_canonical(), port(io).await?)),
        DOMAIN => {
            let [length] = read(io).await?;
            let mut name = vec![0; length.into()];
            io.read_exact(&mut name).await?;
            let port = port(io).await?;
            let name = String::from_utf8(name).ok().filter(|name| is_name(name)).ok_or(SocksError::Destination)?;
            Target::Name(name, port)
        }
        _ => return Err(SocksError::AddressType),
    };
    match target {
        Target::Address(address) if address.port() == 0 => Err(SocksError::Destination),
        Target::Name(_, 0) => Err(SocksError::Destination),
        Target::Address(_) | Target::Name(..) => Ok(target),
    }
}

/// A host name or an address literal, and nothing that a resolver or a log might stumble over.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'))
}

async fn port<IO: AsyncRead + Unpin>(io: &mut IO) -> io::Result<u16> {
    Ok(u16::from_be_bytes(read(io).await?))
}

async fn read<IO: AsyncRead + Unpin, const N: usize>(io: &mut IO) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    io.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
