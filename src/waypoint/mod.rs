//! The waypoint: HBONE in, the stack, HBONE out. Read `stack.rs` first.

mod expect;
mod guard;
mod inner;
mod interim;
mod kept;
mod opaque;
mod sniff;
mod stack;
mod tunnel;
mod upstream;

pub use stack::{HttpStack, http};
pub use tunnel::Refusal;
pub use upstream::Forward;

use crate::{
    hbone,
    model::Identity,
    route::normalize::PathNormalization,
    runtime::DrainWatch,
    state::{SnapshotHandle, WaypointSnapshot},
    telemetry::{AccessLog, HandshakeFailure, counters, handshake_failure},
    transport::{Accepted, CertSource, TlsError, listener, tls},
};
use std::{sync::Arc, time::Duration};
use tokio::net::{TcpListener, TcpStream};
use tunnel::Tunnels;

/// Windows of HTTP/2 inside a tunnel, bytes, towards both sides. Below the tunnel's own, which hold
/// for all that is inside it.
const INNER_STREAM_WINDOW: u32 = 1 << 20;
const INNER_CONNECTION_WINDOW: u32 = 4 << 20;

/// What can be set on a waypoint.
#[derive(Debug, Clone)]
pub struct Config {
    /// Tunnels, both sides.
    pub hbone: hbone::Config,
    /// How paths are normalised.
    pub paths: PathNormalization,
    /// Requests in flight, over all tunnels; above it they are refused with 503.
    pub max_requests: usize,
    /// Tunnels open at a time; above it new connections wait to be accepted.
    pub max_tunnels: usize,
    /// Bytes of a request body kept for another try.
    pub replay_limit: usize,
    /// Largest request head inside a tunnel, bytes.
    pub max_request_head: usize,
    /// A request head must be complete this long after its first byte.
    pub request_head_timeout: Duration,
    /// A request body may be idle for this long before there is an answer; zero: for ever.
    pub request_body_idle: Duration,
    /// What is spoken on a port that does not say is found out within this time, else it is
    /// opaque. A protocol in which the server speaks first waits for so long once.
    pub sniff_timeout: Duration,
    /// Limit for a TCP connect to a workload without HBONE.
    pub connect_timeout: Duration,
    /// A kept connection to a workload is closed when unused for so long.
    pub upstream_idle: Duration,
    /// With one direction of opaque bytes ended, the other may be idle for so long.
    pub half_open_idle: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hbone: hbone::Config::default(),
            paths: PathNormalization::default(),
            max_requests: 65_536,
            max_tunnels: 16_384,
            replay_limit: 64 << 10,
            max_request_head: 64 << 10,
            request_head_timeout: Duration::from_secs(10),
            request_body_idle: Duration::from_secs(300),
            sniff_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(10),
            upstream_idle: Duration::from_secs(60),
            half_open_idle: Duration::from_secs(300),
        }
    }
}

/// A waypoint, apart from its listener.
#[derive(Debug, Clone)]
pub struct Waypoint {
    tunnels: Arc<Tunnels>,
    certs: Arc<dyn CertSource>,
    identity: Identity,
    places: Arc<tokio::sync::Semaphore>,
}

impl Waypoint {
    /// A waypoint that is `identity` and serves what `mesh` holds.
    pub fn new(
        config: Config,
        identity: Identity,
        certs: Arc<dyn CertSource>,
        mesh: SnapshotHandle<WaypointSnapshot>,
        log: AccessLog,
    ) -> Self {
        let places = Arc::new(tokio::sync::Semaphore::new(config.max_tunnels));
        let pool = hbone::Pool::new(config.hbone.clone(), certs.clone());
        let forward = Forward::new(&config, identity.clone(), pool);
        let stack = stack::http(forward.clone(), &config, log.clone());
        let tunnels = Arc::new(Tunnels { config, mesh, stack, forward, log, identity: identity.clone() });
        Self { tunnels, certs, identity, places }
    }

    /// Serves a listener until `drain` is signalled; tunnels then go on until they are done or the
    /// drain is forced, and are waited for through its guards.
    pub async fn serve(self, listener: TcpListener, drain: DrainWatch) {
        let sweeper = tokio::spawn(self.tunnels.forward.clone().sweep());
        loop {
            let place = self.places.clone().acquire_owned();
            let accepted = async { (place.await, listener::accept(&listener).await) };
            tokio::select! {
                (place, accepted) = accepted => {
                    let (this, drain) = (self.clone(), drain.clone());
                    tokio::spawn(async move {
                        let _place = place;
                        let _guard = drain.guard();
                        tokio::select! {
                            () = this.tunnel(accepted, drain.clone()) => {}
                            () = drain.forced() => {}
                        }
                    });
                }
                () = drain.signaled() => break,
            }
        }
        // Kept connections close on their own once the process ends; sweeping them is over.
        sweeper.abort();
    }

    async fn tunnel(&self, Accepted { stream, peer, .. }: Accepted, drain: DrainWatch) {
        let handshake = async {
            let cert = self.certs.fetch(&self.identity).await.map_err(|error| {
                tracing::error!(%error, "no certificate: no tunnel");
                HandshakeFailure::Certificate
            })?;
            tls::accept(stream, &cert).await.map_err(|error| handshake_reason(&error, peer))
        };
        let limit = self.tunnels.config.hbone.handshake_timeout;
        let (io, identity): (tls::ServerStream<TcpStream>, Identity) = match tokio::time::timeout(limit, handshake).await {
            Ok(Ok(done)) => done,
            Ok(Err(reason)) => return handshake_failure(reason),
            Err(_) => return handshake_failure(HandshakeFailure::Timeout),
        };
        let _open = counters().tunnel();
        tracing::debug!(%peer, %identity, "tunnel opened");
        let on_connect = |connect| self.tunnels.clone().connect(connect, peer, identity.clone(), drain.clone());
        if let Err(error) = hbone::serve(io, &self.tunnels.config.hbone, drain.clone(), on_connect).await {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            tracing::info!(%peer, %identity, %error, cause, "tunnel closed");
        }
    }
}

fn handshake_reason(error: &TlsError, peer: std::net::SocketAddr) -> HandshakeFailure {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    tracing::info!(%peer, %error, cause, "handshake refused");
    match error {
        TlsError::Handshake(_) | TlsError::Alpn => HandshakeFailure::Tls,
        TlsError::UnexpectedIdentity { .. } | TlsError::NoIdentity | TlsError::TrustDomain { .. } => HandshakeFailure::Identity,
    }
}

#[cfg(test)]
mod tests;
