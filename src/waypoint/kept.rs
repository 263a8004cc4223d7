//! The HTTP connections to workloads that are kept between requests.

use crate::{
    hbone::Client,
    middleware::{Body, ConnectFailure},
    state::Hop,
};
use hyper::client::conn::{http1, http2};
use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// An HTTP/1 connection.
#[derive(Debug)]
pub(super) struct Http1 {
    pub(super) send: http1::SendRequest<Body>,
    /// What it is inside of, unless it is plain TCP.
    pub(super) tunnel: Option<Client>,
}

pub(super) type Http2 = http2::SendRequest<Body>;

/// Requests that one HTTP/2 connection carries before another is opened.
const MAX_SHARED: usize = 100;
/// Idle HTTP/1 connections kept for one endpoint.
const MAX_KEPT: usize = 256;

/// Connections are kept by what they lead to and to whom: an address that another workload has
/// taken over is another key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct KeptKey {
    pub(super) address: SocketAddr,
    pub(super) hop: Hop,
}

/// The connections to one endpoint.
#[derive(Debug, Default)]
pub(super) struct Kept {
    http1: Mutex<Vec<(Http1, Instant)>>,
    http2: Mutex<Vec<Shareable>>,
    opening: tokio::sync::Mutex<()>,
    // How the last attempt at HTTP/2 failed, and when: those who waited for it fail with it.
    failed: Mutex<Option<(Instant, Arc<ConnectFailure>)>>,
}

/// An HTTP/2 connection and its load.
#[derive(Debug, Clone)]
pub(super) struct Shareable {
    pub(super) send: Http2,
    // Requests on it: handles of this Arc beyond the one in `Kept`.
    pub(super) load: Arc<()>,
    tunnel: Option<Client>,
    // When it was last seen with load on it; kept in `Kept`.
    used: Instant,
}

impl Shareable {
    /// Whether there was no request on it for that long. Looked at at intervals.
    fn is_idle(&mut self, limit: Duration) -> bool {
        if Arc::strong_count(&self.load) > 1 {
            self.used = Instant::now();
        }
        self.used.elapsed() >= limit
    }
}

impl Kept {
    /// A connection that is open and done with its last request. One that is not quite done is left
    /// for the next; one in a tunnel that should be left is closed.
    pub(super) fn take_http1(&self) -> Option<Http1> {
        let mut kept = lock(&self.http1);
        kept.retain(|(http1, _)| !http1.send.is_closed());
        while let Some(at) = kept.iter().rposition(|(http1, _)| http1.send.is_ready()) {
            let (mut http1, _) = kept.remove(at);
            if !is_retiring(&mut http1.tunnel) {
                return Some(http1);
            }
        }
        None
    }

    pub(super) fn put_http1(&self, http1: Http1) {
        if http1.send.is_closed() {
            return;
        }
        let mut kept = lock(&self.http1);
        if kept.len() < MAX_KEPT {
            kept.push((http1, Instant::now()));
        }
    }

    /// The least loaded connection that has room; the clone counts as load. One in a tunnel that
    /// should be left takes no more, and closes with its last request.
    pub(super) fn take_http2(&self) -> Option<Shareable> {
        let mut kept = lock(&self.http2);
        kept.retain(|shareable| !shareable.send.is_closed());
        loop {
            let (at, least) = kept.iter_mut().enumerate().min_by_key(|(_, s)| Arc::strong_count(&s.load))?;
            if is_retiring(&mut least.tunnel) {
                kept.swap_remove(at);
                continue;
            }
            least.used = Instant::now();
            return (Arc::strong_count(&least.load) <= MAX_SHARED).then(|| least.clone());
        }
    }

    pub(super) fn forget_http2(&self, shareable: &Shareable) {
        lock(&self.http2).retain(|s| !Arc::ptr_eq(&s.load, &shareable.load));
    }

    /// Opens one at a time for each endpoint, so that a burst shares one connection, or why there is
    /// none.
    pub(super) async fn open_http2(
        &self,
        dial: impl Future<Output = Result<(Http2, Option<Client>), ConnectFailure>>,
    ) -> Result<Shareable, ConnectFailure> {
        let since = Instant::now();
        let _opening = self.opening.lock().await;
        if let Some(shareable) = self.take_http2() {
            return Ok(shareable);
        }
        if let Some((_, failure)) = lock(&self.failed).as_ref().filter(|(at, _)| *at > since) {
            return Err(ConnectFailure::Shared(failure.clone()));
        }
        match dial.await {
            Ok((send, tunnel)) => {
                *lock(&self.failed) = None;
                let shareable = Shareable { send, load: Arc::new(()), tunnel, used: Instant::now() };
                lock(&self.http2).push(shareable.clone());
                Ok(shareable)
            }
            Err(failure) => {
                let failure = Arc::new(failure);
                *lock(&self.failed) = Some((Instant::now(), failure.clone()));
                Err(ConnectFailure::Shared(failure))
            }
        }
    }

    /// Closes what is idle for that long, or in a tunnel that should be left.
    pub(super) fn sweep(&self, idle: Duration) {
        lock(&self.http1).retain_mut(|(http1, since)| !http1.send.is_closed() && since.elapsed() < idle && !is_retiring(&mut http1.tunnel));
        lock(&self.http2).retain_mut(|s| !s.send.is_closed() && !s.is_idle(idle) && !is_retiring(&mut s.tunnel));
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.http1).is_empty() && lock(&self.http2).is_empty()
    }
}

/// Whether it is inside of a tunnel that should be left.
fn is_retiring(tunnel: &mut Option<Client>) -> bool {
    tunnel.as_mut().is_some_and(Client::is_retiring)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
