//! Two nodes with pods, as a cluster lays them out: each pod is a network namespace with an address
//! of each family, routed by its node; the nodes route to each other. Names differ between worlds,
//! addresses do not: worlds do not see each other.

use super::{
    Cni, Proxy,
    netns::{self, Netns, redirection},
    plane::{self, Plane},
    process::cairn,
    soon,
};
use cairn::{cert::DevCa, model::Identity, transport::WorkloadCert};
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::net::{TcpSocket, TcpStream};

/// The namespace of all workloads.
pub const NS: &str = "app";
pub const TRUST_DOMAIN: &str = "cluster.local";
pub const NODES: [usize; 2] = [1, 2];
/// What begins the names of all our namespaces.
const PREFIX: &str = "cairn-";

/// Protocol families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// Its loopback address.
    pub fn localhost(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }
}

pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// A pod that runs.
#[derive(Debug, Clone)]
pub struct Pod {
    pub name: String,
    pub account: String,
    pub node: usize,
    pub netns: Arc<Netns>,
    v4: IpAddr,
    v6: IpAddr,
}

/// What a pod is to the mesh.
#[derive(Debug, Clone)]
pub struct Spec {
    name: &'static str,
    node: usize,
    account: &'static str,
    captured: bool,
    hbone: bool,
    listed: bool,
    known: bool,
    healthy: bool,
    services: &'static str,
    more: &'static str,
}

impl Spec {
    /// A pod outside the mesh.
    pub fn plain(name: &'static str, node: usize) -> Self {
        Self { name, node, account: name, captured: false, hbone: false, listed: false, known: true, healthy: true, services: "", more: "" }
    }

    /// A pod with redirection, served by its node's ztunnel, which runs as a service account of its own name.
    pub fn captured(name: &'static str, node: usize) -> Self {
        Self { captured: true, hbone: true, listed: true, ..Self::plain(name, node) }
    }

    /// A pod that speaks HBONE itself.
    pub fn native(name: &'static str, node: usize) -> Self {
        Self { hbone: true, ..Self::plain(name, node) }
    }

    /// Another service account than its own.
    pub fn runs_as(self, account: &'static str) -> Self {
        Self { account, ..self }
    }

    /// The CNI does not tell of it at first.
    pub fn later(self) -> Self {
        Self { listed: false, ..self }
    }

    /// The mesh does not know it.
    pub fn unknown(self) -> Self {
        Self { known: false, ..self }
    }

    /// It does not pass its probes.
    pub fn unhealthy(self) -> Self {
        Self { healthy: false, ..self }
    }

    /// Services that it is part of: a YAML map.
    pub fn services(self, services: &'static str) -> Self {
        Self { services, ..self }
    }

    /// Further keys of its workload in the YAML file, each with its line end.
    pub fn more(self, more: &'static str) -> Self {
        Self { more, ..self }
    }
}

/// Everything that runs. It ends, and the namespaces with it, when this is dropped.
#[derive(Debug)]
pub struct World {
    pub dir: tempfile::TempDir,
    prefix: String,
    nodes: BTreeMap<usize, Netns>,
    pods: Vec<(Pod, Spec)>,
    made: Vec<String>,
    cnis: BTreeMap<usize, Cni>,
    /// Of all nodes, where it names none.
    env: Vec<(Option<usize>, String, String)>,
    networks: BTreeMap<usize, &'static str>,
    proxies: usize,
    /// Pods of the first ztunnels.
    first: Vec<Pod>,
    /// Those that are not started yet.
    waiting: Vec<Pod>,
    resolver: Option<PathBuf>,
    /// Where processes run that live on a control plane, as in the containers of the stock charts.
    image: Option<PathBuf>,
}

