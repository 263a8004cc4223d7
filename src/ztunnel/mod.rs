//! The L4 proxy of a workload: what it sends is put into HBONE, what comes for it is taken out and
//! judged by policy. Read `resolve.rs` first.
//!
//! One [`Ztunnel`] is one proxied workload. Many may live in a process, each with listeners of its
//! own, in a network namespace of its own: see [`Node`].

mod admit;
mod connection;
mod demand;
mod identities;
mod inbound;
mod names;
mod node;
mod open;
mod outbound;
mod own;
mod plaintext;
mod pods;
mod proxy_protocol;
mod relay;
mod resolve;
mod shared;
mod socks5;
#[cfg(test)]
mod tests;
mod told;
mod tracker;

pub use identities::follow_identities;
pub use node::{DnsAddress, Node, NodeConfig, NodeDns, PodProxy, SourcePreservation};
pub use own::OwnPorts;
pub use pods::{
    Connections, Enrolment, InboundConnection, OutboundConnection, PodState, PodStates, PodsConfig, ProxyState, RunningProxy, StartProxy,
};
pub use resolve::{NextHop, Resolved, Source, Tunnel, Unresolved, next_hop};

use crate::{
    control::xds::Demand,
    dns, hbone,
    model::{Name, ResourceName, Workload},
    runtime::{DrainWatch, Place, Workers},
    state::{NodeSnapshot, NodeWorkload, SnapshotHandle},
    telemetry::{AccessLog, OpenSocket, SocketCounters, TcpSeries},
    transport::{Accepted, CertSource, Sockets, listener, socket::canonical},
};
use open::OpenConnections;
use shared::Shared;
use std::{future::Future, io, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use told::Told;

/// What can be set on a ztunnel.
#[derive(Debug, Clone)]
pub struct Config {
    /// Tunnels, both sides.
    pub hbone: hbone::Config,
    /// The domain of the cluster's services, by which short names are completed.
    pub cluster_domain: Name,
    /// Limit for a TCP connect to the workload, or to anything else without HBONE.
    pub connect_timeout: Duration,
    /// With one direction of a connection ended, the other may be idle for so long.
    pub half_open_idle: Duration,
    /// A workload that the mesh does not know yet is waited for so long.
    pub workload_wait: Duration,
    /// A SOCKS5 request must be complete after so long.
    pub socks5_handshake_timeout: Duration,
    /// Connections (tunnels, on 15008) open on a listener at a time; above it new ones wait to be
    /// accepted.
    pub max_connections: usize,
    /// The network that this proxy is on; empty where there is only one.
    pub network: Name,
    /// The cluster that this proxy is in.
    pub cluster: Name,
    /// Connect to the workload from the client's address (needs CAP_NET_ADMIN, and rules that lead
    /// the answers back).
    pub preserve_source: bool,
    /// A workload that takes the PROXY protocol is reached at its loopback address, where nobody but
    /// us can tell it a client.
    pub localhost_app_tunnel: bool,
    /// The answer to a CONNECT tells who the workload is; what the request tells is read.
    pub response_baggage: bool,
    /// What policies decide is logged at INFO; otherwise at DEBUG.
    pub log_verdicts: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hbone: hbone::Config::default(),
            cluster_domain: "cluster.local".into(),
            connect_timeout: Duration::from_secs(10),
            half_open_idle: Duration::from_secs(300),
            workload_wait: Duration::from_secs(5),
            socks5_handshake_timeout: Duration::from_secs(10),
            max_connections: 16_384,
            network: "".into(),
            cluster: "Kubernetes".into(),
            preserve_source: false,
            localhost_app_tunnel: true,
            response_baggage: true,
            log_verdicts: false,
        }
    }
}

/// The workload that is served, as a node agent names it. Who it is beyond that is the mesh's to say.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Local {
    /// Its namespace and name.
    pub name: ResourceName,
    /// Its service account.
    pub service_account: Name,
}

impl Local {
    /// What the mesh knows of it.
    fn of<'a>(&self, snapshot: &'a NodeSnapshot) -> Option<&'a Arc<NodeWorkload>> {
        snapshot.local_named(&self.name, &self.service_account)
    }
}

impl From<&Workload> for Local {
    fn from(workload: &Workload) -> Self {
        let name = ResourceName { namespace: workload.namespace.clone(), name: workload.name.clone() };
        Self { name, service_account: workload.identity.service_account().into() }
    }
}

