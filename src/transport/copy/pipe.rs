//! One direction of a copy.

use super::{Pieces, Side};
use bytes::{Bytes, BytesMut};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::coop,
};
use tokio_util::io::poll_read_buf;

const KIB: usize = 1 << 10;
/// Buffer sizes, each with the number of bytes that must have moved before it is used.
const STEPS: [(u64, usize); 3] = [(0, KIB), (128 * KIB as u64, 16 * KIB), (10 << 20, 256 * KIB)];

/// ```text
/// Open --end of stream--> Flushing (the rest is written) --> Closing (shutdown) --> Done
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Flushing,
    Closing,
    Done,
}

/// An error and whether reading or writing brought it.
#[derive(Debug)]
pub(super) enum PipeError {
    Read(io::Error),
    Write(io::Error),
}

impl PipeError {
    pub(super) fn at(self, reader: Side, writer: Side) -> (Side, io::Error) {
        match self {
            Self::Read(error) => (reader, error),
            Self::Write(error) => (writer, error),
        }
    }
}

#[derive(Debug)]
pub(super) struct Pipe {
    state: State,
    /// What was read and not yet written.
    held: Bytes,
    /// Where to read to, when the reader has no pieces of its own.
    spare: BytesMut,
    /// How much is read at a time; 0 before the first read.
    size: usize,
    moved: u64,
    /// `moved` when the buffer last shrank: growing starts from there.
    base: u64,
    /// `moved` at the last look for idleness.
    seen: u64,
    /// Something was written since the last flush.
    dirty: bool,
}

impl Default for Pipe {
    fn default() -> Self {
        Self { state: State::Open, held: Bytes::new(), spare: BytesMut::new(), size: 0, moved: 0, base: 0, seen: 0, dirty: false }
    }
}

impl Pipe {
    /// Bytes written so far.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// Whether the buffer is larger than the smallest.
    pub(super) fn is_large(&self) -> bool {
        self.size > STEPS[0].1
    }

    /// Gives a large buffer back, if nothing has moved since the last call.
    pub(super) fn shrink_if_idle(&mut self) {
        if self.is_large() && self.seen == self.moved && self.held.is_empty() {
            (self.spare, self.size) = (BytesMut::new(), 0);
            self.base = self.moved;
        }
        self.seen = self.moved;
    }

    /// Moves what can be moved now. `Ok(true)`: the direction has ended; `Ok(false)`: a waker is
    /// registered.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut impl Pieces,
        writer: &mut impl Pieces,
        on_bytes: impl FnMut(usize),
    ) -> Result<bool, PipeError> {
        match self.poll_move(cx, reader, writer, on_bytes) {
            Poll::Ready(result) => result.map(|()| true),
            Poll::Pending => Ok(false),
        }
    }

    fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut impl Pieces,
        writer: &mut impl Pieces,
        mut on_bytes: impl FnMut(usize),
    ) -> Poll<Result<(), PipeError>> {
        loop {
            match self.state {
                State::Open if self.held.is_empty() => {
                    // Not every stream counts against tokio's budget; without it, a fast pair would
                    // keep its worker for good.
                    let budget = ready!(coop::poll_proceed(cx));
                    ready!(self.poll_fill(cx, reader, writer))?;
                    budget.made_progress();
                }
                State::Open => {
                    let n = ready!(self.poll_drain(cx, writer)).map_err(PipeError::Write)?;
                    on_bytes(n);
                }
                State::Flushing => {
                    ready!(Pin::new(&mut *writer).poll_flush(cx)).map_err(PipeError::Write)?;
                    self.state = State::Closing;
                }
                State::Closing => {
                    ready!(poll_shutdown(Pin::new(&mut *writer), cx)).map_err(PipeError::Write)?;
                    (self.spare, self.size) = (BytesMut::new(), 0);
                    self.state = State::Done;
                }
                State::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Reads while nothing is held; before waiting, what was written is flushed on its way.
    fn poll_fill(&mut self, cx: &mut Context<'_>, reader: &mut impl Pieces, writer: &mut impl Pieces) -> Poll<Result<(), PipeError>> {
        let polled = match reader.poll_piece(cx) {
            Some(polled) => polled,
            None => self.poll_read(cx, reader),
        };
        match polled {
            Poll::Ready(Ok(piece)) if piece.is_empty() => self.state = State::Flushing,
            Poll::Ready(Ok(piece)) => self.held = piece,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(PipeError::Read(error))),
            Poll::Pending => {
                if self.dirty {
                    ready!(Pin::new(writer).poll_flush(cx)).map_err(PipeError::Write)?;
                    self.dirty = false;
                }
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, reader: &mut (impl AsyncRead + Unpin)) -> Poll<io::Result<Bytes>> {
        self.make_room();
        let polled = poll_read_buf(Pin::new(reader), cx, &mut self.spare);
        if polled.is_pending() && !self.is_large() {
            // Most connections are idle, and a small buffer is soon had again.
            self.spare = BytesMut::new();
        }
        ready!(polled)?;
        Poll::Ready(Ok(self.spare.split().freeze()))
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, writer: &mut impl Pieces) -> Poll<io::Result<usize>> {
        let n = ready!(writer.poll_write_piece(cx, &mut self.held))?;
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        if self.held.is_empty() {
            // Lets go of the memory, so that it can be read to again.
            self.held = Bytes::new();
        }
        self.moved += n as u64;
        self.dirty = true;
        Poll::Ready(Ok(n))
    }

    /// Room to read to. Where the writer still holds what it was given, the rest of the buffer is used
    /// before there is a new one.
    fn make_room(&mut self) {
        let moved = self.moved - self.base;
        self.size = STEPS.iter().rev().find(|(from, _)| *from <= moved).map_or(STEPS[0].1, |(_, size)| *size);
        let is_short = self.spare.capacity() < self.size && !self.spare.try_reclaim(self.size);
        if is_short && self.spare.capacity() < self.size / 4 {
            self.spare = BytesMut::with_capacity(self.size);
        }
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.size
    }
}

/// A peer that is gone entirely needs no half-close: the other direction finds out by itself.
fn poll_shutdown<W: AsyncWrite>(writer: Pin<&mut W>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    match ready!(writer.poll_shutdown(cx)) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
        result => Poll::Ready(result),
    }
}
