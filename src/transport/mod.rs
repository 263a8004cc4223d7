//! Bytes: how connections are accepted, opened, secured, copied.
//!
//! Knows addresses, sockets, TLS with SPIFFE identities. Does not know HBONE, HTTP, nor where
//! certificates come from ([`tls::CertSource`] is implemented in `cert`).

/// Writes of a wrapper go straight to the `io` it wraps.
macro_rules! write_through {
    ($wrapper:ident) => {
        impl<IO: tokio::io::AsyncWrite + Unpin> tokio::io::AsyncWrite for $wrapper<IO> {
            fn poll_write(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                buf: &[u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                std::pin::Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
            }

            fn poll_write_vectored(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                bufs: &[std::io::IoSlice<'_>],
            ) -> std::task::Poll<std::io::Result<usize>> {
                std::pin::Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                self.io.is_write_vectored()
            }

            fn poll_flush(self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.get_mut().io).poll_flush(cx)
            }

            fn poll_shutdown(self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
            }
        }
    };
}
use write_through;

pub mod ahead;
pub mod copy;
pub mod cut;
pub mod gather;
pub mod grpc;
pub mod listener;
pub mod netns;
pub mod rewind;
pub mod socket;
pub mod sockets;
pub mod tls;

pub use ahead::ReadAhead;
pub use cut::Cuttable;
pub use gather::{Flusher, Gathered, gather};
pub use listener::Accepted;
pub use netns::Netns;
pub use rewind::Rewind;
pub use socket::OriginalDst;
pub use sockets::Sockets;
pub use tls::{CertError, CertFuture, CertSource, ReplacedFuture, Revocation, RevocationError, TlsError, WorkloadCert};
