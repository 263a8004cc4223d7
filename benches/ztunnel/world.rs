//! Two nodes with pods, as a cluster lays them out: each pod is a network namespace with an address,
//! routed by its node; the nodes route to each other.

use super::{
    cni::Cni,
    netns::{self, Netns, redirection},
    server,
};
use cairn::{cert::DevCa, model::Identity};
use std::{
    fmt::Write as _,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

/// The namespace of all workloads.
pub const NAMESPACE: &str = "bench";
pub const TRUST_DOMAIN: &str = "cluster.local";
/// The address of the service that is `server`.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Instances of the waypoint, of which not all serve all the time.
pub const REPLICAS: usize = 6;
/// Pods on the node of the server when a node is measured with pods.
pub const PODS: usize = 10;
/// What begins the names of all our namespaces.
const PREFIX: &str = "cairn-bench-";

/// A pod. It runs under a service account of its own name.
#[derive(Debug)]
pub struct Pod {
    pub name: String,
    pub netns: Netns,
    pub ip: Ipv4Addr,
    node: usize,
    is_captured: bool,
}

/// All that runs does so here. The namespaces go when this is dropped.
#[derive(Debug)]
pub struct World {
    /// In the mesh, on the first node and on the second.
    pub client: Pod,
    pub server: Pod,
    /// Not in the mesh.
    pub plain_client: Pod,
    pub plain_server: Pod,
    /// In the mesh, and idle, beside the server.
    pub others: Vec<Pod>,
    /// They speak HBONE themselves, on the second node.
    pub replicas: Vec<Pod>,
    /// Where the ztunnels run, and their CNIs.
    pub ztunnels: [Pod; 2],
    pub cnis: [Cni; 2],
    dir: tempfile::TempDir,
    _nodes: [Netns; 2],
    _made: Made,
}

/// Names that are removed.
#[derive(Debug, Default)]
struct Made(Vec<String>);

impl Drop for Made {
    fn drop(&mut self) {
        netns::remove(&self.0);
    }
}

impl World {
    pub fn new() -> Self {
        sweep();
        let dir = tempfile::tempdir().unwrap();
        let mut made = Made::default();
        let nodes = [1, 2].map(|node| {
            let netns = namespace(&mut made, &format!("node{node}"));
            netns.sysctl("ipv4/ip_forward", "1");
            netns
        });
        netns::ip(&format!("link add wire netns {} type veth peer name wire netns {}\n", nodes[0].name, nodes[1].name));
        for (node, other) in [(1, 2), (2, 1)] {
            nodes[node - 1].ip(&format!(
                "link set lo up
                 address add 10.254.0.{node}/24 dev wire
                 link set wire up
                 route add 10.{other}.0.0/16 via 10.254.0.{other}\n"
            ));
        }
        let mut pod = |name: &str, node: usize, is_captured: bool| {
            let pod = attach(&mut made, &nodes[node - 1], node, name, is_captured);
            if is_captured {
                redirect(&pod.netns);
            }
            pod
        };
        let world = Self {
            client: pod("client", 1, true),
            server: pod("server", 2, true),
            plain_client: pod("plain-client", 1, false),
            plain_server: pod("plain-server", 2, false),
            others: (1..PODS).map(|n| pod(&format!("other-{n}"), 2, true)).collect(),
            replicas: (1..=REPLICAS).map(|n| pod(&format!("waypoint-{n}"), 2, false)).collect(),
            ztunnels: [pod("ztunnel-1", 1, false), pod("ztunnel-2", 2, false)],
            cnis: ["zds1", "zds2"].map(|name| Cni::listen(&dir.path().join(name))),
            dir,
            _nodes: nodes,
            _made: made,
        };
        world.certs();
        std::fs::write(world.mesh_file(), world.mesh()).unwrap();
        world
    }

    /// The mesh in the YAML of the reference.
    pub fn mesh_file(&self) -> PathBuf {
        self.dir.path().join("mesh.yaml")
    }

    /// The mesh as manifests; see [`World::write_manifests`].
    pub fn manifests(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }

    pub fn certs_dir(&self) -> PathBuf {
        self.dir.path().join("certs")
    }

    /// Makes the CA, which then signs for whoever is asked for, and what the bench itself presents.
    fn certs(&self) {
        let waypoint = Identity::new(TRUST_DOMAIN, NAMESPACE, "waypoint").unwrap();
        DevCa::write_directory(&self.certs_dir(), TRUST_DOMAIN, &[waypoint], Duration::from_secs(86_400)).unwrap();
    }

    fn mesh(&self) -> String {
        let mut text = String::from("workloads:\n");
        let members = [&self.client, &self.server, &self.plain_client, &self.plain_server];
        for Pod { name, ip, node, is_captured, .. } in members.into_iter().chain(&self.others) {
            let protocol = if *is_captured { "HBONE" } else { "TCP" };
            let ports: Vec<String> = server::PORTS.iter().map(|port| format!("{port}: {port}")).collect();
            let services = if name == "server" { format!("\"{}\": {{{}}}", Self::SERVICE, ports.join(", ")) } else { String::new() };
            let _ = write!(
                text,
                "- uid: Kubernetes//Pod/{NAMESPACE}/{name}
  name: {name}
  namespace: {NAMESPACE}
  serviceAccount: {name}
  trustDomain: {TRUST_DOMAIN}
  workloadIps: [\"{ip}\"]
  protocol: {protocol}
  network: \"\"
  node: node{node}
  workloadName: {name}
  workloadType: deployment
  canonicalName: {name}
  canonicalRevision: v1
  clusterId: Kubernetes
  status: Healthy
  services: {{{services}}}\n"
            );
        }
        let ports: Vec<String> = server::PORTS.iter().map(|port| format!("{port}: {port}")).collect();
        let _ = write!(
            text,
            "services:
- name: server
  namespace: {NAMESPACE}
  hostname: server.{NAMESPACE}.svc.cluster.local
  vips: [\"/{VIP}\"]
  ports: {{{}}}
policies: []\n",
            ports.join(", ")
        );
        text
    }

    const SERVICE: &str = "bench/server.bench.svc.cluster.local";

    /// Writes the manifests with so many instances of the waypoint, whole: whoever looks sees the old
    /// ones or the new ones.
    pub fn write_manifests(&self, replicas: usize) {
        let mut text = format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {NAMESPACE}, labels: {{istio.io/use-waypoint: waypoint}}}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: waypoint, namespace: {NAMESPACE}}}
spec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: waypoint, namespace: {NAMESPACE}}}
spec:
  clusterIP: 10.96.0.2
  selector: {{gateway.networking.k8s.io/gateway-name: waypoint}}
  ports: [{{name: mesh, port: 15008, appProtocol: tcp}}]
