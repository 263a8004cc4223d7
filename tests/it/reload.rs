//! Manifests that change while a waypoint runs.

use crate::support::{
    Backend, Client, Mesh, MeshBuilder, Peer, Raw,
    client::{self, Answer},
    eventually,
    manifests::*,
    mesh::NS,
};
use http::StatusCode;
use std::{
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

fn echo() -> String {
    service(NS, "echo", 10, &[("http", 80, 8080)]) + &pod(NS, "echo-v1", "echo", "echo", 11)
}

/// A route that answers `/` with this path of a redirect.
fn redirect(to: &str) -> String {
    let rules =
        format!("- filters: [{{type: RequestRedirect, requestRedirect: {{path: {{type: ReplaceFullPath, replaceFullPath: {to}}}}}}}]");
    route(NS, "r", "echo", &rules)
}

fn deny_all(name: &str) -> String {
    policy(NS, name, "targetRefs: [{group: \"\", kind: Service, name: echo}]\naction: DENY\nrules: [{}]")
}

struct World {
    mesh: Mesh,
    client: Client,
    _workload: (Backend, Peer),
}

impl World {
    fn start(more: &str) -> Self {
        let mesh = MeshBuilder::new().manifests(echo() + more).start();
        let workload = mesh.workload("echo-v1", "echo", 11);
        Self { client: mesh.client("client"), mesh, _workload: workload }
    }

    async fn get(&self) -> Answer {
        self.client.get(self.mesh.net.addr(10, 80), "/").await
    }

    async fn becomes(&self, what: &str, status: StatusCode, location: &str) {
        eventually(what, async || {
            let answer = self.get().await;
            answer.status == status && answer.header("location").ends_with(location)
        })
        .await;
    }

    fn rejected(&self, kind: &str) -> u64 {
        let series = format!("cairn_config_rejected_total{{kind=\"{kind}\"}} ");
        self.mesh.metrics().lines().find_map(|l| l.strip_prefix(&series)?.parse().ok()).unwrap_or(0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_served_within_a_second() {
    let world = World::start("");
    let mut best = Duration::MAX;
    // The machine may be busy with other tests: the best of some tries counts.
    for n in 0..5 {
        let begun = Instant::now();
        world.mesh.rewrite(&(echo() + &redirect(&format!("/{n}"))));
        world.becomes("the new route", StatusCode::FOUND, &format!("/{n}")).await;
        best = best.min(begun.elapsed());
        if best < Duration::from_secs(1) {
            return;
        }
    }
    panic!("took {best:?} at best");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_live_long_see_what_is_new_with_their_next_request() {
    let world = World::start("");
    let address = world.mesh.net.addr(10, 80);
    let send = Arc::new(tokio::sync::Mutex::new(world.client.http1(address).await));
    let status = async || {
        let mut send = send.lock().await;
        send.ready().await.expect("the connection stays");
        Answer::of(send.send_request(client::get("/")).await.unwrap()).await.status
    };
    assert_eq!(status().await, StatusCode::OK);
    for (what, manifests, want) in [
        ("a new route", echo() + &redirect("/x"), StatusCode::FOUND),
        ("a new policy", echo() + &redirect("/x") + &deny_all("p"), StatusCode::FORBIDDEN),
        ("the route alone", echo() + &redirect("/y"), StatusCode::FOUND),
        ("neither", echo(), StatusCode::OK),
    ] {
        world.mesh.rewrite(&manifests);
        eventually(what, async || status().await == want).await;
    }
    // Without the service: what is left of it says so, and a new CONNECT is refused.
    world.mesh.rewrite(&pod(NS, "echo-v1", "echo", "echo", 11));
    eventually("the service is gone", async || status().await == StatusCode::NOT_FOUND).await;
    assert_eq!(world.client.refusal(address).await, StatusCode::BAD_REQUEST);
    world.mesh.rewrite(&echo());
    eventually("the service is back", async || world.client.connect(address).await.is_ok()).await;
    assert_eq!(world.get().await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_change_is_rejected_and_the_last_good_state_serves() {
    let world = World::start(&redirect("/good"));
    world.becomes("the first route", StatusCode::FOUND, "/good").await;
    let broken_route = redirect("/bad").replace("ReplaceFullPath", "NoSuchThing");
    let dangling = route(NS, "r", "echo", "- backendRefs: [{name: nobody, port: 80}]");
    let no_yaml = redirect("/bad").replace("rules:", "rules: [");
    // A change beside it tells when the file was read.
    for (what, broken, kind) in [
        ("a route with a wrong field", broken_route, "HTTPRoute"),
        ("a route to nowhere", dangling, "HTTPRoute"),
        ("a document that cannot be read", no_yaml, "unreadable"),
    ] {
        let before = world.rejected(kind);
        world.mesh.rewrite(&(echo() + &broken));
        eventually(what, async || world.rejected(kind) > before).await;
        let answer = world.get().await;
        assert_eq!((answer.status, answer.header("location").ends_with("/good")), (StatusCode::FOUND, true), "{what}");
        world.mesh.rewrite(&(echo() + &redirect("/good")));
        world.becomes("the good route", StatusCode::FOUND, "/good").await;
    }
    world.mesh.rewrite(&(echo() + &redirect("/better")));
    world.becomes("a good change", StatusCode::FOUND, "/better").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_change_does_not_hold_its_neighbours_up() {
    let world = World::start(&redirect("/good"));
    let broken = redirect("/bad").replace("ReplaceFullPath", "NoSuchThing");
    world.mesh.rewrite(&(echo() + &broken + &deny_all("p")));
    world.becomes("the policy", StatusCode::FORBIDDEN, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_was_never_valid_denies_and_one_that_was_stays() {
    let second = service(NS, "other", 12, &[("http", 80, 8080)]);
    let world = World::start(&second);
    let base = echo() + &second;
    let other = world.mesh.net.addr(12, 80);
    assert_eq!(world.get().await.status, StatusCode::OK);
    let broken = deny_all("p").replace("DENY", "PERHAPS");
    let before = world.rejected("AuthorizationPolicy");
    world.mesh.rewrite(&(base.clone() + &broken));
    world.becomes("its scope is denied", StatusCode::FORBIDDEN, "").await;
    assert!(world.rejected("AuthorizationPolicy") > before);
    // Without workloads of its own, but not denied.
    assert_eq!(world.client.get(other, "/").await.status, StatusCode::SERVICE_UNAVAILABLE, "the neighbour is none of its scope");
    let valid = deny_all("p").replace("rules: [{}]", "rules: [{to: [{operation: {methods: [DELETE]}}]}]");
    world.mesh.rewrite(&(base.clone() + &valid));
    world.becomes("it is valid", StatusCode::OK, "").await;
    let before = world.rejected("AuthorizationPolicy");
    world.mesh.rewrite(&(base.clone() + &broken));
    eventually("the change is rejected", async || world.rejected("AuthorizationPolicy") > before).await;
    assert_eq!(world.get().await.status, StatusCode::OK, "what was valid stays");
    let mut delete = client::get("/");
    *delete.method_mut() = http::Method::DELETE;
    assert_eq!(world.client.send(world.mesh.net.addr(10, 80), delete).await.status, StatusCode::FORBIDDEN);
}

/// A directory as the kubelet mounts a ConfigMap: files are links through `..data`, which is
/// switched.
fn write_version(dir: &Path, version: &str, files: &[(&str, String)]) {
    std::fs::create_dir(dir.join(version)).unwrap();
    for (name, text) in files {
        std::fs::write(dir.join(version).join(name), text).unwrap();
    }
    symlink(version, dir.join("..data_tmp")).unwrap();
    std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    for (name, _) in files {
        if !dir.join(name).is_symlink() {
            symlink(Path::new("..data").join(name), dir.join(name)).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_map_is_swapped_as_one_world_under_load() {
    let world = World::start("");
    let map = world.mesh.dir.path().join("manifests/map");
    std::fs::create_dir(&map).unwrap();
    // In each version the policy lets one path pass, and the route knows only that path: with the policy of one version and the
    // routes of another, a request would pass and find no route.
    let files = |path: &str| {
        let rule =
            format!("targetRefs: [{{group: \"\", kind: Service, name: echo}}]\nrules: [{{to: [{{operation: {{paths: [{path}]}}}}]}}]");
        let rules = format!("- matches: [{{path: {{type: Exact, value: {path}}}}}]\n  backendRefs: [{{name: echo, port: 80}}]");
        [("a-policy.yaml", policy(NS, "p", &rule)), ("z-route.yaml", route(NS, "r", "echo", &rules))]
    };
    write_version(&map, "..v0", &files("/even"));
    let address = world.mesh.net.addr(10, 80);
    eventually("the first version", async || world.client.get(address, "/odd").await.status == StatusCode::FORBIDDEN).await;
    let stop = Arc::new(AtomicBool::new(false));
    let seen: Arc<Mutex<Vec<StatusCode>>> = Arc::default();
    let load = ["/even", "/odd"].map(|path| {
        let (client, stop, seen) = (world.client.clone(), stop.clone(), seen.clone());
        tokio::spawn(async move {
            let mut send = client.http1(address).await;
            while !stop.load(Ordering::Relaxed) {
                send.ready().await.unwrap();
                let status = Answer::of(send.send_request(client::get(path)).await.unwrap()).await.status;
                seen.lock().unwrap().push(status);
            }
        })
    });
    for n in 1..=12 {
        let (now, not_now) = if n % 2 == 0 { ("/even", "/odd") } else { ("/odd", "/even") };
        write_version(&map, &format!("..v{n}"), &files(now));
        eventually("the next version", async || {
            world.client.get(address, now).await.status == StatusCode::OK
                && world.client.get(address, not_now).await.status == StatusCode::FORBIDDEN
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }
    let seen = seen.lock().unwrap();
    let count = |status| seen.iter().filter(|s| **s == status).count();
    assert_eq!(count(StatusCode::OK) + count(StatusCode::FORBIDDEN), seen.len(), "{} saw a mix", count(StatusCode::NOT_FOUND));
    assert!(count(StatusCode::OK) > 0 && count(StatusCode::FORBIDDEN) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn opaque_bytes_end_when_a_new_policy_denies_them() {
    let echo = || {
        service(NS, "echo", 10, &[("unknown", 83, 8080), ("tcp-x", 84, 8080), ("tcp-y", 85, 8080)])
            + &pod(NS, "echo-v1", "echo", "echo", 11)
    };
    let deny = |name: &str, port: u16| {
        let rules = format!("rules: [{{to: [{{operation: {{ports: ['{port}']}}}}]}}]");
        policy(NS, name, &format!("targetRefs: [{{group: \"\", kind: Service, name: echo}}]\naction: DENY\n{rules}"))
    };
    let mut mesh = MeshBuilder::new().manifests(echo()).start();
    let _app = Backend::tcp(mesh.net.addr(11, 8080), |mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let _peer = mesh.peer("echo", 11);
    let client = mesh.client("client");
    let mut open = Vec::new();
    for port in [83, 84, 85] {
        let mut raw = Raw::new(client.connect(mesh.net.addr(10, port)).await.unwrap());
        raw.send("\0 hello\r\n").await;
        raw.until("\r\n").await;
        open.push(raw);
    }
    let mut last = open.pop().unwrap();
    let mut policies = String::new();
    for (port, mut raw) in [83, 84].into_iter().zip(open) {
        policies += &deny(&format!("p{port}"), port);
        mesh.rewrite(&(echo() + &policies));
        assert_eq!(raw.end().await.map_err(|e| e.kind()), Err(std::io::ErrorKind::ConnectionReset), "port {port}");
        let record = mesh.tcp_record().await;
        assert_eq!((record.flag.as_str(), record.bytes_sent, record.bytes_recv), ("DENY", 9, 9), "port {port}");
        last.send("still\r\n").await;
        assert_eq!(last.until("\r\n").await, "still\r\n");
    }
    // Without the service the last judgement stands.
    mesh.rewrite(&pod(NS, "echo-v1", "echo", "echo", 11));
    eventually("the service is gone", async || client.connect(mesh.net.addr(10, 85)).await.is_err()).await;
    last.send("still\r\n").await;
    assert_eq!(last.until("\r\n").await, "still\r\n");
}
