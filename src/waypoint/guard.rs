//! A watch on the bytes of HTTP/1 requests, for what hyper lets pass: a request with both
//! Content-Length and Transfer-Encoding (RFC 9112, 6.1 calls it an attempt to smuggle), codings
//! other than one `chunked`, and a head that does not come to its end.
//!
//! The guard only ever refuses; it follows the bodies to know where heads begin. Where it loses
//! track it stands aside, and hyper's own handling (drop Content-Length, close afterwards) holds.

use super::interim::Interims;
use crate::transport::{Cuttable, copy::Pieces};
use bytes::{Buf as _, Bytes};
use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// Watches what is read from `io`; writes interim responses between what hyper writes.
#[derive(Debug)]
pub(super) struct Guard<IO> {
    io: IO,
    interims: Interims,
    // Interim responses that are partly written: nothing may come between.
    sending: Bytes,
    watch: Watch,
    head_timeout: Duration,
    slow: Option<Pin<Box<Sleep>>>,
    upgraded: Upgraded,
    // What is left to be read of `POISON`; then nothing more is read.
    poison: Option<&'static [u8]>,
}

/// Whether a request has been answered with 101: what follows is not HTTP.
#[derive(Debug, Clone, Default)]
pub(super) struct Upgraded(Arc<AtomicBool>);

impl Upgraded {
    /// Called before the answer is written.
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl<IO> Guard<IO> {
    /// Heads may be as long as `max_head` bytes and must be complete `head_timeout` after their
    /// first byte.
    pub(super) fn new(io: IO, max_head: usize, head_timeout: Duration, interims: Interims, upgraded: Upgraded) -> Self {
        let watch = Watch { state: State::Head, head: Vec::new(), max_head };
        Self { io, interims, sending: Bytes::new(), watch, head_timeout, slow: None, upgraded, poison: None }
    }
}

// What goes through it must be looked at.
impl<IO: AsyncRead + AsyncWrite + Unpin> Pieces for Guard<IO> {}

impl<IO: Cuttable> Cuttable for Guard<IO> {
    fn break_off(&mut self) {
        self.io.break_off();
    }
}

impl<IO: AsyncWrite + Unpin> Guard<IO> {
    fn poll_sending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.sending.is_empty() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.sending))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sending.advance(n);
        }
        Poll::Ready(Ok(()))
    }
}

/// What no parser takes for a part of a request head: hyper answers it with 400 and closes. It ends
/// like a head, because hyper looks at one that came in parts only when its end is there.
const POISON: &[u8] = b"\0\r\n\r\n";

impl<IO: AsyncRead + Unpin> AsyncRead for Guard<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.upgraded.is_set() {
            (this.watch.state, this.slow) = (State::Aside, None);
        }
        if let Some(slow) = &mut this.slow
            && slow.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "request head did not come in time")));
        }
        let before = buf.filled().len();
        if this.poison.is_none() {
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            if this.watch.observe(&buf.filled()[before..]).is_err() {
                buf.set_filled(before);
                this.watch.state = State::Aside;
                this.poison = Some(POISON);
            }
        }
        if let Some(poison) = &mut this.poison {
            let (now, later) = poison.split_at(poison.len().min(buf.remaining()));
            buf.put_slice(now);
            *poison = later;
        }
        if !this.watch.is_in_head() {
            this.slow = None;
        } else if this.slow.is_none() {
            let mut timer = Box::pin(sleep(this.head_timeout));
            // Polled once so that it wakes this task.
            let _ = timer.as_mut().poll(cx);
            this.slow = Some(timer);
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guard<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_sending(cx))?;
        Pin::new(&mut this.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_sending(cx))?;
        Pin::new(&mut this.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_sending(cx))?;
        // hyper has nothing of its own to write: see `interim.rs`.
        this.sending = this.interims.take();
        ready!(this.poll_sending(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[derive(Debug)]
struct Watch {
    state: State,
    // The part of a head that has come so far.
    head: Vec<u8>,
    max_head: usize,
}

/// Where in the stream of requests the next byte stands.
///
/// ```text
/// Head -> Body -> Head        content-length
/// Head -> Size -> Data -> Size ... -> Trailers -> Head        chunked
/// any  -> Aside               after a 101, and whatever is not understood
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Body(u64),
    /// In a chunk's size line: value so far, and whether the digits are over.
    Size {
        size: u64,
        digits_over: bool,
    },
    /// In a chunk's data, with its closing CRLF.
    Data(u64),
    /// In the trailers; whether the line has anything in it yet.
    Trailers {
        line_is_empty: bool,
    },
    Aside,
}

/// Both Content-Length and Transfer-Encoding, or a coding that would be lost on the way.
#[derive(Debug)]
struct Ambiguous;

impl Watch {
    fn is_in_head(&self) -> bool {
        self.state == State::Head && !self.head.is_empty()
    }

    fn observe(&mut self, mut bytes: &[u8]) -> Result<(), Ambiguous> {
        while !bytes.is_empty() {
            let used = match self.state {
                State::Head => self.in_head(bytes)?,
                State::Body(left) => self.in_data(left, bytes, State::Body, State::Head),
                State::Size { size, digits_over } => self.in_size(size, digits_over, bytes),
                State::Data(left) => self.in_data(left, bytes, State::Data, State::Size { size: 0, digits_over: false }),
                State::Trailers { line_is_empty } => self.in_trailers(line_is_empty, bytes[0]),
                State::Aside => return Ok(()),
            };
            bytes = &bytes[used..];
        }
        Ok(())
    }

    fn in_head(&mut self, bytes: &[u8]) -> Result<usize, Ambiguous> {
        if self.head.is_empty() {
            // Empty lines before a request are allowed (RFC 9112, 2.2).
            if matches!(bytes[0], b'\r' | b'\n') {
                return Ok(1);
            }
            // The usual case: a whole head in one read, looked at where it lies.
            if let Some(end) = head_end(bytes, 0) {
                self.state = judge_head(&bytes[..end])?;
                return Ok(end);
            }
        }
        let from = self.head.len().saturating_sub(3);
        self.head.extend_from_slice(bytes);
        if let Some(end) = head_end(&self.head, from) {
            let used = bytes.len() - (self.head.len() - end);
            self.head.truncate(end);
            let head = std::mem::take(&mut self.head);
            self.state = judge_head(&head)?;
            return Ok(used);
        }
        if self.head.len() > self.max_head {
            // hyper refuses it with 431.
            self.head = Vec::new();
            self.state = State::Aside;
        }
        Ok(bytes.len())
    }

    fn in_data(&mut self, left: u64, bytes: &[u8], same: fn(u64) -> State, next: State) -> usize {
        let used = (bytes.len() as u64).min(left);
        self.state = if used == left { next } else { same(left - used) };
        used as usize
    }

    fn in_size(&mut self, size: u64, digits_over: bool, bytes: &[u8]) -> usize {
        let byte = bytes[0];
        let digit = char::from(byte).to_digit(16).filter(|_| !digits_over);
        self.state = match (digit, byte) {
            (Some(digit), _) => match size.checked_mul(16).and_then(|s| s.checked_add(u64::from(digit))) {
                Some(size) => State::Size { size, digits_over },
                None => State::Aside,
            },
            (None, b'\n') if size == 0 => State::Trailers { line_is_empty: true },
            (None, b'\n') => State::Data(size.saturating_add(2)),
            (None, _) => State::Size { size, digits_over: true },
        };
        1
    }

    fn in_trailers(&mut self, line_is_empty: bool, byte: u8) -> usize {
        self.state = match byte {
            b'\n' if line_is_empty => State::Head,
            b'\n' => State::Trailers { line_is_empty: true },
            b'\r' => State::Trailers { line_is_empty },
            _ => State::Trailers { line_is_empty: false },
        };
        1
    }
}

/// The end of a head: an empty line, with CRLF or, as parsers allow, with LF alone.
fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(lf) = bytes[at..].iter().position(|b| *b == b'\n').map(|n| n + at) {
        match bytes.get(lf + 1..) {
            Some([b'\n', ..]) => return Some(lf + 2),
            Some([b'\r', b'\n', ..]) => return Some(lf + 3),
            _ => at = lf + 1,
        }
    }
    None
}

