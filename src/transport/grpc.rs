//! gRPC to a control plane: TLS with a server's DNS name, a bearer token, and files of both that are
//! read again whenever they are needed, so that they may change at any time (contract, 3.1 and 5).

use super::{
    socket::{self, ConnectOptions, Keepalive},
    tls,
};
use http::{HeaderName, HeaderValue, Uri};
use hyper_util::rt::TokioIo;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime, pem::PemObject},
};
use std::{fmt, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tonic::{
    metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue},
    transport::Channel,
};

/// How long a TCP connect, and then a TLS handshake, may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Asks an idle connection after this time whether it is still there.
const KEEPALIVE_TIME: Duration = Duration::from_secs(30);
/// How long an answer to that may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// As the reference sets it; HTTP/2 asks more often.
const TCP_KEEPALIVE: Keepalive =
    Keepalive { enabled: true, time: Duration::from_secs(300), interval: Duration::from_secs(75), retries: 9, user_timeout: false };
/// Bytes that may be on their way at a time: the first answer may be hundreds of megabytes long.
const WINDOW: u32 = 4 << 20;

/// A server of a control plane.
#[derive(Debug, Clone)]
pub struct Server {
    /// `https://HOST:PORT`
    pub address: Uri,
    /// By whom its certificate must be signed.
    pub roots: Roots,
    /// Another name than that of the address that its certificate may be for.
    pub alternative_name: Option<ServerName<'static>>,
    /// Who we say we are.
    pub credentials: Credentials,
}

/// Trust anchors for a server.
#[derive(Clone, PartialEq, Eq)]
pub enum Roots {
    /// A PEM file, read at each connect.
    File(PathBuf),
    /// The PEM itself.
    Pem(String),
    /// Those of the system, read at each connect.
    System,
}

/// What goes with each call.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The bearer token.
    pub token: Option<Token>,
    /// The cluster that the token is of; told only with a token.
    pub cluster: String,
    /// Further headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// A bearer token. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Token {
    /// A file that holds it, read at each call.
    File(PathBuf),
    /// The token itself.
    Literal(String),
}

/// Why there is no connection, or no call.
#[derive(Debug, thiserror::Error)]
pub enum GrpcError {
    /// The address is of no use.
    #[error("{0} is not the address of a server: https://HOST:PORT")]
    Address(Uri),
    /// Its name cannot be in a certificate.
    #[error("{0:?} is not a name of a server")]
    Name(String, #[source] InvalidDnsNameError),
    /// A file cannot be read.
    #[error("cannot read {}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// The trust anchors cannot be used.
    #[error("the root certificates cannot be used: {0}")]
    Roots(String),
    /// What is in the token's place cannot be one.
    #[error("the token is not a text that a header can hold")]
    Token,
    /// There is nobody to talk to.
    #[error("cannot connect to {0}")]
    Connect(Uri, #[source] tonic::transport::Error),
}

impl fmt::Debug for Credentials {
    /// Without the values of the headers, which may be secrets as well.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Credentials").field("token", &self.token).field("cluster", &self.cluster).field("headers", &headers).finish()
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Pem(_) => f.write_str("Pem"),
            Self::System => f.write_str("System"),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Literal(_) => f.write_str("Literal"),
        }
    }
}

impl Server {
    /// Opens a connection. Should it break, calls fail and the next connects anew, with the trust
    /// anchors of this call: who wants others connects again. Cancel safe.
    ///
    /// # Errors
    /// See [`GrpcError`].
    pub async fn connect(&self) -> Result<Channel, GrpcError> {
        self.connect_with(&self.roots.read().await?).await
    }

    /// As [`connect`](Self::connect), with trust anchors that have been read already.
    ///
    /// # Errors
    /// See [`GrpcError`].
    pub async fn connect_with(&self, roots: &RootCertStore) -> Result<Channel, GrpcError> {
        let host = self.address.host().ok_or_else(|| GrpcError::Address(self.address.clone()))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = self.address.port_u16().unwrap_or(443);
        let name = ServerName::try_from(host.clone()).map_err(|error| GrpcError::Name(host.clone(), error))?;
        let tls = TlsConnector::from(Arc::new(self.tls(roots)?));
        let connector = tower::service_fn(move |_: Uri| {
            let (host, name, tls) = (host.clone(), name.clone(), tls.clone());
            async move {
                let stream = open(&host, port).await?;
                let secured = tokio::time::timeout(CONNECT, tls.connect(name, stream)).await;
                secured.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map(TokioIo::new)
            }
        });
        let endpoint = Channel::builder(self.address.clone())
            .http2_keep_alive_interval(KEEPALIVE_TIME)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        endpoint.connect_with_connector(connector).await.map_err(|error| GrpcError::Connect(self.address.clone(), error))
    }

