//! Listening, TLS and HTTP/2: both services on one port, as istiod's 15012.

use super::{ads::Ads, authority::SignError, ca::Ca, faults::Faulty, shared::Shared};
use crate::proto::{
    ca::istio_certificate_service_server::{IstioCertificateServiceServer, SERVICE_NAME as CA},
    discovery::aggregated_discovery_service_server::{AggregatedDiscoveryServiceServer, SERVICE_NAME as ADS},
};
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;
use tonic::{Status, body::Body};
use tower::Service as _;

/// Waits this long before a port is tried again that somebody else has.
const RETRY: Duration = Duration::from_millis(20);

/// Why a control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    /// There is no certificate for the server, or no root for the mesh.
    #[error("cannot create certificates")]
    Certificates(#[from] SignError),
    /// The server's own certificate is of no use.
    #[error("cannot use the server's own certificate")]
    Tls(#[from] rustls::Error),
    /// The same, because it cannot be read.
    #[error("cannot read the server's own certificate: {0}")]
    Pem(String),
}

/// TLS with a certificate and its key, both PEM.
pub(super) fn tls_config(chain: &str, key: &str) -> Result<Arc<ServerConfig>, StartError> {
    let unreadable = |error: rustls::pki_types::pem::Error| StartError::Pem(error.to_string());
    let chain = CertificateDer::from_pem_slice(chain.as_bytes()).map_err(unreadable)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(unreadable)?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider())).with_safe_default_protocol_versions()?;
    let mut config = config.with_no_client_auth().with_single_cert(vec![chain], key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// What the accepting task is told, and what it tells.
#[derive(Debug)]
pub(super) struct Switch {
    /// Whether it should listen.
    pub(super) wanted: watch::Receiver<bool>,
    /// Whether it does.
    pub(super) listening: watch::Sender<bool>,
    /// A change ends all connections.
    pub(super) cut: watch::Receiver<u64>,
}

pub(super) struct Listening {
    pub(super) shared: Arc<Shared>,
    pub(super) tls: watch::Receiver<Arc<ServerConfig>>,
    pub(super) address: SocketAddr,
    pub(super) max_request: usize,
}

impl Listening {
    /// Accepts until the switch is gone.
    pub(super) async fn run(self, listener: TcpListener, mut switch: Switch) {
        let mut listener = Some(listener);
        loop {
            let is_wanted = *switch.wanted.borrow_and_update();
            match (is_wanted, &listener) {
                (true, None) => match TcpListener::bind(self.address).await {
                    Ok(bound) => listener = Some(bound),
                    Err(_) => {
                        tokio::time::sleep(RETRY).await;
                        continue;
                    }
                },
                (false, Some(_)) => listener = None,
                (true, Some(_)) | (false, None) => {}
            }
            switch.listening.send_replace(listener.is_some());
            tokio::select! {
                changed = switch.wanted.changed() => if changed.is_err() { return },
                accepted = accept(listener.as_ref()) => if let Ok((io, _)) = accepted {
                    self.serve(io, switch.cut.clone());
                },
            }
        }
    }

    fn serve(&self, io: TcpStream, mut cut: watch::Receiver<u64>) {
        cut.mark_unchanged();
        let (shared, tls) = (self.shared.clone(), TlsAcceptor::from(self.tls.borrow().clone()));
        let ads = AggregatedDiscoveryServiceServer::new(Ads(shared.clone())).max_decoding_message_size(self.max_request);
        let ca = IstioCertificateServiceServer::new(Ca(shared.clone()));
        tokio::spawn(async move {
            let _ = io.set_nodelay(true);
            let io = Faulty::new(io, shared.faults.wire.clone());
            let serve = async {
                let Ok(io) = tls.accept(io).await else { return };
                shared.observe(|observed| observed.connections += 1);
                let service = service_fn(move |request| answer(ads.clone(), ca.clone(), request));
                let connection = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), service);
                // However a client leaves is its own affair.
                let _ = connection.await;
            };
            tokio::select! {
                () = serve => {}
                _ = cut.changed() => {}
            }
        });
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn answer(
    mut ads: AggregatedDiscoveryServiceServer<Ads>,
    mut ca: IstioCertificateServiceServer<Ca>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let service = request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
    match service {
        ADS => ads.call(request).await,
        CA => ca.call(request).await,
        _ => Ok(Status::unimplemented("no such service").into_http()),
    }
}
