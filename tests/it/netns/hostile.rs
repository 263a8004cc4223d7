//! What must not pass: policy, identities, addresses, and every port of the proxy's own.

use super::*;
use crate::support::{
    Tunnel,
    apps::{COUNT, End, end, refusal, talk},
    eventually,
    proxy::Access,
    world::{Family, Pod, Spec, identity},
};
use cairn::{model::Identity, transport::WorkloadCert};
use http::{Method, Request};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Command,
    time::Duration,
};
use tokio::io::AsyncWriteExt as _;

const OWN_PORTS: [u16; 5] = [15001, 15006, 15008, 15053, 15080];

/// Only `client` may come to `guarded`; who comes to `strict` must have an identity.
const POLICIES: &str = "services: []
policies:
- name: only-client
  namespace: app
  scope: WorkloadSelector
  action: Allow
  dryRun: false
  rules:
  - - - principals: [!Exact \"cluster.local/ns/app/sa/client\"]
- name: identity
  namespace: app
  scope: WorkloadSelector
  action: Deny
  dryRun: false
  rules:
  - - - notPrincipals: [!Prefix \"cluster.local/ns/\"]
- name: not-this-port
  namespace: app
  scope: WorkloadSelector
  action: Deny
  dryRun: false
  rules:
  - - - destinationPorts: [8081]
";

#[tokio::test(flavor = "multi_thread")]
async fn policy_decides_by_identity_and_port() {
    let Some(mut world) = World::new() else { return };
    let client = world.pod(Spec::captured("client", 1));
    let other = world.pod(Spec::captured("other", 1));
    let plain = world.pod(Spec::plain("plain", 1));
    let guarded = world.pod(Spec::captured("guarded", 2).more("  authorizationPolicies: [\"app/only-client\"]\n"));
    let strict = world.pod(Spec::captured("strict", 2).more("  authorizationPolicies: [\"app/identity\", \"app/not-this-port\"]\n"));
    let apps = [&guarded, &strict].map(Apps::start);
    let [near, far] = world.start(POLICIES).await;
    for (from, to, port, passes) in [
        (&client, &guarded, COUNT, true),
        (&other, &guarded, COUNT, false),
        (&plain, &guarded, COUNT, false),
        (&client, &strict, COUNT, true),
        (&plain, &strict, COUNT, false),
        (&client, &strict, 8081, false),
    ] {
        for family in FAMILIES {
            let what = format!("{} to {}, port {port}, {family:?}", from.name, to.name);
            let before = apps.each_ref().map(|app| app.connections(port));
            let address = to.addr(family, port);
            if passes {
                let stream = from.connect(address).await.unwrap_or_else(|e| panic!("{what}: connect: {e}"));
                assert_eq!(talk(stream, b"four").await.unwrap_or_else(|e| panic!("{what}: {e}")), b"4 bytes", "{what}");
                continue;
            }
            assert!(matches!(refusal(from, address).await, End::Closed(0) | End::Failed(_)), "{what}: connected, then closed");
            assert_eq!(apps.each_ref().map(|app| app.connections(port)), before, "{what}: the application is not bothered");
            if from.name != "plain" {
                let is_ours = |a: &Access| a.get("src.workload") == from.name && a.get("dst.hbone_addr") == address.to_string();
                let line = near.access(&what, is_ours).await;
                assert!(line.get("error").contains("401") && line.get("direction") == "outbound", "{what}: {line:?}");
            }
            let (client_ip, here) = (from.ip(family).to_string(), to.ip(family).to_string());
            let is_refusal = |a: &Access| {
                let parties = a.get("src.addr").contains(&client_ip) && a.get("dst.addr").contains(&here);
                parties && a.get("direction") == "inbound" && a.get("error").contains("polic")
            };
            far.access(&what, is_refusal).await;
        }
    }
    let denied = |name: &'static str| [("reporter", "destination"), ("source_workload", name), ("response_flags", "DENY")];
    let metrics = far.metrics().await;
    for (name, count) in [("other-deploy", 2.0), ("plain-deploy", 4.0), ("client-deploy", 2.0)] {
        assert_eq!(metrics.sum("istio_tcp_connections_failed_total", &denied(name)), count, "{name}");
    }
}

/// A certificate by the mesh's own CA, for an identity that the CA would not sign.
pub fn foreign(world: &World, trust_domain: &str) -> WorkloadCert {
    let read = |file: &str| std::fs::read_to_string(world.certs_dir().join(file)).unwrap();
    let key = rcgen::KeyPair::from_pem(&read("ca-key.pem")).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("roots.pem"), key).unwrap();
    let mut params = rcgen::CertificateParams::default();
    let name = format!("spiffe://{trust_domain}/ns/app/sa/client");
    params.subject_alt_names = vec![rcgen::SanType::URI(name.try_into().unwrap())];
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &issuer).unwrap();
    WorkloadCert::from_pem(leaf.pem().as_bytes(), key.serialize_pem().as_bytes(), read("roots.pem").as_bytes()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_ztunnel_would_ask_for_is_refused() {
    let Some(mut world) = World::new() else { return };
    world.env("UNSTABLE_ENABLE_SOCKS5", true);
    let attacker = world.pod(Spec::plain("attacker", 1));
    let client = world.pod(Spec::captured("client", 1));
    let server = world.pod(Spec::captured("server", 2).services("\"app/web.app.svc.cluster.local\": {80: 8083}"));
    let neighbour = world.pod(Spec::captured("neighbour", 2));
    let (_app, _other) = (Apps::start(&server), Apps::start(&neighbour));
    let mesh = "services:
- name: web
  namespace: app
  hostname: web.app.svc.cluster.local
  vips: [\"/10.96.0.10\"]
  ports: {80: 8083}
policies: []
";
    let [_near, far] = world.start(mesh).await;
    let cert = world.cert("attacker");
    let tunnel = Tunnel::open(&attacker, server.at(15008), &cert, &identity("server")).await.expect("any workload may open a tunnel");
    let (own, next) = (server.ip(Family::V4), neighbour.ip(Family::V4));
    let mut rows = vec![
        (format!("{own}:{COUNT}"), Ok(())),
        ("web.app.svc.cluster.local:80".to_owned(), Ok(())),
        (format!("{next}:{COUNT}"), Err("400")),
        (format!("127.0.0.1:{COUNT}"), Err("400")),
        (format!("[::1]:{COUNT}"), Err("400")),
        (format!("[{}]:{COUNT}", server.ip(Family::V6)), Err("400")),
        ("10.96.0.10:80".to_owned(), Err("400")),
        (format!("{own}"), Err("400")),
        (format!("{own}:9"), Err("503")),
        ("web.app.svc.cluster.local:81".to_owned(), Err("503")),
        ("unknown.app.svc.cluster.local:80".to_owned(), Err("503")),
    ];
    for port in OWN_PORTS {
        rows.push((format!("{own}:{port}"), Err("503")));
        rows.push((format!("127.0.0.1:{port}"), Err("400")));
        rows.push((format!("{next}:{port}"), Err("400")));
    }
    for (authority, expected) in rows {
        let answered = tunnel.connect(&authority).await;
        match (answered, expected) {
            (Ok(stream), Ok(())) => assert_eq!(stream.talk(b"four").await.as_deref(), Ok(&b"4 bytes"[..]), "{authority}"),
            (Err(status), Err(expected)) => assert_eq!(status, expected, "{authority}"),
            (answered, expected) => panic!("{authority}: {answered:?} instead of {expected:?}"),
        }
    }
    let get = Request::builder().method(Method::GET).uri(format!("https://{own}:{COUNT}/")).body(()).unwrap();
    assert_eq!(tunnel.request(get).await.map(drop), Err("400".to_owned()), "not a CONNECT");

    // Who is nobody here does not even get a tunnel.
    let foreign = foreign(&world, "elsewhere.example");
    let stranger = Tunnel::open(&attacker, server.at(15008), &foreign, &identity("server")).await;
    let refused = match stranger {
        Err(_) => true,
        Ok(tunnel) => tunnel.connect(&format!("{own}:{COUNT}")).await.is_err_and(|e| e.parse::<u16>().is_err()),
    };
    assert!(refused, "another trust domain is refused with its handshake");

    // Each port of the proxy's own, from everywhere: an end within a bound, and nothing of an echo.
    let node = world.node(2);
    let from_pod = [(&server, own), (&server, Family::V4.localhost()), (&server, Family::V6.localhost())];
    let others = [&client, &attacker, &neighbour, &node].map(|from| (from, own));
    for (from, ip) in from_pod.into_iter().chain(others) {
        for port in OWN_PORTS {
            knock(from, SocketAddr::new(ip, port)).await;
        }
    }
    // By addresses that the mesh does not know to be the pod's as well.
    let unknown = ["192.0.2.77", "2001:db8::77"].map(|ip| ip.parse().unwrap());
    for ip in unknown {
        assert!(
            server
                .netns
                .enter(|| Command::new("ip").args(["address", "add", &IpAddr::to_string(&ip), "dev", "lo"]).status())
                .unwrap()
                .success()
        );
        for port in OWN_PORTS {
            knock(&server, SocketAddr::new(ip, port)).await;
        }
    }
    // Through SOCKS5 as well: a proxy that connects to itself would never stop.
    let everywhere = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    for ip in [own, Family::V4.localhost()].into_iter().chain(everywhere).chain(unknown) {
        for port in OWN_PORTS {
            let to = SocketAddr::new(ip, port);
            // A tunnel from a pod to itself is none that goes in a circle; it ends when it says nothing for too long.
            if unknown.contains(&ip) && port != 15001 {
                continue;
            }
            match names::socks5(&server, &ip.to_string(), port).await {
                Ok(mut stream) => assert!(matches!(end_of(&mut stream, to).await, End::Closed(_) | End::Failed(_))),
                Err(code) => assert_ne!(code, 0, "{to}"),
            }
        }
    }
    let answer = talk(client.connect(server.at(COUNT)).await.unwrap(), b"four").await.unwrap();
    assert_eq!(answer, b"4 bytes", "afterwards everybody else is served");
    // Connections that went in a circle would still be there.
    drop(tunnel);
    eventually("all of that is over", async || {
        let metrics = far.metrics().await;
        let (opened, closed) = ("istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total");
        metrics.sum(opened, &[]) == metrics.sum(closed, &[])
    })
    .await;
    let opened = far.metrics().await.sum("istio_tcp_connections_opened_total", &[]);
    assert!(opened < 200.0, "{opened} connections for fewer requests");
}

async fn knock(from: &Pod, to: SocketAddr) {
    // Refused is an answer.
    let Ok(mut stream) = from.connect(to).await else { return };
    let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
    let _ = stream.shutdown().await;
    let ended = end_of(&mut stream, to).await;
    // An alert of TLS and a refusal of SOCKS5 are short.
    assert!(matches!(ended, End::Failed(_) | End::Closed(0..=16)), "{} to {to}: {ended:?}", from.name);
}

async fn end_of(stream: &mut tokio::net::TcpStream, to: SocketAddr) -> End {
    // Longer than the proxy waits for a workload or a DNS request, and far less than forever.
    let bound = tokio::time::timeout(Duration::from_secs(12), end(stream)).await;
    bound.unwrap_or_else(|_| panic!("hangs: {to}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_reached_plain_and_by_hbone() {
    let Some(mut world) = World::new() else { return };
    let (plain, captured) = (world.pod(Spec::plain("plain", 2)), world.pod(Spec::captured("captured", 2)));
    let [proxy, near] = world.start("services: []\npolicies: []\n").await;
    for family in FAMILIES {
        for from in [&plain, &captured] {
            let text = from.ask(proxy.metrics_at(family), "/metrics").await;
            assert!(text.starts_with("HTTP/1.1 200") && text.contains("istio_build{"), "{}, {family:?}: {text}", from.name);
        }
        // The ztunnel's own identity, in its own namespace (contract, 2.9).
        let own = Identity::new("cluster.local", "istio-system", "ztunnel").unwrap().to_string();
        let at = proxy.metrics_at(family).to_string();
        let line = near.access("a scrape by HBONE", |a| a.get("dst.hbone_addr") == at).await;
        assert!(line.has(&[("src.workload", "captured"), ("dst.identity", &own), ("error", "")]), "{line:?}");
    }
}
