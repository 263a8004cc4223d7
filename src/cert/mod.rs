//! Where certificates come from: files, memory, Istio's certificate service, SPIFFE's Workload API,
//! and a CA for development that writes the files. A [`Keeper`] holds those of a node, whoever issues
//! them.
//!
//! Implements [`CertSource`](crate::transport::CertSource); knows nothing of who asks.
//!
//! A workload's directory, whoever writes it (our own CA, cert-manager, a Kubernetes secret,
//! Istio's agent):
//! ```text
//! cert-chain.pem   the leaf, then its intermediates
//! key.pem          the leaf's private key
//! roots.pem        one or more trust anchors; Istio's name root-cert.pem is accepted as well
//! ```
//! The development CA writes a tree of them: `OUT/NAMESPACE/SERVICE_ACCOUNT/`, next to
//! `OUT/roots.pem` and `OUT/ca-key.pem`.

mod ca;
mod directory;
mod file;
mod issuer;
mod istio_ca;
mod keeper;
mod layout;
mod memory;
mod multi;
mod spiffe;
mod trust;

pub use ca::{CaError, DevCa, IssuedCert};
pub use directory::{DirectoryError, is_single, open_directory};
pub use file::{FileCertError, FileCertSource, Reload};
pub use issuer::{CaIssuer, IssueFuture, Issuer};
pub use istio_ca::{CaConfig, IstioCa, IstioCaError};
pub use keeper::{CertState, CertStatus, Keeper};
pub use memory::StaticCertSource;
pub use multi::MultiCertSource;
pub use spiffe::{SpiffeError, SpiffeSource};
