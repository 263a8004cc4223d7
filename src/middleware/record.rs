//! One record for each request, made when its response has ended, whichever way.

use super::{
    Body,
    authorize::host,
    body::BodyError,
    gate::always_ready,
    respond::is_grpc,
    sanitize::{REQUEST_ID, remove_forged_trailers},
    series::{KnownSeries, Seen},
    stage::{Context as RequestContext, Inbound, Outcome, Reply},
};
use crate::{
    state::Hop,
    telemetry::{AccessLog, HttpRecord, ResponseFlag},
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{HeaderName, USER_AGENT},
};
use http_body::{Body as _, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};
use tokio::time::{Instant, Sleep, sleep};
use tower::Service;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Writes access log and metrics. The outermost layer.
#[derive(Debug, Clone)]
pub struct Record<S> {
    inner: S,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    log: AccessLog,
    // Time without a byte of the request body, while there is no answer yet.
    body_idle: Duration,
    series: KnownSeries,
}

impl<S> Record<S> {
    /// Records into `log`; refuses request bodies that are idle for `body_idle`.
    pub fn new(inner: S, log: AccessLog, body_idle: Duration) -> Self {
        Self { inner, shared: Arc::new(Shared { log, body_idle, series: KnownSeries::default() }) }
    }
}

impl<S> Service<Inbound> for Record<S>
where
    S: Service<Inbound, Response = Reply, Error = Infallible>,
{
    type Response = Response<Recorded>;
    type Error = Infallible;
    type Future = Recording<S::Future>;

    always_ready!();

    fn call(&mut self, Inbound { request, context }: Inbound) -> Self::Future {
        let progress = Arc::new(Progress::default());
        let exchange = Box::new(Exchange::new(&request, &context, self.shared.clone(), progress.clone()));
        let idle = self.shared.body_idle;
        let request = request.map(|body| if body.is_end_stream() { body } else { Body::boxed(Received::new(body, progress, idle)) });
        Recording { inner: self.inner.call(Inbound { request, context }), exchange: Some(exchange) }
    }
}

pin_project! {
    /// The future of [`Record`]. Dropped before it is ready: the client has gone away.
    #[derive(Debug)]
    pub struct Recording<F> { #[pin] inner: F, exchange: Option<Box<Exchange>> }
}

impl<F: Future<Output = Result<Reply, Infallible>>> Future for Recording<F> {
    type Output = Result<Response<Recorded>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(reply) = ready!(this.inner.poll(cx));
        let mut exchange = this.exchange.take().expect("not polled after it was ready");
        let Reply { mut response, outcome, error } = reply;
        super::sanitize::remove_hop_by_hop_of_response(&mut response);
        exchange.answered(response.status(), response.headers(), outcome, error.as_ref());
        Poll::Ready(Ok(response.map(|body| Recorded { body, exchange: Some(exchange) })))
    }
}

/// How far a request has come.
#[derive(Debug, Default)]
struct Progress {
    received: AtomicU64,
    // A client may stay silent once it has an answer: a stream of events, a gRPC call in both directions.
    answered: AtomicBool,
}

/// What is gathered about one request. Its drop writes the record.
pub(super) struct Exchange {
    shared: Arc<Shared>,
    context: RequestContext,
    record: HttpRecord,
    started: Instant,
    progress: Arc<Progress>,
    is_grpc: bool,
    outcome: Outcome,
}

impl Exchange {
    fn new(request: &http::Request<Body>, context: &RequestContext, shared: Arc<Shared>, progress: Arc<Progress>) -> Self {
        let headers = request.headers();
        let copy = |name: HeaderName| headers.get(name).cloned();
        let mut record = HttpRecord::new(SystemTime::now(), context.tunnel.peer_address);
        record.destination = Some(context.destination.address);
        record.source = Some(context.tunnel.peer.clone());
        record.method = request.method().clone();
        record.path = request.uri().path_and_query().cloned();
        record.protocol = request.version();
        record.forwarded_for = copy(FORWARDED_FOR);
        record.user_agent = copy(USER_AGENT);
        record.request_id = copy(REQUEST_ID);
        record.authority = Some(host(request).into());
        // Until there is an answer, the only way to end is that the client goes away.
        record.flag = ResponseFlag::DownstreamDisconnected;
        let is_grpc = is_grpc(headers);
        Self { shared, context: context.clone(), record, started: Instant::now(), progress, is_grpc, outcome: Outcome::default() }
    }

    fn answered(&mut self, status: StatusCode, headers: &HeaderMap, outcome: Outcome, error: Option<&super::Error>) {
        self.progress.answered.store(true, Ordering::Relaxed);
        self.record.status = Some(status);
        self.record.grpc_status = grpc_status(headers);
        self.record.attempts = outcome.attempts;
        self.outcome = outcome;
        if let Some(error) = error {
            self.record.flag = error.flag();
            self.record.error = Some(error.detail().into());
        }
    }

