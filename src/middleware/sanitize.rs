//! One spelling of the path, headers that belong to this hop removed, forged identities replaced:
//! `Inbound -> Clean`, or 400.

use super::{
    Error,
    gate::{Gate, always_ready},
    stage::{Clean, Context as RequestContext, Failure, Inbound, Outcome, Reply},
};
use crate::route::normalize::{PathNormalization, normalize};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, FORWARDED, HOST, TE, TRAILER,
        TRANSFER_ENCODING, UPGRADE,
    },
    uri::{Authority, PathAndQuery},
};
use std::{borrow::Cow, net::SocketAddr};
use tower::Service;

const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// `x-request-id`
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Cleans requests on the way in and responses on the way out.
#[derive(Debug, Clone)]
pub struct Sanitize<S> {
    inner: S,
    paths: PathNormalization,
}

impl<S> Sanitize<S> {
    /// Normalises paths this way.
    pub fn new(inner: S, paths: PathNormalization) -> Self {
        Self { inner, paths }
    }
}

impl<S> Service<Inbound> for Sanitize<S>
where
    S: Service<Clean, Response = Reply, Error = Failure>,
{
    type Response = Reply;
    type Error = Failure;
    type Future = Gate<S::Future>;

    always_ready!();

    fn call(&mut self, Inbound { mut request, context }: Inbound) -> Self::Future {
        match clean(&mut request, &context, self.paths) {
            Ok(()) => Gate::Pass { inner: self.inner.call(Clean { request, context }) },
            Err(error) => Gate::refuse(error, Outcome::default()),
        }
    }
}

fn clean<B>(request: &mut Request<B>, context: &RequestContext, paths: PathNormalization) -> Result<(), Error> {
    if *request.method() == Method::CONNECT {
        return Err(Error::BadRequest("CONNECT inside a tunnel is not supported"));
    }
    clean_target(request, context.destination.address, paths)?;
    let is_upgrade = request.version() == Version::HTTP_11 && is_upgrade(request.headers());
    if request.headers().get(EXPECT).is_some_and(|e| !e.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(Error::BadRequest("unknown expectation"));
    }
    let is_http2 = request.version() == Version::HTTP_2;
    let headers = request.headers_mut();
    if is_http2 {
        join_cookies(headers);
    }
    remove_hop_by_hop(headers, is_upgrade);
    headers.insert(CLIENT_CERT, context.tunnel.client_cert.clone());
    headers.entry(FORWARDED_PROTO).or_insert(const { HeaderValue::from_static("http") });
    if !headers.contains_key(REQUEST_ID) {
        headers.insert(REQUEST_ID, request_id());
    }
    Ok(())
}

/// Host and target: the authority of an absolute target replaces Host (RFC 9112, 3.2.2); exactly
/// one Host; the path in the one form that policy, routes and the workload all see.
fn clean_target<B>(request: &mut Request<B>, addressed: SocketAddr, paths: PathNormalization) -> Result<(), Error> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next().cloned();
    if hosts.next().is_some() {
        return Err(Error::BadRequest("more than one host header"));
    }
    if host.as_ref().is_some_and(|host| !is_plain_host(host)) {
        return Err(Error::BadRequest("host is not valid"));
    }
    let is_http1 = request.version() <= Version::HTTP_11;
    if let Some(authority) = request.uri().authority() {
        if authority.as_str().contains('@') {
            return Err(Error::BadRequest("user information in the authority"));
        }
        let value = HeaderValue::from_str(authority.as_str()).map_err(|_| Error::BadRequest("authority is not valid"))?;
        if !is_http1 && host.is_some_and(|h| !h.as_bytes().eq_ignore_ascii_case(value.as_bytes())) {
            // RFC 9113, 8.3.1: a Host that differs from :authority makes the request malformed.
            return Err(Error::BadRequest("host differs from authority"));
        }
        request.headers_mut().insert(HOST, value);
    } else if host.is_none() && request.version() >= Version::HTTP_11 {
        // RFC 9112, 3.2; RFC 9113, 8.3.1
        return Err(Error::BadRequest("no host"));
    } else if host.is_none() {
        // HTTP/1.0 has no Host, the next hop must be sent one: what the client has connected to.
        let value = HeaderValue::try_from(addressed.to_string()).expect("digits, dots, colons and brackets");
        request.headers_mut().insert(HOST, value);
    }
    let asterisk = *request.method() == Method::OPTIONS && request.uri().path() == "*";
    let path = match request.uri().path() {
        path if asterisk => Cow::Borrowed(path),
        path => normalize(path, paths).map_err(|_| Error::BadRequest("path is not valid"))?,
    };
    let is_changed = matches!(path, Cow::Owned(_));
    if !is_changed && request.uri().authority().is_none() {
        return Ok(());
    }
    let target = match request.uri().query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(&*path),
    };
    let target = target.map_err(|_| Error::BadRequest("path is not valid"))?;
    // Only origin-form goes on; the authority is in Host now.
    *request.uri_mut() = Uri::from(target);
    Ok(())
}