/// What follows a head.
fn judge_head(head: &[u8]) -> Result<State, Ambiguous> {
    let (mut length, mut is_encoded, mut has_length) = (0, false, false);
    for line in head.split(|b| *b == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            has_length = true;
            length = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok()).unwrap_or(0);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            // Only `chunked` is undone here, and a second one would be part of the body (RFC 9112, 6.1).
            if is_encoded || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Ambiguous);
            }
            is_encoded = true;
        }
    }
    match (has_length, is_encoded) {
        (true, true) => Err(Ambiguous),
        (_, true) => Ok(State::Size { size: 0, digits_over: false }),
        (true, false) if length > 0 => Ok(State::Body(length)),
        (_, false) => Ok(State::Head),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state_after(bytes: &[u8], step: usize) -> Option<State> {
        let mut watch = Watch { state: State::Head, head: Vec::new(), max_head: 1024 };
        for part in bytes.chunks(step) {
            watch.observe(part).ok()?;
        }
        Some(watch.state)
    }

    const BOTH: &str = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n";

    #[test]
    fn ambiguous_framing_is_found_wherever_it_stands() {
        let before = [
            "",
            "\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc\r\n",
            "POST / HTTP/1.1\r\nTRANSFER-ENCODING: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
        ];
        for prefix in before {
            for step in [1, 2, 3, 7, 4096] {
                let bytes = format!("{prefix}{BOTH}");
                assert_eq!(state_after(bytes.as_bytes(), step), None, "{prefix:?} in steps of {step}");
                assert_eq!(state_after(prefix.as_bytes(), step), Some(State::Head), "{prefix:?} in steps of {step}");
            }
        }
        let spelled = "POST / HTTP/1.1\r\ncontent-length : 4\r\ntransfer-encoding\t: chunked\r\n\r\n";
        assert_eq!(state_after(spelled.as_bytes(), 4096), None);
    }

    #[test]
    fn bodies_that_look_like_heads_are_not_taken_for_them() {
        let inner = BOTH.len();
        let bytes = format!("POST / HTTP/1.1\r\nContent-Length: {inner}\r\n\r\n{BOTH}GET / HTTP/1.1\r\n\r\n");
        for step in [1, 5, 4096] {
            assert_eq!(state_after(bytes.as_bytes(), step), Some(State::Head));
        }
    }

    #[test]
    fn what_is_not_understood_is_left_to_the_parser() {
        let bytes = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n";
        assert_eq!(state_after(bytes.as_bytes(), 4096), Some(State::Aside));
        assert_eq!(state_after(&[b'a'; 2000], 100), Some(State::Aside), "a head beyond the limit is hyper's to refuse");
    }
}
