//! TLS and HTTP/2 by hand: what no well-behaved library would send.

use super::{Mesh, mesh::NS, soon};
use cairn::{
    model::Identity,
    transport::{WorkloadCert, tls},
};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A frame as bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The header block of a CONNECT, without Huffman coding or a dynamic table (RFC 7541, 6.2.2).
pub fn connect_block(authority: &str) -> Vec<u8> {
    let mut block = vec![0x02, 7];
    block.extend(b"CONNECT");
    block.extend([0x01, authority.len() as u8]);
    block.extend(authority.as_bytes());
    block
}

/// A CONNECT on a stream.
pub fn connect(stream: u32, authority: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &connect_block(authority))
}

/// RST_STREAM with CANCEL.
pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())
}

/// A literal header without indexing, of any length.
pub fn header(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0x00];
    for text in [name, value] {
        integer(&mut block, text.len());
        block.extend(text.as_bytes());
    }
    block
}

/// RFC 7541, 5.1, with a prefix of seven bits.
fn integer(block: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        return block.push(value as u8);
    }
    block.push(127);
    value -= 127;
    while value >= 128 {
        block.push(value as u8 | 128);
        value >>= 7;
    }
    block.push(value as u8);
}

/// A tunnel whose HTTP/2 is spoken by hand.
#[derive(Debug)]
pub struct Wire {
    io: tls::ClientStream<TcpStream>,
    read: Vec<u8>,
}

impl Wire {
    /// TLS as `cert`; nothing of HTTP/2 yet.
    pub async fn tls(address: SocketAddr, cert: &WorkloadCert) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let waypoint = Identity::new(cert.identity().trust_domain(), NS, "waypoint").unwrap();
        let (io, ..) = soon("handshake", tls::connect(stream, cert, &[waypoint], None)).await.expect("the waypoint is who it says");
        Self { io, read: Vec::new() }
    }

    /// TLS as `app/attacker`, preface and empty SETTINGS.
    pub async fn open(mesh: &Mesh) -> Self {
        let mut wire = Self::tls(mesh.waypoint, &mesh.cert(NS, "attacker")).await;
        wire.begin().await;
        wire
    }

    /// Preface and empty SETTINGS.
    pub async fn begin(&mut self) {
        self.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.expect("the tunnel is open");
    }

    /// Writes; an error means that the waypoint has closed.
    pub async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.io.write_all(bytes).await?;
        self.io.flush().await
    }

    /// The next frame; `None` at the end, however it came.
    pub async fn frame(&mut self) -> Option<Frame> {
        while !self.is_complete() {
            let mut buf = vec![0; 16 << 10];
            match soon("frame", self.io.read(&mut buf)).await {
                Ok(n) if n > 0 => self.read.extend(&buf[..n]),
                Ok(_) | Err(_) => return None,
            }
        }
        let length = self.length();
        let bytes: Vec<u8> = self.read.drain(..9 + length).collect();
        let stream = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]);
        Some(Frame { kind: bytes[3], flags: bytes[4], stream, payload: bytes[9..].to_vec() })
    }

    fn length(&self) -> usize {
        u32::from_be_bytes([0, self.read[0], self.read[1], self.read[2]]) as usize
    }

    fn is_complete(&self) -> bool {
        self.read.len() >= 9 && self.read.len() >= 9 + self.length()
    }

    /// Reads to the end, answering no frame; returns the code of the last GOAWAY.
    pub async fn goaway(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.frame().await {
            if frame.kind == GOAWAY {
                code = Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()));
            }
        }
        code
    }

    /// The next frame of this kind.
    pub async fn next(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.frame().await.unwrap_or_else(|| panic!("closed before a frame of kind {kind}"));
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Writes as long as the waypoint takes it, at most `times`; it may have long refused. Gives up
    /// when nothing is taken for a while: that is backpressure.
    pub async fn flood(&mut self, times: usize, bytes: impl Fn(usize) -> Vec<u8>) {
        for n in 0..times {
            match tokio::time::timeout(Duration::from_secs(2), self.send(&bytes(n))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }
}
