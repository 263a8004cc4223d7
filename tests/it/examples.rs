//! The example meshes in `config/` are loaded and served, and the demo tells the truth.

use crate::support::{Backend, Client, Net, PATIENCE, Peer, client, mesh};
use cairn::{
    app::{OwnCertificate, WaypointOptions, start_waypoint},
    cert::DevCa,
    control::{
        local,
        manifest::{Loaded, load},
    },
    model::{Mesh, TargetPort, TunnelProtocol, Workload},
    telemetry::{AccessLog, log},
    transport::WorkloadCert,
};
use http::StatusCode;
use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    time::Duration,
};

fn examples() -> Vec<PathBuf> {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut all: Vec<_> = std::fs::read_dir(config).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    all.sort();
    assert!(all.len() >= 5);
    all
}

#[test]
fn the_mesh_of_the_lab_is_valid() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/lab/mesh.yaml")).unwrap();
    let config = local::Config { network: String::new(), cluster_domain: "cluster.local".into(), root_namespace: String::new() };
    assert_eq!(local::load(&text, "mesh.yaml", &config).unwrap().len(), 4, "two workloads, a service, a policy");
}

/// A copy in networks of its own: `127.A.B.` becomes another one for each prefix in the files.
fn copied(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let files: Vec<_> = std::fs::read_dir(from).unwrap().map(|e| e.unwrap().path()).collect();
    let mut texts: Vec<_> = files.iter().map(|f| (to.join(f.file_name().unwrap()), std::fs::read_to_string(f).unwrap())).collect();
    let mut prefixes: Vec<String> = Vec::new();
    for (_, text) in &texts {
        for (at, _) in text.match_indices("127.") {
            let prefix: String = text[at..].split('.').take(3).map(|part| format!("{part}.")).collect();
            if !prefixes.contains(&prefix) && prefix != "127.0.0." {
                prefixes.push(prefix);
            }
        }
    }
    // By way of placeholders, so that no new network is taken for an old one.
    for (n, prefix) in prefixes.iter().enumerate() {
        texts.iter_mut().for_each(|(_, text)| *text = text.replace(prefix.as_str(), &format!("<{n}>.")));
    }
    for n in 0..prefixes.len() {
        let fresh = Net::new().fill("NET.");
        texts.iter_mut().for_each(|(_, text)| *text = text.replace(&format!("<{n}>."), &fresh));
    }
    for (path, text) in texts {
        std::fs::write(path, text).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_is_loaded_without_a_finding_and_served() {
    for example in examples() {
        let name = example.file_name().unwrap().to_str().unwrap().to_owned();
        let dir = tempfile::tempdir().unwrap();
        let manifests = dir.path().join("manifests");
        copied(&example, &manifests);
        let Loaded { mesh, .. } = load(mesh::source(vec![manifests.clone()], false));
        let findings = cairn::check::report(mesh::source(vec![manifests.clone()], false));
        assert!(findings.is_empty(), "{name}: {findings:?}");
        serve(&name, &mesh, &manifests, dir.path()).await;
    }
}

fn cert(ca: &DevCa, workload: &Workload) -> Arc<WorkloadCert> {
    let issued = ca.issue(&workload.identity, Duration::from_secs(3600)).unwrap();
    Arc::new(WorkloadCert::from_pem(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes(), issued.roots_pem.as_bytes()).unwrap())
}

async fn serve(name: &str, mesh: &Mesh, manifests: &Path, dir: &Path) {
    let gateway = mesh.waypoints.keys().next().unwrap_or_else(|| panic!("{name}: no waypoint"));
    let pod = mesh.workloads.values().find(|w| w.gateway.as_ref() == Some(&gateway.name)).unwrap();
    let certs = dir.join("certs");
    let ca = DevCa::write_directory(&certs, mesh::TRUST_DOMAIN, std::slice::from_ref(&pod.identity), Duration::from_secs(3600)).unwrap();
    let address = SocketAddr::new(pod.addresses[0], 15008);
    let options = WaypointOptions {
        gateway: gateway.clone(),
        mesh: mesh::source(vec![manifests.to_owned()], false).into(),
        certificate: OwnCertificate::directory(certs.join(pod.identity.namespace()).join(pod.identity.service_account())),
        process: mesh::process(Duration::from_secs(5)),
        hbone_address: address,
        admin: mesh::admin(),
        config: cairn::waypoint::Config::default(),
    };
    let running = start_waypoint(options, AccessLog::off(), log::init(Some("off"), false)).unwrap();
    let others = || mesh.workloads.values().filter(|w| w.gateway.is_none());
    let _peers: Vec<_> = others()
        .filter(|w| w.protocol == TunnelProtocol::Hbone)
        .map(|w| Peer::start(SocketAddr::new(w.addresses[0], 15008), cert(&ca, w)))
        .collect();
    let mut applications = Vec::new();
    for group in mesh.endpoints.values() {
        let targets = mesh.services[&group.service].ports.iter().filter_map(|port| match port.target {
            TargetPort::Number(number) => Some(number),
            TargetPort::Name(_) | TargetPort::Endpoint => None,
        });
        let targets: Vec<u16> = targets.collect();
        for endpoint in &group.endpoints {
            let listed = endpoint.ports.iter().map(|(_, port)| *port);
            let ports: Vec<u16> = if endpoint.ports.is_empty() { targets.clone() } else { listed.collect() };
            for port in ports.into_iter().filter(|port| *port != 15008) {
                let at = SocketAddr::new(endpoint.address, port);
                if applications.iter().all(|b: &Backend| b.address != at) {
                    applications.push(Backend::http(at, name));
                }
            }
        }
    }
    let mut answered = 0;
    for from in others() {
        let client = Client::from_address(cert(&ca, from), pod.identity.clone(), address, Some(from.addresses[0]));
        for service in mesh.services.values().filter(|s| s.source.name.name != gateway.name) {
            for (vip, port) in service.vips.iter().flat_map(|vip| service.ports.iter().map(move |port| (vip, port))) {
                for path in ["/", "/accounts/1"] {
                    let answer = client.send(SocketAddr::new(*vip, port.port), client::get(path)).await;
                    let expected = [StatusCode::OK, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND];
                    assert!(expected.contains(&answer.status), "{name}: {} answers {} {}", service.key, answer.status, answer.text());
                    answered += usize::from(answer.status == StatusCode::OK);
                }
            }
        }
    }
    assert!(answered > 0, "{name}: somebody may ask for something");
    running.shutdown().await;
}

/// A demo that is killed with the test.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn demo(manifests: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
    command.arg("demo").arg("--manifests").arg(manifests).args(args).env_remove("RUST_LOG");
    command
}

#[test]
fn the_demo_comes_out_as_its_manifests_say() {
    let dir = tempfile::tempdir().unwrap();
    copied(&examples()[0], dir.path());
    let output = demo(dir.path(), &["--once"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    for told in [
        "as spiffe://cluster.local/ns/bookinfo/sa/curl",
        "is spiffe://cluster.local/ns/bookinfo/sa/waypoint",
        "as spiffe://cluster.local/ns/bookinfo/sa/bookinfo-reviews",
        "answered from reviews-v2",
        "decided by ns[bookinfo]-policy[ratings-viewer]",
        "decided by ns[bookinfo]-policy[details-no-admin]-rule[0]",
        "after 2 tries it was 200",
        "200 from productpage-v1, details-v1, reviews-v2, ratings-v1",
    ] {
        assert!(text.contains(told), "{told:?} is missing in:\n{text}");
    }
}

#[test]
fn the_demo_follows_its_manifests_from_90_10_to_50_50() {
    let dir = tempfile::tempdir().unwrap();
    copied(&examples()[0], dir.path());
    let mut demo = Demo(demo(dir.path(), &["--interval", "300ms"]).stdout(Stdio::piped()).spawn().unwrap());
    let (send, lines) = mpsc::channel();
    let out = BufReader::new(demo.0.stdout.take().unwrap());
    std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
    let share = || loop {
        let line = lines.recv_timeout(PATIENCE).expect("the demo goes on");
        if let Some(rest) = line.trim_start().strip_prefix("reviews-v3") {
            return rest.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap();
        }
    };
    assert!(share() < 25.0, "about one in ten");
    let routes = dir.path().join("routes.yaml");
    let text = std::fs::read_to_string(&routes).unwrap().replace("weight: 90", "weight: 50").replace("weight: 10", "weight: 50");
    std::fs::write(routes, text).unwrap();
    // A report may be under way while the file changes; one of the next shows it.
    assert!((0..20).any(|_| share() > 35.0), "about half");
}
