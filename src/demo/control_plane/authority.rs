//! The CA of the mesh: what signs the requests of `CreateCertificate` (contract, 5). Unlike the
//! development CA it can have an intermediate, and can be given a new root while it runs.

use crate::{
    cert::IssuedCert,
    model::{Identity, IdentityError},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData, RevokedCertParams, SanType, SerialNumber,
};
use std::{fmt, time::Duration};
use time::OffsetDateTime;

/// Clocks may differ by this much before a fresh certificate is refused; a tenth of its life at most.
const BACKDATE: time::Duration = time::Duration::minutes(5);
/// Life of roots and intermediates.
const AUTHORITY_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Why nothing is signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// What should be a request for a certificate is none, or its signature is not its own key's.
    #[error("not a certificate request")]
    Request(#[source] rcgen::Error),
    /// The request names nobody, several, or somebody who cannot be.
    #[error("a certificate request must have one URI as its only name")]
    Names,
    /// The name is not that of a workload.
    #[error("not the name of a workload")]
    Identity(#[from] IdentityError),
    /// A workload of another trust domain.
    #[error("{0} is not of trust domain {1}")]
    TrustDomain(Identity, String),
    /// The time is so long that its end is no date.
    #[error("a life of {0:?} is too long")]
    Lifetime(Duration),
    /// The library refused.
    #[error("cannot create a certificate")]
    Create(#[from] rcgen::Error),
}

/// Roots, of which one signs.
pub(super) struct Authority {
    trust_domain: String,
    has_intermediate: bool,
    max_ttl: Duration,
    // Oldest first; two of them while they are being changed.
    roots: Vec<Root>,
    signing: usize,
}

struct Root {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    intermediate: Option<(String, Issuer<'static, KeyPair>)>,
}

impl fmt::Debug for Authority {
    /// Without keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("trust_domain", &self.trust_domain).field("roots", &self.roots.len()).finish_non_exhaustive()
    }
}

impl Authority {
    pub(super) fn new(trust_domain: &str, has_intermediate: bool, max_ttl: Duration) -> Result<Self, SignError> {
        let roots = vec![Root::new(trust_domain, has_intermediate)?];
        Ok(Self { trust_domain: trust_domain.to_owned(), has_intermediate, max_ttl, roots, signing: 0 })
    }

    /// The next of three steps to a new root: believe both, sign with the new one, forget the old one.
    pub(super) fn rotate(&mut self) -> Result<(), SignError> {
        match (self.roots.len(), self.signing) {
            (1, _) => self.roots.push(Root::new(&self.trust_domain, self.has_intermediate)?),
            (_, 0) => self.signing = 1,
            (..) => {
                self.roots.remove(0);
                self.signing = 0;
            }
        }
        Ok(())
    }

    /// All roots that are believed in, PEM.
    pub(super) fn roots_pem(&self) -> String {
        self.roots.iter().map(|root| root.pem.as_str()).collect()
    }

    /// The identity that a request asks for.
    pub(super) fn requested(csr: &str) -> Result<Identity, SignError> {
        let request = CertificateSigningRequestParams::from_pem(csr).map_err(SignError::Request)?;
        match &request.params.subject_alt_names[..] {
            [SanType::URI(uri)] => Ok(uri.as_str().parse()?),
            _ => Err(SignError::Names),
        }
    }

    /// The answer to a request: leaf, intermediate if there is one, and the roots as one element.
    pub(super) fn sign(&self, csr: &str, identity: &Identity, ttl: Duration) -> Result<Vec<String>, SignError> {
        let request = CertificateSigningRequestParams::from_pem(csr).map_err(SignError::Request)?;
        let mut chain = self.leaf(&request.public_key, identity, ttl)?;
        chain.push(self.roots_pem());
        Ok(chain)
    }

    /// A certificate with a new key.
    pub(super) fn issue(&self, identity: &Identity, ttl: Duration) -> Result<IssuedCert, SignError> {
        let key = KeyPair::generate()?;
        let chain_pem = self.leaf(&key, identity, ttl)?.concat();
        Ok(IssuedCert { chain_pem, key_pem: key.serialize_pem(), roots_pem: self.roots_pem() })
    }

    /// A list of these serial numbers, by whoever signs now, PEM.
    pub(super) fn revocation_list(&self, serials: &[Vec<u8>]) -> Result<String, SignError> {
        let root = &self.roots[self.signing];
        let issuer = root.intermediate.as_ref().map_or(&root.issuer, |(_, issuer)| issuer);
        let life = lifetime(self.max_ttl)?;
        let revoked = |serial: &Vec<u8>| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: life.not_before,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: life.not_before,
            next_update: life.not_after,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(issuer)?.pem()?)
    }

    fn leaf(&self, key: &impl PublicKeyData, identity: &Identity, ttl: Duration) -> Result<Vec<String>, SignError> {
        if identity.trust_domain() != self.trust_domain {
            return Err(SignError::TrustDomain(identity.clone(), self.trust_domain.clone()));
        }
        let root = &self.roots[self.signing];
        let mut params = lifetime(ttl.min(self.max_ttl))?;
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into()?)];
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let issuer = root.intermediate.as_ref().map_or(&root.issuer, |(_, issuer)| issuer);
        let leaf = params.signed_by(key, issuer)?.pem();
        Ok([leaf].into_iter().chain(root.intermediate.iter().map(|(pem, _)| pem.clone())).collect())
    }
}

impl Root {
    fn new(trust_domain: &str, has_intermediate: bool) -> Result<Self, SignError> {
        let (params, key) = (authority(trust_domain, "root", 1)?, KeyPair::generate()?);
        let pem = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        let intermediate = match has_intermediate {
            true => {
                let (params, key) = (authority(trust_domain, "intermediate", 0)?, KeyPair::generate()?);
                Some((params.signed_by(&key, &issuer)?.pem(), Issuer::new(params, key)))
            }
            false => None,
        };
        Ok(Self { pem, issuer, intermediate })
    }
}

fn authority(trust_domain: &str, name: &str, below: u8) -> Result<CertificateParams, SignError> {
    let mut params = lifetime(AUTHORITY_TTL)?;
    params.distinguished_name.push(DnType::OrganizationName, trust_domain);
    // Roots that follow each other must not have the same name.
    params.distinguished_name.push(DnType::CommonName, format!("cairn demo {name} {:08x}", fastrand::u32(..)));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn lifetime(ttl: Duration) -> Result<CertificateParams, SignError> {
    let (now, too_long) = (OffsetDateTime::now_utc(), SignError::Lifetime(ttl));
    let Ok(ttl) = time::Duration::try_from(ttl) else { return Err(too_long) };
    let end = now.checked_add(ttl).ok_or(too_long)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    (params.not_before, params.not_after) = (now - BACKDATE.min(ttl / 10), end);
    Ok(params)
}

/// The server's own certificate for its names, and the root that signed it, PEM: apart from the mesh's.
pub(super) fn server(names: Vec<String>) -> Result<(String, String, String), SignError> {
    let (params, key) = (authority("cairn demo", "control plane root", 0)?, KeyPair::generate()?);
    let root_pem = params.self_signed(&key)?.pem();
    let issuer = Issuer::new(params, key);
    let leaf_key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(names)?;
    let life = lifetime(AUTHORITY_TTL)?;
    (leaf.not_before, leaf.not_after) = (life.not_before, life.not_after);
    leaf.use_authority_key_identifier_extension = true;
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok((leaf.signed_by(&leaf_key, &issuer)?.pem(), leaf_key.serialize_pem(), root_pem))
}
