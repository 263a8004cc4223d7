//! Waypoints that are captured themselves, that are missing, and that are scaled.

use super::{
    churn::manifest,
    services::{service, vip},
    *,
};
use crate::support::{
    Gateway, Tunnel,
    apps::{COUNT, End, Load, refusal, talk},
    eventually,
    world::{Family, Pod, Spec, identity},
};
use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};
use tokio::{io::AsyncReadExt as _, time::Instant};

const BEHIND: &str = "  waypoint: {destination: \"app/waypoint.app.svc.cluster.local\", hboneMtlsPort: 15008}\n";

/// The mesh of a waypoint behind its node's ztunnel: `web` and the pod `server` are behind it.
fn sandwich(world: &mut World, more: &'static str) -> [Pod; 3] {
    let client = world.pod(Spec::captured("client", 1));
    let server = world.pod(Spec::captured("server", 2).services("\"app/web.app.svc.cluster.local\": {80: 8083}").more(BEHIND));
    let own = "\"app/waypoint.app.svc.cluster.local\": {15008: 15008}";
    let waypoint = world.pod(Spec::captured("waypoint", 2).services(own).more(more));
    [client, server, waypoint]
}

fn sandwich_services() -> String {
    let services = [
        "services:\n",
        &service("waypoint", 2, "15008: 15008", ""),
        &service("web", 10, "80: 8083", BEHIND),
        &service("elsewhere", 11, "80: 8083", ""),
        "policies: []\n",
    ];
    services.concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captured_waypoint_is_given_what_it_guards() {
    let Some(mut world) = World::new() else { return };
    let [client, server, waypoint] = sandwich(&mut world, "");
    let beside = world.pod(Spec::plain("beside", 1));
    let app = Apps::start(&server);
    // What comes for the service's port 80 comes to the waypoint's; it goes on as the waypoint's own traffic does.
    let (inside, to) = (waypoint.clone(), vip(10, Family::V4, 80));
    let _instance = waypoint.netns.enter(|| {
        Backend::tcp(waypoint.at(80), move |mut stream| {
            let inside = inside.clone();
            async move {
                let Ok(mut upstream) = inside.connect(to).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut upstream).await;
            }
        })
    });
    let [near, far] = world.start(&sandwich_services()).await;
    assert_eq!(talk(client.connect(to).await.unwrap(), b"four").await.unwrap(), b"4 bytes");
    assert_eq!(app.last_peer(COUNT), Some(waypoint.ip(Family::V4)), "it has come through the waypoint");
    let (first, second) = (identity("client").to_string(), identity("waypoint").to_string());
    let authority = to.to_string();
    let line = near.access("to the waypoint", |a| a.get("direction") == "outbound" && a.get("dst.hbone_addr") == authority).await;
    assert!(line.has(&[("dst.workload", "waypoint"), ("dst.identity", &second), ("error", "")]), "{line:?}");
    let line = far.access("at the waypoint", |a| a.get("direction") == "inbound" && a.get("dst.hbone_addr") == authority).await;
    assert!(line.has(&[("dst.workload", "waypoint"), ("src.identity", &first), ("error", "")]), "{line:?}");
    let direct = server.at(COUNT).to_string();
    let line = far.access("from the waypoint", |a| a.get("direction") == "outbound" && a.get("dst.hbone_addr") == direct).await;
    assert!(line.has(&[("src.workload", "waypoint"), ("dst.workload", "server"), ("error", "")]), "{line:?}");

    // Only what it guards, and only as far as the pod of the tunnel.
    let tunnel = Tunnel::open(&beside, waypoint.at(15008), &world.cert("client"), &identity("waypoint")).await.unwrap();
    let rows = [
        ("a service that it does not guard", vip(11, Family::V4, 80).to_string(), "400"),
        ("a pod that it does not guard", client.at(COUNT).to_string(), "400"),
        ("nobody's address", "192.0.2.1:80".to_owned(), "400"),
        ("a pod that it guards, by a port where it does not listen itself", server.at(COUNT).to_string(), "503"),
        ("a service that it guards, by the proxy's own port", vip(10, Family::V4, 15006).to_string(), "503"),
    ];
    for (what, authority, status) in rows {
        assert_eq!(tunnel.connect(&authority).await.map(drop), Err(status.to_owned()), "{what}: {authority}");
    }
    assert_eq!(app.connections(COUNT), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captured_waypoint_with_an_application_tunnel_is_told_where_each_connection_goes() {
    let Some(mut world) = World::new() else { return };
    let [client, server, waypoint] = sandwich(&mut world, "  applicationTunnel: {protocol: PROXY, port: 15088}\n");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hear = heard.clone();
    let _instance = waypoint.netns.enter(|| {
        Backend::tcp("127.0.0.1:15088".parse().unwrap(), move |mut stream| {
            let hear = hear.clone();
            async move {
                let mut bytes = Vec::new();
                let _ = stream.read_to_end(&mut bytes).await;
                hear.lock().unwrap().push(bytes);
            }
        })
    });
    let _proxies = world.start(&sandwich_services()).await;
    for (what, to) in [("service", vip(10, Family::V4, 80)), ("workload", server.at(COUNT))] {
        let stream = client.connect(to).await.unwrap();
        let source = stream.local_addr().unwrap().ip();
        assert_eq!(talk(stream, b"payload").await.unwrap(), b"", "{what}");
        eventually("the waypoint has it", async || !heard.lock().unwrap().is_empty()).await;
        let bytes = heard.lock().unwrap().pop().unwrap();
        // Version 2, PROXY, TCP over IPv4 (haproxy's proxy-protocol.txt, 2.2), the identity as TLV 0xD0.
        assert_eq!(&bytes[..14], b"\r\n\r\n\0\r\nQUIT\n\x21\x11", "{what}");
        let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
        let (header, payload) = bytes[16..].split_at(length);
        let (SocketAddr::V4(to), IpAddr::V4(source)) = (to, source) else { panic!("IPv4") };
        assert_eq!((&header[..4], &header[4..8]), (&source.octets()[..], &to.ip().octets()[..]), "{what}: source and destination");
        assert_eq!(header[10..12], to.port().to_be_bytes(), "{what}: the port that was dialled");
        let id = identity("client").to_string();
        assert_eq!(header[12..], [&[0xd0, 0, u8::try_from(id.len()).unwrap()], id.as_bytes()].concat(), "{what}");
        assert_eq!(payload, b"payload", "{what}");
    }
}

/// A service of `app` with pods of this label, and a port 80 that leads to [`COUNT`] or elsewhere.
fn kube_service(name: &str, host: u8, app: &str, target: u16, labels: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: app, labels: {{{labels}}}}}
spec:
  clusterIP: 10.96.0.{host}
  selector: {{app: {app}}}
  ports: [{{name: tcp, port: 80, targetPort: {target}}}]
"
    )
}

