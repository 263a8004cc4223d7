//! Redirected traffic in network namespaces with real rules: here inside of the test's process, below
//! with the real binary, two nodes and a CNI. Needs root, iproute2 and iptables; without them it says
//! so, and with `REQUIRE_NETNS=1` it fails.

mod churn;
mod dedicated;
mod harness;
mod hostile;
mod istiod;
mod names;
mod networks;
mod paths;
mod renewal;
mod services;
mod shapes;
mod waypoints;

use crate::{
    support::{
        Backend, PATIENCE, World,
        apps::{Apps, ECHO, echo, pattern},
        netns,
        world::FAMILIES,
    },
    through::{captured, mesh},
};
use http::StatusCode;
use nix::sched::{CloneFlags, unshare};
use std::{future::Future, net::SocketAddr, process::Command, sync::Arc};

/// Runs `test` on a thread in a new network namespace, with everything it starts.
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    if !netns::available() {
        return;
    }
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        run("ip", &["link", "set", "lo", "up"]).unwrap();
        // One thread, so that every socket is made in the namespace; threads made from here inherit it.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(PATIENCE, test()).await.expect("took too long") });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).output().map_err(|e| format!("{program} cannot be run: {e}"))?;
    if output.status.success() { Ok(()) } else { Err(format!("{program} {args:?} fails: {}", String::from_utf8_lossy(&output.stderr))) }
}

fn redirect(to: SocketAddr, port: u16) {
    let (ip, port) = (to.ip().to_string(), port.to_string());
    run("iptables", &["-w", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-d", &ip, "-j", "REDIRECT", "--to-ports", &port]).unwrap();
}

#[test]
fn captured_traffic_goes_through_the_waypoint_of_its_original_destination() {
    in_namespace(|| async {
        let mut mesh = mesh().start();
        let backend = Backend::http(mesh.net.addr(11, 8080), "echo-v1");
        let _to = mesh.ztunnel("echo-v1", "echo", 11);
        // REDIRECT leads to the loopback address of the protocol family, whatever was dialled.
        let from = mesh.ztunnel_at("client", "client", 20, "127.0.0.1:0".parse().unwrap());
        let service = mesh.net.addr(10, 80);
        redirect(service, from.bound("outbound").port());
        let (status, body) = captured(service).await;
        assert_eq!((status, &body[..]), (StatusCode::OK, &b"echo-v1"[..]));
        assert_eq!(backend.last().target, "/captured");
        let record = mesh.record().await;
        assert_eq!(record.destination, Some(service), "the address that the application dialled");
        assert_eq!(record.source.as_ref().map(|i| i.service_account().to_owned()).as_deref(), Some("client"));
    });
}

#[test]
fn captured_traffic_to_what_the_mesh_does_not_know_passes_through() {
    in_namespace(|| async {
        let mesh = mesh().start();
        let outside = Backend::http(mesh.net.addr(77, 8080), "outside");
        let from = mesh.ztunnel_at("client", "client", 20, "127.0.0.1:0".parse().unwrap());
        // Only what comes from the application's address: the proxy's own connection must not come back to it.
        let (ip, port) = (outside.address.ip().to_string(), from.bound("outbound").port().to_string());
        let source = mesh.net.ip(21).to_string();
        run("iptables", &["-w", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-s", &source, "-d", &ip, "-j", "REDIRECT", "--to-ports", &port])
            .unwrap();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(mesh.net.addr(21, 0)).unwrap();
        let stream = socket.connect(outside.address).await.unwrap();
        let (status, body) = crate::through::exchange(stream, crate::support::client::get("/")).await;
        assert_eq!((status, &body[..]), (StatusCode::OK, &b"outside"[..]));
    });
}
