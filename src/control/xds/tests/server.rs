//! A control plane that says exactly what it is told to: gRPC frames by hand, over TLS.

use crate::proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use std::{convert::Infallible, io, net::SocketAddr, sync::Arc};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_rustls::TlsAcceptor;

/// Listens; each stream that is opened is handed out.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) root_pem: String,
    streams: mpsc::UnboundedReceiver<Stream>,
    task: JoinHandle<()>,
}

/// A stream that a client has opened. When it is dropped, the answer ends as it stands, without trailers.
pub(super) struct Stream {
    pub(super) headers: HeaderMap,
    requests: mpsc::UnboundedReceiver<DeltaDiscoveryRequest>,
    frames: mpsc::UnboundedSender<io::Result<Frame<Bytes>>>,
}

impl Server {
    /// With a certificate for `name`.
    pub(super) async fn start(name: &str) -> Self {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([name.to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (opened, streams) = mpsc::unbounded_channel();
        let task = tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), opened));
        Self { address, root_pem: cert.pem(), streams, task }
    }

    pub(super) async fn stream(&mut self) -> Stream {
        super::within(self.streams.recv()).await.unwrap()
    }

    /// Whether a client has opened a stream that was not handed out yet.
    pub(super) fn has_stream(&self) -> bool {
        !self.streams.is_empty()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stream {
    pub(super) async fn request(&mut self) -> DeltaDiscoveryRequest {
        super::within(self.requests.recv()).await.expect("the client has ended its side")
    }

    /// Whether a request waits.
    pub(super) fn has_request(&self) -> bool {
        !self.requests.is_empty()
    }

    pub(super) fn send(&self, response: &DeltaDiscoveryResponse) {
        self.bytes(framed(&response.encode_to_vec()));
    }

    /// Bytes as they are.
    pub(super) fn bytes(&self, bytes: Bytes) {
        self.frame(Ok(Frame::data(bytes)));
    }

    /// Ends the stream with a status.
    pub(super) fn end(self, code: u32, message: &str) {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(code));
        trailers.insert("grpc-message", HeaderValue::from_str(message).unwrap());
        self.frame(Ok(Frame::trailers(trailers)));
    }

    /// Resets the stream.
    pub(super) fn cut(self) {
        self.frame(Err(io::ErrorKind::BrokenPipe.into()));
    }

    fn frame(&self, frame: io::Result<Frame<Bytes>>) {
        self.frames.send(frame).expect("the client is gone");
    }
}

/// A message with gRPC's prefix.
pub(super) fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(5 + message.len());
    bytes.put_u8(0);
    bytes.put_u32(message.len().try_into().unwrap());
    bytes.put_slice(message);
    bytes.freeze()
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, opened: mpsc::UnboundedSender<Stream>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let (acceptor, opened) = (acceptor.clone(), opened.clone());
        connections.spawn(async move {
            let Ok(tls) = acceptor.accept(tcp).await else { return };
            let service = service_fn(move |request| serve(request, opened.clone()));
            // Clients may break off.
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(tls), service).await;
        });
    }
}

async fn serve(
    request: Request<Incoming>,
    opened: mpsc::UnboundedSender<Stream>,
) -> Result<Response<impl http_body::Body<Data = Bytes, Error = io::Error>>, Infallible> {
    assert_eq!(request.uri().path(), "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources");
    let (parts, body) = request.into_parts();
    let (received, requests) = mpsc::unbounded_channel();
    tokio::spawn(receive(body, received));
    let (frames, mut answer) = mpsc::unbounded_channel();
    opened.send(Stream { headers: parts.headers, requests, frames }).unwrap();
    let body = StreamBody::new(stream::poll_fn(move |cx| answer.poll_recv(cx)));
    Ok(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
}

async fn receive(mut body: Incoming, received: mpsc::UnboundedSender<DeltaDiscoveryRequest>) {
    let mut buffer = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        buffer.extend_from_slice(&frame.into_data().unwrap_or_default());
        while buffer.len() >= 5 {
            let length = usize::try_from(u32::from_be_bytes(buffer[1..5].try_into().unwrap())).unwrap();
            if buffer.len() < 5 + length {
                break;
            }
            buffer.advance(5);
            let request = DeltaDiscoveryRequest::decode(buffer.split_to(length)).unwrap();
            if received.send(request).is_err() {
                return;
            }
        }
    }
}