/// Where connections come from. What is `None` is not served.
#[derive(Debug, Default)]
pub struct Listeners {
    /// 15008: tunnels from other proxies.
    pub inbound: Option<TcpListener>,
    /// 15006: redirected connections from outside of the mesh.
    pub plaintext: Option<TcpListener>,
    /// 15001: redirected connections from the workload.
    pub outbound: Option<TcpListener>,
    /// 15080: connections from the workload by SOCKS5.
    pub socks5: Option<TcpListener>,
    /// 15053: names, asked for by the workload.
    pub dns: Option<dns::Listeners>,
}

/// Listeners on their way to another runtime.
#[derive(Debug)]
pub struct DetachedListeners([Option<std::net::TcpListener>; 4]);

impl Listeners {
    /// Takes them out of this runtime; there are none for DNS among them.
    ///
    /// # Errors
    /// When the system refuses; all of them are closed.
    pub fn detach(self) -> io::Result<DetachedListeners> {
        let Self { inbound, plaintext, outbound, socks5, dns: _ } = self;
        let detach = |listener: Option<TcpListener>| listener.map(TcpListener::into_std).transpose();
        Ok(DetachedListeners([detach(inbound)?, detach(plaintext)?, detach(outbound)?, detach(socks5)?]))
    }

    fn own_ports(&self) -> OwnPorts {
        let all = [&self.inbound, &self.plaintext, &self.outbound, &self.socks5];
        let tcp = all.into_iter().flatten().filter_map(|l| l.local_addr().ok());
        let dns = self.dns.iter().flat_map(dns::Listeners::tcp_addresses);
        OwnPorts::new(tcp.chain(dns).map(canonical).collect())
    }
}

impl DetachedListeners {
    /// Puts them into the runtime of the caller.
    ///
    /// # Errors
    /// When the system refuses; all of them are closed.
    pub fn attach(self) -> io::Result<Listeners> {
        let [inbound, plaintext, outbound, socks5] = self.0;
        let attach = |listener: Option<std::net::TcpListener>| listener.map(TcpListener::from_std).transpose();
        Ok(Listeners {
            inbound: attach(inbound)?,
            plaintext: attach(plaintext)?,
            outbound: attach(outbound)?,
            socks5: attach(socks5)?,
            dns: None,
        })
    }
}

/// A ztunnel, apart from its listeners.
#[derive(Debug)]
pub struct Ztunnel {
    config: Arc<Config>,
    local: Local,
    certs: Arc<dyn CertSource>,
    mesh: SnapshotHandle<NodeSnapshot>,
    demand: Option<Demand>,
    log: AccessLog,
    sockets: Sockets,
    workers: Workers,
    open: Arc<OpenConnections>,
    names: dns::Resolver,
    dns: Option<dns::Config>,
}

impl Ztunnel {
    /// A ztunnel for `local`, which does its work on `workers`. The compiler behind `mesh` must count
    /// the workload as one of its own: policies are compiled for no other.
    pub fn new(
        config: Arc<Config>,
        local: Local,
        certs: Arc<dyn CertSource>,
        mesh: SnapshotHandle<NodeSnapshot>,
        workers: Workers,
        log: AccessLog,
    ) -> Self {
        Self {
            config,
            local,
            certs,
            mesh,
            demand: None,
            log,
            sockets: Sockets::default(),
            workers,
            open: Arc::default(),
            names: dns::Resolver::new(true),
            dns: None,
        }
    }

    /// The same, with sockets of this kind for all that it opens.
    #[must_use]
    pub fn with_sockets(self, sockets: Sockets) -> Self {
        Self { sockets, ..self }
    }

    /// The same, with a DNS proxy, if it is given listeners for it.
    #[must_use]
    pub fn with_dns(self, dns: dns::Config) -> Self {
        Self { dns: Some(dns), ..self }
    }

    /// The same, with this resolver for workloads that have a name in place of an address.
    #[must_use]
    pub fn with_names(self, names: dns::Resolver) -> Self {
        Self { names, ..self }
    }

    /// The same, over a mesh of which the control plane tells only what it is asked for.
    #[must_use]
    pub fn with_demand(self, demand: Option<Demand>) -> Self {
        Self { demand, ..self }
    }

