//! From manifests and a control plane to snapshots, at start and while running.

use super::AppError;
use crate::{
    control::{
        manifest::{self, Batch, Located, ManifestSource},
        xds,
    },
    model::{AuthorizationPolicy, Kind, Resource, ResourceKey, ResourceName},
    runtime::{BlockReady, DrainWatch, Readiness, priority},
    state::{Change, Compile, SnapshotHandle, Store},
    telemetry,
};
use std::{
    collections::BTreeMap,
    future::pending,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::mpsc;

/// How often files are looked at when nothing tells that they change: a change is served well within a second.
const POLL: Duration = Duration::from_millis(250);

/// Snapshots that were replaced are looked at again so long after the last change: no request that began before is
/// likely to go on.
const SWEEP: Duration = Duration::from_secs(1);

/// What the readiness listener calls that which waits for the control plane, as the reference does.
const WAITING: &str = "state manager";
/// Under which name it says how the control plane is reached.
const CONTROL_PLANE: &str = "control plane";

/// Where a mesh is described: in manifests that were read once and go on being watched, in the
/// control plane, or in both, each of which owns its own kinds of resources.
#[derive(Debug)]
pub struct MeshSource {
    // None: what was read never changes.
    manifests: Option<ManifestSource>,
    control_plane: Option<xds::Config>,
    first: Batch,
    findings: Findings,
    policies: Policies,
}

/// What is wrong with the manifests now, for the configuration dump.
pub(super) type Findings = Arc<Mutex<Vec<Located>>>;

/// The authorization policies as they were written, for the configuration dump: what is compiled of
/// them cannot be read back.
pub(super) type Policies = Arc<Mutex<BTreeMap<ResourceName, Arc<AuthorizationPolicy>>>>;

/// Takes over what changes among policies.
fn note(policies: &Policies, changes: &[Change]) {
    let mut policies = policies.lock().unwrap_or_else(PoisonError::into_inner);
    for change in changes {
        match change {
            Change::Upsert(Resource::Policy(policy)) => drop(policies.insert(policy.name.clone(), policy.clone())),
            Change::Remove(ResourceKey::Policy(name)) => drop(policies.remove(name)),
            Change::Upsert(_) | Change::Remove(_) => {}
        }
    }
}

/// A mesh that is served and followed.
#[derive(Debug)]
pub struct OpenedMesh<S> {
    /// Reads snapshots.
    pub handle: SnapshotHandle<S>,
    /// What is wrong now.
    pub findings: Findings,
    /// The policies now.
    pub policies: Policies,
    /// Asks a control plane for what it sends on demand only.
    pub demand: Option<xds::Demand>,
    /// How the control plane is reached.
    pub status: Option<xds::Status>,
}

/// Waits until the control plane, if there is one, has told of the mesh. Cancel safe.
pub(super) async fn synced(status: Option<xds::Status>) {
    if let Some(status) = status {
        status.synced().await;
    }
}

impl MeshSource {
    /// Reads the manifests.
    ///
    /// # Errors
    /// When they are invalid, unless `config` is lenient. All findings are logged first.
    pub fn open(config: manifest::Config) -> Result<Self, AppError> {
        let lenient = config.lenient;
        let mut source = ManifestSource::new(config);
        let first = source.poll().unwrap_or_default();
        let errors = judge(&first);
        if errors > 0 && !lenient {
            return Err(AppError::Manifests(errors));
        }
        Ok(Self::known(Some(source), first))
    }

    /// Takes over what was read from elsewhere, and never changes.
    ///
    /// # Errors
    /// When it is invalid. All findings are logged first.
    pub fn fixed(batch: Batch) -> Result<Self, AppError> {
        match judge(&batch) {
            0 => Ok(Self::known(None, batch)),
            errors => Err(AppError::LocalMesh(errors)),
        }
    }

    /// Nothing is known yet: the control plane will tell.
    pub fn control_plane(config: xds::Config) -> Self {
        Self::known(None, Batch::default()).and_control_plane(config)
    }

    /// The control plane besides, for the kinds that are its own.
    #[must_use]
    pub fn and_control_plane(self, config: xds::Config) -> Self {
        Self { control_plane: Some(config), ..self }
    }

    fn known(manifests: Option<ManifestSource>, first: Batch) -> Self {
        let findings = Arc::new(Mutex::new(first.findings.clone()));
        let policies = Policies::default();
        note(&policies, &first.changes);
        Self { manifests, control_plane: None, first, findings, policies }
    }

    /// Compiles what was read and follows the sources until `drain` is signalled. Should following one
    /// end before, `readiness` fails: what is served from then on grows old. Until the control plane
    /// has told what there is, readiness waits.
    pub fn follow<C: Compile>(self, compiler: C, drain: &DrainWatch, readiness: Readiness) -> OpenedMesh<C::Snapshot> {
        let Self { manifests, control_plane, first, findings, policies } = self;
        let mut store = Store::new(compiler);
        telemetry::config_version(store.apply(first.changes));
        let handle = store.handle();
        let batches = manifests.map(|source| {
            let (send, batches) = mpsc::channel(4);
            let stop = drain.clone();
            tokio::spawn(async move { source.run(send, POLL, stop.signaled()).await });
            batches
        });
        let (mut demand, mut status) = (None, None);
        let updates = control_plane.map(|config| {
            let (client, asking, connection) = xds::client(config);
            // The next one is decoded while this one is compiled.
            let (send, updates) = mpsc::channel(1);
            tokio::spawn(client.run(send, drain.clone()));
            tokio::spawn(tell(connection.clone(), readiness.clone(), readiness.register(WAITING)));
            (demand, status) = (Some(asking), Some(connection));
            updates
        });
        let follower = Follower { store, findings: findings.clone(), policies: policies.clone(), drain: drain.clone(), readiness };
        tokio::spawn(follower.run(batches, updates));
        OpenedMesh { handle, findings, policies, demand, status }
    }

    /// The batch that was read at start.
    pub fn first(&self) -> &Batch {
        &self.first
    }
}

/// Lets readiness say how the control plane is reached. What is served without it is the last that it
/// has told, which is no reason to serve nothing.
async fn tell(mut status: xds::Status, readiness: Readiness, waiting: BlockReady) {
    let mut waiting = Some(waiting);
    loop {
        let now = status.current();
        if now.synced {
            drop(waiting.take());
        }
        let note = || {
            let served = if now.synced { "what it told last is served" } else { "it has told nothing yet" };
            format!("disconnected ({}); {served}", now.error.as_deref().unwrap_or("not connected yet"))
        };
        readiness.note(CONTROL_PLANE, (!now.connected).then(note));
        status.changed().await;
    }
}

/// The one who writes, into a store that all sources feed. No two of them own the same kind of
/// resource, so the order in which their batches come has no meaning.
struct Follower<C: Compile> {
    store: Store<C>,
    findings: Findings,
    policies: Policies,
    drain: DrainWatch,
    readiness: Readiness,
}

/// What comes in.
enum Incoming {
    Manifests(Option<Batch>),
    ControlPlane(Option<xds::Update>),
    /// Nothing for a while, and replaced snapshots are left.
    Nothing,
}

impl<C: Compile> Follower<C> {
    async fn run(mut self, mut batches: Option<mpsc::Receiver<Batch>>, mut updates: Option<mpsc::Receiver<xds::Update>>) {
        if batches.is_none() && updates.is_none() {
            // Readers take a store that is gone for the end of the mesh.
            return self.drain.forced().await;
        }
        while batches.is_some() || updates.is_some() {
            let incoming = tokio::select! {
                batch = next(&mut batches) => Incoming::Manifests(batch),
                update = next(&mut updates) => Incoming::ControlPlane(update),
                () = tokio::time::sleep(SWEEP), if self.store.has_retired() => Incoming::Nothing,
            };
            let followed = match incoming {
                Incoming::Nothing => self.with_store(Store::sweep).await.map(|(back, _)| back),
                Incoming::Manifests(Some(batch)) => self.manifests(batch).await,
                Incoming::ControlPlane(Some(update)) => self.control_plane(update).await,
                Incoming::Manifests(None) => {
                    batches = None;
                    self.ended("manifests are no longer watched")
                }
                Incoming::ControlPlane(None) => {
                    updates = None;
                    self.ended("the control plane is no longer followed")
                }
            };
            match followed {
                Some(back) => self = back,
                None => return,
            }
        }
    }

    /// A source is gone: told to, or by a fault of its own, which it has logged.
    fn ended(self, reason: &'static str) -> Option<Self> {
        if !self.drain.is_draining() {
            self.readiness.fail(reason);
        }
        Some(self)
    }

    async fn manifests(self, batch: Batch) -> Option<Self> {
        report(&batch.fresh);
        for finding in batch.fresh.iter().filter(|f| f.is_error()) {
            telemetry::config_rejected(kind(finding));
        }
        *self.findings.lock().unwrap_or_else(PoisonError::into_inner) = batch.findings;
        let (changes, rejected) = (batch.changes.len(), batch.rejected);
        let (back, version) = self.apply(batch.changes).await?;
        tracing::info!(version, changes, rejected, "mesh changed");
        Some(back)
    }

    async fn control_plane(self, update: xds::Update) -> Option<Self> {
        let (changes, rejected) = (update.changes.len(), update.rejected.len());
        let (back, version) = self.apply(update.changes).await?;
        // Who does not wait for it any more has lost the connection, and will be told again.
        let _ = update.applied.send(());
        // Endpoints come and go all day long.
        tracing::debug!(version, changes, rejected, "mesh changed");
        Some(back)
    }

    async fn apply(self, changes: Vec<Change>) -> Option<(Self, u64)> {
        note(&self.policies, &changes);
        let (back, version) = self.with_store(|store| store.apply(changes)).await?;
        telemetry::config_version(version);
        Some((back, version))
    }

    /// Compiling is work for a core that nobody else needs, not for a thread that carries traffic.
    async fn with_store<T: Send + 'static>(self, work: impl FnOnce(&mut Store<C>) -> T + Send + 'static) -> Option<(Self, T)> {
        let readiness = self.readiness.clone();
        let done = tokio::task::spawn_blocking(move || {
            priority::give_way();
            let mut this = self;
            let done = work(&mut this.store);
            (this, done)
        });
        if let Ok(done) = done.await {
            return Some(done);
        }
        tracing::error!("compiling the mesh has failed; changes are no longer followed");
        readiness.fail("compiling the mesh has failed");
        None
    }
}

