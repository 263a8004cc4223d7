//! One stream of a tunnel as bytes.

use crate::transport::{Cuttable, copy::Pieces};
use bytes::{Buf, Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use std::{
    fmt,
    io::{self, IoSlice},
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The byte stream inside one CONNECT. Half-close is END_STREAM, in both directions.
///
/// Dropping it before [`AsyncWrite::poll_shutdown`] resets the stream with CANCEL, which the peer
/// treats as an end, not as success.
pub struct TunnelIo {
    send: SendStream<Bytes>,
    recv: RecvStream,
    chunk: Bytes,
    ended: bool,
    // Counts the stream as open in whoever made it; see `client`.
    _open: Option<Box<dyn Send + Sync>>,
}

impl TunnelIo {
    pub(super) fn new(send: SendStream<Bytes>, recv: RecvStream, open: Option<Box<dyn Send + Sync>>) -> Self {
        Self { send, recv, chunk: Bytes::new(), ended: false, _open: open }
    }

    /// Ends the stream with an error code that the peer can see.
    pub fn reset(&mut self, reason: Reason) {
        self.send.send_reset(reason);
    }

    /// The next piece of data without a copy: `None` at the end. Cancel safe.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.chunk.is_empty() && !self.ended {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(chunk)) => {
                    // The window is given back at once: the reader decides when to ask for more, and one chunk is bounded by the window.
                    let _ = self.recv.flow_control().release_capacity(chunk.len());
                    self.chunk = chunk;
                }
                Some(Err(e)) => match read_error(e) {
                    Some(e) => return Poll::Ready(Err(e)),
                    None => self.ended = true,
                },
                None => self.ended = true,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Waits for room for at least one byte, at most `wanted`.
    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(wanted);
        loop {
            let room = self.send.capacity();
            if room > 0 {
                return Poll::Ready(Ok(room.min(wanted)));
            }
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(e)) => return Poll::Ready(Err(write_error(e))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }
}

/// NO_ERROR and CANCEL are how peers end a stream early: an end, not an error (contract, 1.6).
fn read_error(e: h2::Error) -> Option<io::Error> {
    match e.reason() {
        Some(Reason::NO_ERROR | Reason::CANCEL) => None,
        Some(Reason::STREAM_CLOSED) => Some(io::Error::new(io::ErrorKind::BrokenPipe, e)),
        Some(_) => Some(io::Error::new(io::ErrorKind::ConnectionReset, e)),
        None if e.is_io() => Some(e.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())),
        None => Some(io::Error::new(io::ErrorKind::ConnectionReset, e)),
    }
}

fn write_error(e: h2::Error) -> io::Error {
    match e.reason() {
        Some(_) | None if e.is_io() => e.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()),
        Some(Reason::NO_ERROR | Reason::CANCEL | Reason::STREAM_CLOSED) => io::Error::new(io::ErrorKind::BrokenPipe, e),
        Some(_) | None => io::Error::new(io::ErrorKind::ConnectionReset, e),
    }
}

impl AsyncRead for TunnelIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_chunk(cx))?;
        let n = self.chunk.len().min(buf.remaining());
        buf.put_slice(&self.chunk[..n]);
        self.chunk.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let n = ready!(self.poll_room(cx, buf.len()))?;
        self.send.send_data(Bytes::copy_from_slice(&buf[..n]), false).map_err(write_error)?;
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let total: usize = bufs.iter().map(|b| b.len()).sum();
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        let n = ready!(self.poll_room(cx, total))?;
        // One frame for head and body together: a frame each would cost a syscall and a TLS record each.
        let mut frame = BytesMut::with_capacity(n);
        for buf in bufs {
            frame.extend_from_slice(&buf[..buf.len().min(n - frame.len())]);
        }
        self.send.send_data(frame.freeze(), false).map_err(write_error)?;
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A stream that is already reset cannot be ended again, and need not be.
        let _ = self.send.send_data(Bytes::new(), true);
        Poll::Ready(Ok(()))
    }
}

impl Pieces for TunnelIo {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Option<Poll<io::Result<Bytes>>> {
        Some(self.poll_chunk(cx).map_ok(|()| mem::take(&mut self.chunk)))
    }

    fn poll_write_piece(&mut self, cx: &mut Context<'_>, piece: &mut Bytes) -> Poll<io::Result<usize>> {
        if piece.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let n = ready!(self.poll_room(cx, piece.len()))?;
        self.send.send_data(piece.split_to(n), false).map_err(write_error)?;
        Poll::Ready(Ok(n))
    }
}

impl Cuttable for TunnelIo {
    /// With the code that RFC 9113, 8.5 asks for.
    fn break_off(&mut self) {
        self.reset(Reason::CONNECT_ERROR);
    }
}

impl fmt::Debug for TunnelIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelIo").field("stream", &self.send.stream_id()).finish_non_exhaustive()
    }
}
