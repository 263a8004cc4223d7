//! HTTP/1.1 with as little as possible around it, for both ends: what generator and workload cost is
//! missing to the proxy, which shares the cores with them.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// A connection.
#[derive(Debug)]
pub struct Wire<IO> {
    io: IO,
    buffer: Box<[u8]>,
    /// The bytes of the buffer that were read and not used.
    filled: std::ops::Range<usize>,
}

/// What the benches look at in a head.
#[derive(Debug, Default)]
pub struct Head {
    pub status: u16,
    pub is_large: bool,
    pub length: u64,
    /// `x-bench-version`.
    pub version: usize,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Wire<IO> {
    pub fn new(io: IO) -> Self {
        Self { io, buffer: vec![0; 64 << 10].into(), filled: 0..0 }
    }

    /// What was read but not used, and the stream.
    pub fn into_parts(self) -> (Vec<u8>, IO) {
        (self.buffer[self.filled].to_vec(), self.io)
    }

    /// Ends the stream as a ztunnel does for a client that closes: says so, and waits for the other end.
    pub async fn close(mut self) {
        if self.io.shutdown().await.is_ok() {
            while self.peek().await.is_some() {
                self.filled = 0..0;
            }
        }
    }

    pub async fn write(&mut self, bytes: &[u8]) -> Option<()> {
        self.io.write_all(bytes).await.ok()
    }

    /// Reads until there is something; `None` at the end.
    pub async fn peek(&mut self) -> Option<&[u8]> {
        if self.filled.is_empty() {
            self.filled = 0..0;
            self.more().await?;
        }
        Some(&self.buffer[self.filled.clone()])
    }

    async fn more(&mut self) -> Option<()> {
        let read = self.io.read(&mut self.buffer[self.filled.end..]).await.ok()?;
        self.filled.end += read;
        (read > 0).then_some(())
    }

    /// Reads the head of a request.
    pub async fn request(&mut self) -> Option<Head> {
        self.head(|bytes| {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut request = httparse::Request::new(&mut headers);
            let httparse::Status::Complete(size) = request.parse(bytes).ok()? else { return Some(None) };
            let is_large = request.path == Some("/1m");
            Some(Some((size, Head { is_large, ..of(request.headers)? })))
        })
        .await
    }

    /// Reads the head of an answer.
    pub async fn response(&mut self) -> Option<Head> {
        self.head(|bytes| {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut response = httparse::Response::new(&mut headers);
            let httparse::Status::Complete(size) = response.parse(bytes).ok()? else { return Some(None) };
            let status = response.code?;
            Some(Some((size, Head { status, ..of(response.headers)? })))
        })
        .await
    }

    async fn head(&mut self, parse: impl Fn(&[u8]) -> Option<Option<(usize, Head)>>) -> Option<Head> {
        loop {
            // A part of a head is parsed again with what follows.
            if let Some((size, head)) = parse(self.peek().await?)? {
                self.filled.start += size;
                return Some(head);
            }
            self.buffer.copy_within(self.filled.clone(), 0);
            self.filled = 0..self.filled.len();
            self.more().await?;
        }
    }

    /// Reads a body of this length and forgets it.
    pub async fn skip(&mut self, mut length: u64) -> Option<()> {
        while length > 0 {
            let there = (self.peek().await?.len() as u64).min(length);
            self.filled.start += there as usize;
            length -= there;
        }
        Some(())
    }
}

/// `None` for a body without a length, which nobody here sends.
fn of(headers: &[httparse::Header<'_>]) -> Option<Head> {
    let mut head = Head::default();
    for header in headers {
        let number = || std::str::from_utf8(header.value).ok()?.parse().ok();
        if header.name.eq_ignore_ascii_case("content-length") {
            head.length = number()?;
        } else if header.name.eq_ignore_ascii_case("x-bench-version") {
            head.version = number()? as usize;
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return None;
        }
    }
    Some(head)
}
