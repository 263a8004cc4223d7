//! A workload's certificate: chain, key, trust anchors, and the TLS configurations made of them.

use super::{
    config::Parameters,
    policy::{self, Policy},
    revocation::Checked,
    source::{CertError, CertPart},
    verify::{identities, verify_server_chain},
};
use crate::model::Identity;
use rustls::{
    ClientConfig, InconsistentKeys, RootCertStore, ServerConfig,
    crypto::aws_lc_rs::{cipher_suite::TLS13_AES_128_GCM_SHA256, sign::any_supported_type},
    pki_types::{
        CertificateDer, PrivateKeyDer, UnixTime,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};
use std::{
    error::Error,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

/// SHA-256 of chain and roots: two certificates with one fingerprint are the same. Of one
/// certificate alone: what `openssl x509 -fingerprint -sha256` shows, without the colons.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// That of one certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        sha256([certificate.as_ref()])
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A workload's certificate with its key and its trust anchors; immutable. What a handshake needs
/// is prepared here once.
pub struct WorkloadCert {
    identity: Identity,
    anchors: Vec<CertificateDer<'static>>,
    not_before: SystemTime,
    not_after: SystemTime,
    serial: String,
    fingerprint: Fingerprint,
    parameters: Parameters,
    server: Arc<ServerConfig>,
    client: ClientConfig,
}

impl WorkloadCert {
    /// Reads PEM: `chain` is the leaf and then its intermediates, `key` the leaf's private key
    /// (PKCS#8, SEC1 or PKCS#1), `roots` at least one trust anchor.
    ///
    /// The identity is the first URI SAN of the leaf that is a SPIFFE workload identity. Dates and
    /// signatures are not looked at: see [`verify`](Self::verify).
    ///
    /// # Errors
    /// When a part is empty or unreadable, the key is not the leaf's, or there is no identity.
    pub fn from_pem(chain: &[u8], key: &[u8], roots: &[u8]) -> Result<Self, CertError> {
        let chain = certificates(chain, CertPart::Chain)?;
        let anchors = certificates(roots, CertPart::Roots)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| pem_error(error, CertPart::Key))?;
        Self::from_der(chain, key, anchors)
    }

    /// As [`from_pem`](Self::from_pem), from DER. The bytes of the key are overwritten once TLS has
    /// its own form of it, which its library overwrites in turn when the last configuration goes.
    ///
    /// # Errors
    /// As for [`from_pem`](Self::from_pem).
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        anchors: Vec<CertificateDer<'static>>,
    ) -> Result<Self, CertError> {
        Self::by_policy(policy::settled(), chain, key, anchors)
    }

    pub(super) fn by_policy(
        policy: Policy,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        anchors: Vec<CertificateDer<'static>>,
    ) -> Result<Self, CertError> {
        let key = Zeroizing::new(key);
        let leaf = chain.first().ok_or(CertError::Empty(CertPart::Chain))?;
        let facts = Facts::read(&chain)?;
        let identity = identities(leaf).map_err(|error| x509_error(error, CertPart::Chain))?.into_iter().next();
        let identity = identity.ok_or(CertError::NoIdentity)?;
        let key = any_supported_type(&key).map_err(CertError::Key)?;
        let key = Arc::new(CertifiedKey::new(chain, key));
        match key.keys_match() {
            // A key that cannot tell its public half is taken at its word.
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(error) => return Err(key_error(error)),
        }
        Self::assemble(policy, identity, key, facts, anchors)
    }

    /// The same certificate for handshakes that trust `anchors`.
    ///
    /// # Errors
    /// When one of them is not a certificate, or there is none.
    pub fn with_anchors(&self, anchors: Vec<CertificateDer<'static>>) -> Result<Self, CertError> {
        let facts = Facts { serial: self.serial.clone(), not_before: self.not_before, not_after: self.not_after };
        Self::assemble(self.parameters.policy(), self.identity.clone(), Arc::clone(self.parameters.key()), facts, anchors)
    }

    fn assemble(
        policy: Policy,
        identity: Identity,
        key: Arc<CertifiedKey>,
        facts: Facts,
        anchors: Vec<CertificateDer<'static>>,
    ) -> Result<Self, CertError> {
        let Facts { serial, not_before, not_after } = facts;
        let mut roots = RootCertStore::empty();
        for anchor in &anchors {
            roots.add(anchor.clone()).map_err(|error| x509_error(error, CertPart::Roots))?;
        }
        let roots = Arc::new(roots);
        let fingerprint = fingerprint(key.cert.iter().chain(&anchors));
        let parameters = Parameters::new(policy, key, roots, &identity)?;
        let server = Arc::new(parameters.server(None).map_err(CertError::Key)?);
        let client = parameters.client().map_err(CertError::Key)?;
        Ok(Self { identity, anchors, not_before, not_after, serial, fingerprint, parameters, server, client })
    }

    /// Whose it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// From when on the leaf is valid.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Until when the whole chain is valid: the earliest end among its certificates.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The middle of its life: when Istio's proxies ask for the next one.
    pub fn half_life(&self) -> SystemTime {
        self.not_before + self.not_after.duration_since(self.not_before).unwrap_or_default() / 2
    }

    /// The leaf's serial number, decimal as `istioctl` shows it.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// For comparing: tells whether chain or roots have changed.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Leaf first, then the intermediates.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.parameters.key().cert
    }

    /// The trust anchors, as they came.
    pub fn anchors(&self) -> &[CertificateDer<'static>] {
        &self.anchors
    }

    /// Whether its time has passed at `now`.
    ///
    /// # Errors
    /// [`CertError::Expired`] when it has.
    pub fn check_not_expired(&self, now: SystemTime) -> Result<(), CertError> {
        if now < self.not_after {
            return Ok(());
        }
        Err(CertError::Expired { identity: self.identity.clone(), not_after: self.not_after })
    }

    /// Whether a peer with the same roots would accept the chain at `now` from a server.
    ///
    /// # Errors
    /// [`CertError::Expired`], or [`CertError::Chain`] with the reason.
    pub fn verify(&self, now: SystemTime) -> Result<(), CertError> {
        self.check_not_expired(now)?;
        let [leaf, intermediates @ ..] = self.chain() else { return Err(CertError::Empty(CertPart::Chain)) };
        let time = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        verify_server_chain(leaf, intermediates, self.roots(), time)
            .map_err(|source| CertError::Chain { identity: self.identity.clone(), source })
    }

    pub(super) fn roots(&self) -> &Arc<RootCertStore> {
        self.parameters.roots()
    }

    pub(super) fn server_config(&self) -> &Arc<ServerConfig> {
        &self.server
    }

    /// As [`server_config`](Self::server_config), for one connection whose client is looked up.
    pub(super) fn checking_server_config(&self, checked: Arc<Checked>) -> Result<Arc<ServerConfig>, rustls::Error> {
        self.parameters.server(Some(checked)).map(Arc::new)
    }

    /// Expects nobody: every connection puts its own verifier in.
    pub(super) fn client_config(&self) -> &ClientConfig {
        &self.client
    }

    /// For a certificate that `from_der` would refuse.
    #[cfg(test)]
    pub(super) fn replace_key(&mut self, key: CertifiedKey) {
        let parameters = Parameters::new(policy::settled(), Arc::new(key), Arc::clone(self.roots()), &self.identity).unwrap();
        (self.client, self.server) = (parameters.client().unwrap(), Arc::new(parameters.server(None).unwrap()));
        self.parameters = parameters;
    }
}