    /// The same, with its connections in this list.
    fn listed_in(self, open: Arc<OpenConnections>) -> Self {
        Self { open, ..self }
    }

    /// Serves the listeners until `drain` is signalled; connections then go on until they are done
    /// or the drain is forced, and are waited for through its guards. To be called on the worker of
    /// `home`, where the listeners were made; connections go elsewhere only when that is far busier.
    pub async fn serve(mut self, listeners: Listeners, home: Place, drain: DrainWatch) {
        let dns = self.dns.take();
        let shared = Arc::new(self.shared(listeners.own_ports(), drain));
        tokio::spawn(shared::upkeep(shared.clone()));
        let local = shared.clone();
        tokio::spawn(async move { local.unless_forced(local.knowing_local()).await });
        let Listeners { inbound, plaintext, outbound, socks5, dns: names } = listeners;
        tokio::join!(
            accept(&shared, (inbound, SocketCounters::destination), &home, |home| home.workers().for_connection(), inbound::tunnel),
            accept(&shared, (plaintext, SocketCounters::destination), &home, place_of_stream, plaintext::serve),
            accept(&shared, (outbound, SocketCounters::source), &home, place_of_stream, outbound::captured),
            accept(&shared, (socks5, SocketCounters::source), &home, place_of_stream, socks5::serve),
            answer(&shared, names, dns),
        );
    }

    fn shared(self, own: OwnPorts, drain: DrainWatch) -> Shared {
        let Self { config, local, certs, mesh, demand, log, sockets, workers, open, names, dns: _ } = self;
        let pool = |_| hbone::Pool::new(config.hbone.clone(), certs.clone(), sockets.clone());
        let pools = (0..workers.count()).map(pool).collect();
        Shared {
            config,
            local,
            certs,
            mesh,
            demand,
            log,
            sockets,
            pools,
            own,
            tracker: Arc::default(),
            open,
            counted: SocketCounters::resolve(),
            series: TcpSeries::default(),
            names,
            told: Told::default(),
            drain,
        }
    }
}

/// Answers questions for names until the drain starts.
async fn answer(shared: &Arc<Shared>, listeners: Option<dns::Listeners>, config: Option<dns::Config>) {
    let (Some(listeners), Some(config)) = (listeners, config) else { return };
    let asked = shared.clone();
    let source = move || -> dns::Source {
        let shared = asked.clone();
        Box::pin(async move { shared.world().await.map(|(_, local)| local.workload.clone()) })
    };
    let proxy = dns::DnsProxy::new(config, shared.sockets.clone(), listeners, shared.mesh.clone(), source);
    proxy.serve(shared.drain.clone()).await;
}

fn place_of_stream(home: &Place) -> Place {
    home.workers().for_stream(home)
}

/// Accepts until the drain starts; each connection is served in a task that the drain waits for, at
/// the place that is chosen for it.
async fn accept<F>(
    shared: &Arc<Shared>,
    (listener, count): (Option<TcpListener>, fn(&SocketCounters) -> OpenSocket),
    home: &Place,
    choose: impl Fn(&Place) -> Place,
    serve: impl Fn(Arc<Shared>, Accepted, Place) -> F + Copy + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let Some(listener) = listener else { return };
    let places = Arc::new(Semaphore::new(shared.config.max_connections));
    let hand_over = |accepted: Accepted, held: Option<OwnedSemaphorePermit>| {
        let held = (held, count(&shared.counted));
        let (shared, guard, place) = (shared.clone(), shared.drain.guard(), choose(home));
        if place.worker() == home.worker() {
            tokio::spawn(async move {
                let _held = (held, guard);
                serve(shared, accepted, place).await;
            });
            return;
        }
        match accepted.detach() {
            Ok(accepted) => place.spawn(|place| async move {
                let _held = (held, guard);
                match accepted.attach() {
                    Ok(accepted) => serve(shared, accepted, place).await,
                    Err(error) => tracing::error!(%error, "a connection could not be given to a worker"),
                }
            }),
            Err(error) => tracing::error!(%error, "a connection could not be given to a worker"),
        }
    };
    loop {
        let accepted = async { (places.clone().acquire_owned().await, listener::accept(&listener).await) };
        tokio::select! {
            biased;
            (held, accepted) = accepted => hand_over(accepted, held.ok()),
            () = shared.drain.signaled() => return,
        }
    }
}
