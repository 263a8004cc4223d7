//! Tunnels, connections in them, and requests.

use super::{case::Load, wire::Wire};
use bytes::Bytes;
use cairn::{
    cert::StaticCertSource,
    hbone::{self, ConnectHeaders, Pool, PoolKey},
    model::Identity,
    transport::{Sockets, WorkloadCert},
};
use http::{Request, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{net::SocketAddr, sync::Arc};

#[derive(Debug)]
pub struct Client {
    tunnels: Vec<Pool>,
    key: PoolKey,
    target: String,
    load: Load,
    request: Vec<u8>,
}

/// A connection inside a tunnel.
pub enum Connection {
    Http1(Box<Wire<hbone::TunnelIo>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A whole answer with status 200.
#[derive(Debug)]
pub struct Answer {
    pub bytes: u64,
    /// `x-bench-version`; HTTP/1.1 only.
    pub version: usize,
}

static BODY: [u8; 64 << 10] = [b'u'; 64 << 10];

impl Client {
    pub fn new(cert: Arc<WorkloadCert>, proxy: SocketAddr, target: String, tunnels: usize, load: Load) -> Self {
        let waypoint = Identity::new("cluster.local", "bench", "waypoint").unwrap();
        let key = PoolKey::direct(cert.identity().clone(), [waypoint].into(), proxy);
        let config = hbone::Config { max_streams_per_tunnel: 1_000_000, spread_threshold: usize::MAX, ..hbone::Config::default() };
        // One pool for each tunnel: where connections go is decided here.
        let tunnels = (0..tunnels).map(|_| Pool::new(config.clone(), Arc::new(StaticCertSource::new(cert.clone())), Sockets::default()));
        Self { tunnels: tunnels.collect(), key, target, load, request: request(&load) }
    }

    pub async fn stream(&self, number: usize) -> Result<hbone::TunnelIo, hbone::TunnelError> {
        let pool = &self.tunnels[number % self.tunnels.len()];
        pool.connect(&self.key, &self.target, &ConnectHeaders::default()).await.map(|opened| opened.io)
    }

    pub async fn open(&self, number: usize) -> Option<Connection> {
        let io = self.stream(number).await.ok()?;
        if self.load.http2 {
            let (send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.ok()?;
            tokio::spawn(connection);
            return Some(Connection::Http2(send));
        }
        Some(Connection::Http1(Box::new(Wire::new(io))))
    }

    /// `None` for anything but a whole 200.
    pub async fn exchange(&self, connection: &mut Connection) -> Option<Answer> {
        match connection {
            Connection::Http1(wire) => {
                wire.write(&self.request).await?;
                let head = wire.response().await?;
                wire.skip(head.length).await?;
                (head.status == 200).then_some(Answer { bytes: head.length, version: head.version })
            }
            Connection::Http2(send) => {
                send.ready().await.ok()?;
                let response = send.send_request(http2_request(&self.load)).await.ok()?;
                let is_ok = response.status() == 200;
                let (mut body, mut bytes) = (response.into_body(), 0);
                while let Some(frame) = body.frame().await {
                    bytes += frame.ok()?.data_ref().map_or(0, |d| d.len() as u64);
                }
                is_ok.then_some(Answer { bytes, version: 0 })
            }
        }
    }
}

fn method(load: &Load) -> &'static str {
    if load.upload > 0 { "POST" } else { "GET" }
}

fn request(load: &Load) -> Vec<u8> {
    let (method, path, upload) = (method(load), load.path, load.upload);
    let length = if upload > 0 { format!("content-length: {upload}\r\n") } else { String::new() };
    let head = format!("{method} {path} HTTP/1.1\r\nhost: reviews\r\nuser-agent: bench\r\n{length}\r\n");
    [head.as_bytes(), &BODY[..upload]].concat()
}

fn http2_request(load: &Load) -> Request<Full<Bytes>> {
    let body = Full::new(Bytes::from_static(&BODY[..load.upload]));
    let request = Request::builder().method(method(load)).uri(format!("http://reviews{}", load.path)).version(Version::HTTP_2);
    request.header("user-agent", "bench").body(body).unwrap()
}
