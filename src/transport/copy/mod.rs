//! Copying between two streams until both directions have ended.
//!
//! Each direction on its own: an end of stream is passed on as a half-close while the other
//! direction goes on. Buffers start small, since most connections carry little, grow with what
//! moves, and shrink when nothing does.

mod pieces;
mod pipe;

pub use pieces::Pieces;
use pipe::Pipe;
use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, Sleep};

/// A direction that moved nothing for this long gives its large buffer back.
const SHRINK_AFTER: Duration = Duration::from_secs(10);

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From downstream to upstream.
    Upstream,
    /// From upstream to downstream.
    Downstream,
}

/// One of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The first stream, whose peer began the conversation.
    Downstream,
    /// The second stream, which we opened.
    Upstream,
}

/// What was copied, and how it ended.
#[derive(Debug)]
pub struct Copied {
    /// Bytes written to upstream.
    pub to_upstream: u64,
    /// Bytes written to downstream.
    pub to_downstream: u64,
    /// How it ended.
    pub end: End,
}

/// How copying ended.
#[derive(Debug)]
pub enum End {
    /// Both sides said that they were done.
    Complete,
    /// One side had ended, and the other direction moved no byte for the time allowed.
    HalfOpenIdle,
    /// A side failed.
    Failed {
        /// Which one.
        side: Side,
        /// How.
        error: io::Error,
    },
}

/// Copies both ways until both have ended, one side fails, or, with `half_open_idle`, one direction
/// has ended and the other moved no byte for that long.
///
/// `on_bytes` is called with each number of bytes as they are written, so it keeps counts that can
/// be read while copying goes on, and that survive a dropped future.
///
/// Not cancel safe: dropping the future loses bytes that were read and not yet written. The streams
/// remain the caller's; after [`End::Failed`] and [`End::HalfOpenIdle`] they are not shut down.
pub async fn bidirectional<D, U, F>(downstream: &mut D, upstream: &mut U, half_open_idle: Option<Duration>, on_bytes: F) -> Copied
where
    D: Pieces,
    U: Pieces,
    F: FnMut(Direction, usize),
{
    let mut copy = Copy {
        downstream,
        upstream,
        on_bytes,
        to_upstream: Pipe::default(),
        to_downstream: Pipe::default(),
        half_open_idle,
        idle_at: None,
        shrink_at: None,
    };
    let mut timer = pin!(tokio::time::sleep(Duration::ZERO));
    let end = poll_fn(|cx| copy.poll(cx, timer.as_mut())).await;
    Copied { to_upstream: copy.to_upstream.moved(), to_downstream: copy.to_downstream.moved(), end }
}

struct Copy<'a, D, U, F> {
    downstream: &'a mut D,
    upstream: &'a mut U,
    on_bytes: F,
    to_upstream: Pipe,
    to_downstream: Pipe,
    half_open_idle: Option<Duration>,
    /// When the half-open connection is given up, unless a byte moves.
    idle_at: Option<Instant>,
    /// When large buffers are looked at; `None` while there are none.
    shrink_at: Option<Instant>,
}

impl<D, U, F> Copy<'_, D, U, F>
where
    D: Pieces,
    U: Pieces,
    F: FnMut(Direction, usize),
{
    fn poll(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<End> {
        let before = (self.to_upstream.moved(), self.to_downstream.moved());
        let (up, down) = match self.poll_pipes(cx) {
            Ok((true, true)) => return Poll::Ready(End::Complete),
            Ok(done) => done,
            Err((side, error)) => return Poll::Ready(End::Failed { side, error }),
        };
        let progress = before != (self.to_upstream.moved(), self.to_downstream.moved());
        loop {
            self.set_deadlines(up || down, progress);
            let Some(next) = self.idle_at.into_iter().chain(self.shrink_at).min() else { return Poll::Pending };
            if timer.deadline() != next {
                timer.as_mut().reset(next);
            }
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            if self.idle_at.is_some_and(|at| at <= now) {
                return Poll::Ready(End::HalfOpenIdle);
            }
            if self.shrink_at.is_some_and(|at| at <= now) {
                self.to_upstream.shrink_if_idle();
                self.to_downstream.shrink_if_idle();
                self.shrink_at = None;
            }
        }
    }

    /// Moves what can be moved; says which directions have ended.
    fn poll_pipes(&mut self, cx: &mut Context<'_>) -> Result<(bool, bool), (Side, io::Error)> {
        let on_bytes = &mut self.on_bytes;
        let up = self.to_upstream.poll(cx, self.downstream, self.upstream, |n| on_bytes(Direction::Upstream, n));
        let up = up.map_err(|error| error.at(Side::Downstream, Side::Upstream))?;
        let down = self.to_downstream.poll(cx, self.upstream, self.downstream, |n| on_bytes(Direction::Downstream, n));
        let down = down.map_err(|error| error.at(Side::Upstream, Side::Downstream))?;
        Ok((up, down))
    }

    fn set_deadlines(&mut self, half_open: bool, progress: bool) {
        match self.half_open_idle {
            Some(idle) if half_open && (progress || self.idle_at.is_none()) => self.idle_at = Instant::now().checked_add(idle),
            _ => {}
        }
        if self.shrink_at.is_none() && (self.to_upstream.is_large() || self.to_downstream.is_large()) {
            self.shrink_at = Some(Instant::now() + SHRINK_AFTER);
        }
    }
}

#[cfg(test)]
mod tests;
