//! A certificate authority for development: one root, ECDSA P-256, no revocation.

use super::layout::{Access, CA_KEY, CHAIN, KEY, ROOTS, is_directory_name, write_atomically};
use crate::model::{Identity, IdentityError};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType,
};
use rustls::pki_types::CertificateDer;
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};
use time::OffsetDateTime;
use x509_parser::pem::parse_x509_pem;
use zeroize::{Zeroize, Zeroizing};

/// Clocks of two machines may differ by this much before a fresh certificate is refused; a tenth of
/// its life at most, which is so short that no clock may be wrong then: its half-life must lie ahead.
const BACKDATE: time::Duration = time::Duration::minutes(5);
/// Life of the root that [`DevCa::write_directory`] creates: longer than any demo.
const ROOT_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A development CA for one trust domain, which its root names as organisation (as Istio's does).
pub struct DevCa {
    trust_domain: String,
    issuer: Issuer<'static, KeyPair>,
    root_pem: String,
    root: CertificateDer<'static>,
    not_after: OffsetDateTime,
}

/// A certificate fresh from the CA. Its key is overwritten when it is dropped.
#[derive(Clone)]
pub struct IssuedCert {
    /// The leaf.
    pub chain_pem: String,
    /// Its private key, PKCS#8.
    pub key_pem: String,
    /// The CA's root.
    pub roots_pem: String,
}

/// Why the development CA cannot do it.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file cannot be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is not a root or key of a development CA", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why, when known.
        #[source]
        source: Option<rcgen::Error>,
    },
    /// Key and root do not belong together.
    #[error("{} is not the key of the root in {}", key.display(), roots.display())]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The root's file.
        roots: PathBuf,
    },
    /// The CA serves another trust domain.
    #[error("the CA is of trust domain {own}, not of {wanted}")]
    TrustDomain {
        /// Its own.
        own: String,
        /// The other.
        wanted: String,
    },
    /// The trust domain cannot be part of an identity.
    #[error("no valid trust domain")]
    Identity(#[from] IdentityError),
    /// The name cannot be that of a directory.
    #[error("{0} cannot be the name of a directory")]
    DirectoryName(String),
    /// The time is so long that its end is no date.
    #[error("a life of {0:?} is too long")]
    Lifetime(Duration),
    /// The library refused.
    #[error("cannot create a certificate")]
    Create(#[from] rcgen::Error),
}

impl DevCa {
    /// A new CA whose root lives for `ttl`.
    ///
    /// # Errors
    /// When the trust domain is not fit for identities, or `ttl` is too long.
    pub fn create(trust_domain: &str, ttl: Duration) -> Result<Self, CaError> {
        Identity::new(trust_domain, "any", "any")?;
        let key = KeyPair::generate()?;
        let mut params = lifetime(ttl)?;
        params.distinguished_name.push(DnType::OrganizationName, trust_domain);
        params.distinguished_name.push(DnType::CommonName, "cairn development CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let (root, not_after) = (params.self_signed(&key)?, params.not_after);
        let (root_pem, root) = (root.pem(), root.into());
        Ok(Self { trust_domain: trust_domain.to_owned(), issuer: Issuer::new(params, key), root_pem, root, not_after })
    }

    /// The CA that [`write_directory`](Self::write_directory) left in `dir`.
    ///
    /// # Errors
    /// When a file is missing, is not ours, or the key is not the root's.
    pub fn open(dir: &Path) -> Result<Self, CaError> {
        let (roots, key_path) = (dir.join(ROOTS), dir.join(CA_KEY));
        let (root_pem, key_pem) = (read(&roots)?, Zeroizing::new(read(&key_path)?));
        let key = KeyPair::from_pem(&key_pem).map_err(|error| CaError::Content { path: key_path.clone(), source: Some(error) })?;
        let not_ours = || CaError::Content { path: roots.clone(), source: None };
        let (_, pem) = parse_x509_pem(root_pem.as_bytes()).map_err(|_| not_ours())?;
        let root = pem.parse_x509().map_err(|_| not_ours())?;
        if root.public_key().raw != key.subject_public_key_info() {
            return Err(CaError::Mismatch { key: key_path, roots });
        }
        let organization = root.subject().iter_organization().next().and_then(|name| name.as_str().ok());
        let trust_domain = organization.ok_or_else(not_ours)?.to_owned();
        let not_after = root.validity().not_after.to_datetime();
        let issuer =
            Issuer::from_ca_cert_pem(&root_pem, key).map_err(|error| CaError::Content { path: roots.clone(), source: Some(error) })?;
        let root = CertificateDer::from(pem.contents);
        Ok(Self { trust_domain, issuer, root_pem, root, not_after })
    }

    /// The trust domain whose identities it certifies.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The root, DER.
    pub(super) fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The root, PEM.
    pub fn roots_pem(&self) -> &str {
        &self.root_pem
    }

    /// For what else it may sign.
    #[cfg(test)]
    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// A certificate with a new key: empty subject, the identity as the only SAN (critical), for
    /// clients and servers. Valid from five minutes ago, or a tenth of `ttl` if that is less, for `ttl`
    /// from now, though not longer than the root.
    ///
    /// # Errors
    /// When the identity is of another trust domain, or `ttl` is too long.
    pub fn issue(&self, identity: &Identity, ttl: Duration) -> Result<IssuedCert, CaError> {
        let (leaf, key) = self.sign(identity, ttl)?;
        Ok(IssuedCert { chain_pem: leaf.pem(), key_pem: key.serialize_pem(), roots_pem: self.root_pem.clone() })
    }

    /// As [`issue`](Self::issue), for who has no use for PEM.
    pub(super) fn sign(&self, identity: &Identity, ttl: Duration) -> Result<(Certificate, Zeroizing<KeyPair>), CaError> {
        self.check_trust_domain(identity.trust_domain())?;
        let key = Zeroizing::new(KeyPair::generate()?);
        let mut params = lifetime(ttl)?;
        params.not_after = params.not_after.min(self.not_after);
        // rcgen marks the SAN critical when the subject is empty (RFC 5280 section 4.2.1.6).
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into()?)];
        // Said aloud, as Istio's CA does: SPIFFE's libraries want to read it.
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = params.signed_by(&*key, &self.issuer)?;
        Ok((leaf, key))
    }

    /// Writes `out/roots.pem`, `out/ca-key.pem` and, for each identity, `out/NS/SA/` with
    /// `cert-chain.pem`, `key.pem` and `roots.pem`. A CA that is there already is used again, with
    /// new certificates for the workloads. Keys are readable by the owner only; every file is
    /// replaced as a whole. Blocking.
    ///
    /// # Errors
    /// When the CA in `out` or an identity is of another trust domain (nothing is written then),
    /// when a part of an identity cannot be a directory, or a file cannot be read or written.
    pub fn write_directory(out: &Path, trust_domain: &str, identities: &[Identity], ttl: Duration) -> Result<Self, CaError> {
        // The root is written last, so its absence means that there is no complete CA.
        let present = out.join(ROOTS).exists();
        let ca = if present { Self::open(out)? } else { Self::create(trust_domain, ROOT_TTL)? };
        ca.check_trust_domain(trust_domain)?;
        for identity in identities {
            ca.check_trust_domain(identity.trust_domain())?;
            check_directory_name(identity.namespace())?;
            check_directory_name(identity.service_account())?;
        }
        if !present {
            create_dir(out)?;
            write(&out.join(CA_KEY), &Zeroizing::new(ca.issuer.key().serialize_pem()), Access::Secret)?;
            write(&out.join(ROOTS), &ca.root_pem, Access::Public)?;
        }
        for identity in identities {
            let dir = out.join(identity.namespace()).join(identity.service_account());
            let issued = ca.issue(identity, ttl)?;
            create_dir(&dir)?;
            write(&dir.join(ROOTS), &issued.roots_pem, Access::Public)?;
            write(&dir.join(KEY), &issued.key_pem, Access::Secret)?;
            write(&dir.join(CHAIN), &issued.chain_pem, Access::Public)?;
        }
        Ok(ca)
    }

    fn check_trust_domain(&self, wanted: &str) -> Result<(), CaError> {
        if wanted == self.trust_domain {
            return Ok(());
        }
        Err(CaError::TrustDomain { own: self.trust_domain.clone(), wanted: wanted.to_owned() })
    }
}

