//! From manifests to snapshots, at start and while running.

use super::AppError;
use crate::{
    control::manifest::{self, Batch, Located, ManifestSource},
    model::{AuthorizationPolicy, Kind, Resource, ResourceKey, ResourceName},
    runtime::{DrainWatch, Readiness},
    state::{Change, Compile, SnapshotHandle, Store},
    telemetry,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::mpsc;

/// How often files are looked at when nothing tells that they change: a change is served well within a second.
const POLL: Duration = Duration::from_millis(250);

/// A mesh that was read once; manifests go on being watched.
#[derive(Debug)]
pub struct MeshSource {
    // None: it never changes.
    source: Option<ManifestSource>,
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

    fn known(source: Option<ManifestSource>, first: Batch) -> Self {
        let findings = Arc::new(Mutex::new(first.findings.clone()));
        let policies = Policies::default();
        note(&policies, &first.changes);
        Self { source, first, findings, policies }
    }

    /// Compiles what was read and follows the files until `drain` is signalled. Should following them
    /// end before, `readiness` fails: what is served from then on grows old.
    pub fn follow<C: Compile>(self, compiler: C, drain: &DrainWatch, readiness: Readiness) -> OpenedMesh<C::Snapshot> {
        let Self { source, first, findings, policies } = self;
        let mut store = Store::new(compiler);
        telemetry::config_version(store.apply(first.changes));
        let handle = store.handle();
        let Some(source) = source else {
            let drain = drain.clone();
            // Readers take a store that is gone for the end of the mesh.
            tokio::spawn(async move {
                drain.forced().await;
                drop(store);
            });
            return OpenedMesh { handle, findings, policies };
        };
        let (send, mut batches) = mpsc::channel::<Batch>(4);
        let stop = drain.clone();
        tokio::spawn(async move { source.run(send, POLL, stop.signaled()).await });
        let (known, noted, drain) = (findings.clone(), policies.clone(), drain.clone());
        tokio::spawn(async move {
            while let Some(batch) = batches.recv().await {
                report(&batch.fresh);
                for finding in batch.fresh.iter().filter(|f| f.is_error()) {
                    telemetry::config_rejected(kind(finding));
                }
                *known.lock().unwrap_or_else(PoisonError::into_inner) = batch.findings;
                note(&noted, &batch.changes);
                let changes = batch.changes.len();
                // Compiling is work for a core, not for a thread that carries traffic.
                let applied = tokio::task::spawn_blocking(move || {
                    let version = store.apply(batch.changes);
                    (store, version)
                });
                let Ok((back, version)) = applied.await else {
                    tracing::error!("compiling the mesh has failed; changes are no longer followed");
                    return readiness.fail("compiling the mesh has failed");
                };
                store = back;
                telemetry::config_version(version);
                tracing::info!(version, changes, rejected = batch.rejected, "mesh changed");
            }
            // The source is gone: told to, or by a fault of its own, which it has logged.
            if !drain.is_draining() {
                readiness.fail("manifests are no longer watched");
            }
        });
        OpenedMesh { handle, findings, policies }
    }

    /// The batch that was read at start.
    pub fn first(&self) -> &Batch {
        &self.first
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
