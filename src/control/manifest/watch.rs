//! Tells at once when something happens to manifests, as far as the kernel does (inotify), and which
//! files their writers have finished.
//!
//! Nothing depends on it but time: what is not told (network file systems, targets of links
//! elsewhere, no watches left) is found by looking again.

use super::files::is_manifest;
use futures_util::StreamExt;
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchDescriptor, WatchMask, Watches};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::timeout;

/// What comes so soon after the last event is looked at together: several files that are copied.
const QUIET: Duration = Duration::from_millis(1);
/// Events that may be looked at together.
const MANY: usize = 1024;

/// Files that their writers have finished: closed after writing, or moved into place as a whole.
#[derive(Debug, Default)]
pub(super) struct Finished(HashSet<PathBuf>);

impl Finished {
    /// Whether the file, or a directory above it, was put there as a whole.
    pub(super) fn contains(&self, path: &Path) -> bool {
        !self.0.is_empty() && path.ancestors().any(|above| self.0.contains(above))
    }

    /// What was told has been acted upon.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Watches directories. Without inotify it is silent.
#[derive(Debug)]
pub(super) struct Watch {
    events: Option<EventStream<Vec<u8>>>,
    /// Files that count whatever their name.
    named: Vec<PathBuf>,
    watched: BTreeSet<PathBuf>,
    /// By what events name them. Links can lead to one directory by several paths.
    paths: HashMap<WatchDescriptor, Vec<PathBuf>>,
}

impl Watch {
    /// Watches nothing yet. Must be called within a runtime.
    pub(super) fn new(named: Vec<PathBuf>) -> Self {
        let events = Inotify::init().and_then(|inotify| inotify.into_event_stream(vec![0; 16 << 10]));
        if let Err(error) = &events {
            tracing::info!(%error, "no file events: manifests are looked at from time to time");
        }
        Self { events: events.ok(), named, watched: BTreeSet::new(), paths: HashMap::new() }
    }

    /// Watches these directories. Whether there is a new one among them: what happened in it before
    /// is not told.
    pub(super) fn follow(&mut self, dirs: &BTreeSet<PathBuf>) -> bool {
        let Some(mut watches) = self.events.as_ref().map(EventStream::watches) else { return false };
        if self.watched == *dirs {
            return false;
        }
        self.paths.retain(|watch, paths| {
            paths.retain(|path| dirs.contains(path));
            if paths.is_empty() {
                // The kernel may have forgotten it as well.
                watches.remove(watch.clone()).ok();
            }
            !paths.is_empty()
        });
        let mut news = false;
        for dir in dirs.difference(&self.watched) {
            match add(&mut watches, dir) {
                Ok(watch) => {
                    let paths = self.paths.entry(watch).or_default();
                    if !paths.contains(dir) {
                        paths.push(dir.clone());
                    }
                    news = true;
                }
                Err(error) => tracing::debug!(%error, dir = %dir.display(), "directory is not watched: it is looked at from time to time"),
            }
        }
        self.watched.clone_from(dirs);
        news
    }

    /// Resolves when something has happened that is worth a look. Cancel safe: what `finished` has
    /// been told is true in any case.
    pub(super) async fn changed(&mut self, finished: &mut Finished) {
        while !self.next(finished).await {}
        for _ in 0..MANY {
            if timeout(QUIET, self.next(finished)).await.is_err() {
                return;
            }
        }
    }

    /// Waits for an event. Whether it is worth a look.
    async fn next(&mut self, finished: &mut Finished) -> bool {
        let Some(events) = &mut self.events else { return std::future::pending().await };
        match events.next().await {
            Some(Ok(event)) => self.take(&event, finished),
            ended => {
                let error = ended.and_then(Result::err);
                tracing::warn!(?error, "no more file events: manifests are looked at from time to time");
                self.events = None;
                false
            }
        }
    }

    fn take(&mut self, event: &EventOwned, finished: &mut Finished) -> bool {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            return true;
        }
        let Some(dirs) = self.paths.get(&event.wd) else { return false };
        let Some(name) = &event.name else {
            // The directory itself is gone or elsewhere. Should it come back, it is another one.
            self.watched.retain(|dir| !dirs.contains(dir));
            self.paths.remove(&event.wd);
            return true;
        };
        let mut is_worth = false;
        for dir in dirs {
            is_worth |= heed(event.mask, dir, dir.join(name), &self.named, finished);
        }
        is_worth
    }
}

fn add(watches: &mut Watches, dir: &Path) -> io::Result<WatchDescriptor> {
    let written = WatchMask::MODIFY | WatchMask::CLOSE_WRITE;
    let listed = WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVED_FROM | WatchMask::MOVED_TO;
    watches.add(dir, written | listed | WatchMask::DELETE_SELF | WatchMask::MOVE_SELF | WatchMask::ONLYDIR)
}

/// Takes note of what happened to one entry of a directory; whether it is worth a look.
fn heed(what: EventMask, dir: &Path, path: PathBuf, named: &[PathBuf], finished: &mut Finished) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    if what.contains(EventMask::MOVED_TO) && name.starts_with(b"..") {
        // A ConfigMap's `..data`: everything linked through it is there as a whole.
        finished.0.insert(dir.to_owned());
        return true;
    }
    if name.starts_with(b".") {
        return false;
    }
    if what.contains(EventMask::MODIFY) {
        finished.0.remove(&path);
        return false;
    }
    let counts = is_manifest(&path) || named.contains(&path);
    let is_written = what.contains(EventMask::CLOSE_WRITE);
    if is_written || what.contains(EventMask::MOVED_TO) {
        finished.0.insert(path);
    }
    // What was not written may be a directory, or a link to one, whatever its name.
    counts || !is_written
}
