//! What is spoken inside a tunnel: by declaration, else by the first bytes.

use crate::{hbone::TunnelIo, model::AppProtocol, runtime::DrainWatch, transport::Rewind};
use bytes::BytesMut;
use std::{io, time::Duration};
use tokio::io::AsyncReadExt as _;

/// RFC 9113, 3.4
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A request line longer than this is not waited for: what came so far decides.
const MAX_LINE: usize = 8 << 10;
/// A ClientHello longer than this is not looked into.
const MAX_HELLO: usize = 16 << 10;
/// Methods that tell HTTP from other text protocols when their line is not complete yet.
const METHODS: [&[u8]; 9] = [b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"PATCH ", b"OPTIONS ", b"TRACE ", b"CONNECT "];

/// What a client speaks, with its first bytes given back.
#[derive(Debug)]
pub(super) enum Spoken {
    /// HTTP/1.
    Http1(Rewind<TunnelIo>),
    /// HTTP/2 with prior knowledge.
    Http2(Rewind<TunnelIo>),
    /// Anything else, with the server name if it is TLS.
    Opaque(Rewind<TunnelIo>, Option<String>),
}

/// Looks at the first bytes as far as the declared protocol leaves it open.
///
/// On a port that declares HTTP the client's first bytes are waited for as long as it takes; on one
/// that declares nothing, or TLS, only for `limit`: in some protocols the server speaks first.
///
/// # Errors
/// When the client ends or breaks off before it is clear, or has said nothing when the drain begins.
pub(super) async fn sniff(mut io: TunnelIo, declared: AppProtocol, limit: Duration, drain: &DrainWatch) -> io::Result<Spoken> {
    let mut read = BytesMut::new();
    let judge = |read: &[u8]| if declared.is_http() { judge_http(read) } else { judge(read) };
    let deadline = tokio::time::sleep(limit);
    tokio::pin!(deadline);
    let verdict = loop {
        if let Some(verdict) = judge(&read) {
            break verdict;
        }
        tokio::select! {
            n = io.read_buf(&mut read) => if n? == 0 {
                break judge_partial(&read);
            },
            () = &mut deadline, if !declared.is_http() => break judge_partial(&read),
            // A connection kept in reserve is no request in flight.
            () = drain.signaled(), if declared.is_http() && read.is_empty() => return Err(io::Error::other("draining")),
        }
    };
    let sni = if verdict == Verdict::Opaque { server_name(&read) } else { None };
    let io = Rewind::new(read.freeze(), io);
    Ok(match verdict {
        Verdict::Http1 => Spoken::Http1(io),
        Verdict::Http2 => Spoken::Http2(io),
        Verdict::Opaque => Spoken::Opaque(io, sni),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Http1,
    Http2,
    Opaque,
}

/// On a port that is HTTP: only the version is open.
fn judge_http(read: &[u8]) -> Option<Verdict> {
    let n = read.len().min(PREFACE.len());
    match read {
        [] => None,
        _ if read[..n] != PREFACE[..n] => Some(Verdict::Http1),
        _ => (n == PREFACE.len()).then_some(Verdict::Http2),
    }
}

/// On any other port; `None`: more bytes are needed.
fn judge(read: &[u8]) -> Option<Verdict> {
    let first = *read.first()?;
    let n = read.len().min(PREFACE.len());
    if read[..n] == PREFACE[..n] {
        return (n == PREFACE.len()).then_some(Verdict::Http2);
    }
    if first == 0x16 {
        return is_hello_complete(read).then_some(Verdict::Opaque);
    }
    let method = read.iter().take_while(|b| is_token(**b)).count();
    if method == 0 || (method < read.len() && read[method] != b' ') {
        return Some(Verdict::Opaque);
    }
    match read.iter().position(|b| *b == b'\n') {
        Some(end) => Some(if is_request_line(&read[..end]) { Verdict::Http1 } else { Verdict::Opaque }),
        None if read.len() >= MAX_LINE => Some(judge_partial(read)),
        None => None,
    }
}

/// No more is to come, or not in time.
fn judge_partial(read: &[u8]) -> Verdict {
    if METHODS.iter().any(|m| read.starts_with(m)) { Verdict::Http1 } else { Verdict::Opaque }
}

fn is_request_line(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0")
}

/// RFC 9110, 5.6.2
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

fn is_hello_complete(read: &[u8]) -> bool {
    // Record header: type, version, length (RFC 8446, 5.1). A hello over several records is not looked into.
    let Some(length) = read.get(3..5) else { return false };
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    read.len() >= (5 + length).min(MAX_HELLO)
}

/// The server name in a ClientHello. The library that terminates TLS elsewhere reads it, so that
/// there is one reading of it.
fn server_name(mut read: &[u8]) -> Option<String> {
    if read.first() != Some(&0x16) {
        return None;
    }
    let mut acceptor = rustls::server::Acceptor::default();
    acceptor.read_tls(&mut read).ok()?;
    let accepted = acceptor.accept().ok()??;
    accepted.client_hello().server_name().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_the_protocol() {
        use Verdict::{Http1, Http2, Opaque};
        let rows: [(&[u8], Option<Verdict>); 14] = [
            (b"", None),
            (b"GET / HTTP/1.1\r\n", Some(Http1)),
            (b"BREW /pot HTTP/1.0\n", Some(Http1)),
            (b"GET / HT", None),
            (PREFACE, Some(Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nSM", None),
            (b"PRI * HTTP/1.1\r\n", Some(Http1)),
            (b"EHLO example.org\r\n", Some(Opaque)),
            (b"GET /\r\n", Some(Opaque)),
            (b"\x00\x01", Some(Opaque)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Opaque)),
            (b"\x16\x03\x01\x00\x05hello", Some(Opaque)),
            (b"\x16\x03\x01\x00\x05he", None),
            (b"SSH-2.0-x\r\n", Some(Opaque)),
        ];
        for (bytes, want) in rows {
            assert_eq!(judge(bytes), want, "{:?}", bytes);
        }
        assert_eq!(judge_partial(b"POST /slow"), Http1);
        assert_eq!(judge_partial(b"USER"), Opaque);
        assert_eq!(judge(&[b'A'; MAX_LINE]), Some(Opaque));
    }
}
