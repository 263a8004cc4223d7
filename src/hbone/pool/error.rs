//! Why there is no stream.

use crate::{
    hbone::ConnectError,
    transport::{CertError, TlsError},
};
use std::{io, net::SocketAddr};

/// Why there is no stream. In every case no byte of payload has been sent, so that another
/// endpoint may be tried. For a tunnel through a gateway it may be the gateway that failed; the
/// identities and addresses in the text tell.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// No certificate to present.
    #[error("no certificate")]
    Certificate(#[source] CertError),
    /// TCP connect failed.
    #[error("connect failed")]
    Connect(#[source] io::Error),
    /// TCP connect or handshake took too long.
    #[error("connect timed out; a NetworkPolicy may block port {}", .0.port())]
    Timeout(SocketAddr),
    /// The TLS handshake failed, or the peer has the wrong identity.
    #[error("tls handshake failed")]
    Tls(#[source] TlsError),
    /// The HTTP/2 handshake failed.
    #[error("http/2 handshake failed")]
    Handshake(#[source] h2::Error),
    /// The CONNECT failed.
    #[error("CONNECT failed")]
    Stream(#[source] ConnectError),
}

impl TunnelError {
    /// The same failure for somebody else who waited for it.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::Certificate(error) => Self::Certificate(error.clone()),
            Self::Connect(error) => Self::Connect(copy(error)),
            Self::Timeout(address) => Self::Timeout(*address),
            Self::Tls(error) => Self::Tls(match error {
                TlsError::Handshake(error) => TlsError::Handshake(copy(error)),
                TlsError::UnexpectedIdentity { got, expected } => {
                    TlsError::UnexpectedIdentity { got: got.clone(), expected: expected.clone() }
                }
                TlsError::NoIdentity => TlsError::NoIdentity,
                TlsError::TrustDomain { got, own } => TlsError::TrustDomain { got: got.clone(), own: own.clone() },
                TlsError::Revoked(revoked) => TlsError::Revoked(revoked.clone()),
                TlsError::Alpn => TlsError::Alpn,
            }),
            Self::Handshake(error) => Self::Handshake(copy_h2(error)),
            Self::Stream(error) => Self::Stream(match error {
                ConnectError::Refused(status) => ConnectError::Refused(*status),
                ConnectError::H2(error) => ConnectError::H2(copy_h2(error)),
                ConnectError::Timeout => ConnectError::Timeout,
                ConnectError::Target => ConnectError::Target,
            }),
        }
    }

    /// Whether the tunnel was closing under our hands (GOAWAY, a broken socket): then nothing has
    /// been sent, and another tunnel may do better.
    pub(super) fn is_closing(error: &ConnectError) -> bool {
        match error {
            ConnectError::H2(error) => error.is_go_away() || error.is_io() || error.reason() == Some(h2::Reason::REFUSED_STREAM),
            ConnectError::Refused(_) | ConnectError::Timeout | ConnectError::Target => false,
        }
    }
}

fn copy(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

fn copy_h2(error: &h2::Error) -> h2::Error {
    error.reason().unwrap_or(h2::Reason::INTERNAL_ERROR).into()
}
