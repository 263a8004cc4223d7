//! Looking at the file again.

use super::{Revocation, RevocationError};
use crate::{runtime::DrainWatch, telemetry};
use futures_util::{FutureExt, StreamExt};
use inotify::{EventMask, EventStream, Inotify, WatchMask};
use std::{
    error::Error,
    future::pending,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::time::MissedTickBehavior;

/// How often, and how patiently.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// For how long the file must have held the same to count.
    pub(super) quiet: Duration,
    /// Between looks that nothing has called for: events do not cross all the ways in which files come
    /// into a container.
    pub(super) poll: Duration,
    /// Whether to have events at all.
    pub(super) events: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self { quiet: Duration::from_secs(2), poll: Duration::from_secs(10), events: true }
    }
}

/// See [`Revocation::watch`].
pub(super) async fn run(revocation: Arc<Revocation>, pace: Pace, drain: DrainWatch) {
    let mut events = Events::new(&revocation.path, pace.events);
    let mut reported = String::new();
    let mut ticks = tokio::time::interval(pace.poll);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let looking = async {
        loop {
            tokio::select! {
                () = events.next() => {}
                // The first one is at once: something may have happened since the file was opened.
                _ = ticks.tick() => {}
            }
            // What happens from here on is another event.
            events.renew();
            look(&revocation, pace.quiet, &mut reported).await;
        }
    };
    tokio::select! {
        () = looking => {}
        () = drain.forced() => {}
    }
}

/// Takes what the file holds and reports what has come of it.
pub(super) async fn look(revocation: &Arc<Revocation>, quiet: Duration, reported: &mut String) {
    let result = settled(revocation, quiet).await;
    report(revocation, result, reported);
}

/// Takes what the file holds, once that has stopped changing: who writes it may not be done.
async fn settled(revocation: &Arc<Revocation>, quiet: Duration) -> Result<bool, RevocationError> {
    let mut seen = read(revocation).await;
    while !seen.as_ref().is_ok_and(|content| revocation.is_current(content)) {
        tokio::time::sleep(quiet).await;
        let now = read(revocation).await;
        if is_same(&seen, &now) {
            return blocking(revocation, move |revocation| revocation.take(now?)).await;
        }
        seen = now;
    }
    Ok(false)
}

fn is_same(one: &Result<Vec<u8>, RevocationError>, other: &Result<Vec<u8>, RevocationError>) -> bool {
    match (one, other) {
        (Ok(one), Ok(other)) => one == other,
        (Err(_), Err(_)) => true,
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
    }
}

async fn read(revocation: &Arc<Revocation>) -> Result<Vec<u8>, RevocationError> {
    blocking(revocation, Revocation::read).await
}

async fn blocking<T: Send + 'static>(
    revocation: &Arc<Revocation>,
    work: impl FnOnce(&Revocation) -> Result<T, RevocationError> + Send + 'static,
) -> Result<T, RevocationError> {
    let this = Arc::clone(revocation);
    match tokio::task::spawn_blocking(move || work(&this)).await {
        Ok(done) => done,
        // The runtime is going down.
        Err(_) => pending().await,
    }
}

/// A file that stays useless is reported once.
fn report(revocation: &Revocation, result: Result<bool, RevocationError>, reported: &mut String) {
    match result {
        Ok(changed) => {
            reported.clear();
            let lists = revocation.lists();
            if changed {
                telemetry::crl_reload(true);
                tracing::info!(path = %revocation.path.display(), lists = lists.len(), "certificate revocation lists replaced");
            }
            lists.warn_expired(SystemTime::now());
        }
        Err(error) => {
            let text = format!("{error:?}");
            if *reported != text {
                telemetry::crl_reload(false);
                let in_use = revocation.lists().len();
                tracing::error!(error = &error as &dyn Error, in_use, "the certificate revocation lists stay what they were");
                *reported = text;
            }
        }
    }
}

/// What happens in the directory of the file. Kubernetes replaces a link next to it, and not the file.
struct Events {
    dir: PathBuf,
    is_wanted: bool,
    stream: Option<EventStream<Vec<u8>>>,
}

impl Events {
    fn new(file: &Path, is_wanted: bool) -> Self {
        let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut events = Self { dir: dir.to_owned(), is_wanted, stream: None };
        events.renew();
        if events.is_wanted && events.stream.is_none() {
            tracing::info!(dir = %dir.display(), "no file events: certificate revocation lists are looked at from time to time");
        }
        events
    }

    /// Forgets what has happened, and watches again if that has come to an end.
    fn renew(&mut self) {
        while self.stream.is_some() && self.next().now_or_never().is_some() {}
        if self.stream.is_none() && self.is_wanted {
            self.stream = open(&self.dir).inspect_err(|error| tracing::debug!(%error, dir = %self.dir.display(), "no file events")).ok();
        }
    }

    /// Resolves when something has happened. Cancel safe.
    async fn next(&mut self) {
        let Some(stream) = &mut self.stream else { return pending().await };
        match stream.next().await {
            // The directory is gone or elsewhere: should it come back, it is another one.
            Some(Ok(event)) if event.mask.intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED) => {
                self.stream = None
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => self.stream = None,
        }
    }
}

fn open(dir: &Path) -> io::Result<EventStream<Vec<u8>>> {
    let inotify = Inotify::init()?;
    let written = WatchMask::MODIFY | WatchMask::CLOSE_WRITE;
    let listed = WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVED_FROM | WatchMask::MOVED_TO;
    inotify.watches().add(dir, written | listed | WatchMask::DELETE_SELF | WatchMask::MOVE_SELF | WatchMask::ONLYDIR)?;
    inotify.into_event_stream(vec![0; 4 << 10])
}
