//! Bytes: how connections are accepted, opened, secured, copied.
//!
//! Knows addresses, sockets, TLS with SPIFFE identities. Does not know HBONE, HTTP, nor where
//! certificates come from ([`tls::CertSource`] is implemented in `cert`).

pub mod ahead;
pub mod copy;
pub mod cut;
pub mod gather;
pub mod listener;
pub mod rewind;
pub mod socket;
pub mod tls;

pub use ahead::ReadAhead;
pub use cut::Cuttable;
pub use gather::{Flusher, Gathered, gather};
pub use listener::Accepted;
pub use rewind::Rewind;
pub use socket::OriginalDst;
pub use tls::{CertError, CertFuture, CertSource, TlsError, WorkloadCert};
