//! A client workload whose proxy has already found the waypoint: it opens tunnels to it.

use bytes::Bytes;
use cairn::{
    cert::StaticCertSource,
    hbone::{self, ConnectHeaders, Pool, PoolKey, TunnelError, TunnelIo},
    model::Identity,
    transport::{Sockets, WorkloadCert},
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// A client with an identity.
#[derive(Debug, Clone)]
pub struct Client {
    pool: Pool,
    key: PoolKey,
}

/// An answer with its body.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    /// A header as text; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|v| v.to_str().expect("text")).unwrap_or_default()
    }

    /// Waits for the whole body.
    pub async fn of(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let collected = body.collect().await.expect("the whole body comes");
        let trailers = collected.trailers().cloned();
        Self { status: head.status, headers: head.headers, body: collected.to_bytes(), trailers }
    }
}

impl Client {
    /// A client that presents `cert` and expects `waypoint` at `address`.
    pub fn new(cert: Arc<WorkloadCert>, waypoint: Identity, address: SocketAddr) -> Self {
        Self::from_address(cert, waypoint, address, None)
    }

    /// The same, with tunnels that come from this address.
    pub fn from_address(cert: Arc<WorkloadCert>, waypoint: Identity, address: SocketAddr, source: Option<IpAddr>) -> Self {
        let key = PoolKey::direct(cert.identity().clone(), [waypoint].into(), address);
        let config = hbone::Config { spread_threshold: usize::MAX, source_address: source, ..hbone::Config::default() };
        Self { pool: Pool::new(config, Arc::new(StaticCertSource::new(cert)), Sockets::default()), key }
    }

    /// Opens a stream to `authority`.
    pub async fn connect(&self, authority: impl ToString) -> Result<TunnelIo, TunnelError> {
        let opened = super::soon("CONNECT", self.pool.connect(&self.key, &authority.to_string(), &ConnectHeaders::default())).await;
        opened.map(|opened| opened.io)
    }

    /// The status that a CONNECT is refused with.
    pub async fn refusal(&self, authority: impl ToString) -> StatusCode {
        match self.connect(authority).await {
            Err(TunnelError::Stream(hbone::ConnectError::Refused(status))) => status,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    /// An HTTP/1 connection to a service.
    pub async fn http1(&self, authority: impl ToString) -> http1::SendRequest<Full<Bytes>> {
        let io = self.connect(authority).await.expect("CONNECT is accepted");
        let (send, connection) = http1::Builder::new().handshake(TokioIo::new(io)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        send
    }

    /// An HTTP/2 connection to a service.
    pub async fn http2<B>(&self, authority: impl ToString) -> hyper::client::conn::http2::SendRequest<B>
    where
        B: http_body::Body + Send + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let io = self.connect(authority).await.expect("CONNECT is accepted");
        let (send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
        tokio::spawn(connection);
        send
    }

    /// One request on a connection of its own.
    pub async fn send(&self, authority: impl ToString, request: Request<Full<Bytes>>) -> Answer {
        let mut send = self.http1(authority).await;
        let response = super::soon("response", send.send_request(request)).await.expect("there is an answer");
        super::soon("response body", Answer::of(response)).await
    }

    /// GET with `host: test`.
    pub async fn get(&self, authority: impl ToString, path: &str) -> Answer {
        self.send(authority, get(path)).await
    }
}

/// A GET request.
pub fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "test").body(Full::default()).unwrap()
}

/// A POST request.
pub fn post(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(path).header("host", "test").body(Full::new(body.into())).unwrap()
}
