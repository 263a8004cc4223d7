//! One CONNECT: admitted or refused, then HTTP or opaque bytes.

use super::{
    Config, Forward, HttpStack, inner, opaque,
    sniff::{self, Spoken},
};
use crate::{
    hbone::{Connect, ConnectTarget, TunnelIo},
    middleware::{RecentSeries, Tunnel},
    model::{AppProtocol, Identity},
    runtime::DrainWatch,
    state::{Admission, Destination, SnapshotHandle, WaypointSnapshot},
    telemetry::{AccessLog, Direction, ResponseFlag, TcpEvent, TcpParty, TcpRecord},
    transport::{Cuttable as _, Rewind},
};
use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// What all tunnels of a worker share.
#[derive(Debug)]
pub(super) struct Tunnels {
    pub(super) config: Config,
    pub(super) mesh: SnapshotHandle<WaypointSnapshot>,
    pub(super) stack: HttpStack,
    pub(super) forward: Forward,
    pub(super) log: AccessLog,
    pub(super) identity: Identity,
}

/// Why a CONNECT is refused. The statuses are those of the reference ztunnel (contract, 1.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a CONNECT.
    #[error("method is not CONNECT")]
    Method,
    /// The authority names no target.
    #[error("authority is not valid")]
    Authority,
    /// A host name: who may be meant by it is not for us to decide.
    #[error("host names are not served")]
    Hostname,
    /// An address that is not bound to this waypoint, its own included.
    #[error("address is not served by this waypoint")]
    NotServed,
    /// A port that the service does not declare.
    #[error("the service does not declare this port")]
    UndeclaredPort,
    /// Policy forbids it.
    #[error("denied by policy")]
    Denied,
    /// No workload could be reached.
    #[error("no upstream")]
    NoUpstream,
}