---
apiVersion: v1
kind: Service
metadata: {{name: server, namespace: {NAMESPACE}}}
spec: {{clusterIP: {VIP}, selector: {{app: server}}, ports: [{{port: {0}, targetPort: {0}}}]}}
",
            server::HTTP
        );
        let redirected = "annotations: {ambient.istio.io/redirection: enabled}";
        for pod in [&self.client, &self.server] {
            manifest(&mut text, pod, &pod.name, &format!("labels: {{app: {}}}, {redirected}", pod.name));
        }
        for pod in &self.replicas[..replicas] {
            let labels = "{gateway.networking.k8s.io/gateway-name: waypoint, gateway.istio.io/managed: istio.io-mesh-controller}";
            manifest(&mut text, pod, "waypoint", &format!("labels: {labels}"));
        }
        std::fs::create_dir_all(self.manifests()).unwrap();
        let partial = self.dir.path().join("partial");
        std::fs::write(&partial, text).unwrap();
        std::fs::rename(partial, self.manifests().join("mesh.yaml")).unwrap();
    }
}

fn manifest(text: &mut String, pod: &Pod, account: &str, metadata: &str) {
    let Pod { name, ip, node, .. } = pod;
    let _ = write!(
        text,
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {NAMESPACE}, {metadata}}}
spec: {{serviceAccountName: {account}, nodeName: node{node}, containers: [{{name: c}}]}}
status: {{phase: Running, podIP: {ip}}}\n"
    );
}

fn namespace(made: &mut Made, name: &str) -> Netns {
    let name = format!("{PREFIX}{}-{name}", std::process::id());
    made.0.push(name.clone());
    netns::ip(&format!("netns add {name}\n"));
    Netns::named(&name)
}

/// Removes what benches that were killed have left.
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

fn attach(made: &mut Made, node: &Netns, number: usize, name: &str, is_captured: bool) -> Pod {
    let host = 10 + made.0.len();
    let netns = namespace(made, name);
    netns::ip(&format!("link add pod{host} netns {} type veth peer name eth0 netns {}\n", node.name, netns.name));
    node.ip(&format!(
        "address add 10.{number}.0.1/32 dev pod{host}
         link set pod{host} up
         route add 10.{number}.0.{host}/32 dev pod{host}\n"
    ));
    netns.ip(&format!(
        "link set lo up
         address add 10.{number}.0.{host}/32 dev eth0
         link set eth0 up
         route add 10.{number}.0.1 dev eth0
         route add default via 10.{number}.0.1\n"
    ));
    // Many short connections from one address: a cluster has more addresses, a bench must not run out of ports.
    netns.sysctl("ipv4/ip_local_port_range", "32768 65000");
    netns.sysctl("ipv4/tcp_tw_reuse", "1");
    let ip = Ipv4Addr::new(10, number as u8, 0, host as u8);
    Pod { name: name.to_owned(), netns, ip, node: number, is_captured }
}

/// The redirection of contract, 4.6.
fn redirect(netns: &Netns) {
    let (probe, local) = ("169.254.7.127/32", "127.0.0.1/32");
    netns.feed("iptables-restore", &["-w"], &redirection(probe, local));
    netns.ip("rule add fwmark 0x111/0xfff pref 32764 lookup 100\nroute add local 0.0.0.0/0 dev lo table 100\n");
    // A closed connection is remembered for two minutes otherwise, and there are only so many that can be.
    netns.sysctl("netfilter/nf_conntrack_tcp_timeout_time_wait", "1");
}

impl Pod {
    /// What the mesh calls its node.
    pub fn node(&self) -> String {
        format!("node{}", self.node)
    }

    /// Starts a program inside.
    pub fn spawn(&self, command: &mut Command) -> Child {
        self.netns.enter(|| command.spawn()).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }
}
