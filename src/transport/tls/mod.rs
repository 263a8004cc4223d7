//! Mutual TLS between workloads: HBONE's TLS, exactly.
//!
//! TLS 1.3, unless the [`Policy`] says more; AES-256-GCM, then AES-128-GCM; ALPN `h2` on both sides;
//! no SNI; no resumption in either direction, so that every connection proves its identity afresh.
//! Who the peer is, and whether its certificates are revoked, is decided inside the handshake (see
//! `verify`), so a wrong peer gets an alert and never a byte.
//!
//! Nothing here has a time limit: callers wrap [`accept`] and [`connect`] in a timeout. Neither is
//! cancel safe in the sense that it could be resumed; dropping the future drops the connection.

mod cert;
mod config;
mod policy;
pub mod revocation;
mod source;
mod verify;

pub use cert::{Fingerprint, WorkloadCert};
pub use policy::{Policy, PolicyError, install};
pub(super) use policy::{provider, versions};
pub use revocation::{Revocation, RevocationError, Revoked, Standing};
pub use source::{CertError, CertFuture, CertPart, CertSource, ReplacedFuture};

use super::ReadAhead;
use crate::{model::Identity, telemetry::Reporter};
use revocation::Checked;
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
    /// A certificate of the peer's chain is revoked.
    #[error(transparent)]
    Revoked(Revoked),
    /// The peer did not agree to `h2`.
    #[error("the peer did not agree to alpn h2")]
    Alpn,
}

/// Serves one TLS handshake with `cert`; returns the stream, the verified identity of the client (the
/// first URI SAN of its leaf that is a SPIFFE workload identity; its trust domain is that of `cert`),
/// and its standing with `revocation`.
///
/// # Errors
/// See [`TlsError`]. A client that is not acceptable has been sent an alert, except for a client
/// that offers no ALPN at all: its connection is closed.
pub async fn accept<IO>(
    io: IO,
    cert: &WorkloadCert,
    revocation: Option<&Arc<Revocation>>,
) -> Result<(ServerStream<IO>, Identity, Standing), TlsError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let checked = revocation.map(|revocation| Checked::new(revocation, Reporter::Destination));
    let config = match &checked {
        None => Arc::clone(cert.server_config()),
        Some(checked) => cert.checking_server_config(Arc::clone(checked)).map_err(|error| TlsError::Handshake(io::Error::other(error)))?,
    };
    let accepted = TlsAcceptor::from(config).accept(ReadAhead::new(io)).await;
    let mut stream = accepted.map_err(|error| TlsError::from_handshake(error, checked.as_deref()))?;
    let connection = stream.get_mut().1;
    connection.set_buffer_limit(Some(MAX_UNSENT));
    check_alpn(connection)?;
    let identity = peer_identities(connection).into_iter().next().ok_or(TlsError::NoIdentity)?;
    let standing = standing(connection, cert, checked);
    Ok((stream, identity, standing))
}

/// Opens TLS with `cert` towards a server that must be one of `expected`; returns the stream, the
/// identity among `expected` that the server holds, and its standing with `revocation`. Nobody is
/// expected: always fails. DNS names in the server's certificate have no meaning.
///
/// TLS 1.3 lets a client finish before the server has judged the client's certificate, so a
/// refusal by the server shows as an error of the first read.
///
/// # Errors
/// See [`TlsError`].
pub async fn connect<IO>(
    io: IO,
    cert: &WorkloadCert,
    expected: &[Identity],
    revocation: Option<&Arc<Revocation>>,
) -> Result<(ClientStream<IO>, Identity, Standing), TlsError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let checked = revocation.map(|revocation| Checked::new(revocation, Reporter::Source));
    let mut config = cert.client_config().clone();
    let verifier = SpiffeServerVerifier::new(Arc::clone(cert.roots()), expected, checked.clone());
    config.dangerous().set_certificate_verifier(Arc::new(verifier));
    // Never sent (no SNI) and never looked at: the verifier knows whom to expect.
    let nobody = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
    let connected = TlsConnector::from(Arc::new(config)).connect(nobody, ReadAhead::new(io)).await;
    let mut stream = connected.map_err(|error| TlsError::from_handshake(error, checked.as_deref()))?;
    let connection = stream.get_mut().1;
    connection.set_buffer_limit(Some(MAX_UNSENT));
    check_alpn(connection)?;
    let identity = peer_identities(connection).into_iter().find(|id| expected.contains(id)).ok_or(TlsError::NoIdentity)?;
    let standing = standing(connection, cert, checked);
    Ok((stream, identity, standing))
}

impl TlsError {
    /// Finds our own verdict in what rustls hands back.
    fn from_handshake(error: io::Error, checked: Option<&Checked>) -> Self {
        // The alert of a revoked certificate leaves no room to tell which.
        if let Some(revoked) = checked.and_then(Checked::refused) {
            return Self::Revoked(revoked);
        }
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

/// Keeps the chain of the peer where later lists may revoke it.
fn standing(connection: &CommonState, cert: &WorkloadCert, checked: Option<Arc<Checked>>) -> Standing {
    let chain = connection.peer_certificates().unwrap_or_default();
    checked.map(|checked| checked.standing(chain, cert.roots())).unwrap_or_default()
}

/// The identities of the peer, which the handshake has verified.
fn peer_identities(connection: &CommonState) -> Vec<Identity> {
    let leaf = connection.peer_certificates().and_then(<[_]>::first);
    leaf.and_then(|leaf| verify::identities(leaf).ok()).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