impl Refusal {
    /// The status that answers the CONNECT.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Method | Self::Authority | Self::Hostname | Self::NotServed => StatusCode::BAD_REQUEST,
            Self::Denied => StatusCode::UNAUTHORIZED,
            Self::UndeclaredPort | Self::NoUpstream => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl Tunnels {
    /// Serves an admitted CONNECT until its end or the forced end of the drain.
    pub(super) async fn connect(
        self: Arc<Self>,
        connect: Connect,
        destination: Arc<Destination>,
        peer: SocketAddr,
        identity: Identity,
        drain: DrainWatch,
    ) {
        let _guard = drain.guard();
        let forced = drain.forced();
        tokio::select! {
            () = self.serve(connect, destination, peer, identity, &drain) => {}
            () = forced => {}
        }
    }

    /// Whether a CONNECT is for something that is served here.
    pub(super) fn admit(&self, connect: &Connect) -> Result<Arc<Destination>, Refusal> {
        let target = connect.target().ok_or(Refusal::Method)?.map_err(|_| Refusal::Authority)?;
        let ConnectTarget::Address(address) = target else { return Err(Refusal::Hostname) };
        match self.mesh.load().admit(address) {
            Admission::Served(destination) => Ok(destination),
            Admission::UndeclaredPort => Err(Refusal::UndeclaredPort),
            Admission::NotServed => Err(Refusal::NotServed),
        }
    }

    /// Answers a CONNECT that is not served.
    pub(super) fn refuse(&self, connect: Connect, refusal: Refusal, peer: SocketAddr, identity: Identity) {
        tracing::info!(%peer, %identity, target = connect.authority(), %refusal, "CONNECT refused");
        let flag = if refusal == Refusal::Denied { ResponseFlag::Denied } else { ResponseFlag::Connect };
        if self.log.wants(true) {
            let mut source = TcpParty::new(peer);
            source.identity = Some(identity);
            self.log.tcp(TcpRecord {
                event: TcpEvent::Complete,
                time: SystemTime::now(),
                source,
                destination: TcpParty::new(peer),
                hbone_addr: Some(connect.authority().into()),
                destination_service: None,
                direction: Direction::Inbound,
                bytes_sent: 0,
                bytes_recv: 0,
                duration: Duration::ZERO,
                flag,
                error: Some(refusal.to_string().into()),
            });
        }
        connect.refuse(refusal.status());
    }

    async fn serve(&self, connect: Connect, destination: Arc<Destination>, peer: SocketAddr, identity: Identity, drain: &DrainWatch) {
        let tunnel = Arc::new(self.tunnel(peer, identity));
        if destination.protocol == AppProtocol::Tcp {
            return self.serve_opaque(connect, &destination, &tunnel).await;
        }
        let Ok(io) = connect.accept(None) else { return };
        let spoken = sniff::sniff(io, destination.protocol, &self.config, drain).await;
        match spoken {
            Ok(Spoken::Http1(io)) => inner::http1(self, io, tunnel, destination.address, drain).await,
            Ok(Spoken::Http2(io)) => inner::http2(self, io, tunnel, destination.address, drain).await,
            Ok(Spoken::Opaque(mut io, sni)) => {
                // Too late for a status: the client sees its connection reset.
                if !opaque::authorize(&destination, &tunnel, sni.as_deref()) {
                    io.break_off();
                    return self.record_denied(&destination, &tunnel);
                }
                match opaque::connect(&self.forward, &destination).await {
                    Ok(upstream) => self.copy(io, upstream, &destination, &tunnel, sni.as_deref()).await,
                    Err(error) => {
                        io.break_off();
                        self.record_failed(&destination, &tunnel, &error);
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "client went away before it spoke"),
        }
    }

    /// A port that is declared opaque: policy and the connection upstream decide the answer.
    async fn serve_opaque(&self, mut connect: Connect, destination: &Arc<Destination>, tunnel: &Arc<Tunnel>) {
        if !opaque::authorize(destination, tunnel, None) {
            return self.refuse(connect, Refusal::Denied, tunnel.peer_address, tunnel.peer.clone());
        }
        let connected = tokio::select! {
            connected = opaque::connect(&self.forward, destination) => connected,
            () = connect.broken_off() => return tracing::debug!("client went away before there was an upstream"),
        };
        match connected {
            Ok(upstream) => {
                let Ok(io) = connect.accept(None) else { return };
                self.copy(Rewind::new(Bytes::new(), io), upstream, destination, tunnel, None).await;
            }
            Err(error) => {
                tracing::info!(target = connect.authority(), %error, "no upstream");
                self.refuse(connect, Refusal::NoUpstream, tunnel.peer_address, tunnel.peer.clone());
            }
        }
    }

    async fn copy(
        &self,
        io: Rewind<TunnelIo>,
        upstream: opaque::Connected,
        destination: &Arc<Destination>,
        tunnel: &Arc<Tunnel>,
        sni: Option<&str>,
    ) {
        let record = opaque::record(destination, tunnel, Some(&upstream));
        let denied = opaque::denied(&self.mesh, destination, tunnel, sni);
        let done = opaque::copy(io, upstream, self.config.half_open_idle, record, denied).await;
        self.log.tcp(done);
    }

    fn record_denied(&self, destination: &Arc<Destination>, tunnel: &Arc<Tunnel>) {
        let mut record = opaque::record(destination, tunnel, None);
        record.flag = ResponseFlag::Denied;
        record.error = Some("denied by policy".into());
        self.log.tcp(record);
    }

    fn record_failed(&self, destination: &Arc<Destination>, tunnel: &Arc<Tunnel>, error: &crate::middleware::Error) {
        let mut record = opaque::record(destination, tunnel, None);
        record.flag = error.flag();
        record.error = Some(error.detail().into());
        self.log.tcp(record);
    }

    fn tunnel(&self, peer: SocketAddr, identity: Identity) -> Tunnel {
        // A workload record is believed only when the certificate says the same.
        let source = self.mesh.load().workload(peer.ip()).filter(|w| w.identity == identity).cloned();
        let text = format!("By={};URI={identity}", self.identity);
        let client_cert = HeaderValue::try_from(text).expect("identities are graphic ascii");
        Tunnel { peer: identity, peer_address: peer, source, client_cert, series: RecentSeries::default() }
    }
}