    /// The response has ended as it should.
    fn complete(&mut self) {
        if self.record.flag == ResponseFlag::DownstreamDisconnected {
            self.record.flag = ResponseFlag::None;
        }
    }

    fn broken(&mut self, error: &BodyError) {
        self.record.flag = match error {
            BodyError::Downstream(_) | BodyError::Idle | BodyError::Unwanted => ResponseFlag::DownstreamDisconnected,
            BodyError::Upstream(_) => ResponseFlag::UpstreamTerminated,
            BodyError::Deadline => ResponseFlag::UpstreamTimeout,
        };
        self.record.error = Some(error.to_string().into());
    }

    fn count(&self, duration: Duration, received: u64) {
        let seen = Seen {
            context: &self.context,
            endpoint: self.outcome.endpoint.as_ref(),
            status: self.record.status,
            flag: self.record.flag,
            grpc: self.is_grpc.then_some(self.record.grpc_status),
        };
        let metrics = self.context.tunnel.series.of(&seen, &self.shared.series);
        metrics.record(duration, received, self.record.bytes_sent);
    }

    fn finish(&mut self) -> Option<HttpRecord> {
        let duration = self.started.elapsed();
        let received = self.progress.received.load(Ordering::Relaxed);
        self.count(duration, received);
        if !self.shared.log.wants(self.record.is_failure()) {
            return None;
        }
        let mut record = self.record.clone();
        record.duration = duration;
        record.bytes_received = received;
        record.policy = self.outcome.policy.as_ref().map(|p| p.text().clone());
        record.route = self.outcome.plan.as_ref().map(|p| p.name.clone());
        record.source_workload = self.context.tunnel.source.as_ref().map(|w| w.name.clone());
        record.destination_service = self.context.destination.hostname().map(|h| h.name());
        if let Some(endpoint) = &self.outcome.endpoint {
            record.upstream = Some(endpoint.address);
            record.upstream_identity = match &endpoint.hop {
                Hop::Hbone(identities) => identities.first().cloned(),
                Hop::Plain => None,
            };
        }
        Some(record)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(record) = self.finish() {
            self.shared.log.http(record);
        }
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("record", &self.record).finish_non_exhaustive()
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status").and_then(|v: &HeaderValue| v.to_str().ok()).and_then(|v| v.parse().ok())
}

/// A response body that ends its record.
#[derive(Debug)]
pub struct Recorded {
    body: Body,
    exchange: Option<Box<Exchange>>,
}

impl Recorded {
    /// The answer on a connection whose destination is not served any more.
    pub fn unserved() -> Response<Self> {
        let error = super::Error::NotServed;
        let mut response = Response::new(Self { body: Body::full(error.public_message()), exchange: None });
        *response.status_mut() = error.status();
        response
    }
}

impl http_body::Body for Recorded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        let Some(exchange) = &mut this.exchange else { return Poll::Ready(frame) };
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    exchange.record.bytes_sent += data.len() as u64;
                } else if let Some(status) = frame.trailers_ref().and_then(grpc_status) {
                    exchange.record.grpc_status = Some(status);
                }
            }
            Some(Err(error)) => exchange.broken(error),
            None => exchange.complete(),
        }
        if frame.is_none() || this.body.is_end_stream() {
            if matches!(frame, Some(Ok(_))) {
                exchange.complete();
            }
            this.exchange = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        // An empty body is never polled, and a HEAD's or 304's body is not wanted: that is a complete answer too.
        if let Some(exchange) = self.exchange.as_mut().filter(|_| self.body.is_end_stream()) {
            exchange.complete();
        }
    }
}

pin_project! {
    /// A request body that is counted, and refused when the client lets it idle before there is an
    /// answer.
    struct Received { body: Body, progress: Arc<Progress>, limit: Duration, #[pin] idle: Option<Sleep> }
}

impl Received {
    fn new(body: Body, progress: Arc<Progress>, limit: Duration) -> Self {
        Self { body, progress, limit, idle: None }
    }
}

/// Trailers may be merged into the headers by who receives them, so they are held to the same.
fn clean_trailers(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            remove_forged_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut this = self.project();
        if let Poll::Ready(frame) = Pin::new(this.body).poll_frame(cx) {
            if let Some(data) = frame.as_ref().and_then(|f| f.as_ref().ok()).and_then(|f| f.data_ref()) {
                this.progress.received.fetch_add(data.len() as u64, Ordering::Relaxed);
            }
            this.idle.set(None);
            return Poll::Ready(frame.map(|frame| frame.map(clean_trailers)));
        }
        if this.limit.is_zero() || this.progress.answered.load(Ordering::Relaxed) {
            this.idle.set(None);
            return Poll::Pending;
        }
        if this.idle.is_none() {
            this.idle.set(Some(sleep(*this.limit)));
        }
        let idle = this.idle.as_pin_mut().expect("set above");
        idle.poll(cx).map(|()| Some(Err(BodyError::Idle)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
