//! Bytes as they lie in memory, handed on without a copy.

use bytes::{Buf as _, Bytes};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_util::either::Either;

/// A stream that may give and take bytes in pieces that are shared, not copied.
pub trait Pieces: AsyncRead + AsyncWrite + Unpin {
    /// The next piece, empty at the end; `None` when there is none to be had and the stream must be
    /// read into a buffer. Cancel safe.
    ///
    /// # Errors
    /// Those of reading.
    fn poll_piece(&mut self, _: &mut Context<'_>) -> Option<Poll<io::Result<Bytes>>> {
        None
    }

    /// Writes as much of a piece as is possible now and takes that off its front.
    ///
    /// # Errors
    /// Those of writing.
    fn poll_write_piece(&mut self, cx: &mut Context<'_>, piece: &mut Bytes) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(self).poll_write(cx, piece))?;
        piece.advance(n);
        Poll::Ready(Ok(n))
    }
}

impl Pieces for TcpStream {}

impl<L: Pieces, R: Pieces> Pieces for Either<L, R> {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Option<Poll<io::Result<Bytes>>> {
        match self {
            Self::Left(io) => io.poll_piece(cx),
            Self::Right(io) => io.poll_piece(cx),
        }
    }

    fn poll_write_piece(&mut self, cx: &mut Context<'_>, piece: &mut Bytes) -> Poll<io::Result<usize>> {
        match self {
            Self::Left(io) => io.poll_write_piece(cx, piece),
            Self::Right(io) => io.poll_write_piece(cx, piece),
        }
    }
}