impl World {
    /// Two nodes without pods; nothing where namespaces are not to be had, see [`netns::available`].
    pub fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !netns::available() {
            return None;
        }
        sweep();
        let prefix = format!("{PREFIX}{}-{}-", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut world = Self {
            dir: tempfile::tempdir().unwrap(),
            prefix,
            nodes: BTreeMap::new(),
            pods: Vec::new(),
            made: Vec::new(),
            cnis: BTreeMap::new(),
            env: Vec::new(),
            networks: BTreeMap::new(),
            proxies: 0,
            first: Vec::new(),
            waiting: Vec::new(),
            resolver: None,
            image: None,
        };
        for node in NODES {
            let netns = world.namespace(&format!("node{node}"));
            for (key, value) in [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1"), ("ipv6/conf/default/accept_dad", "0")] {
                netns.sysctl(key, value);
            }
            world.nodes.insert(node, netns);
        }
        netns::ip(&format!("link add wire netns {} type veth peer name wire netns {}\n", world.nodes[&1].name, world.nodes[&2].name));
        for (node, other) in [(1, 2), (2, 1)] {
            world.nodes[&node].ip(&format!(
                "link set lo up
                 address add 10.254.0.{node}/24 dev wire
                 address add fd00:254::{node}/64 dev wire nodad
                 link set wire up
                 route add 10.{other}.0.0/16 via 10.254.0.{other}
                 route add fd00:{other}::/64 via fd00:254::{other}\n"
            ));
        }
        Some(world)
    }

    fn namespace(&mut self, name: &str) -> Netns {
        let name = format!("{}{name}", self.prefix);
        self.made.push(name.clone());
        netns::ip(&format!("netns add {name}\n"));
        Netns::named(&name)
    }

    /// Starts a pod, with the redirection of a captured one.
    pub fn pod(&mut self, spec: Spec) -> Pod {
        let pod = self.attach(spec.name, spec.account, spec.node);
        if spec.captured {
            redirect(&pod.netns);
        }
        self.pods.push((pod.clone(), spec));
        pod
    }

    fn attach(&mut self, name: &str, account: &str, node: usize) -> Pod {
        let host = 10 + self.made.len();
        let netns = self.namespace(name);
        netns.sysctl("ipv6/conf/default/accept_dad", "0");
        let at = &self.nodes[&node];
        netns::ip(&format!("link add pod{host} netns {} type veth peer name eth0 netns {}\n", at.name, netns.name));
        at.ip(&format!(
            "address add 10.{node}.0.1/32 dev pod{host}
             address add fd00:{node}::1/128 dev pod{host} nodad
             link set pod{host} up
             route add 10.{node}.0.{host}/32 dev pod{host}
             route add fd00:{node}::{host}/128 dev pod{host}\n"
        ));
        netns.ip(&format!(
            "link set lo up
             address add 10.{node}.0.{host}/32 dev eth0
             address add fd00:{node}::{host}/128 dev eth0 nodad
             link set eth0 up
             route add 10.{node}.0.1 dev eth0
             route add default via 10.{node}.0.1
             route add fd00:{node}::1 dev eth0
             route add default via fd00:{node}::1 dev eth0\n"
        ));
        Pod {
            name: name.to_owned(),
            account: account.to_owned(),
            node,
            netns: Arc::new(netns),
            v4: format!("10.{node}.0.{host}").parse().unwrap(),
            v6: format!("fd00:{node}::{host}").parse().unwrap(),
        }
    }

    /// A setting for all ztunnels that are started from now on.
    pub fn env(&mut self, name: &str, value: impl ToString) {
        self.env.push((None, name.to_owned(), value.to_string()));
    }

    /// The same, for those of one node.
    pub fn env_on(&mut self, node: usize, name: &str, value: impl ToString) {
        self.env.push((Some(node), name.to_owned(), value.to_string()));
    }

    fn env_of(&self, node: usize) -> impl Iterator<Item = (&String, &String)> {
        self.env.iter().filter(move |(of, ..)| of.is_none_or(|of| of == node)).map(|(_, name, value)| (name, value))
    }

    /// The network that a node and its pods are on, to be named before anything is started.
    pub fn network(&mut self, node: usize, name: &'static str) {
        self.networks.insert(node, name);
    }