/// RFC 9110, 7.8: an upgrade needs both `Upgrade` and its name in `Connection`.
///
/// One to another HTTP, or to TLS, is none: policy would see the first request only, and not those
/// that follow on the upgraded connection. The request goes on without it, as the RFC allows.
fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE)
        && tokens(headers, &CONNECTION).any(|t| t.eq_ignore_ascii_case("upgrade"))
        && !tokens(headers, &UPGRADE).any(hides_requests)
}

fn hides_requests(protocol: &str) -> bool {
    let name = protocol.split('/').next().unwrap_or_default().trim();
    ["h2c", "h2", "h3", "http", "tls"].iter().any(|n| name.eq_ignore_ascii_case(n))
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim).filter(|t| !t.is_empty())
}

/// RFC 9110, 7.6.1: what belongs to one hop stays there. `TE: trailers` is kept, as gRPC needs it;
/// an upgrade only if `keep_upgrade`.
pub fn remove_hop_by_hop(headers: &mut HeaderMap, keep_upgrade: bool) {
    // Most messages have none of them: one look at each name they do have costs less than looking for each of these.
    if !keep_upgrade && !headers.keys().any(is_hop_by_hop) {
        return;
    }
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = tokens(headers, &CONNECTION).filter_map(|t| t.parse().ok()).collect();
        for name in named {
            if !is_end_to_end(&name) {
                headers.remove(name);
            }
        }
        headers.remove(CONNECTION);
    }
    let wants_trailers = headers.contains_key(TE) && tokens(headers, &TE).any(|t| t.eq_ignore_ascii_case("trailers"));
    for name in [KEEP_ALIVE, PROXY_CONNECTION, HTTP2_SETTINGS, TE, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if keep_upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else {
        headers.remove(UPGRADE);
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(*name, CONNECTION | TE | TRANSFER_ENCODING | UPGRADE) || [KEEP_ALIVE, PROXY_CONNECTION, HTTP2_SETTINGS].contains(name)
}

/// What a client must not be able to strip by naming it in `Connection`: what identity, policy and
/// framing rest on, and what a proxy before us has added (RFC 9110, 7.6.1: options must not name
/// headers that are meant for all recipients).
fn is_end_to_end(name: &HeaderName) -> bool {
    matches!(
        *name,
        AUTHORIZATION | CONTENT_ENCODING | CONTENT_LENGTH | CONTENT_TYPE | COOKIE | EXPECT | FORWARDED | HOST | TE | TRAILER | UPGRADE
    ) || *name == REQUEST_ID
        || name.as_str().starts_with("x-forwarded-")
}

/// Drops from a request's trailers what only headers may say: identity, policy, routing and framing
/// (RFC 9110, 6.5.1).
pub(super) fn remove_forged_trailers(trailers: &mut HeaderMap) {
    let is_forbidden = |name: &HeaderName| {
        is_end_to_end(name) || matches!(*name, CONNECTION | TRANSFER_ENCODING) || [KEEP_ALIVE, PROXY_CONNECTION].contains(name)
    };
    let forbidden: Vec<HeaderName> = trailers.keys().filter(|name| is_forbidden(name)).cloned().collect();
    for name in forbidden {
        trailers.remove(name);
    }
}

/// HTTP/2 clients may send a cookie in parts (RFC 9113, 8.2.3); policy, routes and workloads see it
/// whole.
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let parts: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(|v| v.as_bytes()).collect();
    if let Ok(whole) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
        headers.insert(COOKIE, whole);
    }
}

