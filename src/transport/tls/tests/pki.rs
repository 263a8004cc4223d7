//! Certificates, also such as nobody should accept.

use super::{
    super::{WorkloadCert, fixture, policy},
    CLIENT,
};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::{
    pki_types::{CertificateDer, pem::PemObject},
    sign::CertifiedKey,
};
use time::OffsetDateTime;

/// An authority of its own.
pub(super) struct Pki {
    issuer: Issuer<'static, KeyPair>,
    pub(super) root_pem: String,
}

impl Pki {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params(&[]);
        params.distinguished_name.push(DnType::CommonName, "test root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), root_pem }
    }

    pub(super) fn pem(&self, params: &CertificateParams) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    pub(super) fn sign(&self, params: &CertificateParams, key: &KeyPair) -> CertificateDer<'static> {
        params.signed_by(key, &self.issuer).unwrap().der().clone()
    }

    /// A list that revokes a certificate.
    pub(super) fn revokes(&self, cert: &WorkloadCert) -> String {
        fixture::revoking(&self.issuer, cert)
    }

    pub(super) fn cert(&self, params: &CertificateParams) -> WorkloadCert {
        let (chain, key) = self.pem(params);
        WorkloadCert::from_pem(chain.as_bytes(), key.as_bytes(), self.root_pem.as_bytes()).unwrap()
    }

    pub(super) fn of(&self, identity: &str) -> WorkloadCert {
        self.cert(&params(&[identity]))
    }

    /// A certificate that `from_pem` would not let us own: presented under the name of `CLIENT`.
    pub(super) fn forged(&self, params: &CertificateParams) -> WorkloadCert {
        let (mut cert, (chain, key)) = (self.of(CLIENT), self.pem(params));
        let chain = PemObject::from_pem_slice(chain.as_bytes()).unwrap();
        let key = PemObject::from_pem_slice(key.as_bytes()).unwrap();
        cert.replace_key(CertifiedKey::from_der(vec![chain], key, &policy::provider()).unwrap());
        cert
    }
}

/// Valid for an hour to either side, without a subject.
pub(super) fn params(sans: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = OffsetDateTime::now_utc() - time::Duration::hours(1);
    params.not_after = OffsetDateTime::now_utc() + time::Duration::hours(1);
    params.subject_alt_names = sans.iter().map(|san| SanType::URI((*san).try_into().unwrap())).collect();
    params
}
