//! All pods of a node: each with listeners in its own network namespace.

use super::{Config, Connections, Listeners, Local, RunningProxy, StartProxy, Ztunnel, open::OpenConnections};
use crate::{
    control::{
        xds::Demand,
        zds::{Pod, PodInfo},
    },
    dns,
    model::ResourceName,
    runtime::{DrainWatch, Place, Workers},
    state::{NodeSnapshot, SnapshotHandle},
    telemetry::AccessLog,
    transport::{CertSource, Sockets, listener::ListenOptions},
};
use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::{Arc, Once},
};
use tokio::sync::oneshot;

/// Where a pod's proxy listens: inside of the pod.
const INBOUND: u16 = crate::hbone::HBONE_PORT;
const PLAINTEXT: u16 = 15006;
const OUTBOUND: u16 = 15001;
const SOCKS5: u16 = 15080;

/// What can be set on the proxies of a node.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Each of them.
    pub ztunnel: Arc<Config>,
    /// How their sockets are made, before it is known where.
    pub sockets: Sockets,
    /// Whether workloads see their clients' own addresses.
    pub source: SourcePreservation,
    /// Listen on IPv6 as well, where a pod has it.
    pub ipv6: bool,
    /// Listen for SOCKS5.
    pub socks5: bool,
    /// Answer questions for names.
    pub dns: Option<NodeDns>,
}

/// The DNS proxies of a node.
#[derive(Debug, Clone)]
pub struct NodeDns {
    /// Where they listen, each in its pod.
    pub address: DnsAddress,
    /// What is the same for all pods.
    pub cluster: dns::Cluster,
    /// Who answers for names that are not of the mesh.
    pub nameservers: Vec<SocketAddr>,
}

/// Where a DNS proxy listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsAddress {
    /// On localhost, in both families where there are both.
    Localhost(u16),
    /// Here only.
    At(SocketAddr),
}

impl DnsAddress {
    /// Listens.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn listen(self, sockets: &Sockets, ipv6: bool) -> io::Result<dns::Listeners> {
        match self {
            Self::Localhost(port) => dns::Listeners::bind_localhost(sockets, port, ipv6),
            Self::At(address) => dns::Listeners::bind(sockets, address),
        }
    }
}

/// Whether workloads see their clients' own addresses (`ENABLE_ORIG_SRC`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SourcePreservation {
    /// Where the system allows it.
    #[default]
    BestEffort,
    /// Always: a pod where it is not possible is not served.
    Required,
    /// Never.
    Off,
}

impl SourcePreservation {
    /// How to listen for it, and whether it can be had. Sockets are made by `sockets`.
    ///
    /// # Errors
    /// When it is required and not permitted.
    pub fn try_out(self, sockets: &Sockets) -> io::Result<bool> {
        let any = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        let transparent = || sockets.listen(any, ListenOptions { transparent: true, ..ListenOptions::default() }).map(|_| true);
        match self {
            Self::Off => Ok(false),
            Self::Required => transparent(),
            Self::BestEffort => match transparent() {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
                other => other,
            },
        }
    }
}

/// Starts the proxies of a node's pods. Clones share nothing but what they were made from.
#[derive(Debug, Clone)]
pub struct Node {
    config: NodeConfig,
    certs: Arc<dyn CertSource>,
    mesh: SnapshotHandle<NodeSnapshot>,
    demand: Option<Demand>,
    workers: Workers,
    log: AccessLog,
}

/// The proxy of one pod.
#[derive(Debug)]
pub struct PodProxy {
    open: Arc<OpenConnections>,
}

impl RunningProxy for PodProxy {
    fn connections(&self) -> Connections {
        self.open.list()
    }
}

impl StartProxy for Node {
    type Proxy = PodProxy;

    /// Listens inside of the pod, on a worker that it keeps.
    async fn start(&self, pod: &Pod, drain: DrainWatch) -> io::Result<PodProxy> {
        let PodInfo { name, namespace, service_account } = pod.info.clone();
        let local = Local { name: ResourceName { namespace, name }, service_account };
        let sockets = self.config.sockets.inside(pod.netns.clone());
        self.serve(local, drain, move |node| node.in_pod(&sockets)).await
    }
}

impl Node {
    /// What all proxies have in common.
    pub fn new(
        config: NodeConfig,
        certs: Arc<dyn CertSource>,
        mesh: SnapshotHandle<NodeSnapshot>,
        workers: Workers,
        log: AccessLog,
    ) -> Self {
        Self { config, certs, mesh, demand: None, workers, log }
    }

    /// The same, over a mesh of which the control plane tells only what it is asked for.
    #[must_use]
    pub fn with_demand(self, demand: Option<Demand>) -> Self {
        Self { demand, ..self }
    }

    /// Starts the proxy of this process's own pod: 15008 in its own namespace, by which its metrics are
    /// reached through the mesh.
    ///
    /// # Errors
    /// When the listener cannot be bound.
    pub async fn start_own(&self, local: Local, drain: DrainWatch) -> io::Result<PodProxy> {
        let sockets = self.config.sockets.clone();
        self.serve(local, drain, move |node| {
            let inbound = sockets.listen(SocketAddr::new(node.wildcard(&sockets), INBOUND), ListenOptions::default())?;
            let listeners = Listeners { inbound: Some(inbound), ..Listeners::default() };
            Ok(Bound { listeners, sockets: sockets.clone(), preserve_source: false })
        })
        .await
    }

