//! Authorities below and beside each other, what they certify, and what they revoke.

use crate::transport::{WorkloadCert, tls::Policy};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, RevokedCertParams, SanType, SignatureAlgorithm,
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use time::{Duration, OffsetDateTime};

pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    // With its own first; the root is not sent.
    sent: Vec<CertificateDer<'static>>,
    root: CertificateDer<'static>,
}

/// A workload's certificate.
pub(super) struct Leaf {
    pub(super) chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
    root: CertificateDer<'static>,
}

fn params(name: &str, serial: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if !name.is_empty() {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    params.serial_number = Some(serial.into());
    params
}

fn authority(name: &str, serial: u64) -> CertificateParams {
    let mut params = params(name, serial);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Authority {
    pub(super) fn root(name: &str) -> Self {
        Self::root_with(name, &PKCS_ECDSA_P256_SHA256)
    }

    pub(super) fn root_with(name: &str, algorithm: &'static SignatureAlgorithm) -> Self {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let params = authority(name, 1);
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), sent: Vec::new(), root }
    }

    /// One below it.
    pub(super) fn below(&self, name: &str, serial: u64) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = authority(name, serial);
        let own = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let sent = std::iter::once(own).chain(self.sent.iter().cloned()).collect();
        Self { issuer: Issuer::new(params, key), sent, root: self.root.clone() }
    }

    pub(super) fn leaf(&self, account: &str, serial: u64) -> Leaf {
        self.leaf_with(account, serial, &PKCS_ECDSA_P256_SHA256)
    }

    pub(super) fn leaf_with(&self, account: &str, serial: u64, algorithm: &'static SignatureAlgorithm) -> Leaf {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = params("", serial);
        params.subject_alt_names = vec![SanType::URI(identity(account).try_into().unwrap())];
        let own = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let chain = std::iter::once(own).chain(self.sent.iter().cloned()).collect();
        Leaf { chain, key: key.serialize_der(), root: self.root.clone() }
    }

    /// A list of revoked serial numbers, in PEM.
    pub(super) fn revokes(&self, serials: &[u64]) -> String {
        self.list(serials, 24).pem().unwrap()
    }

    /// The same, in DER.
    pub(super) fn revokes_der(&self, serials: &[u64]) -> Vec<u8> {
        self.list(serials, 24).der().to_vec()
    }

    /// A list whose successor should have come an hour ago.
    pub(super) fn revoked_long_ago(&self, serials: &[u64]) -> String {
        self.list(serials, -1).pem().unwrap()
    }

    fn list(&self, serials: &[u64], hours: i64) -> rcgen::CertificateRevocationList {
        let now = OffsetDateTime::now_utc();
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: now - Duration::hours(2),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: now - Duration::hours(48),
            next_update: now + Duration::hours(hours),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap()
    }
}

pub(super) fn identity(account: &str) -> String {
    format!("spiffe://td/ns/app/sa/{account}")
}

/// What somebody trusts.
pub(super) fn anchors<'a>(authorities: impl IntoIterator<Item = &'a Authority>) -> RootCertStore {
    let mut anchors = RootCertStore::empty();
    for authority in authorities {
        anchors.add(authority.root.clone()).unwrap();
    }
    anchors
}

impl Leaf {
    pub(super) fn cert_by(&self, policy: Policy) -> WorkloadCert {
        let key = PrivateKeyDer::try_from(self.key.clone()).unwrap();
        WorkloadCert::by_policy(policy, self.chain.clone(), key, vec![self.root.clone()]).unwrap()
    }
}
