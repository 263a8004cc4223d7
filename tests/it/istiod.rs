//! The real binary with a control plane: the mesh by delta ADS, certificates by `CreateCertificate`.

mod authority;
mod flood;
mod mesh;
mod policies;
mod secrets;
mod waypoint;
mod wire;

use crate::support::{
    Backend, Istiod,
    istiod::{Node, TOKEN, acked},
    manifests::{pod, policy, service},
    mesh::NS,
    soon,
};
use cairn::{
    demo::control_plane::{Certificates, Kind, Observed, Options},
    model::Workload,
};
use http::StatusCode;
use std::{net::SocketAddr, time::Duration};

/// A client at NET.20, and the service `echo` at NET.10 with a pod at NET.11.
fn echo() -> String {
    service(NS, "echo", 10, &[("http", 80, 8080)]) + &pod(NS, "echo-v1", "echo", "echo", 11) + &pod(NS, "client-v1", "client", "client", 20)
}

/// Everything between a client and its server: ztunnel, waypoint, ztunnel.
struct Path {
    client: Node,
    waypoint: Node,
    server: Node,
    app: Backend,
    // Last: what the others write is in its directory.
    istiod: Istiod,
}

impl Path {
    async fn start() -> Self {
        Self::with(|options| options).await
    }

    async fn with(change: impl FnOnce(Options) -> Options) -> Self {
        let path = Self::begin(change).await;
        path.ready().await;
        path
    }

    /// Without waiting for anything.
    async fn begin(change: impl FnOnce(Options) -> Options) -> Self {
        let istiod = Istiod::with(&echo(), change).await;
        let app = Backend::http(istiod.net.addr(11, 8080), "echo-v1");
        let (client, server) = (istiod.ztunnel("client-v1", "client", 20), istiod.ztunnel("echo-v1", "echo", 11));
        let waypoint = istiod.waypoint();
        Self { istiod, client, waypoint, server, app }
    }

    async fn ready(&self) {
        for node in self.nodes() {
            node.ready().await;
        }
    }

    fn nodes(&self) -> [&Node; 3] {
        [&self.client, &self.waypoint, &self.server]
    }

    fn vip(&self) -> SocketAddr {
        self.istiod.net.addr(10, 80)
    }

    /// One request by the service's virtual address; the pod that has answered.
    async fn get(&self) -> Result<String, String> {
        let answer = self.client.get(self.vip()).await.map_err(|error| error.to_string())?;
        if answer.status == StatusCode::OK { Ok(answer.text().to_owned()) } else { Err(answer.status.to_string()) }
    }

    async fn works(&self) {
        assert_eq!(self.get().await.as_deref(), Ok("echo-v1"));
    }
}
