//! What is spoken inside a tunnel: by declaration, else by the first bytes.

use super::Config;
use crate::{hbone::TunnelIo, model::AppProtocol, runtime::DrainWatch, transport::Rewind};
use bytes::BytesMut;
use std::io;
use tokio::{io::AsyncReadExt as _, time::Instant};

/// RFC 9113, 3.4
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A request line longer than this is not waited for: what came so far decides.
const MAX_LINE: usize = 8 << 10;
/// A ClientHello longer than this is not waited for.
const MAX_HELLO: usize = 64 << 10;
/// Methods that tell HTTP from other text protocols when their line is not complete yet.
const METHODS: [&[u8]; 9] = [b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"PATCH ", b"OPTIONS ", b"TRACE ", b"CONNECT "];

/// What a client speaks, with its first bytes given back.
#[derive(Debug)]
pub(super) enum Spoken {
    /// HTTP/1.
    Http1(Rewind<TunnelIo>),
    /// HTTP/2 with prior knowledge.
    Http2(Rewind<TunnelIo>),
    /// Anything else, with the server name that its TLS asks for: empty when it asks for none or is
    /// no TLS, `None` when that cannot be told.
    Opaque(Rewind<TunnelIo>, Option<String>),
}

/// Looks at the first bytes as far as the declared protocol leaves it open.
///
/// On a port that declares HTTP the client's first byte is waited for as long as it takes, and what
/// must follow for the time a request head may take; on one that declares nothing, or TLS, only for
/// the time given for sniffing: in some protocols the server speaks first.
///
/// # Errors
/// When the client ends or breaks off before it is clear, or has said nothing when the drain begins.
pub(super) async fn sniff(mut io: TunnelIo, declared: AppProtocol, config: &Config, drain: &DrainWatch) -> io::Result<Spoken> {
    let mut read = BytesMut::new();
    let limit = if declared.is_http() { config.request_head_timeout } else { config.sniff_timeout };
    let judge = |read: &[u8]| if declared.is_http() { judge_http(read) } else { judge(read) };
    let deadline = tokio::time::sleep(limit);
    tokio::pin!(deadline);
    let verdict = loop {
        if let Some(verdict) = judge(&read) {
            break verdict;
        }
        tokio::select! {
            n = io.read_buf(&mut read) => {
                let was_silent = read.len() == *n.as_ref().unwrap_or(&0);
                if n? == 0 {
                    break judge_partial(&read);
                }
                if declared.is_http() && was_silent {
                    deadline.as_mut().reset(Instant::now() + limit);
                }
            }
            () = &mut deadline, if !declared.is_http() || !read.is_empty() => {
                if declared.is_http() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                break judge_partial(&read);
            }
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
    if first == HANDSHAKE {
        return (read.len() >= MAX_HELLO || !matches!(hello(read), Hello::Incomplete)).then_some(Verdict::Opaque);
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

/// The first byte of TLS, a handshake record (RFC 8446, 5.1).
const HANDSHAKE: u8 = 0x16;

/// A ClientHello, as far as it has come.
#[derive(Debug, PartialEq, Eq)]
enum Hello {
    Incomplete,
    Unreadable,
    /// The server name; empty when there is none.
    Name(String),
}

/// Reads a ClientHello, over as many records as it takes. The library that terminates TLS elsewhere
/// reads it, so that there is one reading of it.
fn hello(mut read: &[u8]) -> Hello {
    let mut acceptor = rustls::server::Acceptor::default();
    loop {
        match acceptor.accept() {
            Ok(Some(accepted)) => return Hello::Name(accepted.client_hello().server_name().unwrap_or_default().to_owned()),
            Ok(None) if read.is_empty() => return Hello::Incomplete,
            Ok(None) if acceptor.read_tls(&mut read).is_ok() => {}
            Ok(None) | Err(_) => return Hello::Unreadable,
        }
    }
}

/// What policies with `connection.sni` see; `None` when it cannot be told, so that they refuse.
fn server_name(read: &[u8]) -> Option<String> {
    if read.first() != Some(&HANDSHAKE) {
        return Some(String::new());
    }
    match hello(read) {
        Hello::Name(name) => Some(name),
        Hello::Incomplete | Hello::Unreadable => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ClientHello of the library, in records of at most `size` bytes.
    fn client_hello(name: &str, size: usize) -> Vec<u8> {
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        let mut client = rustls::ClientConnection::new(config.into(), name.to_owned().try_into().unwrap()).unwrap();
        let mut whole = Vec::new();
        client.write_tls(&mut whole).unwrap();
        let records = whole[5..].chunks(size).map(|part| [&whole[..3], &(part.len() as u16).to_be_bytes(), part].concat());
        records.collect::<Vec<_>>().concat()
    }

    #[test]
    fn a_server_name_is_read_however_the_hello_is_cut_and_unknown_is_not_none() {
        for size in [usize::MAX, 100, 16] {
            let hello = client_hello("secret.example", size);
            assert_eq!(judge(&hello), Some(Verdict::Opaque));
            assert_eq!(server_name(&hello).as_deref(), Some("secret.example"), "records of {size}");
            assert_eq!(judge(&hello[..hello.len() - 1]), None, "more is to come");
            assert_eq!(server_name(&hello[..hello.len() - 1]), None, "what is incomplete is unknown");
        }
        assert_eq!(server_name(b"\x16\x03\x01\x00\x05hello"), None, "what cannot be read is unknown");
        assert_eq!(server_name(b"SSH-2.0-x\r\n").as_deref(), Some(""), "no TLS asks for no name");
    }

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
            (b"\x16\x03\x01\x00\x05\x01\x00", None),
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