    fn network_of(&self, node: usize) -> &'static str {
        self.networks.get(&node).copied().unwrap_or_default()
    }

    /// The name server of all ztunnels that are started from now on.
    pub fn resolver(&mut self, pod: &Pod) {
        let path = self.dir.path().join("resolv.conf");
        std::fs::write(&path, format!("nameserver {}\n", pod.ip(Family::V4))).unwrap();
        self.resolver = Some(path);
    }

    /// The node's own namespace, as a place to connect from.
    pub fn node(&self, node: usize) -> Pod {
        let at = &self.nodes[&node];
        let (v4, v6) = (format!("10.254.0.{node}").parse().unwrap(), format!("fd00:254::{node}").parse().unwrap());
        Pod { name: format!("node{node}"), account: String::new(), node, netns: Arc::new(Netns::named(&at.name)), v4, v6 }
    }

    /// The node's CNI.
    pub fn cni(&self, node: usize) -> &Cni {
        &self.cnis[&node]
    }

    /// Writes the mesh as the reference's local YAML file: the pods, and this text with services
    /// and policies. Then starts a ztunnel on each node.
    pub async fn start(&mut self, services_and_policies: &str) -> [Proxy; 2] {
        self.describe(services_and_policies);
        self.start_proxies().await
    }

    /// Writes the YAML file only.
    pub fn describe(&mut self, services_and_policies: &str) {
        let text = self.mesh(services_and_policies);
        let path = self.dir.path().join("mesh.yaml");
        std::fs::write(&path, text).unwrap();
        self.env("LOCAL_XDS_PATH", path.display());
    }

    /// The mesh as that YAML, with the pods that there are now.
    pub fn mesh(&mut self, services_and_policies: &str) -> String {
        // The mesh knows the first ztunnels, as it would in a cluster.
        if self.proxies == 0 {
            self.first = NODES.map(|node| self.ztunnel_pod(node)).into();
            self.waiting = self.first.clone();
        }
        let own: String = self.first.iter().map(|pod| self.workload(pod, "istio-system", "HBONE", "Healthy", "", "")).collect();
        self.workloads() + &own + services_and_policies
    }

    /// A control plane in a pod of its own, in place of files, for all processes that are started from
    /// now on.
    pub fn control_plane(&mut self) -> Plane {
        let pod = self.attach("istiod", "istiod", 1);
        let image = self.dir.path().join("image");
        let plane = Plane::start(&pod, &image);
        self.image = Some(image);
        plane
    }

    /// The mesh loses a pod.
    pub fn forget(&mut self, pod: &Pod) {
        self.pods.retain(|(known, _)| known.name != pod.name);
    }

    /// The workloads of the YAML file.
    fn workloads(&self) -> String {
        let known = self.pods.iter().filter(|(_, spec)| spec.known).map(|(pod, spec)| {
            let status = if spec.healthy { "Healthy" } else { "Unhealthy" };
            let protocol = if spec.hbone { "HBONE" } else { "TCP" };
            self.workload(pod, NS, protocol, status, spec.services, spec.more)
        });
        format!("workloads:\n{}", known.collect::<String>())
    }

    fn workload(&self, pod: &Pod, namespace: &str, protocol: &str, status: &str, services: &str, more: &str) -> String {
        let Pod { name, account, node, v4, v6, .. } = pod;
        let network = self.network_of(*node);
        format!(
            "- uid: Kubernetes//Pod/{namespace}/{name}
  name: {name}
  namespace: {namespace}
  serviceAccount: {account}
  trustDomain: {TRUST_DOMAIN}
  workloadIps: [\"{v4}\", \"{v6}\"]
  protocol: {protocol}
  network: \"{network}\"
  node: node{node}
  workloadName: {name}-deploy
  workloadType: deployment
  canonicalName: {name}-app
  canonicalRevision: v1
  clusterId: Kubernetes
  status: {status}
  services: {{{services}}}
{more}"
        )
    }

    /// Starts a CNI and a ztunnel on each node, with whatever was set to describe the mesh.
    pub async fn start_proxies(&mut self) -> [Proxy; 2] {
        let proxies = self.begin();
        self.ready(&proxies).await;
        proxies
    }

    /// The same, without waiting for anything.
    pub fn begin(&mut self) -> [Proxy; 2] {
        if self.image.is_none() {
            self.certs(&[]);
        }
        for node in NODES {
            let cni = Cni::listen(&self.dir.path().join(format!("zds{node}")));
            self.pods.iter().filter(|(pod, spec)| spec.listed && pod.node == node).for_each(|(pod, _)| cni.list(pod));
            self.cnis.insert(node, cni);
        }
        [self.proxy(1), self.proxy(2)]
    }

    /// Waits until they are ready.
    pub async fn ready(&self, proxies: &[Proxy]) {
        for proxy in proxies {
            proxy.ready().await;
            assert_eq!(self.cni(proxy.pod.node).complaints(), [""; 0], "the CNI is content");
        }
    }

    fn ztunnel_pod(&mut self, node: usize) -> Pod {
        self.proxies += 1;
        self.attach(&format!("ztunnel{}", self.proxies), "ztunnel", node)
    }

    /// Starts one more ztunnel on a node, in a pod of its own, as the DaemonSet does.
    pub fn proxy(&mut self, node: usize) -> Proxy {
        let waiting = self.waiting.iter().position(|pod| pod.node == node).map(|at| self.waiting.remove(at));
        let pod = waiting.unwrap_or_else(|| self.ztunnel_pod(node));
        let mut command = self.command();
        command.args(["proxy", "ztunnel"]);
        // As in the stock DaemonSet.
        command.envs([
            ("CA_ADDRESS", "istiod.istio-system.svc:15012"),
            ("XDS_ADDRESS", "istiod.istio-system.svc:15012"),
            ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
            ("INPOD_ENABLED", "true"),
            ("TERMINATION_GRACE_PERIOD_SECONDS", "30"),
            ("ISTIO_META_ENABLE_HBONE", "true"),
            ("ZTUNNEL_CPU_LIMIT", "2"),
            ("RUST_LOG", "info"),
            ("CAIRN_ACCESS_LOG", "all"),
            ("POD_NAME", &pod.name),
            ("POD_NAMESPACE", "istio-system"),
            ("SERVICE_ACCOUNT", "ztunnel"),
            ("INSTANCE_IP", &pod.ip(Family::V4).to_string()),
            ("NODE_NAME", &format!("node{node}")),
            ("NETWORK", self.network_of(node)),
        ]);
        command.env("INPOD_UDS", self.cni(node).path());
        if self.image.is_none() {
            // Files in place of the CA.
            command.env("CAIRN_IDENTITY_DIR", self.certs_dir());
        }
        command.envs(self.env_of(node));
        Proxy::start(command, pod, self.dir.path())
    }

    /// The binary, with `/etc/resolv.conf` of the world where it has one, or with what a container has
    /// that lives on the control plane.
    fn command(&self) -> Command {
        let plain = cairn();
        let (from, to) = match (&self.resolver, &self.image) {
            (Some(resolver), _) => (resolver.clone(), "/etc/resolv.conf"),
            (None, Some(image)) => (plane::hosts(image), "/etc/hosts"),
            (None, None) => return plain,
        };
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", "mount --bind \"$0\" \"$1\" && shift && exec \"$@\""]);
        command.arg(from).arg(to).arg(plain.get_program()).env_remove("RUST_LOG").stdin(Stdio::null());
        if let Some(image) = &self.image {
            command.current_dir(image);
        }
        command
    }

    /// A dedicated ztunnel inside of a pod.
    pub fn dedicated(&mut self, pod: &Pod) -> Proxy {
        let mut command = cairn();
        command.args(["proxy", "ztunnel"]);
        command.env("PROXY_MODE", "dedicated").env("PROXY_WORKLOAD_INFO", format!("{NS}/{}/{}", pod.name, pod.account));
        // The rules of redirection tell by the mark what not to capture.
        command.env("PACKET_MARK", "1337").env("CAIRN_ACCESS_LOG", "all").env("RUST_LOG", "info");
        command.env("NODE_NAME", format!("node{}", pod.node)).env("CAIRN_IDENTITY_DIR", self.certs_dir());
        command.envs(self.env_of(pod.node));
        Proxy::start(command, pod.clone(), self.dir.path())
    }

    /// `cairn waypoint` in a pod, for the Gateway `app/NAME`.
    pub fn waypoint(&self, pod: &Pod, manifests: &Path) -> Proxy {
        let mut command = cairn();
        command.args(["waypoint", "--gateway", &format!("{NS}/{}", pod.account), "--access-log", "all", "--manifests"]).arg(manifests);
        command.arg("--identity-dir").arg(self.certs_dir().join(NS).join(&pod.account));
        Proxy::start(command, pod.clone(), self.dir.path())
    }

    /// The same, as the stock Deployment of a Gateway starts it: services, workloads and its certificate
    /// are the control plane's, routes are in the manifests.
    pub fn stock_waypoint(&self, pod: &Pod, manifests: &Path) -> Proxy {
        let mut command = self.command();
        command.args(["proxy", "waypoint", "--domain", "app.svc.cluster.local", "--access-log", "all"]);
        command.arg("--manifests").arg(manifests);
        command.envs([
            ("XDS_ADDRESS", "istiod.istio-system.svc:15012"),
            ("CA_ADDR", "istiod.istio-system.svc:15012"),
            ("CAIRN_GATEWAY", &format!("{NS}/{}", pod.account)),
            ("POD_NAME", &pod.name),
            ("POD_NAMESPACE", NS),
            ("INSTANCE_IP", &pod.ip(Family::V4).to_string()),
            ("SERVICE_ACCOUNT", &pod.account),
            ("TRUST_DOMAIN", TRUST_DOMAIN),
            ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
            ("ISTIO_META_NODE_NAME", &format!("node{}", pod.node)),
        ]);
        Proxy::start(command, pod.clone(), self.dir.path())
    }

    /// Where certificates and the key of the CA are.
    pub fn certs_dir(&self) -> PathBuf {
        self.dir.path().join("certs")
    }

    /// Makes the CA, and certificates for all pods and some more accounts of `app`.
    pub fn certs(&self, more: &[&str]) {
        let mut accounts: Vec<String> = self.pods.iter().map(|(pod, _)| format!("{NS}/{}", pod.account)).collect();
        accounts.extend(more.iter().map(|account| format!("{NS}/{account}")));
        accounts.push("istio-system/ztunnel".into());
        let output = cairn().args(["certs", "--out"]).arg(self.certs_dir()).args(accounts).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// A certificate that the mesh trusts, for who may not be a pod at all.
    pub fn cert(&self, account: &str) -> WorkloadCert {
        let ca = DevCa::open(&self.certs_dir()).unwrap();
        let issued = ca.issue(&identity(account), Duration::from_secs(3600)).unwrap();
        WorkloadCert::from_pem(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes(), issued.roots_pem.as_bytes()).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        netns::remove(&self.made);
    }
}

