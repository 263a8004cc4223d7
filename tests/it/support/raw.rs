//! Bytes as they are on the wire, for what a well-behaved client or application would not do.

use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// A connection and what was read from it so far.
#[derive(Debug)]
pub struct Raw<IO> {
    io: IO,
    read: Vec<u8>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Raw<IO> {
    /// Nothing is read yet.
    pub fn new(io: IO) -> Self {
        Self { io, read: Vec::new() }
    }

    /// Writes all of it.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.io.write_all(bytes.as_ref()).await.expect("the other side reads");
        self.io.flush().await.expect("the other side reads");
    }

    /// Reads until `needle` has come and returns everything up to its end; `None` when the
    /// connection ends before.
    pub async fn find(&mut self, needle: &str) -> Option<String> {
        super::soon(needle, async {
            loop {
                if let Some(at) = self.read.windows(needle.len()).position(|w| w == needle.as_bytes()) {
                    let rest = self.read.split_off(at + needle.len());
                    let found = std::mem::replace(&mut self.read, rest);
                    return Some(String::from_utf8_lossy(&found).into_owned());
                }
                if self.io.read_buf(&mut self.read).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        })
        .await
    }

    /// Like [`Raw::find`], for what must come.
    pub async fn until(&mut self, needle: &str) -> String {
        match self.find(needle).await {
            Some(found) => found,
            None => panic!("ended before {needle:?}: {:?}", String::from_utf8_lossy(&self.read)),
        }
    }

    /// A request's or response's head.
    pub async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// Whether nothing comes within a short time. What was read stays.
    pub async fn is_silent(&mut self) -> bool {
        self.read.is_empty() && tokio::time::timeout(Duration::from_millis(150), self.io.read_buf(&mut self.read)).await.is_err()
    }

    /// The rest, until the other side is done.
    pub async fn rest(&mut self) -> String {
        let _ = super::soon("the end", self.io.read_to_end(&mut self.read)).await;
        String::from_utf8_lossy(&std::mem::take(&mut self.read)).into_owned()
    }

    /// How the other side ends; what it still says is lost.
    pub async fn end(&mut self) -> std::io::Result<()> {
        super::soon("the end", tokio::io::copy(&mut self.io, &mut tokio::io::sink())).await.map(|_| ())
    }

    /// Says that no more is sent.
    pub async fn shutdown(&mut self) {
        let _ = self.io.shutdown().await;
    }
}
