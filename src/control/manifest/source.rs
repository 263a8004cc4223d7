//! The source that watches manifests and hands over what changed.

use super::{
    Located,
    file::ManifestFile,
    files, locate,
    reconcile::{Reconciler, Replaced},
    spread::spread,
    watch::{Finished, Watch},
};
use crate::{
    model::{Finding, Kind, Mesh},
    state::Change,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

/// How long a file must have been left alone before [`ManifestSource::run`] reads it, unless its writer
/// is known to have finished: one that is still at work is then rarely seen half-way.
const SETTLE: Duration = Duration::from_millis(100);

/// Files that are worth a thread, at about 50 µs each.
const FILES_AT_LEAST: usize = 40;

/// For how many times what a look took nothing that is told makes for another: files that change all
/// the time are not to keep a core busy.
const REST: u32 = 3;
/// The same for looks that nothing told to take, which very many files make long.
const UNTOLD_REST: u32 = 20;

/// How long changes are held back for files that somebody keeps writing.
const PATIENCE: Duration = Duration::from_millis(400);

/// Where manifests are, and what they mean.
#[derive(Debug, Clone)]
pub struct Config {
    /// Files and directories.
    pub paths: Vec<PathBuf>,
    /// The cluster's DNS domain, `cluster.local` mostly.
    pub cluster_domain: String,
    /// The trust domain of all workloads.
    pub trust_domain: String,
    /// The namespace whose policies hold for the whole mesh, `istio-system` mostly.
    pub root_namespace: String,
    /// Serve what has broken references, too, as the Gateway API says: with errors for their share.
    pub lenient: bool,
    /// What they decide on.
    pub owns: Owns,
}

/// Which kinds of resources manifests decide on. Every kind has one owner: nothing is merged, and no
/// order of arrival decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Owns {
    /// All kinds.
    #[default]
    Everything,
    /// Gateways, routes, policies, and namespaces. Services and workloads, with their endpoints and
    /// bindings, come from a control plane: manifests of them are read for errors only, and references
    /// to them are not held against anything. Of a namespace only its labels count, where a Gateway's
    /// listener selects by them whose routes may attach; that it is bound to a waypoint has no effect.
    Policy,
}

impl Owns {
    /// Whether manifests decide on this kind.
    pub fn includes(self, kind: Kind) -> bool {
        match kind {
            Kind::Namespace | Kind::Gateway | Kind::HttpRoute | Kind::AuthorizationPolicy => true,
            Kind::Service | Kind::EndpointSlice | Kind::Pod | Kind::ServiceEntry | Kind::WorkloadEntry => self == Self::Everything,
        }
    }
}

/// What one look at the files yields. To be applied as a whole.
#[derive(Debug, Default)]
pub struct Batch {
    /// What changed since the last batch.
    pub changes: Vec<Change>,
    /// Everything that is wrong now, by file and line.
    pub findings: Vec<Located>,
    /// Those of the findings that the last batch did not have.
    pub fresh: Vec<Located>,
    /// How many resources and documents were rejected in this batch.
    pub rejected: usize,
}

/// How files differ from what was read.
#[derive(Debug, Default)]
struct News {
    /// New, or with another stamp.
    changed: Vec<(PathBuf, files::Stamp)>,
    /// With the same stamp, which may hide another write.
    again: Vec<(PathBuf, files::Stamp)>,
    /// Not there any more, as far as can be seen.
    gone: Vec<PathBuf>,
}

/// Watches manifests.
#[derive(Debug)]
pub struct ManifestSource {
    config: Config,
    files: BTreeMap<PathBuf, ManifestFile>,
    /// Paths that could not be looked at, and why.
    errors: BTreeMap<PathBuf, String>,
    reconciler: Reconciler,
    started: bool,
    settle: Duration,
    finished: Finished,
    /// Where files can come and go.
    dirs: BTreeSet<PathBuf>,
    /// Since when changes are held back because somebody is writing.
    waiting: Option<Instant>,
}

impl ManifestSource {
    /// A source that has not looked at anything yet.
    pub fn new(config: Config) -> Self {
        let reconciler = Reconciler::new(config.lenient, config.owns);
        Self {
            config,
            files: BTreeMap::new(),
            errors: BTreeMap::new(),
            reconciler,
            started: false,
            settle: Duration::ZERO,
            finished: Finished::default(),
            dirs: BTreeSet::new(),
            waiting: None,
        }
    }

    /// Looks at all files, and reads those that changed. `None` when nothing did, or when somebody is
    /// still writing: what is written together is to be served together. The first call always
    /// yields a batch. Blocks on the file system.
    pub fn poll(&mut self) -> Option<Batch> {
        let scan = files::scan(&self.config.paths);
        self.dirs.clone_from(&scan.dirs);
        let news = self.compare(&scan);
        let is_settling = self.started && news.changed.iter().any(|(path, stamp)| self.is_being_written(path, stamp));
        let read = if is_settling { Vec::new() } else { self.read(&news) };
        let changed = !self.started || scan.errors != self.errors || !read.is_empty() || !news.gone.is_empty();
        // A link that was switched while we looked would show one half of the old world and one of the new.
        if self.started && (is_settling || (changed && files::scan(&self.config.paths) != scan)) {
            if self.waiting.get_or_insert_with(Instant::now).elapsed() < PATIENCE {
                return None;
            }
            tracing::debug!("manifests never settle: what has settled is served");
        }
        self.waiting = None;
        let read = if is_settling { self.read(&news) } else { read };
        self.take(scan.errors, news.gone, read)
    }