/// `app/ACCOUNT`
pub fn identity(account: &str) -> Identity {
    Identity::new(TRUST_DOMAIN, NS, account).unwrap()
}

/// Removes what test processes that were killed have left.
fn sweep() {
    let is_left = |name: &String| {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        owner.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
    };
    let left: Vec<String> = netns::names(PREFIX).into_iter().filter(is_left).collect();
    if !left.is_empty() {
        netns::remove(&left);
    }
}

/// The redirection of contract, 4.6, for both families.
fn redirect(netns: &Netns) {
    for (restore, probe, local) in [
        ("iptables-restore", "169.254.7.127/32", "127.0.0.1/32"),
        ("ip6tables-restore", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff/128", "::1/128"),
    ] {
        netns.feed(restore, &["-w"], &redirection(probe, local));
    }
    for (family, all) in [("-4", "0.0.0.0/0"), ("-6", "::/0")] {
        let commands = format!("rule add fwmark 0x111/0xfff pref 32764 lookup 100\nroute add local {all} dev lo table 100\n");
        netns.feed("ip", &[family, "-batch", "-"], &commands);
    }
}

impl Pod {
    /// Its address.
    pub fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// Address and port.
    pub fn addr(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(family), port)
    }

    /// The IPv4 address and port.
    pub fn at(&self, port: u16) -> SocketAddr {
        self.addr(Family::V4, port)
    }

    /// What the CNI calls it.
    pub fn uid(&self) -> String {
        format!("uid-{}", self.name)
    }

    /// Connects from inside.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let make = || if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = self.netns.enter(make)?;
        soon("a TCP connection", socket.connect(to)).await
    }

    /// Starts a program inside.
    pub fn spawn(&self, command: &mut Command) -> std::process::Child {
        self.netns.enter(|| command.spawn()).expect("it can be run")
    }

    /// Asks a plain HTTP/1 server from inside; empty when it does not answer.
    pub async fn ask(&self, to: SocketAddr, path: &str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let Ok(mut io) = self.connect(to).await else { return String::new() };
        let mut text = String::new();
        let _ = io.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await;
        let _ = soon("answer", io.read_to_string(&mut text)).await;
        text
    }
}
