//! Filters of a rule: header changes, redirect, rewrite (Gateway API `HTTPRouteFilter`).

use super::{
    Body, Error,
    authorize::host,
    gate::always_ready,
    stage::{Context as RequestContext, Failure, Reply, Routed},
};
use crate::{
    model::{Filter, HeaderModifier, PathModifier, PathPattern, Redirect, UrlRewrite},
    route::replace_prefix,
    state::RulePlan,
};
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri,
    header::{HOST, LOCATION},
    uri::{Authority, PathAndQuery},
};
use pin_project_lite::pin_project;
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tower::Service;

/// Applies the filters of the rule in their order, and its response filters on the way back.
#[derive(Debug, Clone)]
pub struct FilterLayer<S>(pub S);

/// What a filter decided.
pub(super) enum Verdict {
    /// Go on.
    Pass,
    /// The filter has the answer.
    Answer(Response<Body>),
}

impl<S> Service<Routed> for FilterLayer<S>
where
    S: Service<Routed, Response = Reply, Error = Failure>,
{
    type Response = Reply;
    type Error = Failure;
    type Future = Filtering<S::Future>;

    always_ready!();

    fn call(&mut self, mut routed: Routed) -> Self::Future {
        if routed.plan.filters.is_empty() {
            return Filtering::Pass { inner: self.0.call(routed), plan: None };
        }
        let plan = routed.plan.clone();
        match apply_request(&plan.filters, &mut routed.request, routed.matched.as_ref(), &routed.context) {
            Ok(Verdict::Pass) => Filtering::Pass { inner: self.0.call(routed), plan: Some(plan) },
            Ok(Verdict::Answer(mut response)) => {
                apply_response(&plan.filters, &mut response);
                Filtering::Done { result: Some(Ok(Box::new(Reply { response, outcome: routed.outcome, error: None }))) }
            }
            Err(error) => Filtering::Done { result: Some(Err(Box::new(Failure { error, outcome: routed.outcome }))) },
        }
    }
}

pin_project! {
    /// The future of [`FilterLayer`].
    #[project = FilteringProj]
    #[derive(Debug)]
    pub enum Filtering<F> {
        /// On its way; `plan` when there are response filters to apply.
        Pass { #[pin] inner: F, plan: Option<Arc<RulePlan>> },
        /// Decided by a filter.
        Done { result: Option<Result<Box<Reply>, Box<Failure>>> },
    }
}

impl<F: Future<Output = Result<Reply, Failure>>> Future for Filtering<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.project() {
            FilteringProj::Pass { inner, plan } => {
                let mut reply = ready!(inner.poll(cx))?;
                if let Some(plan) = plan {
                    apply_response(&plan.filters, &mut reply.response);
                }
                Poll::Ready(Ok(reply))
            }
            FilteringProj::Done { result } => {
                Poll::Ready(result.take().expect("not polled after it was ready").map(|reply| *reply).map_err(|failure| *failure))
            }
        }
    }
}

/// Applies request filters in order; a redirect ends them.
pub(super) fn apply_request(
    filters: &[Filter],
    request: &mut Request<Body>,
    matched: Option<&PathPattern>,
    context: &RequestContext,
) -> Result<Verdict, Error> {
    for filter in filters {
        match filter {
            Filter::RequestHeaders(modifier) => modify(modifier, request.headers_mut()),
            Filter::ResponseHeaders(_) => {}
            Filter::Rewrite(rewrite) => apply_rewrite(rewrite, request, matched)?,
            Filter::Redirect(redirect) => {
                let port = context.destination.address.port();
                return Ok(Verdict::Answer(answer_redirect(redirect, request, matched, port)?));
            }
        }
    }
    Ok(Verdict::Pass)
}

/// Applies response filters in order.
pub(super) fn apply_response(filters: &[Filter], response: &mut Response<Body>) {
    for filter in filters {
        if let Filter::ResponseHeaders(modifier) = filter {
            modify(modifier, response.headers_mut());
        }
    }
}

