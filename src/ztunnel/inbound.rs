//! From the mesh to the workload (15008): TLS, CONNECT, policy, a connection, a copy.

use super::{
    admit::{self, Admitted, Here, Refusal},
    connection::{self, About, Connection, Party},
    open::Open,
    proxy_protocol,
    relay::relay,
    shared::Shared,
    tracker::{Subject, Tracked},
};
use crate::{
    hbone::{self, Baggage, Connect, TunnelIo, forwarded_host, forwarded_network},
    model::{Identity, Service},
    runtime::Place,
    state::{NodeSnapshot, NodeWorkload},
    telemetry::{Direction as Reported, HandshakeFailure, ResponseFlag, counters, handshake_failure},
    transport::{
        Accepted, Cuttable as _, TlsError, WorkloadCert,
        socket::ConnectOptions,
        tls::{self, Standing},
    },
};
use http::StatusCode;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::Instant};

/// A tunnel, as its streams see it.
#[derive(Debug)]
struct Tunnel {
    peer: SocketAddr,
    local: SocketAddr,
    identity: Identity,
    standing: Standing,
}

/// Serves one tunnel until it ends.
pub(super) async fn tunnel(shared: Arc<Shared>, Accepted { stream, peer, local }: Accepted, place: Place) {
    let Some(secured) = shared.unless_forced(Box::pin(secure(&shared, stream, peer))).await else { return };
    let (io, identity, standing, cert) = match secured {
        Ok(secured) => secured,
        Err((reason, error)) => {
            let flag = if reason == HandshakeFailure::Revoked { ResponseFlag::CertRevoked } else { ResponseFlag::Connect };
            connection::refused(&shared.log, Reported::Inbound, (peer, local), flag, error);
            return handshake_failure(reason);
        }
    };
    let _open = counters().tunnel();
    tracing::debug!(%peer, %identity, "tunnel opened");
    let tunnel = Arc::new(Tunnel { peer, local, identity, standing });
    let on_connect = |connect| {
        let (shared, tunnel, guard) = (shared.clone(), tunnel.clone(), shared.drain.guard());
        place.workers().for_stream(&place).spawn(|place| async move {
            let _held = (guard, place);
            serve(&shared, &tunnel, connect).await;
        });
    };
    if let Err(error) =
        hbone::serve(io, &shared.config.hbone, shared.drain.clone(), shared.certs.replaced(&cert), &tunnel.standing, on_connect).await
    {
        tracing::info!(%peer, identity = %tunnel.identity, %error, cause = cause(&error), "tunnel closed");
    }
}

type Secured = (tls::ServerStream<TcpStream>, Identity, Standing, Arc<WorkloadCert>);

async fn secure(shared: &Shared, stream: TcpStream, peer: SocketAddr) -> Result<Secured, (HandshakeFailure, String)> {
    let handshake = async {
        let unknown = || (HandshakeFailure::Certificate, "the local workload is not known".to_owned());
        let (_, local) = shared.world().await.ok_or_else(unknown)?;
        let cert = shared.certs.fetch(&local.workload.identity).await.map_err(|error| {
            tracing::error!(%error, "no certificate: no tunnel");
            (HandshakeFailure::Certificate, error.to_string())
        })?;
        let (io, identity, standing) = tls::accept(stream, &cert, shared.config.hbone.revocation.as_ref()).await.map_err(|error| {
            tracing::info!(%peer, %error, cause = cause(&error), "handshake refused");
            (reason(&error), error.to_string())
        })?;
        Ok((io, identity, standing, cert))
    };
    let limit = shared.config.hbone.handshake_timeout;
    let in_time = tokio::time::timeout(limit, handshake).await;
    in_time.unwrap_or_else(|_| Err((HandshakeFailure::Timeout, "tls handshake timed out".into())))
}

fn reason(error: &TlsError) -> HandshakeFailure {
    match error {
        TlsError::Handshake(_) | TlsError::Alpn => HandshakeFailure::Tls,
        TlsError::Revoked(_) => HandshakeFailure::Revoked,
        TlsError::UnexpectedIdentity { .. } | TlsError::NoIdentity | TlsError::TrustDomain { .. } => HandshakeFailure::Identity,
    }
}

