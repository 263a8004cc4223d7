//! Builders for meshes, workloads and clients.

pub mod apps;
pub mod backend;
pub mod client;
pub mod cni;
pub mod gateway;
pub mod istiod;
pub mod manifests;
pub mod mesh;
pub mod net;
pub mod netns;
pub mod peer;
pub mod plane;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod tunnel;
pub mod wire;
pub mod world;
pub mod ztunnel;

pub use backend::Backend;
pub use client::Client;
pub use cni::Cni;
pub use gateway::Gateway;
pub use istiod::Istiod;
pub use mesh::{Mesh, MeshBuilder};
pub use net::Net;
pub use peer::Peer;
pub use plane::Plane;
pub use process::Process;
pub use proxy::Proxy;
pub use raw::Raw;
pub use tunnel::Tunnel;
pub use wire::Wire;
pub use world::World;
pub use ztunnel::Ztunnel;

use std::{future::Future, time::Duration};

/// Nothing in these tests takes this long, even on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Fails the test when `future` takes too long.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("took too long: {what}"),
    }
}

/// Asks again and again until `check` says yes.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let start = tokio::time::Instant::now();
    while !check().await {
        assert!(start.elapsed() < PATIENCE, "did not happen: {what}");
        // A condition without an event to wait for is asked for at short intervals.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
