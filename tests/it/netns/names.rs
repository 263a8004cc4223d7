//! Names: the DNS proxy, and host names given to SOCKS5.

use super::*;
use crate::support::{
    apps::{COUNT, End, refusal, talk},
    eventually, soon,
    world::{Family, Pod, Spec},
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Child,
    sync::Mutex,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
};

pub const A: u16 = 1;
const TXT: u16 = 16;
const AAAA: u16 = 28;

/// A query as RFC 1035, 4.1, has it.
fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut packet = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        packet.push(u8::try_from(label.len()).unwrap());
        packet.extend(label.as_bytes());
    }
    packet.push(0);
    packet.extend(kind.to_be_bytes());
    packet.extend([0, 1]);
    packet
}

#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub code: u8,
    authoritative: bool,
    truncated: bool,
    pub addresses: Vec<IpAddr>,
}

/// The header and the addresses of a response.
fn answer(packet: &[u8], id: u16) -> Answer {
    assert_eq!(packet[..2], id.to_be_bytes());
    assert_eq!(packet[2] & 0x80, 0x80, "a response");
    let number = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    let skip_name = |mut at: usize| loop {
        match packet[at] {
            0 => return at + 1,
            0xc0.. => return at + 2,
            length => at += 1 + usize::from(length),
        }
    };
    let mut at = 12;
    for _ in 0..number(4) {
        at = skip_name(at) + 4;
    }
    let mut addresses = Vec::new();
    for _ in 0..number(6) {
        at = skip_name(at);
        let (kind, length) = (number(at), number(at + 8));
        let data = &packet[at + 10..at + 10 + length];
        match kind as u16 {
            A => addresses.push(Ipv4Addr::from(<[u8; 4]>::try_from(data).unwrap()).into()),
            AAAA => addresses.push(Ipv6Addr::from(<[u8; 16]>::try_from(data).unwrap()).into()),
            _ => {}
        }
        at += 10 + length;
    }
    addresses.sort();
    Answer { code: packet[3] & 15, authoritative: packet[2] & 4 != 0, truncated: packet[2] & 2 != 0, addresses }
}