fn modify(modifier: &HeaderModifier, headers: &mut HeaderMap) {
    for (name, value) in &modifier.set {
        headers.insert(name, value.clone());
    }
    for (name, value) in &modifier.add {
        append(headers, name, value);
    }
    for name in &modifier.remove {
        headers.remove(name);
    }
}

/// Appends to the value that is there, `old,new` (what conformance expects), so that the
/// application sees one line.
fn append(headers: &mut HeaderMap, name: &http::HeaderName, value: &HeaderValue) {
    let joined = headers.get(name).map(|old| [old.as_bytes(), b",", value.as_bytes()].concat());
    match joined.and_then(|bytes| HeaderValue::from_bytes(&bytes).ok()) {
        Some(joined) if headers.get_all(name).iter().count() == 1 => drop(headers.insert(name, joined)),
        Some(_) | None => drop(headers.append(name, value.clone())),
    }
}

fn apply_rewrite(rewrite: &UrlRewrite, request: &mut Request<Body>, matched: Option<&PathPattern>) -> Result<(), Error> {
    if let Some(path) = &rewrite.path {
        let new = changed_path(path, request.uri().path(), matched);
        let text = match request.uri().query() {
            Some(query) => format!("{new}?{query}"),
            None => new,
        };
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(text).map_err(|_| Error::BadRequest("rewritten path is not valid"))?);
        *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Error::BadRequest("rewritten path is not valid"))?;
    }
    if let Some(hostname) = &rewrite.hostname {
        let value = HeaderValue::from_str(hostname).map_err(|_| Error::BadRequest("rewritten host is not valid"))?;
        request.headers_mut().insert(HOST, value);
        let mut parts = request.uri().clone().into_parts();
        if parts.authority.is_some() {
            parts.authority = Some(Authority::try_from(&**hostname).map_err(|_| Error::BadRequest("rewritten host is not valid"))?);
            *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Error::BadRequest("rewritten host is not valid"))?;
        }
    }
    Ok(())
}

fn changed_path(modifier: &PathModifier, path: &str, matched: Option<&PathPattern>) -> String {
    match (modifier, matched) {
        (PathModifier::Full(full), _) => full.to_string(),
        (PathModifier::Prefix(replacement), Some(PathPattern::Prefix(prefix))) => replace_prefix(path, prefix, replacement),
        // Validation allows a prefix replacement only beside a prefix match.
        (PathModifier::Prefix(_), _) => path.to_owned(),
    }
}

/// `Location` by the rules of `HTTPRequestRedirectFilter`: the port is the filter's, else the
/// scheme's well-known one, else the service's; 80 and 443 are not written.
fn answer_redirect(
    redirect: &Redirect,
    request: &Request<Body>,
    matched: Option<&PathPattern>,
    service_port: u16,
) -> Result<Response<Body>, Error> {
    let scheme = redirect.scheme.as_deref().unwrap_or("http");
    let requested = host(request);
    let name = match &redirect.hostname {
        Some(hostname) => hostname,
        None => requested.parse::<Authority>().map_or(requested, |_| strip_port(requested)),
    };
    let port = redirect.port.unwrap_or(match redirect.scheme.as_deref() {
        Some("https") => 443,
        Some("http") => 80,
        Some(_) | None => service_port,
    });
    let shown = match (scheme, port) {
        ("http", 80) | ("https", 443) => String::new(),
        (_, port) => format!(":{port}"),
    };
    let path = match &redirect.path {
        Some(modifier) => changed_path(modifier, request.uri().path(), matched),
        None => request.uri().path().to_owned(),
    };
    let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
    let location =
        HeaderValue::try_from(format!("{scheme}://{name}{shown}{path}{query}")).map_err(|_| Error::BadRequest("host is not valid"))?;
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = redirect.status;
    debug_assert!(redirect.status.is_redirection() || redirect.status == StatusCode::FOUND);
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// `host:port` without the port; brackets of IPv6 stay.
fn strip_port(authority: &str) -> &str {
    match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
        Some(_) | None => authority,
    }
}
