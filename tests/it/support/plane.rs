//! The control plane in a pod of a world. It is a part of this process, so that tests can see what is
//! asked of it, but all its sockets are the pod's.

use super::world::{Family, Pod, identity};
use cairn::{
    control::local,
    demo::control_plane::{ControlPlane, Options},
    model::ResourceKey,
    state::Change,
    transport::WorkloadCert,
};
use std::{
    collections::BTreeSet,
    ops::Deref,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
    thread::JoinHandle,
    time::Duration,
};
use tokio::sync::oneshot;

/// What is in the file of the token.
const BEARER: &str = "a projected service account token";
const PORT: u16 = 15012;
/// What the stock charts call it.
const NAME: &str = "istiod.istio-system.svc";
const ROOTS: &str = "var/run/secrets/istio/root-cert.pem";
const TOKEN: &str = "var/run/secrets/tokens/istio-token";

/// It ends with this value.
#[derive(Debug)]
pub struct Plane {
    plane: Arc<ControlPlane>,
    known: Mutex<BTreeSet<ResourceKey>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Deref for Plane {
    type Target = ControlPlane;

    fn deref(&self) -> &ControlPlane {
        &self.plane
    }
}

impl Plane {
    /// Starts it with an empty mesh, and writes to `image` what a container finds of it.
    pub fn start(pod: &Pod, image: &Path) -> Self {
        let mut options = Options::new(pod.at(PORT), BEARER);
        options.names = vec![NAME.to_owned()];
        let (started, start) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let netns = pod.netns.clone();
        // A thread that stays in the namespace, as it may listen more than once.
        let thread = std::thread::spawn(move || {
            netns.enter(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    started.send(Arc::new(ControlPlane::start(options).await.unwrap())).unwrap();
                    let _ = stopped.await;
                });
            });
        });
        let plane = start.recv().expect("it starts");
        for (path, content) in [(ROOTS, plane.server_roots()), (TOKEN, BEARER)] {
            let path = image.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let known_by = format!("127.0.0.1 localhost\n::1 localhost\n{} {NAME}\n", pod.ip(Family::V4));
        std::fs::write(hosts(image), known_by).unwrap();
        Self { plane, known: Mutex::default(), stop: Some(stop), thread: Some(thread) }
    }

    /// Serves this mesh, a text as [`World::mesh`](super::World::mesh) has it, and nothing else from now
    /// on; how many resources look different because of it.
    pub fn serve(&self, text: &str) -> usize {
        self.serve_with(text, |_| {})
    }

    /// The same, with resources changed in ways that the text cannot say.
    pub fn serve_with(&self, text: &str, mut edit: impl FnMut(&mut Change)) -> usize {
        let config =
            local::Config { network: String::new(), cluster_domain: "cluster.local".into(), root_namespace: "istio-system".into() };
        let mut batch = local::batch(text, "mesh", &config);
        assert!(batch.findings.is_empty(), "{:?}", batch.findings);
        batch.changes.iter_mut().for_each(&mut edit);
        let now: BTreeSet<ResourceKey> = batch.changes.iter().filter_map(upserted).collect();
        let mut known = self.known.lock().unwrap();
        let gone: Vec<Change> = known.difference(&now).cloned().map(Change::Remove).collect();
        *known = now;
        self.plane.apply(batch.changes.into_iter().chain(gone))
    }

    /// A certificate of the mesh, for who may not be a pod at all.
    pub fn cert(&self, account: &str) -> WorkloadCert {
        let issued = self.plane.issue(&identity(account), Duration::from_secs(3600)).unwrap();
        WorkloadCert::from_pem(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes(), issued.roots_pem.as_bytes()).unwrap()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.stop.take();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Names of a container.
pub fn hosts(image: &Path) -> PathBuf {
    image.join("hosts")
}

fn upserted(change: &Change) -> Option<ResourceKey> {
    match change {
        Change::Upsert(resource) => Some(resource.key()),
        Change::Remove(_) => None,
    }
}
