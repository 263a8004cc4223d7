//! From the mesh to the workload (15008): TLS, CONNECT, policy, a connection, a copy.

use super::{
    Shared,
    admit::{self, Admitted, Here, Refusal},
    connection::{self, About, Connection, Party},
    tracker::{Subject, Tracked},
};
use crate::{
    hbone::{self, Baggage, Connect, TunnelIo, forwarded_host},
    model::{Identity, Service},
    runtime::DrainWatch,
    state::{NodeSnapshot, NodeWorkload},
    telemetry::{Direction as Reported, HandshakeFailure, ResponseFlag, counters, handshake_failure},
    transport::{
        Accepted, TlsError,
        copy::{End, Side},
        socket::{self, ConnectOptions},
        tls,
    },
};
use h2::Reason;
use http::StatusCode;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::server::TlsStream;

/// A tunnel, as its streams see it.
#[derive(Debug)]
struct Tunnel {
    peer: SocketAddr,
    local: SocketAddr,
    identity: Identity,
}

/// Serves one tunnel until it ends.
pub(super) async fn tunnel(shared: Arc<Shared>, Accepted { stream, peer, local }: Accepted, drain: DrainWatch) {
    let secured = tokio::select! {
        secured = secure(&shared, stream, peer) => secured,
        () = drain.forced() => return,
    };
    let (io, identity) = match secured {
        Ok(secured) => secured,
        Err((reason, error)) => {
            connection::refused(&shared.log, Reported::Inbound, (peer, local), error);
            return handshake_failure(reason);
        }
    };
    let _open = counters().tunnel();
    tracing::debug!(%peer, %identity, "tunnel opened");
    let tunnel = Arc::new(Tunnel { peer, local, identity });
    let on_connect = |connect| {
        let (shared, tunnel, drain) = (shared.clone(), tunnel.clone(), drain.clone());
        let guard = drain.guard();
        tokio::spawn(async move {
            let _guard = guard;
            tokio::select! {
                () = serve(&shared, &tunnel, connect) => {}
                () = drain.forced() => {}
            }
        });
    };
    if let Err(error) = hbone::serve(io, &shared.config.hbone, drain.clone(), on_connect).await {
        tracing::info!(%peer, identity = %tunnel.identity, %error, cause = cause(&error), "tunnel closed");
    }
}

type Secured = (TlsStream<TcpStream>, Identity);

async fn secure(shared: &Shared, stream: TcpStream, peer: SocketAddr) -> Result<Secured, (HandshakeFailure, String)> {
    let handshake = async {
        let cert = shared.certs.fetch(&shared.local.identity).await.map_err(|error| {
            tracing::error!(%error, "no certificate: no tunnel");
            (HandshakeFailure::Certificate, error.to_string())
        })?;
        tls::accept(stream, &cert).await.map_err(|error| {
            tracing::info!(%peer, %error, cause = cause(&error), "handshake refused");
            (reason(&error), error.to_string())
        })
    };
    let limit = shared.config.hbone.handshake_timeout;
    let in_time = tokio::time::timeout(limit, handshake).await;
    in_time.unwrap_or_else(|_| Err((HandshakeFailure::Timeout, "tls handshake timed out".into())))
}

fn reason(error: &TlsError) -> HandshakeFailure {
    match error {
        TlsError::Handshake(_) | TlsError::Alpn => HandshakeFailure::Tls,
        TlsError::UnexpectedIdentity { .. } | TlsError::NoIdentity | TlsError::TrustDomain { .. } => HandshakeFailure::Identity,
    }
}