impl fmt::Debug for WorkloadCert {
    /// Without key and configurations.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadCert")
            .field("identity", &self.identity)
            .field("serial", &self.serial)
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// What we want to know of a chain.
struct Facts {
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Facts {
    fn read(chain: &[CertificateDer<'_>]) -> Result<Self, CertError> {
        let mut facts: Option<Self> = None;
        for der in chain {
            let (_, cert) = X509Certificate::from_der(der).map_err(|error| x509_error(error, CertPart::Chain))?;
            let not_after = system_time(cert.validity().not_after.timestamp());
            match &mut facts {
                None => {
                    let not_before = system_time(cert.validity().not_before.timestamp());
                    facts = Some(Self { serial: cert.serial.to_string(), not_before, not_after });
                }
                Some(leaf) => leaf.not_after = leaf.not_after.min(not_after),
            }
        }
        facts.ok_or(CertError::Empty(CertPart::Chain))
    }
}

fn certificates(pem: &[u8], part: CertPart) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = read.map_err(|error| pem_error(error, part))?;
    if certificates.is_empty() { Err(CertError::Empty(part)) } else { Ok(certificates) }
}

fn pem_error(error: pem::Error, part: CertPart) -> CertError {
    if matches!(error, pem::Error::NoItemsFound) { CertError::Empty(part) } else { CertError::Pem { part, source: Arc::new(error) } }
}

fn x509_error(error: impl Error + Send + Sync + 'static, part: CertPart) -> CertError {
    CertError::X509 { part, source: Arc::new(error) }
}

fn key_error(error: rustls::Error) -> CertError {
    if error == rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) { CertError::KeyMismatch } else { CertError::Key(error) }
}

fn system_time(unix: i64) -> SystemTime {
    let distance = Duration::from_secs(unix.unsigned_abs());
    if unix < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

fn fingerprint<'a>(certificates: impl Iterator<Item = &'a CertificateDer<'static>>) -> Fingerprint {
    // The length keeps two lists apart whose bytes are the same.
    let parts = certificates.map(|certificate| ((certificate.len() as u64).to_be_bytes(), certificate));
    let parts: Vec<_> = parts.collect();
    sha256(parts.iter().flat_map(|(length, certificate)| [length.as_slice(), certificate.as_ref()]))
}

fn sha256<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Fingerprint {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().expect("its name says so");
    let mut hash = suite.common.hash_provider.start();
    parts.into_iter().for_each(|part| hash.update(part));
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hash.finish().as_ref());
    Fingerprint(bytes)
}