/// A host as policy can judge it: nothing that is read differently elsewhere.
fn is_plain_host(host: &HeaderValue) -> bool {
    host.is_empty() || (!host.as_bytes().contains(&b'@') && host.to_str().is_ok_and(|h| h.parse::<Authority>().is_ok()))
}

/// A random UUID, version 4 (RFC 9562, 5.4).
fn request_id() -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    const DASHES: [usize; 4] = [8, 13, 18, 23];
    let random = fastrand::u128(..);
    let mut id = (random & !(0xf << 76) & !(0b11 << 62)) | (4 << 76) | (0b10 << 62);
    let mut text = [b'-'; 36];
    for place in (0..text.len()).rev().filter(|place| !DASHES.contains(place)) {
        text[place] = DIGITS[(id & 0xf) as usize];
        id >>= 4;
    }
    HeaderValue::from_bytes(&text).expect("hexadecimal digits and dashes")
}

/// The same for a response; a 101 keeps what makes it an upgrade.
pub(super) fn remove_hop_by_hop_of_response<B>(response: &mut http::Response<B>) {
    let is_upgrade = response.status() == http::StatusCode::SWITCHING_PROTOCOLS;
    // Only our own answers ask to close the client's connection (see `respond`); a workload's was about its own.
    let is_ours = response.extensions().get::<CloseAfter>().is_some();
    let asks_to_close = is_ours && tokens(response.headers(), &CONNECTION).any(|t| t.eq_ignore_ascii_case("close"));
    remove_hop_by_hop(response.headers_mut(), is_upgrade);
    if asks_to_close {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Marks an answer of ours after which the client's connection is not worth keeping.
#[derive(Debug, Clone, Copy)]
pub(super) struct CloseAfter;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_uuids_of_version_4() {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..100 {
            let id = request_id();
            let parts: Vec<&str> = id.to_str().unwrap().split('-').collect();
            assert_eq!(parts.iter().map(|p| p.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{id:?}");
            assert!(parts.concat().bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{id:?}");
            assert!(parts[2].starts_with('4') && parts[3].starts_with(['8', '9', 'a', 'b']), "{id:?}");
            assert!(seen.insert(id));
        }
    }

    #[test]
    fn what_belongs_to_one_hop_is_removed() {
        // Headers, whether an upgrade goes on, and what is left of them.
        type List = &'static [(&'static str, &'static str)];
        let cases: [(List, bool, List); 8] = [
            (&[("host", "a"), ("accept", "b")], false, &[("host", "a"), ("accept", "b")]),
            (&[], true, &[("connection", "upgrade")]),
            (&[("host", "a"), ("keep-alive", "5")], false, &[("host", "a")]),
            (&[("proxy-connection", "x")], false, &[]),
            (&[("http2-settings", "x")], false, &[]),
            (&[("te", "trailers, deflate")], false, &[("te", "trailers")]),
            (&[("connection", "x-own, host, close"), ("x-own", "1"), ("host", "a")], false, &[("host", "a")]),
            (&[("upgrade", "ws"), ("connection", "upgrade")], true, &[("upgrade", "ws"), ("connection", "upgrade")]),
        ];
        for (before, keep_upgrade, after) in cases {
            let map_of = |list: List| -> HeaderMap {
                list.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect()
            };
            let mut headers = map_of(before);
            remove_hop_by_hop(&mut headers, keep_upgrade);
            assert_eq!(headers, map_of(after), "{before:?}");
        }
    }
}
