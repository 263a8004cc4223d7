//! Parsers of what is told of a control plane.

use crate::transport::grpc::{Roots, Token};
use http::{HeaderName, HeaderValue, Uri};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::Value;
use std::str::FromStr;

/// Where istiod serves both of its services over TLS.
const PORT: u16 = 15012;

/// The address of a control plane's server, or `off`; an empty one is `off` as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    /// There is none, and no default takes its place.
    Off,
    /// `https://HOST:PORT`
    At(Uri),
}

/// Which rules for cryptography must be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompliancePolicy {
    /// None but our own.
    None,
    /// Keys are agreed upon in a way that a quantum computer does not undo.
    Pqc,
}

/// A header of every call. Its value is never shown.
pub(in crate::settings) type Header = (HeaderName, HeaderValue);

impl FromStr for ServerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text == "off" {
            return Ok(Self::Off);
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("https", text));
        match scheme {
            "https" => server(rest).map(Self::At),
            "http" => Err("a control plane is spoken to over TLS only: https, which istiod serves on port 15012".to_owned()),
            other => Err(format!("{other} is not https")),
        }
    }
}

/// `HOST[:PORT]`
fn server(text: &str) -> Result<Uri, String> {
    let wrong = || "not an address like HOST:PORT or https://HOST:PORT".to_owned();
    let authority = text.strip_suffix('/').unwrap_or(text);
    if authority.contains(['/', '?', '#']) {
        return Err("an address of a server has no path".to_owned());
    }
    let authority: http::uri::Authority = authority.parse().map_err(|_| wrong())?;
    let host = authority.host();
    let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    if authority.as_str().contains('@') || ServerName::try_from(name).is_err() {
        return Err(wrong());
    }
    let port = match authority.as_str().strip_prefix(host).unwrap_or_default() {
        "" => PORT,
        port => port.strip_prefix(':').and_then(|port| port.parse().ok()).filter(|port| *port != 0).ok_or_else(wrong)?,
    };
    Uri::builder().scheme("https").authority(format!("{host}:{port}")).path_and_query("/").build().map_err(|_| wrong())
}

/// A name that a certificate can be for.
pub(super) fn server_name(text: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(text.to_owned()).map_err(|_| "not the name of a server".to_owned())
}

/// A path, `SYSTEM`, or the PEM itself.
pub(super) fn roots(text: &str) -> Result<Roots, String> {
    if text == "SYSTEM" {
        return Ok(Roots::System);
    }
    if !text.contains("-----BEGIN") {
        // The next flag, where the value was forgotten.
        return if text.starts_with("--") { Err("neither a path nor a PEM".to_owned()) } else { Ok(Roots::File(text.into())) };
    }
    let certificates = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(Roots::Pem(text.to_owned())),
        Ok(_) => Err("a PEM without a certificate".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A path, by its beginning, or the token itself. A token begins with neither, so that a file which
/// is not there yet is never taken for one.
#[allow(clippy::unnecessary_wraps, reason = "the form of a parser")]
pub(super) fn token(text: &str) -> Result<Token, String> {
    let is_path = ["/", "./", "../"].into_iter().any(|beginning| text.starts_with(beginning));
    Ok(if is_path { Token::File(text.into()) } else { Token::Literal(text.to_owned()) })
}

/// `unix:///PATH`, as SPIFFE writes it, or the path alone.
pub(super) fn spiffe_socket(text: &str) -> Result<String, String> {
    let wrong = || "not a socket like unix:///run/spire/agent.sock".to_owned();
    let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")).unwrap_or(text);
    if path.starts_with('/') && path.len() > 1 { Ok(format!("unix://{path}")) } else { Err(wrong()) }
}

/// `pqc`, or nothing.
pub(super) fn compliance_policy(text: &str) -> Result<CompliancePolicy, String> {
    match text {
        "" => Ok(CompliancePolicy::None),
        "pqc" => Ok(CompliancePolicy::Pqc),
        "fips-140-2" => Err("fips-140-2 needs another build, with a cryptographic module that is certified".to_owned()),
        _ => Err("not a policy that is known: pqc".to_owned()),
    }
}

/// `NAME=VALUE`
pub(super) fn header(text: &str) -> Result<Header, String> {
    let (name, value) = text.split_once('=').ok_or_else(|| "not of the form NAME=VALUE".to_owned())?;
    header_of(name, value)
}

/// A header by its two parts.
pub(super) fn header_of(name: &str, value: &str) -> Result<Header, String> {
    let known: HeaderName =
        name.to_ascii_lowercase().parse().map_err(|_| "what stands for its name is not the name of a header".to_owned())?;
    if known.as_str().ends_with("-bin") {
        return Err(format!("{known} is a header of bytes, which a text cannot be"));
    }
    let mut value = header_value(value)?;
    value.set_sensitive(true);
    Ok((known, value))
}

/// ASCII that can be seen, and blanks: gRPC has no other texts in headers.
pub(super) fn header_value(text: &str) -> Result<HeaderValue, String> {
    let value = HeaderValue::from_str(text).ok().filter(|value| value.to_str().is_ok());
    value.ok_or_else(|| "not a text that a header can hold".to_owned())
}

/// Metadata that have a setting of their own, and its flag. Said twice, they could differ.
const OWN: [(&str, &str); 9] = [
    ("CLUSTER_ID", "--cluster-id"),
    ("NETWORK", "--network"),
    ("NODE_NAME", "--node"),
    ("NAME", "--pod-name"),
    ("NAMESPACE", "--pod-namespace"),
    ("SERVICE_ACCOUNT", "--service-account"),
    ("INSTANCE_IPS", "--instance-ip"),
    ("DNS_CAPTURE", "--dns"),
    ("DNS_PROXY_ADDR", "--dns-address"),
];

fn key_and_value(text: &str) -> Result<(String, &str), String> {
    let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| "not of the form KEY=VALUE".to_owned())?;
    match OWN.iter().find(|(own, _)| *own == key) {
        Some((_, flag)) => Err(format!("{key} is told by {flag}")),
        None => Ok((key.to_owned(), value)),
    }
}

/// `KEY=TEXT`
pub(super) fn metadata(text: &str) -> Result<(String, String), String> {
    key_and_value(text).map(|(key, value)| (key, value.to_owned()))
}

/// `KEY=JSON`
pub(super) fn json_metadata(text: &str) -> Result<(String, Value), String> {
    let (key, value) = key_and_value(text)?;
    Ok((key, json(value)?))
}

/// JSON.
pub(super) fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))
}
