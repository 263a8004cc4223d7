//! Reads a socket in large pieces.
//!
//! rustls asks its transport for 4 KiB at a time, and each such read of a socket is a system call.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, ReadBuf};

/// What is read at a time.
const SIZE: usize = 16 << 10;
/// Buffers that a thread keeps for its connections to share.
const SPARES: usize = 8;

thread_local! {
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

fn borrow() -> Box<[u8]> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; SIZE].into_boxed_slice())
}

fn give_back(buffer: Box<[u8]>) {
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < SPARES {
            spare.push(buffer);
        }
    });
}

/// Reads ahead of whoever reads from it, up to 16 KiB. It holds a buffer only while bytes are left
/// in it: an idle connection has none. Writes go straight through.
#[derive(Debug)]
pub struct ReadAhead<IO> {
    io: IO,
    buffer: Option<Box<[u8]>>,
    // Of what the buffer holds: where the unread part begins and ends.
    at: usize,
    end: usize,
}

impl<IO> ReadAhead<IO> {
    /// Nothing is read before the first read.
    pub fn new(io: IO) -> Self {
        Self { io, buffer: None, at: 0, end: 0 }
    }

    /// The stream inside.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ReadAhead<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.buffer.is_none() {
            if buf.remaining() >= SIZE {
                return Pin::new(&mut this.io).poll_read(cx, buf);
            }
            let mut buffer = borrow();
            let mut read = ReadBuf::new(&mut buffer);
            let polled = Pin::new(&mut this.io).poll_read(cx, &mut read);
            let length = read.filled().len();
            if !matches!(polled, Poll::Ready(Ok(()))) || length == 0 {
                give_back(buffer);
                return polled;
            }
            (this.buffer, this.at, this.end) = (Some(buffer), 0, length);
        }
        if let Some(buffer) = &this.buffer {
            let n = buf.remaining().min(this.end - this.at);
            buf.put_slice(&buffer[this.at..this.at + n]);
            this.at += n;
        }
        if this.at == this.end
            && let Some(buffer) = this.buffer.take()
        {
            give_back(buffer);
        }
        Poll::Ready(Ok(()))
    }
}

super::write_through!(ReadAhead);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn small_reads_get_everything_and_leave_no_buffer_behind() {
        for (length, step) in [(0, 1), (1, 1), (10, 3), (SIZE, 4096), (SIZE + 1, 4096), (3 * SIZE + 5, 1000), (SIZE, SIZE), (10, 2 * SIZE)]
        {
            let (mut far, near) = tokio::io::duplex(2 * SIZE);
            let sent: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let expected = sent.clone();
            tokio::spawn(async move {
                far.write_all(&sent).await.unwrap();
            });
            let mut io = ReadAhead::new(near);
            let (mut got, mut part) = (Vec::new(), vec![0; step]);
            loop {
                match io.read(&mut part).await.unwrap() {
                    0 => break,
                    n => got.extend_from_slice(&part[..n]),
                }
            }
            assert!(got == expected, "{length} bytes in steps of {step}");
            assert!(io.buffer.is_none());
        }
    }

    #[tokio::test]
    async fn a_connection_without_anything_to_read_holds_no_buffer() {
        let (mut far, near) = tokio::io::duplex(100);
        let mut io = ReadAhead::new(near);
        let mut part = [0; 4];
        tokio::select! {
            biased;
            _ = io.read(&mut part) => panic!("there is nothing to read"),
            () = std::future::ready(()) => {}
        }
        assert!(io.buffer.is_none());
        far.write_all(b"abcdef").await.unwrap();
        io.read_exact(&mut part).await.unwrap();
        assert!(io.buffer.is_some());
        io.read_exact(&mut part[..2]).await.unwrap();
        assert_eq!((&part, io.buffer.is_none()), (b"efcd", true));
    }
}