fn cause(error: &dyn std::error::Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

/// A CONNECT that was answered with 200.
#[derive(Debug)]
struct Stream {
    connection: Connection,
    tracked: Tracked,
    io: TunnelIo,
    upstream: TcpStream,
}

/// Serves one CONNECT.
async fn serve(shared: &Arc<Shared>, tunnel: &Tunnel, connect: Connect) {
    if let Some(Some(stream)) = shared.unless_forced(Box::pin(answer(shared, tunnel, connect))).await {
        let Stream { connection, tracked, io, upstream } = stream;
        relay(shared, connection, Some(&tracked), (io, upstream)).await;
    }
}

/// Answers one CONNECT; what is refused has been reported.
async fn answer(shared: &Arc<Shared>, tunnel: &Tunnel, connect: Connect) -> Option<Stream> {
    let started = Instant::now();
    let (snapshot, local, admitted) = match admitted(shared, tunnel, &connect).await {
        Ok(admitted) => admitted,
        Err(refusal) => {
            let error = format!("{refusal}: {}", connect.authority());
            connection::refused(&shared.log, Reported::Inbound, (tunnel.peer, tunnel.local), ResponseFlag::Connect, error);
            connect.refuse(refusal.status());
            return None;
        }
    };
    let Admitted { address, dialled, told, .. } = admitted;
    let connection = open(shared, tunnel, &connect, Known { snapshot: &snapshot, local: &local, admitted }, started);
    let subject = Subject { identity: Some(tunnel.identity.clone()), source: tunnel.peer.ip(), destination: address };
    let tracked = shared.tracker.track(subject);
    if let Err(denied) = shared.judge(&tracked, &local) {
        denied.log(&shared.config, tracked.subject(), "connection denied by policy");
        connection.end(ResponseFlag::Denied, Some(denied.to_string().into()));
        connect.refuse(StatusCode::UNAUTHORIZED);
        return None;
    }
    // What does not go to the address of the pod cannot come from that of the client.
    let client = if dialled == address { tunnel.peer.ip() } else { dialled.ip() };
    let mut upstream = match to_workload(shared, client, dialled, false).await {
        Ok(upstream) => upstream,
        Err(error) => {
            connection.end(ResponseFlag::Connect, Some(format!("connect failed: {error}").into()));
            connect.refuse(StatusCode::SERVICE_UNAVAILABLE);
            return None;
        }
    };
    let baggage = shared.config.response_baggage.then(|| Baggage::of(&local.workload)).flatten();
    let mut io = match connect.accept(baggage.as_ref()) {
        Ok(io) => io,
        Err(error) => {
            connection.broken_off(&io::Error::other(error));
            return None;
        }
    };
    if let Some(told) = told
        && let Err(error) = upstream.write_all(&proxy_protocol::header(tunnel.peer, told, Some(&tunnel.identity))).await
    {
        io.break_off();
        connection.broken_off(&error);
        return None;
    }
    Some(Stream { connection, tracked, io, upstream })
}

async fn admitted(
    shared: &Arc<Shared>,
    tunnel: &Tunnel,
    connect: &Connect,
) -> Result<(Arc<NodeSnapshot>, Arc<NodeWorkload>, Admitted), Refusal> {
    let target = admit::target(connect)?;
    let (snapshot, local) = shared.world().await.ok_or(Refusal::UnknownWorkload)?;
    shared.ask_who(&snapshot, tunnel.peer.ip());
    let snapshot = shared.knowing_target(snapshot, &local.workload, tunnel.local.ip(), &target).await;
    let admitted = admit::admit(&snapshot, here(shared, tunnel, &local), &target)?;
    Ok((snapshot, local, admitted))
}

fn here<'a>(shared: &'a Shared, tunnel: &Tunnel, local: &'a NodeWorkload) -> Here<'a> {
    let localhost_app_tunnel = shared.config.localhost_app_tunnel;
    Here { workload: &local.workload, address: tunnel.local.ip(), own: &shared.own, localhost_app_tunnel }
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
    // Behind the gateway of another network, addresses are other workloads'.
    let is_near = forwarded_network(connect.headers()).is_none_or(|network| network.eq_ignore_ascii_case(&shared.config.network));
    let source = source.filter(|_| is_near);
    let is_asked = shared.config.response_baggage && source.is_none();
    let baggage = is_asked.then(|| shared.told.believe(Baggage::read(connect.headers())));
    let here = here(shared, tunnel, local);
    let named = || forwarded_host(connect.headers()).and_then(|host| admit::named_service(snapshot, here, host));
    let service: Option<Arc<Service>> = admitted.service.clone().or_else(named);
    let about = About {
        direction: Reported::Inbound,
        source: Party {
            addr: tunnel.peer,
            workload: source.map(|w| &*w.workload),
            baggage: baggage.as_ref(),
            identity: Some(&tunnel.identity),
        },
        destination: Party { addr: tunnel.local, workload: Some(&local.workload), baggage: None, identity: Some(&local.workload.identity) },
        service: service.as_deref(),
        hbone_addr: Some(connect.authority().into()),
        open: Open::Inbound {
            src: tunnel.peer,
            service: service.as_ref().map(|s| s.key.hostname.name()),
            actual_dst: admitted.address,
            is_hbone: true,
        },
    };
    Connection::open(shared, &about, started).through(tunnel.standing.clone())
}

/// Connects to the workload itself, for a client that came by a tunnel or, if it `is_plain`, did the same.
pub(super) async fn to_workload(shared: &Shared, client: IpAddr, address: SocketAddr, is_plain: bool) -> io::Result<TcpStream> {
    counters().upstream_connects.increment(1);
    let source = shared.config.preserve_source.then_some(client);
    let options = ConnectOptions { source, port_apart: is_plain, ..ConnectOptions::new(shared.config.connect_timeout) };
    let connected = shared.sockets.connect(address, options).await;
    if connected.is_err() {
        counters().upstream_connects_failed.increment(1);
    }
    connected
}
