//! A stream whose first bytes were read already, to find out what is spoken on it.

use super::copy::Pieces;
use bytes::{Buf, Bytes};
use std::{
    io, mem,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, ReadBuf};

/// Gives back `prefix` first, then what `io` reads. Writes go straight through.
#[derive(Debug)]
pub struct Rewind<IO> {
    prefix: Bytes,
    io: IO,
}

impl<IO> Rewind<IO> {
    /// `prefix`: bytes that were read from `io`.
    pub fn new(prefix: Bytes, io: IO) -> Self {
        Self { prefix, io }
    }

    /// The bytes that were not read again, and the stream.
    pub fn into_parts(self) -> (Bytes, IO) {
        (self.prefix, self.io)
    }

    /// The stream inside.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// The same, to be changed; reading from it leaves the bytes out that come first.
    pub fn get_mut(&mut self) -> &mut IO {
        &mut self.io
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Rewind<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.prefix.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let n = this.prefix.len().min(buf.remaining());
        buf.put_slice(&this.prefix[..n]);
        this.prefix.advance(n);
        if this.prefix.is_empty() {
            // Lets go of the memory behind it.
            this.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: Pieces> Pieces for Rewind<IO> {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Option<Poll<io::Result<Bytes>>> {
        match self.prefix.is_empty() {
            true => self.io.poll_piece(cx),
            false => Some(Poll::Ready(Ok(mem::take(&mut self.prefix)))),
        }
    }

    fn poll_write_piece(&mut self, cx: &mut Context<'_>, piece: &mut Bytes) -> Poll<io::Result<usize>> {
        self.io.poll_write_piece(cx, piece)
    }
}

super::write_through!(Rewind);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn the_prefix_comes_first_and_only_once() {
        let (mut far, near) = tokio::io::duplex(64);
        far.write_all(b" world").await.unwrap();
        far.shutdown().await.unwrap();
        let mut rewind = Rewind::new(Bytes::from_static(b"hello"), near);
        let mut start = [0; 3];
        rewind.read_exact(&mut start).await.unwrap();
        let mut rest = String::new();
        rewind.read_to_string(&mut rest).await.unwrap();
        assert_eq!((&start[..], rest.as_str()), (&b"hel"[..], "lo world"));
        rewind.write_all(b"back").await.unwrap();
        let mut back = [0; 4];
        far.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"back");
    }
}