fn cause(error: &dyn std::error::Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

/// Serves one CONNECT.
async fn serve(shared: &Arc<Shared>, tunnel: &Tunnel, connect: Connect) {
    let started = Instant::now();
    let (snapshot, local, admitted) = match admitted(shared, tunnel, &connect).await {
        Ok(admitted) => admitted,
        Err(refusal) => {
            let error = format!("{refusal}: {}", connect.authority());
            connection::refused(&shared.log, Reported::Inbound, (tunnel.peer, tunnel.local), error);
            return connect.refuse(refusal.status());
        }
    };
    let address = admitted.address;
    let connection = open(shared, tunnel, &connect, Known { snapshot: &snapshot, local: &local, admitted }, started);
    let subject = Subject { identity: Some(tunnel.identity.clone()), source: tunnel.peer.ip(), destination: address };
    let tracked = shared.tracker.track(subject);
    if let Err(denied) = shared.judge(&tracked, &local) {
        tracing::info!(peer = %tunnel.identity, destination = %address, %denied, "connection denied by policy");
        connection.end(ResponseFlag::Denied, Some(denied.to_string().into()));
        return connect.refuse(StatusCode::UNAUTHORIZED);
    }
    let upstream = match to_workload(shared, tunnel.peer.ip(), address).await {
        Ok(upstream) => upstream,
        Err(error) => {
            connection.end(ResponseFlag::Connect, Some(format!("connect failed: {error}").into()));
            return connect.refuse(StatusCode::SERVICE_UNAVAILABLE);
        }
    };
    match connect.accept(Baggage::of(&local.workload).as_ref()) {
        Ok(io) => copy(shared, io, upstream, connection, &tracked).await,
        Err(error) => connection.end(ResponseFlag::DownstreamDisconnected, Some(error.to_string().into())),
    }
}

async fn admitted(
    shared: &Arc<Shared>,
    tunnel: &Tunnel,
    connect: &Connect,
) -> Result<(Arc<NodeSnapshot>, Arc<NodeWorkload>, Admitted), Refusal> {
    let target = admit::target(connect)?;
    let (snapshot, local) = shared.world().await.ok_or(Refusal::UnknownWorkload)?;
    let here = Here { workload: &local.workload, address: tunnel.local.ip(), own: &shared.own };
    let admitted = admit::admit(&snapshot, here, &target)?;
    Ok((snapshot, local, admitted))
}

/// What the snapshot says about a stream.
struct Known<'a> {
    snapshot: &'a NodeSnapshot,
    local: &'a NodeWorkload,
    admitted: Admitted,
}

fn open(shared: &Shared, tunnel: &Tunnel, connect: &Connect, known: Known<'_>, started: Instant) -> Connection {
    let Known { snapshot, local, admitted } = known;
    // A workload record is believed only when the certificate says the same.
    let source = snapshot.workload(tunnel.peer.ip()).filter(|w| w.workload.identity == tunnel.identity);
    let baggage = Baggage::read(connect.headers());
    let here = Here { workload: &local.workload, address: tunnel.local.ip(), own: &shared.own };
    let named = || forwarded_host(connect.headers()).and_then(|host| admit::named_service(snapshot, here, host));
    let service: Option<Arc<Service>> = admitted.service.or_else(named);
    let about = About {
        direction: Reported::Inbound,
        source: Party {
            addr: tunnel.peer,
            workload: source.map(|w| &*w.workload),
            baggage: Some(&baggage),
            identity: Some(&tunnel.identity),
        },
        destination: Party { addr: tunnel.local, workload: Some(&local.workload), baggage: None, identity: Some(&shared.local.identity) },
        service: service.as_deref(),
        hbone_addr: Some(connect.authority().into()),
    };
    Connection::open(shared, &about, started)
}

/// Connects to the workload itself.
pub(super) async fn to_workload(shared: &Shared, client: IpAddr, address: SocketAddr) -> io::Result<TcpStream> {
    counters().upstream_connects.increment(1);
    let source = shared.config.preserve_source.then_some(client);
    let options = ConnectOptions { source, ..ConnectOptions::new(shared.config.connect_timeout) };
    let connected = socket::connect_with(address, options).await;
    if connected.is_err() {
        counters().upstream_connects_failed.increment(1);
    }
    connected
}

/// Copies until both sides are done, or until policy changes its mind. What breaks off is a reset
/// for the peer, never an end (RFC 9113, 8.5).
async fn copy(shared: &Shared, mut io: TunnelIo, mut upstream: TcpStream, mut connection: Connection, tracked: &Tracked) {
    let copied = tokio::select! {
        end = connection.copy(&mut io, &mut upstream, shared.config.half_open_idle) => Ok(end),
        denied = tracked.denied() => Err(denied),
    };
    match copied {
        Ok(end) => {
            match &end {
                End::Failed { side: Side::Upstream, .. } => io.reset(Reason::CONNECT_ERROR),
                End::Failed { side: Side::Downstream, .. } => socket::reset_on_close(&upstream),
                End::Complete | End::HalfOpenIdle => {}
            }
            connection.copied(end);
        }
        Err(denied) => {
            tracing::info!(identity = ?tracked.subject().identity, destination = %tracked.subject().destination, %denied, "open connection closed by policy");
            io.reset(Reason::CONNECT_ERROR);
            socket::reset_on_close(&upstream);
            connection.end(ResponseFlag::Denied, Some(denied.to_string().into()));
        }
    }
}
