//! What the control plane does wrong on request. By default: nothing.

use super::Kind;
use crate::model::Identity;
use std::{
    collections::BTreeSet,
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::watch,
    time::{Instant, Sleep, sleep_until},
};
use tonic::Code;

/// What a control plane does instead of what it should. Whoever holds it may change it at any time.
#[derive(Debug)]
pub struct Faults {
    script: watch::Sender<Script>,
    pub(super) wire: Arc<Wire>,
}

/// Faults that last until they are taken back.
#[derive(Debug, Clone, Default)]
pub(super) struct Script {
    pub(super) held: BTreeSet<Kind>,
    pub(super) certificates: Certificates,
}

/// How `CreateCertificate` is answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Certificates {
    /// As it should be.
    #[default]
    Sign,
    /// Not at all until this changes.
    Hold,
    /// With an error.
    Refuse(Code, String),
    /// With a chain of nothing.
    Empty,
    /// With the leaf alone, without any root.
    LeafOnly,
    /// For somebody else.
    For(Identity),
}

impl Faults {
    pub(super) fn new() -> Self {
        Self { script: watch::Sender::new(Script::default()), wire: Arc::default() }
    }

    /// Holds back all responses of a type until [`release`](Self::release).
    pub fn hold(&self, kind: Kind) {
        self.script.send_modify(|script| script.held.extend([kind]));
    }

    /// Sends what was held back.
    pub fn release(&self, kind: Kind) {
        self.script.send_modify(|script| script.held.retain(|held| *held != kind));
    }

    /// Answers `CreateCertificate` in this way from now on; calls that are held see it as well.
    pub fn certificates(&self, certificates: Certificates) {
        self.script.send_modify(|script| script.certificates = certificates);
    }

    /// Writes at most `bytes` at a time on every connection, and rests after each; without them, as
    /// fast as can be.
    pub fn slow(&self, pieces: Option<(usize, Duration)>) {
        *self.wire.pieces.lock().unwrap_or_else(PoisonError::into_inner) = pieces;
    }

    /// Lets this many bytes pass, on all connections together, and ends the one that has written the
    /// last of them when it goes on to write; once.
    pub fn truncate_after(&self, bytes: usize) {
        *self.wire.left() = Some(bytes);
    }

    /// Whether what [`truncate_after`](Self::truncate_after) asks for is still to happen.
    pub fn is_to_truncate(&self) -> bool {
        self.wire.left().is_some()
    }

    pub(super) fn script(&self) -> watch::Receiver<Script> {
        self.script.subscribe()
    }
}

/// What connections have in common.
#[derive(Default)]
pub(super) struct Wire {
    pieces: Mutex<Option<(usize, Duration)>>,
    left: Mutex<Option<usize>>,
}

impl Wire {
    fn left(&self) -> MutexGuard<'_, Option<usize>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

/// A connection that may be slow, or end too early.
#[derive(Debug)]
pub(super) struct Faulty {
    io: TcpStream,
    wire: Arc<Wire>,
    rest: Option<Pin<Box<Sleep>>>,
    is_broken: bool,
}

impl Faulty {
    pub(super) fn new(io: TcpStream, wire: Arc<Wire>) -> Self {
        Self { io, wire, rest: None, is_broken: false }
    }
}

impl AsyncRead for Faulty {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Faulty {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let broken = || Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        if self.is_broken {
            return broken();
        }
        if let Some(rest) = &mut self.rest {
            ready!(rest.as_mut().poll(cx));
            self.rest = None;
        }
        let pieces = *self.wire.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let wire = self.wire.clone();
        // Held while it is written, which does not wait: others count on the same number.
        let mut left = wire.left();
        let limit = pieces.map_or(buf.len(), |(bytes, _)| bytes.max(1)).min(left.unwrap_or(usize::MAX)).min(buf.len());
        let written = if *left == Some(0) { 0 } else { ready!(Pin::new(&mut self.io).poll_write(cx, &buf[..limit]))? };
        *left = left.map(|left| left - written);
        if *left == Some(0) {
            *left = None;
            self.is_broken = true;
            if written == 0 {
                return broken();
            }
        }
        if let Some((_, rest)) = pieces {
            self.rest = Some(Box::pin(sleep_until(Instant::now() + rest)));
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
