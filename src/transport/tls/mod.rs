//! Mutual TLS between workloads: HBONE's TLS, exactly.
//!
//! TLS 1.3 only; AES-256-GCM, then AES-128-GCM; ALPN `h2` on both sides; no SNI; no resumption in
//! either direction, so that every connection proves its identity afresh. Who the peer is, is
//! decided inside the handshake (see `verify`), so a wrong peer gets an alert and never a byte.
//!
//! Nothing here has a time limit: callers wrap [`accept`] and [`connect`] in a timeout. Neither is
//! cancel safe in the sense that it could be resumed; dropping the future drops the connection.

mod cert;
mod config;
mod source;
mod verify;

pub use cert::{Fingerprint, WorkloadCert};
pub(super) use config::{provider, versions};
pub use source::{CertError, CertFuture, CertPart, CertSource, ReplacedFuture};

use super::ReadAhead;
use crate::model::Identity;
use rustls::{CommonState, pki_types::ServerName};
use std::{io, net::Ipv4Addr, sync::Arc};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use verify::{PeerError, SpiffeServerVerifier};

/// The one protocol spoken inside (RFC 9113 section 3.2).
pub(super) const ALPN_H2: &[u8] = b"h2";

/// Encrypted bytes that may wait for the socket. Without a bound a peer that does not read could have
/// us keep whatever it asks for; beyond it writes wait.
const MAX_UNSENT: usize = 256 << 10;

/// What [`accept`] yields.
pub type ServerStream<IO> = server::TlsStream<ReadAhead<IO>>;
/// What [`connect`] yields.
pub type ClientStream<IO> = client::TlsStream<ReadAhead<IO>>;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The connection broke, the peer refused us, or its certificate chain or parameters are
    /// not acceptable.
    #[error("tls handshake")]
    Handshake(#[source] io::Error),
    /// The server is somebody else.
    #[error("the server is {got:?}, expected one of {expected:?}")]
    UnexpectedIdentity {
        /// The SPIFFE identities in its certificate, in order.
        got: Vec<Identity>,
        /// Those we would have accepted.
        expected: Vec<Identity>,
    },
    /// The peer's certificate holds no workload identity.
    #[error("the peer's certificate holds no spiffe identity")]
    NoIdentity,
    /// The client belongs to another trust domain.
    #[error("the client is {got}, not of trust domain {own}")]
    TrustDomain {
        /// Its identity.
        got: Identity,
        /// Our trust domain.
        own: String,
    },
    /// The peer did not agree to `h2`.
    #[error("the peer did not agree to alpn h2")]
    Alpn,
}

/// Serves one TLS handshake with `cert`; returns the stream and the verified identity of the
/// client: the first URI SAN of its leaf that is a SPIFFE workload identity. Its trust domain is
/// that of `cert`.
///
/// # Errors
/// See [`TlsError`]. A client that is not acceptable has been sent an alert, except for a client
/// that offers no ALPN at all: its connection is closed.
pub async fn accept<IO>(io: IO, cert: &WorkloadCert) -> Result<(ServerStream<IO>, Identity), TlsError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let acceptor = TlsAcceptor::from(Arc::clone(cert.server_config()));
    let mut stream = acceptor.accept(ReadAhead::new(io)).await.map_err(TlsError::from_handshake)?;
    let connection = stream.get_mut().1;
    connection.set_buffer_limit(Some(MAX_UNSENT));
    check_alpn(connection)?;
    let identity = peer_identities(connection).into_iter().next().ok_or(TlsError::NoIdentity)?;
    Ok((stream, identity))
}

/// Opens TLS with `cert` towards a server that must be one of `expected`; returns the stream and
/// the identity among `expected` that the server holds. Nobody is expected: always fails. DNS
/// names in the server's certificate have no meaning.
///
/// TLS 1.3 lets a client finish before the server has judged the client's certificate, so a
/// refusal by the server shows as an error of the first read.
///
/// # Errors
/// See [`TlsError`].
pub async fn connect<IO>(io: IO, cert: &WorkloadCert, expected: &[Identity]) -> Result<(ClientStream<IO>, Identity), TlsError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut config = cert.client_config().clone();
    config.dangerous().set_certificate_verifier(Arc::new(SpiffeServerVerifier::new(Arc::clone(cert.roots()), expected)));
    // Never sent (no SNI) and never looked at: the verifier knows whom to expect.
    let nobody = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
    let mut stream = TlsConnector::from(Arc::new(config)).connect(nobody, ReadAhead::new(io)).await.map_err(TlsError::from_handshake)?;
    let connection = stream.get_mut().1;
    connection.set_buffer_limit(Some(MAX_UNSENT));
    check_alpn(connection)?;
    let identity = peer_identities(connection).into_iter().find(|id| expected.contains(id)).ok_or(TlsError::NoIdentity)?;
    Ok((stream, identity))
}

impl TlsError {
    /// Finds our own verdict in what rustls hands back.
    fn from_handshake(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::NoApplicationProtocol | rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol)) => {
                Self::Alpn
            }
            Some(inner) => match PeerError::find(inner) {
                Some(PeerError::Unexpected { got, expected }) => Self::UnexpectedIdentity { got: got.clone(), expected: expected.to_vec() },
                Some(PeerError::NoIdentity) => Self::NoIdentity,
                Some(PeerError::TrustDomain { got, own }) => Self::TrustDomain { got: got.clone(), own: own.to_string() },
                None => Self::Handshake(error),
            },
            None => Self::Handshake(error),
        }
    }
}

/// rustls refuses a peer with other protocols, but lets one without ALPN pass.
fn check_alpn(connection: &CommonState) -> Result<(), TlsError> {
    if connection.alpn_protocol() == Some(ALPN_H2) { Ok(()) } else { Err(TlsError::Alpn) }
}

/// The identities of the peer, which the handshake has verified.
fn peer_identities(connection: &CommonState) -> Vec<Identity> {
    let leaf = connection.peer_certificates().and_then(<[_]>::first);
    leaf.and_then(|leaf| verify::identities(leaf).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