impl fmt::Debug for DevCa {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DevCa").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

impl Drop for IssuedCert {
    fn drop(&mut self) {
        self.key_pem.zeroize();
    }
}

impl fmt::Debug for IssuedCert {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedCert").field("chain_pem", &self.chain_pem).finish_non_exhaustive()
    }
}

/// Parameters that are valid from [`BACKDATE`] ago, or less, for `ttl` from now, with an empty subject.
fn lifetime(ttl: Duration) -> Result<CertificateParams, CaError> {
    let (now, too_long) = (OffsetDateTime::now_utc(), CaError::Lifetime(ttl));
    let Ok(ttl) = time::Duration::try_from(ttl) else { return Err(too_long) };
    let end = now.checked_add(ttl).ok_or(too_long)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    (params.not_before, params.not_after) = (now - BACKDATE.min(ttl / 10), end);
    Ok(params)
}

fn check_directory_name(name: &str) -> Result<(), CaError> {
    if is_directory_name(name) { Ok(()) } else { Err(CaError::DirectoryName(name.to_owned())) }
}

fn read(path: &Path) -> Result<String, CaError> {
    fs::read_to_string(path).map_err(|source| CaError::Io { path: path.to_owned(), source })
}

fn create_dir(path: &Path) -> Result<(), CaError> {
    fs::create_dir_all(path).map_err(|source| CaError::Io { path: path.to_owned(), source })
}

fn write(path: &Path, content: &str, access: Access) -> Result<(), CaError> {
    write_atomically(path, content.as_bytes(), access).map_err(|source| CaError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
