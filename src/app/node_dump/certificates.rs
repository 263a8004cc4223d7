//! Certificates.

use crate::cert::{CertState, CertStatus};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use x509_parser::prelude::{FromDer, X509Certificate};

/// What there is for an identity. Keys are not shown.
pub(super) fn status(status: &CertStatus) -> Value {
    let (state, chain, roots) = match &status.state {
        CertState::Initializing => ("Initializing".to_owned(), Vec::new(), Vec::new()),
        CertState::Available(cert) => ("Available".to_owned(), all(cert.chain()), all(cert.anchors())),
        CertState::Unavailable(reason) => (format!("Unavailable: {reason}"), Vec::new(), Vec::new()),
    };
    json!({ "identity": status.identity.as_str(), "state": state, "certChain": chain, "rootCerts": roots })
}

fn all(certificates: &[CertificateDer<'static>]) -> Vec<Value> {
    certificates.iter().map(one).collect()
}

fn one(der: &CertificateDer<'static>) -> Value {
    let mut out = json!({ "pem": STANDARD.encode(pem(der)) });
    // It has been read before, or it would not be in use.
    if let Ok((_, cert)) = X509Certificate::from_der(der) {
        out["serialNumber"] = json!(cert.serial.to_string());
        out["validFrom"] = json!(date(cert.validity().not_before.timestamp()));
        out["expirationTime"] = json!(date(cert.validity().not_after.timestamp()));
    }
    out
}

/// RFC 7468
fn pem(der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    // Base64 is ASCII: it may be cut anywhere.
    let lines: Vec<String> = body.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn date(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|date| date.format(&Rfc3339).ok()).unwrap_or_default()
}
