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

pub use stack::{HttpStack, http, layers};
pub use tunnel::Refusal;
pub use upstream::Forward;

use crate::{
    hbone,
    middleware::Places,
    model::Identity,
    route::normalize::PathNormalization,
    runtime::{DrainWatch, Place, Workers},
    state::{SnapshotHandle, WaypointSnapshot},
    telemetry::{AccessLog, HandshakeFailure, counters, handshake_failure},
    transport::{Accepted, CertSource, Sockets, TlsError, WorkloadCert, listener, tls},
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
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
    workers: Workers,
    // One for each worker: connections to workloads are not shared between threads.
    tunnels: Arc<[Arc<Tunnels>]>,
    certs: Arc<dyn CertSource>,
    identity: Identity,
    places: Arc<tokio::sync::Semaphore>,
}

impl Waypoint {
    /// A waypoint that is `identity`, serves what `mesh` holds, and does its work on `workers`.
    pub fn new(
        config: Config,
        identity: Identity,
        certs: Arc<dyn CertSource>,
        mesh: SnapshotHandle<WaypointSnapshot>,
        workers: Workers,
        log: AccessLog,
    ) -> Self {
        let places = Arc::new(tokio::sync::Semaphore::new(config.max_tunnels));
        let requests = Places::new(config.max_requests);
        let tunnels = |_| {
            let pool = hbone::Pool::new(config.hbone.clone(), certs.clone(), Sockets::default());
            let forward = Forward::new(&config, identity.clone(), pool);
            let stack = stack::http(forward.clone(), &config, requests.clone(), log.clone());
            let (config, mesh, log, identity) = (config.clone(), mesh.clone(), log.clone(), identity.clone());
            Arc::new(Tunnels { config, mesh, stack, forward, log, identity })
        };
        let tunnels = (0..workers.count()).map(tunnels).collect();
        Self { workers, tunnels, certs, identity, places }
    }

    /// Serves a listener until `drain` is signalled; tunnels then go on until they are done or the
    /// drain is forced, and are waited for through its guards.
    pub async fn serve(self, listener: TcpListener, drain: DrainWatch) {
        let sweepers: tokio::task::JoinSet<()> = self.tunnels.iter().map(|tunnels| tunnels.forward.clone().sweep()).collect();
        loop {
            let place = self.places.clone().acquire_owned();
            let accepted = async { (place.await, listener::accept(&listener).await) };
            tokio::select! {
                (place, accepted) = accepted => {
                    // Of the drain from here on, and not only once a busy worker gets to it.
                    let guard = drain.guard();
                    let (this, drain, worker) = (self.clone(), drain.clone(), self.workers.for_connection());
                    let accepted = match accepted.detach() {
                        Ok(accepted) => accepted,
                        Err(error) => {
                            not_served(&error);
                            continue;
                        }
                    };
                    worker.spawn(|worker| async move {
                        let _held = (place, guard);
                        let accepted = match accepted.attach() {
                            Ok(accepted) => accepted,
                            Err(error) => return not_served(&error),
                        };
                        tokio::select! {
                            () = this.tunnel(accepted, &worker, drain.clone()) => {}
                            () = drain.forced() => {}
                        }
                    });
                }
                () = drain.signaled() => break,
            }
        }
        // Kept connections close on their own once the process ends; sweeping them is over.
        drop(sweepers);
    }

    async fn tunnel(&self, Accepted { stream, peer, .. }: Accepted, worker: &Place, drain: DrainWatch) {
        let own = &self.tunnels[worker.worker()];
        let handshake = async {
            let cert = self.certs.fetch(&self.identity).await.map_err(|error| {
                tracing::error!(%error, "no certificate: no tunnel");
                HandshakeFailure::Certificate
            })?;
            let (io, identity, standing) =
                tls::accept(stream, &cert, own.config.hbone.revocation.as_ref()).await.map_err(|error| handshake_reason(&error, peer))?;
            Ok((io, identity, standing, cert))
        };
        let limit = own.config.hbone.handshake_timeout;
        let (io, identity, standing, cert): (tls::ServerStream<TcpStream>, Identity, tls::Standing, Arc<WorkloadCert>) =
            match tokio::time::timeout(limit, handshake).await {
                Ok(Ok(done)) => done,
                Ok(Err(reason)) => return handshake_failure(reason),
                Err(_) => return handshake_failure(HandshakeFailure::Timeout),
            };
        let _open = counters().tunnel();
        tracing::debug!(%peer, %identity, "tunnel opened");
        let on_connect = |connect| self.connect(connect, worker, peer, &identity, &drain);
        if let Err(error) = hbone::serve(io, &own.config.hbone, drain.clone(), self.certs.replaced(&cert), &standing, on_connect).await {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            tracing::info!(%peer, %identity, %error, cause, "tunnel closed");
        }
    }

    /// Takes a CONNECT and serves it in a task of its own, on the worker that has room for it.
    fn connect(&self, connect: hbone::Connect, home: &Place, peer: SocketAddr, identity: &Identity, drain: &DrainWatch) {
        let own = &self.tunnels[home.worker()];
        match own.admit(&connect) {
            Err(refusal) => own.refuse(connect, refusal, peer, identity.clone()),
            Ok(destination) => {
                let place = self.workers.for_stream(home);
                let there = self.tunnels[place.worker()].clone();
                let served = there.connect(connect, destination, peer, identity.clone(), drain.clone());
                place.spawn(|place| async move {
                    served.await;
                    drop(place);
                });
            }
        }
    }
}

/// A connection that the system does not let a worker have.
fn not_served(error: &std::io::Error) {
    tracing::error!(%error, "a connection could not be given to a worker");
    handshake_failure(HandshakeFailure::Tls);
}

fn handshake_reason(error: &TlsError, peer: SocketAddr) -> HandshakeFailure {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    tracing::info!(%peer, %error, cause, "handshake refused");
    match error {
        TlsError::Handshake(_) | TlsError::Alpn => HandshakeFailure::Tls,
        TlsError::Revoked(_) => HandshakeFailure::Revoked,
        TlsError::UnexpectedIdentity { .. } | TlsError::NoIdentity | TlsError::TrustDomain { .. } => HandshakeFailure::Identity,
    }
}

#[cfg(test)]
mod tests;
