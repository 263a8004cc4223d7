//! One direction of a copy.

use super::Side;
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::coop,
};

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
    buf: Box<[u8]>,
    /// What was read and not yet written: `buf[start..end]`.
    start: usize,
    end: usize,
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
        Self { state: State::Open, buf: Box::default(), start: 0, end: 0, moved: 0, base: 0, seen: 0, dirty: false }
    }
}

impl Pipe {
    /// Bytes written so far.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// Whether the buffer is larger than the smallest.
    pub(super) fn is_large(&self) -> bool {
        self.buf.len() > STEPS[0].1
    }

    /// Gives a large buffer back, if nothing has moved since the last call.
    pub(super) fn shrink_if_idle(&mut self) {
        if self.is_large() && self.seen == self.moved && self.start == self.end {
            self.buf = Box::default();
            self.base = self.moved;
        }
        self.seen = self.moved;
    }

    /// Moves what can be moved now. `Ok(true)`: the direction has ended; `Ok(false)`: a waker is
    /// registered.
    pub(super) fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        on_bytes: impl FnMut(usize),
    ) -> Result<bool, PipeError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        match self.poll_move(cx, Pin::new(reader), Pin::new(writer), on_bytes) {
            Poll::Ready(result) => result.map(|()| true),
            Poll::Pending => Ok(false),
        }
    }

    fn poll_move<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        mut reader: Pin<&mut R>,
        mut writer: Pin<&mut W>,
        mut on_bytes: impl FnMut(usize),
    ) -> Poll<Result<(), PipeError>>
    where
        R: AsyncRead,
        W: AsyncWrite,
    {
        loop {
            match self.state {
                State::Open if self.start == self.end => {
                    // Not every stream counts against tokio's budget; without it, a fast pair would
                    // keep its worker for good.
                    let budget = ready!(coop::poll_proceed(cx));
                    ready!(self.poll_fill(cx, reader.as_mut(), writer.as_mut()))?;
                    budget.made_progress();
                }
                State::Open => {
                    let n = ready!(self.poll_drain(cx, writer.as_mut())).map_err(PipeError::Write)?;
                    on_bytes(n);
                }
                State::Flushing => {
                    ready!(writer.as_mut().poll_flush(cx)).map_err(PipeError::Write)?;
                    self.state = State::Closing;
                }
                State::Closing => {
                    ready!(poll_shutdown(writer.as_mut(), cx)).map_err(PipeError::Write)?;
                    self.buf = Box::default();
                    self.state = State::Done;
                }
                State::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Reads into the empty buffer; before waiting, what was written is flushed on its way.
    fn poll_fill<R, W>(&mut self, cx: &mut Context<'_>, reader: Pin<&mut R>, writer: Pin<&mut W>) -> Poll<Result<(), PipeError>>
    where
        R: AsyncRead,
        W: AsyncWrite,
    {
        self.grow();
        let mut buf = ReadBuf::new(&mut self.buf);
        match reader.poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) if buf.filled().is_empty() => self.state = State::Flushing,
            Poll::Ready(Ok(())) => (self.start, self.end) = (0, buf.filled().len()),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(PipeError::Read(error))),
            Poll::Pending => {
                if self.dirty {
                    ready!(writer.poll_flush(cx)).map_err(PipeError::Write)?;
                    self.dirty = false;
                }
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_drain<W: AsyncWrite>(&mut self, cx: &mut Context<'_>, writer: Pin<&mut W>) -> Poll<io::Result<usize>> {
        let n = ready!(writer.poll_write(cx, &self.buf[self.start..self.end]))?;
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.start += n;
        self.moved += n as u64;
        self.dirty = true;
        Poll::Ready(Ok(n))
    }

    /// Only called while the buffer is empty.
    fn grow(&mut self) {
        let moved = self.moved - self.base;
        let size = STEPS.iter().rev().find(|(from, _)| *from <= moved).map_or(STEPS[0].1, |(_, size)| *size);
        if self.buf.len() < size {
            self.buf = vec![0; size].into_boxed_slice();
        }
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.buf.len()
    }
}

/// A peer that is gone entirely needs no half-close: the other direction finds out by itself.
fn poll_shutdown<W: AsyncWrite>(writer: Pin<&mut W>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    match ready!(writer.poll_shutdown(cx)) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
        result => Poll::Ready(result),
    }
}
