//! Many small writes made one.
//!
//! An HTTP/2 codec flushes its stream after every DATA frame, and over TLS each flush is a record and
//! a system call of its own. What is written here waits until whoever drives the connection has no
//! more to say for now, and then leaves in one piece.

use std::{
    future::{Future, poll_fn},
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that wait at most. Four TLS records; beyond it a system call saves nothing more.
const MAX_WAITING: usize = 64 << 10;
/// A single write as long as this gains nothing from waiting and is not copied.
const LARGE: usize = 16 << 10;
/// Bytes read in one step. Whoever the bytes are for comes to them while they are in the cache, and
/// one busy connection does not keep the others of its thread waiting.
const MAX_STEP: usize = 128 << 10;
/// What an idle connection may keep for its next batch.
const KEPT: usize = 16 << 10;

/// Splits `io` into the stream for a codec, whose flushes do nothing yet, and the [`Flusher`] for
/// the task that drives the codec.
pub fn gather<IO>(io: IO) -> (Gathered<IO>, Flusher<IO>) {
    let state = Arc::new(Mutex::new(State { io, waiting: Vec::new(), sent: 0, is_dirty: false, step: MAX_STEP, failed: None }));
    (Gathered(state.clone()), Flusher(state))
}

/// A stream whose writes wait for its [`Flusher`]; see [`gather`].
#[derive(Debug)]
pub struct Gathered<IO>(Arc<Mutex<State<IO>>>);

/// Sends what waits in a [`Gathered`].
#[derive(Debug)]
pub struct Flusher<IO>(Arc<Mutex<State<IO>>>);

#[derive(Debug)]
struct State<IO> {
    io: IO,
    waiting: Vec<u8>,
    // How much of `waiting` is on its way.
    sent: usize,
    // Whether anything was written since the last whole flush.
    is_dirty: bool,
    // What may still be read in this step.
    step: usize,
    // Of a flush, for the codec to meet at its next step.
    failed: Option<io::Error>,
}

// Only one task uses both halves, one after the other: the lock is never waited for.
fn lock<IO>(state: &Mutex<State<IO>>) -> MutexGuard<'_, State<IO>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<IO: AsyncWrite + Unpin> Flusher<IO> {
    /// A future of the codec, with what it has written sent after each of its steps. Cancel safe if
    /// the future is.
    pub async fn drive<F: Future>(&self, codec: F) -> F::Output {
        let mut codec = pin!(codec);
        poll_fn(|cx| {
            lock(&self.0).step = MAX_STEP;
            let polled = codec.as_mut().poll(cx);
            self.flush(cx);
            polled
        })
        .await
    }

    /// Sends what waits. To be called after each poll of the codec, by the same task: what cannot be
    /// sent now wakes it again. An error is handed to the codec, which is polled once more for it.
    fn flush(&self, cx: &mut Context<'_>) {
        let mut state = lock(&self.0);
        if let Poll::Ready(Err(error)) = state.poll_flush(cx) {
            state.failed = Some(error);
            cx.waker().wake_by_ref();
        }
    }
}