/// The next of a source; of one that is not there, never.
async fn next<T>(source: &mut Option<mpsc::Receiver<T>>) -> Option<T> {
    match source {
        Some(source) => source.recv().await,
        None => pending().await,
    }
}

/// Logs what is wrong; how much of it counts as an error.
fn judge(first: &Batch) -> usize {
    report(&first.findings);
    first.findings.iter().filter(|f| f.is_error()).count()
}

fn report(findings: &[Located]) {
    for finding in findings {
        if finding.is_error() {
            tracing::error!(target: "cairn::manifest", "{finding}");
        } else {
            tracing::warn!(target: "cairn::manifest", "{finding}");
        }
    }
}

fn kind(finding: &Located) -> Option<Kind> {
    let word = finding.resource.split(' ').next()?;
    Kind::ALL.into_iter().find(|kind| kind.as_str() == word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        runtime::drain,
        state::{Delta, Directory},
    };

    /// Compiles until a namespace `boom` turns up.
    struct Fragile;

    impl Compile for Fragile {
        type Snapshot = ();

        fn compile(&mut self, directory: &Directory, _delta: &Delta, _version: u64) {
            assert!(!directory.mesh().namespaces.contains_key("boom"), "as told");
        }

        fn concerns(&self, _resource: &Resource) -> bool {
            true
        }
    }

    fn open(dir: &tempfile::TempDir) -> MeshSource {
        MeshSource::open(manifest::Config {
            paths: vec![dir.path().to_owned()],
            cluster_domain: "cluster.local".into(),
            trust_domain: "cluster.local".into(),
            root_namespace: "istio-system".into(),
            lenient: false,
            owns: manifest::Owns::Everything,
        })
        .unwrap()
    }

    #[tokio::test]
    async fn a_process_whose_policy_grows_old_is_not_ready() {
        let dir = tempfile::tempdir().unwrap();
        let (_trigger, watch) = drain::new();
        let readiness = Readiness::new();
        let mesh = open(&dir).follow(Fragile, &watch, readiness.clone());
        assert!(readiness.is_ready());
        let mut published = mesh.handle.published();
        std::fs::write(dir.path().join("m.yaml"), "apiVersion: v1\nkind: Namespace\nmetadata: {name: boom}\n").unwrap();
        while published.changed().await {}
        while readiness.is_ready() {
            tokio::task::yield_now().await;
        }
        assert_eq!(readiness.pending(), ["compiling the mesh has failed"]);
    }

    #[tokio::test]
    async fn a_drain_ends_the_watch_without_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let (trigger, watch) = drain::new();
        let readiness = Readiness::new();
        let mesh = open(&dir).follow(Fragile, &watch, readiness.clone());
        let mut published = mesh.handle.published();
        trigger.start();
        while published.changed().await {}
        assert!(readiness.is_ready());
    }
}