/// Asks a name server that does not exist: the redirection sees to it.
pub async fn by_udp(pod: &Pod, server: SocketAddr, name: &str, kind: u16) -> Answer {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = pod.netns.enter(|| std::net::UdpSocket::bind(any)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let socket = UdpSocket::from_std(socket).unwrap();
    socket.connect(server).await.unwrap();
    socket.send(&query(7, name, kind)).await.unwrap();
    let mut packet = vec![0; 4096];
    let length = soon(name, socket.recv(&mut packet)).await.unwrap();
    answer(&packet[..length], 7)
}

async fn by_tcp(pod: &Pod, server: SocketAddr, name: &str, kind: u16) -> Answer {
    let mut stream = pod.connect(server).await.unwrap();
    let packet = query(9, name, kind);
    stream.write_all(&u16::try_from(packet.len()).unwrap().to_be_bytes()).await.unwrap();
    stream.write_all(&packet).await.unwrap();
    let length = soon(name, stream.read_u16()).await.unwrap();
    let mut packet = vec![0; usize::from(length)];
    soon(name, stream.read_exact(&mut packet)).await.unwrap();
    answer(&packet, 9)
}

/// A name server that knows `outside.example` and nothing else.
pub fn upstream(pod: &Pod) -> tokio::task::JoinHandle<()> {
    name_server(pod, || Ipv4Addr::new(192, 0, 2, 7))
}

/// One that thinks anew, each time it is asked, what the address of `outside.example` is.
fn name_server(pod: &Pod, address: impl Fn() -> Ipv4Addr + Send + 'static) -> tokio::task::JoinHandle<()> {
    let socket = pod.netns.enter(|| std::net::UdpSocket::bind("[::]:53")).unwrap();
    socket.set_nonblocking(true).unwrap();
    let socket = UdpSocket::from_std(socket).unwrap();
    tokio::spawn(async move {
        let mut packet = vec![0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut packet).await {
            let is_known = packet[12..length].starts_with(b"\x07outside\x07example\0");
            // The question as it came, without EDNS, and an answer that points to its name.
            let end = 12 + packet[12..length].iter().position(|b| *b == 0).unwrap() + 5;
            let has_answer = is_known && packet[end - 4..end] == [0, 1, 0, 1];
            let mut out = packet[..end].to_vec();
            out[2..12].copy_from_slice(&[0x81, if is_known { 0x80 } else { 0x83 }, 0, 1, 0, u8::from(has_answer), 0, 0, 0, 0]);
            if has_answer {
                out.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04");
                out.extend(address().octets());
            }
            let _ = socket.send_to(&out, from).await;
        }
    })
}

/// A connection through the SOCKS5 listener of `pod`, or the code of the refusal.
pub async fn socks5(pod: &Pod, host: &str, port: u16) -> Result<TcpStream, u8> {
    let mut stream = pod.connect("127.0.0.1:15080".parse().unwrap()).await.unwrap();
    let mut request = vec![5, 1, 0, 5, 1, 0];
    match host.parse() {
        Ok(IpAddr::V4(ip)) => request.extend([&[1][..], &ip.octets()].concat()),
        Ok(IpAddr::V6(ip)) => request.extend([&[4][..], &ip.octets()].concat()),
        Err(_) => request.extend([&[3, u8::try_from(host.len()).unwrap()], host.as_bytes()].concat()),
    }
    request.extend(port.to_be_bytes());
    stream.write_all(&request).await.unwrap();
    let mut reply = [0; 12];
    soon("SOCKS5 reply", stream.read_exact(&mut reply)).await.map_err(|_| 255u8)?;
    assert_eq!(&reply[..3], &[5, 0, 5]);
    if reply[3] == 0 { Ok(stream) } else { Err(reply[3]) }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_the_mesh_are_answered_and_others_forwarded() {
    let Some(mut world) = World::new() else { return };
    let client = world.pod(Spec::captured("client", 1));
    let server = world.pod(
        Spec::captured("server", 2)
            .services("\"app/web.app.svc.cluster.local\": {80: 8083}, \"app/many.app.svc.cluster.local\": {80: 8083}"),
    );
    let dns = world.pod(Spec::plain("dns", 2).unknown());
    let (_app, upstream) = (Apps::start(&server), upstream(&dns));
    world.resolver(&dns);
    let vips: Vec<String> = (1..=60).map(|n| format!("\"/10.97.0.{n}\"")).collect();
    let mesh = format!(
        "services:
- {{name: web, namespace: app, hostname: web.app.svc.cluster.local, vips: [\"/10.96.0.10\", \"/fd96::10\"], ports: {{80: 8083}}}}
- {{name: narrow, namespace: app, hostname: narrow.app.svc.cluster.local, vips: [\"/10.96.0.11\"], ports: {{80: 8083}}}}
- {{name: entry, namespace: app, hostname: entry.example, vips: [\"/10.96.0.12\"], ports: {{80: 8083}}}}
- {{name: any, namespace: app, hostname: \"*.wild.example\", vips: [\"/10.96.0.13\"], ports: {{80: 8083}}}}
- {{name: many, namespace: app, hostname: many.app.svc.cluster.local, vips: [{}], ports: {{80: 8083}}}}
policies: []
",
        vips.join(", ")
    );
    let [proxy, _] = world.start(&mesh).await;
    let ip = |text: &str| vec![text.parse::<IpAddr>().unwrap()];
    let rows = [
        ("web", A, 0, ip("10.96.0.10")),
        ("web.app", A, 0, ip("10.96.0.10")),
        ("web.app.svc", A, 0, ip("10.96.0.10")),
        ("web.app.svc.cluster.local", A, 0, ip("10.96.0.10")),
        ("WEB.app.svc.cluster.local", A, 0, ip("10.96.0.10")),
        ("web.app.svc.cluster.local.app.svc.cluster.local", A, 0, ip("10.96.0.10")),
        ("web", AAAA, 0, ip("fd96::10")),
        ("narrow", AAAA, 0, vec![]),
        ("entry.example", A, 0, ip("10.96.0.12")),
        ("a.wild.example", A, 0, ip("10.96.0.13")),
        ("outside.example", A, 0, ip("192.0.2.7")),
        ("nowhere.example", A, 3, vec![]),
        ("nowhere.example", TXT, 3, vec![]),
    ];
    for (name, kind, code, addresses) in rows {
        for family in FAMILIES {
            // Nobody is there; what answers is the proxy.
            let server = if family == Family::V4 { "10.96.0.53:53" } else { "[fd96::53]:53" }.parse().unwrap();
            let by_udp = by_udp(&client, server, name, kind).await;
            assert_eq!((by_udp.code, &by_udp.addresses), (code, &addresses), "{name}, {kind}, UDP, {family:?}");
            let is_ours = !name.starts_with("outside") && !name.starts_with("nowhere");
            assert_eq!(by_udp.authoritative, is_ours, "{name}, {kind}");
            let by_tcp = by_tcp(&client, server, name, kind).await;
            assert_eq!(by_tcp, by_udp, "{name}, {kind}, TCP, {family:?}");
        }
    }
    let server_address = "10.96.0.53:53".parse().unwrap();
    let short = by_udp(&client, server_address, "many", A).await;
    assert!(short.truncated, "more than fits into 512 bytes: {short:?}");
    let long = by_tcp(&client, server_address, "many", A).await;
    assert_eq!((long.truncated, long.addresses.len()), (false, 60), "by TCP all of it");
    let asked = [("request_query_type", "a"), ("request_protocol", "udp")];
    let metrics = proxy.metrics().await;
    assert!(metrics.sum("istio_dns_requests_total", &asked) >= 20.0);
    assert!(metrics.sum("istio_dns_upstream_requests_total", &[]) >= 12.0);

    upstream.abort();
    let _ = upstream.await;
    eventually("without the upstream, a failure is said", async || by_udp(&client, server_address, "other.example", A).await.code == 2)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn socks5_leads_to_where_a_connection_would() {
    let Some(mut world) = World::new() else { return };
    world.env("UNSTABLE_ENABLE_SOCKS5", true);
    let client = world.pod(Spec::captured("client", 1));
    let server = world.pod(Spec::captured("server", 2).services("\"app/web.app.svc.cluster.local\": {80: 8083}"));
    let dns = world.pod(Spec::plain("dns", 2).unknown());
    let (_app, _upstream) = (Apps::start(&server), upstream(&dns));
    world.resolver(&dns);
    let mesh = "services:
- {name: web, namespace: app, hostname: web.app.svc.cluster.local, vips: [\"/10.96.0.10\", \"/fd96::10\"], ports: {80: 8083}}
policies: []
";
    let _proxies = world.start(mesh).await;
    for host in ["web", "web.app.svc.cluster.local", "10.96.0.10", "fd96::10"] {
        let stream = socks5(&client, host, 80).await.unwrap_or_else(|code| panic!("{host}: code {code}"));
        assert_eq!(talk(stream, b"four").await.unwrap(), b"4 bytes", "{host}");
    }
    let direct = socks5(&client, &server.ip(Family::V4).to_string(), COUNT).await.unwrap();
    assert_eq!(talk(direct, b"four").await.unwrap(), b"4 bytes", "a pod");
    assert_eq!(socks5(&client, "nowhere.example", 80).await.map(drop), Err(4), "a name that nobody knows");
}

/// A process, until this is dropped.
struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A container of a pod: a process that sees a resolv.conf of its own.
async fn container(world: &World, pod: &Pod, resolv_conf: &str) -> Sleeper {
    let path = world.dir.path().join(format!("{}-resolv.conf", pod.name));
    std::fs::write(&path, resolv_conf).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/resolv.conf && exec sleep 600"]).arg(&path);
    let process = Sleeper(pod.spawn(&mut command));
    let seen = format!("/proc/{}/root/etc/resolv.conf", process.0.id());
    eventually("the container sees its own resolv.conf", async || std::fs::read_to_string(&seen).is_ok_and(|text| text == resolv_conf))
        .await;
    process
}

#[tokio::test(flavor = "multi_thread")]
async fn the_search_domains_are_those_of_the_pods_own_resolver() {
    let Some(mut world) = World::new() else { return };
    let client = world.pod(Spec::captured("client", 1));
    let usual = world.pod(Spec::captured("usual", 1));
    let dns = world.pod(Spec::plain("dns", 2).unknown());
    let _upstream = upstream(&dns);
    world.resolver(&dns);
    let _container = container(&world, &client, "nameserver 10.96.0.53\nsearch corp.example team.example\n").await;
    let mesh = "services:
- {name: web, namespace: app, hostname: web.app.svc.cluster.local, vips: [\"/10.96.0.10\"], ports: {80: 8083}}
- {name: db, namespace: app, hostname: db.example, vips: [\"/10.96.0.11\"], ports: {80: 8083}}
policies: []
";
    let _proxies = world.start(mesh).await;
    let (web, db) = (Some("10.96.0.10".parse().unwrap()), Some("10.96.0.11".parse().unwrap()));
    let rows: [(&Pod, &str, Option<IpAddr>); 10] = [
        (&client, "web.app.svc.cluster.local.corp.example", web),
        (&client, "web.corp.example", web),
        (&client, "web.app.team.example", web),
        (&client, "db.example.team.example", db),
        (&client, "web.app.svc.cluster.local", web),
        // Not one of its domains: somebody else may know the name.
        (&client, "db.example.app.svc.cluster.local", None),
        (&usual, "db.example.app.svc.cluster.local", db),
        (&usual, "web.app.svc.cluster.local", web),
        (&usual, "web.corp.example", None),
        (&usual, "db.example.team.example", None),
    ];
    for (pod, name, address) in rows {
        let answer = by_udp(pod, "10.96.0.53:53".parse().unwrap(), name, A).await;
        let expected = if address.is_some() { 0 } else { 3 };
        assert_eq!((answer.code, answer.addresses.first().copied()), (expected, address), "{} asks for {name}", pod.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_with_a_host_name_is_looked_up_for_each_connection() {
    let Some(mut world) = World::new() else { return };
    let client = world.pod(Spec::captured("client", 1));
    let servers = ["one", "two"].map(|name| world.pod(Spec::plain(name, 2).unknown()));
    let dns = world.pod(Spec::plain("dns", 2).unknown());
    let apps = servers.each_ref().map(Apps::start);
    let IpAddr::V4(first) = servers[0].ip(Family::V4) else { panic!("IPv4") };
    let address = Arc::new(Mutex::new(first));
    let told = address.clone();
    let _upstream = name_server(&dns, move || *told.lock().unwrap());
    world.resolver(&dns);
    let entry = |name: &str, hostname: &str| {
        format!(
            "- {{uid: {name}, name: {name}, namespace: app, serviceAccount: {name}, trustDomain: cluster.local, workloadIps: [],
   hostname: {hostname}, protocol: TCP, services: {{\"app/{name}.app.svc.cluster.local\": {{80: 8083}}}}}}\n"
        )
    };
    let mesh = format!(
        "{}{}services:
- {{name: named, namespace: app, hostname: named.app.svc.cluster.local, vips: [\"/10.96.0.10\"], ports: {{80: 8083}}}}
- {{name: lost, namespace: app, hostname: lost.app.svc.cluster.local, vips: [\"/10.96.0.11\"], ports: {{80: 8083}}}}
policies: []
",
        entry("named", "outside.example"),
        entry("lost", "nowhere.example")
    );
    let [proxy, _] = world.start(&mesh).await;
    for (n, server) in servers.iter().enumerate() {
        let IpAddr::V4(ip) = server.ip(Family::V4) else { panic!("IPv4") };
        *address.lock().unwrap() = ip;
        let stream = client.connect("10.96.0.10:80".parse().unwrap()).await.unwrap();
        assert_eq!(talk(stream, b"four").await.unwrap(), b"4 bytes", "{}", server.name);
        assert_eq!(apps.each_ref().map(|app| app.connections(COUNT)), [1, n], "as the name server says now");
    }
    let looked_up = [("hostname", "outside.example"), ("source_workload", "client-deploy")];
    assert_eq!(proxy.metrics().await.sum("istio_on_demand_dns_total", &looked_up), 2.0);
    let refused = refusal(&client, "10.96.0.11:80".parse().unwrap()).await;
    assert!(matches!(refused, End::Closed(0) | End::Failed(_)), "{refused:?}");
    let line = proxy.access("the name leads nowhere", |a| a.get("error").contains("nowhere.example cannot be resolved")).await;
    assert_eq!(line.get("dst.service"), "lost.app.svc.cluster.local", "{line:?}");
}
