//! For tests of whoever looks at revocation lists.

use super::WorkloadCert;
use rcgen::{CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber};
use time::OffsetDateTime;

/// A list of `issuer` that revokes a certificate, in PEM.
pub(crate) fn revoking(issuer: &Issuer<'static, KeyPair>, cert: &WorkloadCert) -> String {
    let now = OffsetDateTime::now_utc();
    let (_, parsed) = x509_parser::parse_x509_certificate(&cert.chain()[0]).unwrap();
    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from_slice(parsed.raw_serial()),
        revocation_time: now,
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: now,
        next_update: now + time::Duration::hours(1),
        crl_number: 1.into(),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(issuer).unwrap().pem().unwrap()
}