    fn tls(&self, roots: &RootCertStore) -> Result<ClientConfig, GrpcError> {
        let unusable = |error: &dyn fmt::Display| GrpcError::Roots(error.to_string());
        let provider = tls::provider();
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots.clone()), provider.clone());
        let chain = chain.build().map_err(|error| unusable(&error))?;
        let verifier = ServerVerifier { chain, alternative: self.alternative_name.clone() };
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(tls::versions());
        let mut config = config
            .map_err(|error| unusable(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![tls::ALPN_H2.to_vec()];
        Ok(config)
    }
}

impl Roots {
    /// What there is now. Cancel safe.
    ///
    /// # Errors
    /// [`GrpcError::File`] and [`GrpcError::Roots`].
    pub async fn read(&self) -> Result<RootCertStore, GrpcError> {
        let pem = match self {
            Self::File(path) => tokio::fs::read(path).await.map_err(|error| GrpcError::File(path.clone(), error))?,
            Self::Pem(pem) => pem.clone().into_bytes(),
            Self::System => return system_roots().await,
        };
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(&pem) {
            let root = root.map_err(|error| GrpcError::Roots(error.to_string()))?;
            roots.add(root).map_err(|error| GrpcError::Roots(error.to_string()))?;
        }
        if roots.is_empty() { Err(GrpcError::Roots("there is none".into())) } else { Ok(roots) }
    }
}

async fn system_roots() -> Result<RootCertStore, GrpcError> {
    let loaded = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
    let loaded = loaded.map_err(|error| GrpcError::Roots(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    match (roots.is_empty(), loaded.errors.first()) {
        (false, _) => Ok(roots),
        (true, Some(error)) => Err(GrpcError::Roots(error.to_string())),
        (true, None) => Err(GrpcError::Roots("the system has none".into())),
    }
}

impl Credentials {
    /// The headers of one call. The token's file is read. Cancel safe.
    ///
    /// # Errors
    /// [`GrpcError::File`] and [`GrpcError::Token`].
    pub async fn metadata(&self) -> Result<MetadataMap, GrpcError> {
        let mut metadata = MetadataMap::new();
        for (name, value) in &self.headers {
            let (Ok(name), Ok(value)) = (MetadataKey::<Ascii>::from_bytes(name.as_ref()), MetadataValue::try_from(value.as_bytes())) else {
                continue;
            };
            metadata.insert(name, value);
        }
        let Some(token) = &self.token else { return Ok(metadata) };
        let token = match token {
            Token::File(path) => tokio::fs::read_to_string(path).await.map_err(|error| GrpcError::File(path.clone(), error))?,
            Token::Literal(token) => token.clone(),
        };
        let mut bearer: MetadataValue<Ascii> = format!("Bearer {}", token.trim()).parse().map_err(|_| GrpcError::Token)?;
        bearer.set_sensitive(true);
        metadata.insert("authorization", bearer);
        metadata.insert("clusterid", self.cluster.parse().map_err(|_| GrpcError::Token)?);
        Ok(metadata)
    }
}

/// The first of a host's addresses that answers.
async fn open(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    let options = ConnectOptions { keepalive: TCP_KEEPALIVE, ..ConnectOptions::new(CONNECT) };
    for address in addresses {
        match socket::connect_with(address, options).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Judges a server by chain and name, of which there may be two.
#[derive(Debug)]
struct ServerVerifier {
    chain: Arc<WebPkiServerVerifier>,
    alternative: Option<ServerName<'static>>,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let verified = self.chain.verify_server_cert(leaf, intermediates, name, ocsp_response, now);
        match (&verified, &self.alternative) {
            (
                Err(TlsError::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. })),
                Some(alternative),
            ) => self.chain.verify_server_cert(leaf, intermediates, alternative, ocsp_response, now),
            _ => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.chain.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.chain.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
