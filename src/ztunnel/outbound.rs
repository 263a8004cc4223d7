//! From the workload to the mesh: the next hop, a connection to it, a copy.

use super::{
    connection::{self, About, Connection, Party},
    open::{Open, Protocol},
    relay::relay,
    resolve::{self, NextHop, Resolved, Source, Unresolved},
    shared::Shared,
};
use crate::{
    dns::Family,
    hbone::{Baggage, ConnectError, ConnectHeaders, PoolKey, TunnelError, TunnelIo},
    model::{Identity, Name, Workload},
    runtime::Place,
    state::{InFlight, UpstreamEndpoint},
    telemetry::{Direction as Reported, ResponseFlag, WorkloadLabels, counters, on_demand_dns},
    transport::{
        Accepted, TlsError,
        socket::{self, ConnectOptions, OriginalDst},
        tls::Standing,
    },
};
use http::StatusCode;
use std::{
    error::Error,
    io, iter,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use tokio::{net::TcpStream, time::Instant};
use tokio_util::either::Either;

/// Endpoints that are tried for one connection.
const TRIES: usize = 3;

type Io = Either<TunnelIo, TcpStream>;

/// Why a connection could not be opened. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// The mesh does not know the workload that we serve.
    #[error("the local workload is not known")]
    UnknownWorkload,
    /// It would come back to this proxy.
    #[error("the destination is this proxy itself")]
    Loop,
    /// There is nowhere to go.
    #[error(transparent)]
    Unresolved(Unresolved),
    /// A plain connection failed.
    #[error("connect failed: {0}")]
    Connect(#[source] io::Error),
    /// No tunnel in time.
    #[error("{0}")]
    Timeout(TunnelError),
    /// The peer's policy refuses us.
    #[error("http status: {0}")]
    Denied(StatusCode),
    /// The peer could not connect, or would not.
    #[error("http status: {0}")]
    PeerRefused(StatusCode),
    /// The name of a workload that has no address leads nowhere.
    #[error("{0} cannot be resolved")]
    Name(Name),
    /// No tunnel for another reason; who the peer is may be one.
    #[error("{}", with_causes(.0))]
    Tunnel(TunnelError),
}

/// An error and what is behind it, in one line: what the CA has answered, say.
fn with_causes(error: &dyn Error) -> String {
    let causes = iter::successors(error.source(), |error| (*error).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

impl From<Unresolved> for OpenError {
    fn from(error: Unresolved) -> Self {
        match error {
            Unresolved::Loop => Self::Loop,
            Unresolved::NoWaypoint
            | Unresolved::Barred(_)
            | Unresolved::NoEndpoint
            | Unresolved::UndeclaredPort
            | Unresolved::NoGateway
            | Unresolved::NoIdentity
            | Unresolved::Around => Self::Unresolved(error),
        }
    }
}

impl From<TunnelError> for OpenError {
    fn from(error: TunnelError) -> Self {
        match error {
            TunnelError::Stream(ConnectError::Refused(status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN))) => Self::Denied(status),
            TunnelError::Stream(ConnectError::Refused(status)) => Self::PeerRefused(status),
            TunnelError::Connect(error) => Self::Connect(error),
            TunnelError::Timeout(_) | TunnelError::Stream(ConnectError::Timeout) => Self::Timeout(error),
            TunnelError::Certificate(_) | TunnelError::Tls(_) | TunnelError::Handshake(_) | TunnelError::Stream(_) => Self::Tunnel(error),
        }
    }
}

impl OpenError {
    fn flag(&self) -> ResponseFlag {
        match self {
            Self::Tunnel(TunnelError::Certificate(_)) => ResponseFlag::IdentityError,
            Self::Tunnel(TunnelError::Tls(TlsError::Revoked(_))) => ResponseFlag::CertRevoked,
            Self::Tunnel(TunnelError::Tls(_)) => ResponseFlag::TlsFailure,
            Self::Tunnel(TunnelError::Handshake(_)) => ResponseFlag::H2HandshakeFailure,
            Self::Timeout(TunnelError::Timeout(_)) => ResponseFlag::NetworkPolicy,
            Self::UnknownWorkload
            | Self::Loop
            | Self::Unresolved(_)
            | Self::Connect(_)
            | Self::Name(_)
            | Self::Timeout(_)
            | Self::Denied(_)
            | Self::PeerRefused(_)
            | Self::Tunnel(_) => ResponseFlag::Connect,
        }
    }

    /// Whether another endpoint may do better: not where the fault is ours, or a judgement.
    fn is_worth_another(&self) -> bool {
        match self {
            Self::UnknownWorkload | Self::Loop | Self::Unresolved(_) | Self::Denied(_) | Self::Tunnel(TunnelError::Certificate(_)) => false,
            Self::PeerRefused(status) => status.is_server_error(),
            Self::Connect(_) | Self::Name(_) | Self::Timeout(_) | Self::Tunnel(_) => true,
        }
    }
}

/// A connection to the next hop.
#[derive(Debug)]
pub(super) struct Opened {
    io: Io,
    connection: Connection,
    in_flight: Option<InFlight>,
}

impl Opened {
    /// Copies until the connection is over. A failure further on is a reset for the application, so
    /// that it cannot be taken for the end of what was sent.
    pub(super) async fn relay(self, shared: &Shared, downstream: TcpStream) {
        let Self { io, connection, in_flight } = self;
        let _in_flight = in_flight;
        relay(shared, connection, None, (downstream, io)).await;
    }

    /// Ends a connection whose client has gone before anything was copied.
    pub(super) fn abandon(self, error: &io::Error) {
        self.connection.broken_off(error);
    }
}

/// Serves one captured connection (15001).
pub(super) async fn captured(shared: Arc<Shared>, Accepted { stream, peer, local }: Accepted, place: Place) {
    let OriginalDst(dst) = match socket::original_dst(&stream) {
        Ok(dst) => dst,
        Err(error) => return tracing::warn!(%peer, %local, %error, "no original destination"),
    };
    if is_direct(&shared, dst, local) {
        tracing::warn!(source = %peer, destination = %dst, "dropped: {}", OpenError::Loop);
        connection::refused(&shared.log, Reported::Outbound, (peer, dst), OpenError::Loop.flag(), OpenError::Loop.to_string());
        return socket::reset_on_close(&stream);
    }
    shared.keep_alive(&stream);
    // Boxed: opening needs far more room than copying, for which the task lives.
    match shared.unless_forced(Box::pin(open(&shared, &place, peer, dst))).await {
        Some(Ok(opened)) => opened.relay(&shared, stream).await,
        // The application's handshake was completed by the kernel: a reset is the best that can be said.
        Some(Err(_)) | None => socket::reset_on_close(&stream),
    }
}

/// Whether a connection was not redirected to us but opened to our own listener, by an address of the
/// workload that the mesh does not know: to go on to where it leads would be to come here again.
fn is_direct(shared: &Shared, dst: SocketAddr, local: SocketAddr) -> bool {
    let snapshot = shared.mesh.load();
    let is_known = || snapshot.workload(dst.ip()).is_some() || snapshot.service(dst.ip(), &shared.local.name.namespace).is_some();
    dst.ip() == local.ip() && dst.port() == local.port() && shared.own.serves(dst) && !is_known()
}

/// Opens a connection for the workload to `dst`, to another endpoint when one fails. Failures have
/// been reported.
pub(super) async fn open(shared: &Shared, place: &Place, app: SocketAddr, dst: SocketAddr) -> Result<Opened, OpenError> {
    let started = Instant::now();
    let refuse = |error: OpenError| {
        if matches!(error, OpenError::Loop) {
            tracing::warn!(source = %app, destination = %dst, "dropped: {error}");
        }
        connection::refused(&shared.log, Reported::Outbound, (app, dst), error.flag(), error.to_string());
        error
    };
    let Some((snapshot, local)) = shared.world().await else { return Err(refuse(OpenError::UnknownWorkload)) };
    let snapshot = shared.knowing(snapshot, &local.workload, dst).await;
    let source = Source { workload: &local.workload, own: &shared.own };
    let client = Client { shared, place, workload: &local.workload, app, dst };
    let mut tried: Vec<Arc<UpstreamEndpoint>> = Vec::new();
    let mut failed: Option<(Resolved, OpenError)> = None;
    while tried.len() < TRIES && failed.as_ref().is_none_or(|(_, error)| error.is_worth_another()) {
        let resolved = match resolve::next_hop(&snapshot, source, dst, &tried) {
            Ok(resolved) => resolved,
            Err(error) if failed.is_none() => return Err(refuse(error.into())),
            Err(_) => break,
        };
        let in_flight = resolved.next.dialled().map(|e| e.start());
        let has_others = resolved.service.is_some() || matches!(resolved.next, NextHop::Waypoint { .. });
        match client.dial(resolved).await {
            Ok(Dialed { io, resolved, far }) => {
                let connection = Connection::open(shared, &client.about(&resolved, far.as_ref()), started);
                let connection = connection.through(far.map(|far| far.standing).unwrap_or_default());
                return Ok(Opened { io, connection, in_flight });
            }
            Err((resolved, error)) => {
                tracing::debug!(destination = %dst, hop = %resolved.next.address(), %error, "next hop failed");
                tried.extend([resolved.next.endpoint(), resolved.next.dialled()].into_iter().flatten().cloned());
                failed = Some((*resolved, error));
                if !has_others {
                    break;
                }
            }
        }
    }
    let (resolved, error) = failed.expect("the loop is left without a failure only by returning");
    let connection = Connection::open(shared, &client.about(&resolved, None), started);
    connection.end(error.flag(), Some(error.to_string().into()));
    Err(error)
}

/// Who wants a connection.
#[derive(Clone, Copy)]
struct Client<'a> {
    shared: &'a Shared,
    place: &'a Place,
    workload: &'a Workload,
    app: SocketAddr,
    dst: SocketAddr,
}

/// A connection to the next hop, which may have got its address only now.
struct Dialed {
    io: Io,
    resolved: Resolved,
    far: Option<Far>,
}

/// The far end of a tunnel, as it has shown itself.
struct Far {
    identity: Identity,
    standing: Standing,
    // Where we do not know ourselves who it is.
    baggage: Option<Baggage>,
}

type Failed = (Box<Resolved>, OpenError);

impl<'a> Client<'a> {
    async fn dial(self, mut resolved: Resolved) -> Result<Dialed, Failed> {
        if let Some(workload) = resolved.next.named() {
            match self.look_up(workload, &resolved).await {
                Ok(ip) => resolved.next = resolved.next.at(ip),
                Err(error) => return Err((Box::new(resolved), error)),
            }
            // Whoever owns the name may have it lead anywhere.
            let source = Source { workload: self.workload, own: &self.shared.own };
            if resolve::leads_back(source, &resolved.next) {
                return Err((Box::new(resolved), OpenError::Loop));
            }
            let snapshot = self.shared.knowing(self.shared.mesh.load(), self.workload, resolved.next.address()).await;
            if resolve::leads_around(&snapshot, source, &resolved.next) {
                return Err((Box::new(resolved), Unresolved::Around.into()));
            }
        }
        counters().upstream_connects.increment(1);
        match self.connect(&resolved).await {
            Ok((io, far)) => Ok(Dialed { io, resolved, far }),
            Err(error) => {
                counters().upstream_connects_failed.increment(1);
                Err((Box::new(resolved), error))
            }
        }
    }

    async fn connect(self, resolved: &Resolved) -> Result<(Io, Option<Far>), OpenError> {
        let source = || self.workload.identity.clone();
        let (key, tunnel, is_remote) = match &resolved.next {
            NextHop::Waypoint { tunnel, .. } | NextHop::Hbone { tunnel, .. } => {
                (PoolKey::direct(source(), tunnel.destinations.clone(), tunnel.address), tunnel, false)
            }
            NextHop::Gateway { tunnel, destinations, .. } => {
                let gateway = PoolKey::direct(source(), tunnel.destinations.clone(), tunnel.address);
                (PoolKey::through(gateway, tunnel.authority.to_string().into(), destinations.clone()), tunnel, true)
            }
            NextHop::Plain { address, .. } | NextHop::Passthrough { address } => {
                let options = ConnectOptions::new(self.shared.config.connect_timeout);
                let connected = self.shared.sockets.connect(*address, options).await;
                return connected.map(|io| (Either::Right(io), None)).map_err(OpenError::Connect);
            }
        };
        let headers = ConnectHeaders {
            baggage: Baggage::of(self.workload),
            source: Some(self.app),
            service: resolved.service.as_ref().map(|s| s.key.hostname.name()),
            network: is_remote.then(|| self.shared.config.network.clone()),
        };
        let opened = self.shared.pool(self.place).connect(&key, &tunnel.authority.to_string(), &headers).await?;
        let far = Far {
            identity: opened.peer,
            standing: opened.tunnel.standing().clone(),
            baggage: is_remote.then(|| self.shared.told.believe(Baggage::read(&opened.headers))),
        };
        Ok((Either::Left(opened.io), Some(far)))
    }

    /// The address of a workload that has none in the mesh.
    async fn look_up(self, workload: &Workload, resolved: &Resolved) -> Result<IpAddr, OpenError> {
        let name = workload.l4.hostname.as_ref().ok_or(OpenError::Unresolved(Unresolved::NoEndpoint))?;
        let families = resolved.service.as_ref().map(|service| service.l4.ip_families).unwrap_or_default();
        let found = self.shared.names.lookup_host(name.as_str(), Family::of(self.dst.ip())).await;
        if found.is_some() {
            on_demand_dns(&WorkloadLabels::of(self.workload), name.as_str());
        }
        found.filter(|ip| families.allow(*ip) && !ip.is_unspecified()).ok_or_else(|| OpenError::Name(name.name()))
    }

    fn about(self, resolved: &'a Resolved, far: Option<&'a Far>) -> About<'a> {
        let tunnel = resolved.next.tunnel();
        // Who stands behind a gateway, only the far end can say.
        let known = || resolved.next.dialled().and_then(|e| e.workload.as_deref());
        let baggage = far.and_then(|far| far.baggage.as_ref());
        About {
            direction: Reported::Outbound,
            source: Party {
                addr: self.app,
                workload: Some(self.workload),
                baggage: None,
                identity: tunnel.map(|_| &self.workload.identity),
            },
            destination: Party {
                addr: resolved.next.address(),
                workload: if baggage.is_some() { None } else { known() },
                baggage,
                // Before it has shown itself, the one that is expected.
                identity: far.map(|far| &far.identity).or_else(|| tunnel.and_then(|t| t.destinations.first())),
            },
            service: resolved.service.as_deref(),
            hbone_addr: tunnel.map(|t| t.authority.to_string().into()),
            open: Open::Outbound {
                src: self.app,
                original_dst: self.dst,
                actual_dst: resolved.next.address(),
                protocol: match &resolved.next {
                    NextHop::Gateway { .. } => Protocol::DoubleHbone,
                    NextHop::Waypoint { .. } | NextHop::Hbone { .. } => Protocol::Hbone,
                    NextHop::Plain { .. } | NextHop::Passthrough { .. } => Protocol::Tcp,
                },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Identity,
        transport::{CertError, tls::Revoked},
    };

    /// What Istio's ztunnel knows of (contract, 6.1); its users count by these words.
    #[test]
    fn a_connection_that_could_not_be_made_has_the_flag_of_its_cause() {
        let (io, h2) = (|| io::Error::from(io::ErrorKind::ConnectionRefused), || h2::Error::from(h2::Reason::PROTOCOL_ERROR));
        let (address, status) = (SocketAddr::from(([10, 0, 0, 1], 15008)), StatusCode::SERVICE_UNAVAILABLE);
        let identity: Identity = "spiffe://td/ns/app/sa/web".parse().unwrap();
        let stream = |error| OpenError::from(TunnelError::Stream(error));
        let revoked = Revoked { serial: "7".into(), issuer: "CN=root".into() };
        let rows = [
            (TunnelError::Certificate(CertError::Unknown(identity)).into(), "IDENTITY_ERROR"),
            (TunnelError::Tls(TlsError::Handshake(io())).into(), "TLS_FAILURE"),
            (TunnelError::Tls(TlsError::NoIdentity).into(), "TLS_FAILURE"),
            (TunnelError::Tls(TlsError::Revoked(revoked)).into(), "CERT_REVOKED"),
            (TunnelError::Handshake(h2()).into(), "H2_HANDSHAKE_FAILURE"),
            (TunnelError::Timeout(address).into(), "NETWORK_POLICY"),
            (TunnelError::Connect(io()).into(), "CONNECT"),
            (stream(ConnectError::Timeout), "CONNECT"),
            (stream(ConnectError::H2(h2())), "CONNECT"),
            (stream(ConnectError::Target), "CONNECT"),
            // The peer's judgement: its own metrics say DENY.
            (stream(ConnectError::Refused(StatusCode::UNAUTHORIZED)), "CONNECT"),
            (stream(ConnectError::Refused(status)), "CONNECT"),
            (OpenError::Connect(io()), "CONNECT"),
            (OpenError::Name("db.example".into()), "CONNECT"),
            (OpenError::Loop, "CONNECT"),
            (OpenError::UnknownWorkload, "CONNECT"),
            (Unresolved::NoEndpoint.into(), "CONNECT"),
            (Unresolved::NoWaypoint.into(), "CONNECT"),
        ];
        for (error, flag) in rows {
            assert_eq!(OpenError::flag(&error).as_str(), flag, "{error}");
        }
    }
}
