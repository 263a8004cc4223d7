//! A control plane's server for tests: its own CA, TLS, and a service.

use crate::transport::tls;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;

/// Signs the certificates of servers.
#[derive(Debug)]
pub(crate) struct ServerCa {
    issuer: Issuer<'static, KeyPair>,
    /// Its root.
    pub(crate) pem: String,
}

/// A running server. Dropped, it and its connections are gone.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl ServerCa {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Two with one name would look like one with a forged signature.
        params.distinguished_name.push(DnType::CommonName, format!("{:x}", fastrand::u64(..)));
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// TLS for a server with these DNS names and IP addresses.
    pub(crate) fn server(&self, names: &[&str]) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let config = ServerConfig::builder_with_provider(tls::provider()).with_protocol_versions(tls::versions()).unwrap();
        let mut config = config.with_no_client_auth().with_single_cert(vec![cert.into()], key.into()).unwrap();
        config.alpn_protocols = vec![tls::ALPN_H2.to_vec()];
        Arc::new(config)
    }
}

impl Running {
    /// Serves at a free port of the loopback.
    pub(crate) async fn start<S>(config: Arc<ServerConfig>, service: S) -> Self
    where
        S: tower::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        Self::start_at(([127, 0, 0, 1], 0).into(), config, service).await
    }

    pub(crate) async fn start_at<S>(address: SocketAddr, config: Arc<ServerConfig>, service: S) -> Self
    where
        S: tower::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let (address, connections) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let (tls, count) = (TlsAcceptor::from(config), connections.clone());
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, service, count) = (tls.clone(), service.clone(), count.clone());
                open.spawn(async move {
                    if let Ok(stream) = tls.accept(stream).await {
                        count.fetch_add(1, Ordering::SeqCst);
                        serve(stream, service).await;
                    }
                });
            }
        });
        Self { address, connections, _task: AbortOnDropHandle::new(task) }
    }

    /// How many connections have come through their handshake.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Serves gRPC on a connection until it ends.
pub(crate) async fn serve<IO, S>(io: IO, service: S)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: tower::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    // How it ended is the client's business.
    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), TowerToHyperService::new(service)).await;
}