    /// What is different from what was read. Both are in order and mostly the same, so they are walked
    /// side by side: looking each path up would take longer than everything else.
    fn compare(&self, scan: &files::Scan) -> News {
        let mut news = News::default();
        let is_hidden = |path: &Path| scan.errors.keys().any(|broken| path.starts_with(broken));
        let mut known = self.files.iter().peekable();
        for (path, stamp) in &scan.files {
            let is_same = |other: &&PathBuf| other.as_os_str() == path.as_os_str();
            while let Some((gone, _)) = known.next_if(|(other, _)| !is_same(other) && *other < path) {
                news.gone.extend((!is_hidden(gone)).then(|| gone.clone()));
            }
            match known.next_if(|(other, _)| is_same(other)) {
                Some((_, file)) if file.stamp == *stamp && !file.is_fresh => {}
                Some((_, file)) if file.stamp == *stamp => news.again.push((path.clone(), *stamp)),
                Some(_) | None => news.changed.push((path.clone(), *stamp)),
            }
        }
        news.gone.extend(known.map(|(gone, _)| gone).filter(|gone| !is_hidden(gone)).cloned());
        news
    }

    fn is_being_written(&self, path: &Path, stamp: &files::Stamp) -> bool {
        stamp.is_younger_than(self.settle) && !self.finished.contains(path)
    }

    /// Reads the files that changed and are no longer being written.
    fn read(&self, news: &News) -> Vec<(PathBuf, ManifestFile)> {
        let is_due = |(path, stamp): &&(PathBuf, files::Stamp)| !self.started || !self.is_being_written(path, stamp);
        let due: Vec<_> = news.changed.iter().chain(&news.again).filter(is_due).collect();
        spread(&due, FILES_AT_LEAST, |(path, stamp)| (path.clone(), ManifestFile::read(&self.config, path, *stamp, self.files.get(path))))
    }

    fn take(&mut self, errors: BTreeMap<PathBuf, String>, gone: Vec<PathBuf>, read: Vec<(PathBuf, ManifestFile)>) -> Option<Batch> {
        let mut changed = !self.started || errors != self.errors;
        let gone = gone.into_iter().map(|path| Replaced { before: self.files.remove(&path), path });
        let mut replaced: Vec<Replaced> = gone.collect();
        for (path, read) in read {
            if let Some(known) = self.files.get_mut(&path).filter(|known| known.same_contents(&read)) {
                (known.stamp, known.is_fresh) = (read.stamp, read.is_fresh);
                continue;
            }
            let before = self.files.insert(path.clone(), read);
            replaced.push(Replaced { path, before });
        }
        self.errors = errors;
        self.finished.clear();
        self.started = true;
        changed |= !replaced.is_empty();
        changed.then(|| self.reconciler.reconcile(&self.files, &self.errors, replaced))
    }

    /// Polls when files change, and else every `period` (longer, when that takes long), until `stop`
    /// completes or the receiver is gone, and sends each batch. Must run within a Tokio runtime; file
    /// access happens on its blocking pool. Dropping the future between polls loses nothing.
    pub async fn run(mut self, changes: mpsc::Sender<Batch>, period: Duration, stop: impl Future<Output = ()>) {
        self.settle = SETTLE.min(period);
        let mut stop = pin!(stop);
        let mut watch = Watch::new(self.config.paths.clone());
        // What changed since the first look was not told.
        let (mut rest, mut pause) = (Duration::ZERO, Duration::ZERO);
        loop {
            let told = async {
                sleep(rest).await;
                watch.changed(&mut self.finished).await;
            };
            tokio::select! {
                () = &mut stop => return,
                () = told => {}
                () = sleep(pause) => {}
            }
            let begun = Instant::now();
            let polled = tokio::task::spawn_blocking(move || {
                let batch = self.poll();
                (self, batch)
            });
            let batch = match polled.await {
                Ok((source, batch)) => {
                    self = source;
                    batch
                }
                Err(error) => {
                    tracing::error!(%error, "the manifest source has failed; manifests are no longer watched");
                    return;
                }
            };
            rest = begun.elapsed() * REST;
            pause = match () {
                () if watch.follow(&self.dirs) => Duration::ZERO,
                () if self.waiting.is_some() => period.min(SETTLE / 4),
                () => period.max(begun.elapsed() * UNTOLD_REST),
            };
            let Some(batch) = batch else { continue };
            tokio::select! {
                () = &mut stop => return,
                sent = changes.send(batch) => if sent.is_err() { return },
            }
        }
    }

    /// Finds the places of findings about resources that were read from these files. Blocks on the
    /// file system: what was read is not kept, so the places are looked up in the files.
    pub fn locate(&self, findings: Vec<Finding>) -> Vec<Located> {
        locate::locate(&self.files, findings)
    }
}

/// What [`load`] yields.
#[derive(Debug)]
pub struct Loaded {
    /// The mesh that the manifests describe.
    pub mesh: Mesh,
    /// What is wrong with them.
    pub findings: Vec<Located>,
    /// The source, to go on watching.
    pub source: ManifestSource,
}

/// Reads manifests once.
pub fn load(config: Config) -> Loaded {
    let mut source = ManifestSource::new(config);
    let batch = source.poll().unwrap_or_default();
    let mut mesh = Mesh::default();
    for change in batch.changes {
        match change {
            Change::Upsert(resource) => mesh.upsert(resource),
            Change::Remove(key) => mesh.remove(&key),
        }
    }
    Loaded { mesh, findings: batch.findings, source }
}