impl<IO: AsyncWrite + Unpin> State<IO> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.waiting.len() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.waiting[self.sent..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += n;
        }
        self.sent = 0;
        self.waiting.clear();
        self.waiting.shrink_to(KEPT);
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_dirty {
            ready!(self.poll_drain(cx))?;
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.is_dirty = false;
        }
        Poll::Ready(Ok(()))
    }

    fn take_failure(&mut self) -> io::Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Waits for room; true when a write of `length` bytes should go straight through.
    fn poll_room(&mut self, cx: &mut Context<'_>, length: usize) -> Poll<io::Result<bool>> {
        self.take_failure()?;
        let is_large = length >= LARGE;
        if !self.waiting.is_empty() && (is_large || self.waiting.len() + length > MAX_WAITING) {
            ready!(self.poll_drain(cx))?;
        }
        self.is_dirty = true;
        Poll::Ready(Ok(is_large))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Gathered<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0);
        if state.step == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut state.io).poll_read(cx, buf);
        let length = buf.filled().len() - before;
        // What a peer has sent before it went away is read first, though nothing can be written any more.
        if length == 0
            && let Some(error) = state.failed.take()
        {
            return Poll::Ready(Err(error));
        }
        state.step = state.step.saturating_sub(length);
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Gathered<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.0);
        if ready!(state.poll_room(cx, buf.len()))? {
            return Pin::new(&mut state.io).poll_write(cx, buf);
        }
        state.waiting.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.0);
        let length = bufs.iter().map(|b| b.len()).sum();
        if ready!(state.poll_room(cx, length))? {
            return Pin::new(&mut state.io).poll_write_vectored(cx, bufs);
        }
        bufs.iter().for_each(|buf| state.waiting.extend_from_slice(buf));
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing: the [`Flusher`] does.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(lock(&self.0).take_failure())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0);
        state.take_failure()?;
        ready!(state.poll_flush(cx))?;
        Pin::new(&mut state.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Counts the writes that reach it.
    #[derive(Debug, Default)]
    struct Sink {
        writes: Vec<usize>,
        is_blocked: bool,
        is_broken: bool,
    }

    impl AsyncRead for Sink {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Sink {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            if self.is_broken {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if self.is_blocked {
                return Poll::Pending;
            }
            self.writes.push(buf.len());
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    async fn flush<IO: AsyncWrite + Unpin>(flusher: &Flusher<IO>) {
        flusher.drive(std::future::ready(())).await;
    }

    #[tokio::test]
    async fn what_is_written_leaves_in_order_and_in_few_pieces() {
        const SMALL: usize = LARGE - 1;
        // What is written, flushed after each write; the writes that reach the socket.
        let cases: [(&[usize], &[usize]); 6] = [
            (&[1], &[1]),
            (&[100, 1000, 10], &[1110]),
            (&[SMALL, SMALL, SMALL, SMALL, SMALL], &[4 * SMALL, SMALL]),
            (&[100, LARGE, 5], &[100, LARGE, 5]),
            (&[SMALL, SMALL, SMALL, SMALL, 4, 1], &[MAX_WAITING, 1]),
            (&[], &[]),
        ];
        for (written, expected) in cases {
            let (mut io, flusher) = gather(Sink::default());
            for length in written {
                io.write_all(&vec![7; *length]).await.unwrap();
                io.flush().await.unwrap();
            }
            flush(&flusher).await;
            flush(&flusher).await;
            assert_eq!(lock(&flusher.0).io.writes, expected, "{written:?}");
            assert!(lock(&flusher.0).waiting.capacity() <= KEPT.max(MAX_WAITING / 4));
        }
    }

    #[tokio::test]
    async fn the_far_side_reads_what_was_written() {
        let (near, mut far) = tokio::io::duplex(1000);
        let (mut io, flusher) = gather(near);
        let sent: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        let expected = sent.clone();
        let reader = tokio::spawn(async move {
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            got
        });
        for (n, part) in sent.chunks(777).enumerate() {
            io.write_all(part).await.unwrap();
            if n % 5 == 0 {
                flush(&flusher).await;
            }
        }
        io.shutdown().await.unwrap();
        drop((io, flusher));
        assert!(reader.await.unwrap() == expected);
    }

    #[tokio::test]
    async fn a_blocked_socket_holds_the_writer_back() {
        let (mut io, flusher) = gather(Sink { is_blocked: true, ..Sink::default() });
        let mut written = 0;
        let full = poll_fn(|cx| {
            while let Poll::Ready(n) = Pin::new(&mut io).poll_write(cx, &[0; 1000]) {
                written += n.unwrap();
                flusher.flush(cx);
            }
            Poll::Ready(written)
        });
        assert!((MAX_WAITING - 1000..=MAX_WAITING).contains(&full.await));
    }

    #[tokio::test]
    async fn what_has_arrived_is_read_before_an_error_of_a_flush_is_met() {
        let (near, mut far) = tokio::io::duplex(100);
        far.write_all(b"last words").await.unwrap();
        let (mut io, flusher) = gather(near);
        lock(&flusher.0).failed = Some(io::ErrorKind::BrokenPipe.into());
        let mut words = [0; 10];
        io.read_exact(&mut words).await.unwrap();
        assert_eq!(&words, b"last words");
        assert_eq!(io.read_u8().await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn an_error_of_a_flush_reaches_the_codec_once() {
        let (mut io, flusher) = gather(Sink { is_broken: true, ..Sink::default() });
        io.write_all(b"x").await.unwrap();
        flush(&flusher).await;
        assert_eq!(io.read_u8().await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        flush(&flusher).await;
        assert_eq!(io.write_all(b"y").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