    /// Binds and serves; listeners are bound when this returns. Cancel safe: an unfinished start leaves
    /// nothing behind.
    async fn serve(
        &self,
        local: Local,
        drain: DrainWatch,
        bind: impl FnOnce(&Self) -> io::Result<Bound> + Send + 'static,
    ) -> io::Result<PodProxy> {
        let (report, bound) = oneshot::channel();
        let (node, guard, open) = (self.clone(), drain.guard(), Arc::<OpenConnections>::default());
        let listed = open.clone();
        // Made where they are served: a socket belongs to the runtime that it was made in.
        self.workers.for_connection().spawn(|home| async move {
            match bind(&node) {
                Ok(bound) => {
                    if report.send(Ok(())).is_ok() {
                        node.run(local, bound, home, drain, listed).await;
                    }
                }
                Err(error) => drop(report.send(Err(error))),
            }
            drop(guard);
        });
        bound.await.map_err(|_| io::Error::other("the worker has ended"))??;
        Ok(PodProxy { open })
    }

    async fn run(self, local: Local, bound: Bound, home: Place, drain: DrainWatch, open: Arc<OpenConnections>) {
        let Bound { listeners, sockets, preserve_source } = bound;
        let mut config = self.config.ztunnel.clone();
        if config.preserve_source != preserve_source {
            config = Arc::new(Config { preserve_source, ..(*config).clone() });
        }
        let dns = sockets.netns().zip(self.config.dns).map(|(netns, dns)| dns::Config {
            cluster: dns.cluster,
            search: dns::Search::of_pod(netns),
            nameservers: dns.nameservers,
            limits: dns::Limits::default(),
        });
        let mut ztunnel = Ztunnel::new(config, local, self.certs, self.mesh, self.workers, self.log)
            .with_names(dns::Resolver::new(self.config.ipv6))
            .with_demand(self.demand)
            .listed_in(open);
        if let Some(dns) = dns {
            ztunnel = ztunnel.with_dns(dns);
        }
        let ztunnel = ztunnel.with_sockets(sockets);
        ztunnel.serve(listeners, home, drain).await;
    }

    fn in_pod(&self, sockets: &Sockets) -> io::Result<Bound> {
        keep_pending_connections(sockets);
        let any = self.wildcard(sockets);
        let preserve_source = self.config.source.try_out(sockets)?;
        let options = ListenOptions { transparent: preserve_source, ..ListenOptions::default() };
        let inbound = sockets.listen(SocketAddr::new(any, INBOUND), options)?;
        let plaintext = sockets.listen(SocketAddr::new(any, PLAINTEXT), options)?;
        let outbound = sockets.listen(SocketAddr::new(any, OUTBOUND), options)?;
        let socks5 = || sockets.listen(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), SOCKS5), ListenOptions::default());
        let listeners = Listeners {
            inbound: Some(inbound),
            plaintext: Some(plaintext),
            outbound: Some(outbound),
            socks5: self.config.socks5.then(socks5).transpose()?,
            dns: self.config.dns.as_ref().map(|dns| dns.address.listen(sockets, any.is_ipv6())).transpose()?,
        };
        Ok(Bound { listeners, sockets: sockets.clone(), preserve_source })
    }

    /// The address for all addresses.
    fn wildcard(&self, sockets: &Sockets) -> IpAddr {
        let has_ipv6 = self.config.ipv6 && sockets.run(|| has_ipv6(Path::new("/proc/sys/net/ipv6/conf/lo/disable_ipv6"))).unwrap_or(false);
        if has_ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
    }
}

/// What a proxy serves.
struct Bound {
    listeners: Listeners,
    sockets: Sockets,
    preserve_source: bool,
}

/// Whether loopback, and so the namespace, has IPv6; without the switch the kernel has none.
fn has_ipv6(switch: &Path) -> io::Result<bool> {
    match fs::read_to_string(switch) {
        Ok(text) => Ok(text.trim() == "0"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Has the kernel hand connections that nobody has accepted yet to the process that takes over, when
/// our listeners close. Without it (a kernel before 5.14, a `/proc` that cannot be written) those
/// are reset.
fn keep_pending_connections(sockets: &Sockets) {
    const SWITCH: &str = "/proc/sys/net/ipv4/tcp_migrate_req";
    static WARNED: Once = Once::new();
    if let Err(error) = sockets.run(|| fs::write(SWITCH, "1")) {
        // The same for all pods.
        WARNED.call_once(|| {
            tracing::warn!(%error, "{SWITCH} cannot be set: a connection that nobody has accepted when this process ends is reset");
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_is_where_it_is_not_switched_off() {
        let dir = tempfile::tempdir().unwrap();
        let switch = dir.path().join("disable_ipv6");
        for (text, expected) in [(Some("0\n"), true), (Some("1\n"), false), (None, false)] {
            match text {
                Some(text) => fs::write(&switch, text).unwrap(),
                None => fs::remove_file(&switch).unwrap(),
            }
            assert_eq!(has_ipv6(&switch).unwrap(), expected, "{text:?}");
        }
    }
}