/// The Gateway `waypoint`, whose instances are the pods that say so.
const WAYPOINT: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: app, labels: {istio.io/waypoint-for: service}}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: v1
kind: Service
metadata: {name: waypoint, namespace: app}
spec:
  clusterIP: 10.96.0.2
  selector: {gateway.networking.k8s.io/gateway-name: waypoint}
  ports: [{name: mesh, port: 15008, appProtocol: tcp}]
";

fn instance(pod: &Pod) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata:
  name: {}
  namespace: app
  labels: {{gateway.networking.k8s.io/gateway-name: waypoint, gateway.istio.io/managed: istio.io-mesh-controller}}
spec: {{nodeName: node{}, serviceAccountName: waypoint, containers: [{{name: c}}]}}
status: {{phase: Running, podIP: \"{}\"}}
",
        pod.name,
        pod.node,
        pod.ip(Family::V4)
    )
}

/// A directory of manifests for all ztunnels of the world.
fn manifests(world: &mut World, mesh: &[String]) -> PathBuf {
    let dir = world.dir.path().join("manifests");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("mesh.yaml"), mesh.concat()).unwrap();
    world.env("CAIRN_MANIFESTS", dir.display());
    dir
}

/// Replaces a file as a whole.
fn replace(dir: &Path, name: &str, text: &str) {
    let next = dir.join(format!("{name}.next"));
    std::fs::write(&next, text).unwrap();
    std::fs::rename(&next, dir.join(name)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_waypoint_a_service_is_reached_only_where_that_may_be() {
    for is_required in [false, true] {
        let Some(mut world) = World::new() else { return };
        world.env("CAIRN_REQUIRE_WAYPOINT", is_required);
        // A name that leads nowhere is an error, by which one may not start.
        world.env("CAIRN_LENIENT", true);
        let client = world.pod(Spec::captured("client", 1));
        let server = world.pod(Spec::captured("server", 2));
        // It speaks HBONE, but nobody listens for that.
        let bare = world.pod(Spec::native("bare", 2));
        let apps = [&server, &bare].map(Apps::start);
        let waypoint = world.pod(Spec::native("waypoint", 2));
        let mesh = [
            WAYPOINT.to_owned(),
            kube_service("orphan", 30, "server", COUNT, "istio.io/use-waypoint: nowhere"),
            kube_service("guarded", 31, "server", COUNT, "istio.io/use-waypoint: waypoint"),
            kube_service("bare", 32, "bare", COUNT, ""),
            manifest(&client),
            manifest(&server),
            manifest(&bare),
        ];
        let dir = manifests(&mut world, &mesh);
        replace(&dir, "waypoint.yaml", &instance(&waypoint));
        let [near, _far] = world.start_proxies().await;
        let guarded = vip(31, Family::V4, 80);
        let there = Gateway::start(&waypoint, world.cert("waypoint"), &[(&guarded.to_string(), server.at(COUNT))]);
        let what = format!("required: {is_required}");

        // A Gateway that does not exist.
        let orphan = vip(30, Family::V4, 80);
        if is_required {
            let refused = refusal(&client, orphan).await;
            assert!(matches!(refused, End::Closed(0) | End::Failed(_)), "{what}: {refused:?}");
            let is_it = |a: &crate::support::proxy::Access| a.get("dst.addr") == orphan.to_string() && a.message == "connection failed";
            let line = near.access("why", is_it).await;
            assert!(line.get("error").contains("does not exist, and a waypoint is required"), "{what}: {line:?}");
        } else {
            assert_eq!(talk(client.connect(orphan).await.unwrap(), b"four").await.unwrap(), b"4 bytes", "{what}");
        }

        // One whose instances go away: not even the pods behind it are reached then.
        assert_eq!(talk(client.connect(guarded).await.unwrap(), b"four").await.unwrap(), b"4 bytes", "{what}");
        assert_eq!(there.connected().len(), 1, "{what}");
        std::fs::remove_file(dir.join("waypoint.yaml")).unwrap();
        let before = apps[0].connections(COUNT);
        eventually("connections are refused", async || {
            let known = there.connected().len();
            let refused = refusal_or_answer(&client, guarded).await;
            assert!(!refused || there.connected().len() == known, "{what}");
            refused
        })
        .await;
        let through = there.connected().len() - 1;
        assert_eq!(apps[0].connections(COUNT) - before, through, "{what}: nothing has come around the waypoint");
        let is_it = |a: &crate::support::proxy::Access| a.get("dst.addr") == guarded.to_string() && a.message == "connection failed";
        let line = near.access("why", is_it).await;
        assert_eq!(line.get("error"), "no healthy waypoint", "{what}: {line:?}");

        // A pod that speaks HBONE gets no plaintext, whatever becomes of its tunnels.
        for to in [bare.at(COUNT), vip(32, Family::V4, 80)] {
            let refused = refusal(&client, to).await;
            assert!(matches!(refused, End::Closed(0) | End::Failed(_)), "{what}, {to}: {refused:?}");
        }
        assert_eq!(apps[1].connections(COUNT), 0, "{what}");
    }
}

/// Whether a connection is closed without an answer.
async fn refusal_or_answer(client: &Pod, to: SocketAddr) -> bool {
    let Ok(stream) = client.connect(to).await else { return true };
    talk(stream, b"four").await.map_or(true, |answer| answer.is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn new_instances_of_a_waypoint_get_their_share_at_once() {
    let Some(mut world) = World::new() else { return };
    let client = world.pod(Spec::captured("client", 1));
    let server = world.pod(Spec::captured("server", 2));
    let pods = ["w1", "w2", "w3", "w4"].map(|name| world.pod(Spec::native(name, 2).runs_as("waypoint")));
    let _app = Apps::start(&server);
    let web = vip(10, Family::V4, 80);
    let mesh = [
        WAYPOINT.to_owned(),
        kube_service("web", 10, "server", ECHO, "istio.io/use-waypoint: waypoint"),
        manifest(&client),
        manifest(&server),
    ];
    let dir = manifests(&mut world, &mesh);
    let scale = |count: usize| replace(&dir, "waypoint.yaml", &pods[..count].iter().map(instance).collect::<String>());
    scale(2);
    let _proxies = world.start_proxies().await;
    let instances = pods.each_ref().map(|pod| Gateway::start(pod, world.cert("waypoint"), &[(&web.to_string(), server.at(ECHO))]));
    let counts = || instances.each_ref().map(|instance| instance.connected().len());
    let load = Load::start(&client, web, 6);
    load.more(60).await;
    let [first, second, ..] = counts();
    assert!(first > 10 && second > 10 && counts()[2..] == [0, 0], "{:?}", counts());
    let begun = Instant::now();
    scale(4);
    eventually("new instances get connections", async || counts().iter().all(|count| *count > 0)).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let before = counts();
    load.more(240).await;
    let after = counts();
    assert_eq!(load.stop().await, [""; 0], "no connection is lost");
    let shares: Vec<usize> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    let total: usize = shares.iter().sum();
    // A quarter each; half of that is far from any accident.
    assert!(shares.iter().all(|share| *share >= total / 8), "{shares:?}");
    let peers: BTreeSet<_> = instances.iter().flat_map(Gateway::connected).map(|connected| connected.peer).collect();
    assert_eq!(peers, [identity("client")].into(), "all of them as the client");
}
