//! The last step: `Dispatch -> Answered`, over HTTP connections that are kept inside tunnels.
//!
//! A request does not cost a CONNECT: an HTTP/1 connection carries one request at a time and is
//! used again, an HTTP/2 connection carries many.

use super::{
    Config, expect,
    guard::Guard,
    kept::{Http1, Http2, Kept, KeptKey, lock},
};
use crate::{
    hbone::{Client, ConnectHeaders, HBONE_PORT, Pool, PoolKey, TunnelIo},
    middleware::{Answered, Body, BodyError, ConnectFailure, Dispatch, Error, Failed, from_client},
    model::{AppProtocol, Identity},
    state::{Hop, InFlight, UpstreamEndpoint},
    telemetry::counters,
    transport::{Rewind, copy, socket},
};
use bytes::Bytes;
use http::{
    Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, EXPECT, HOST, UPGRADE},
};
use http_body::{Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::{
    collections::HashMap,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::net::TcpStream;
use tokio_util::either::Either;
use tower::Service;

/// A byte stream to a workload.
pub(super) type Io = Either<TunnelIo, TcpStream>;

/// Sends requests to endpoints. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Forward {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    identity: Identity,
    tunnels: Pool,
    connect_timeout: Duration,
    idle: Duration,
    half_open_idle: Duration,
    kept: Mutex<HashMap<KeptKey, Arc<Kept>>>,
}

/// Between two pings on a silent HTTP/2 connection that no tunnel watches over. Servers of gRPC
/// close a connection that pings more often than every five minutes.
const PING_INTERVAL: Duration = Duration::from_secs(310);
/// An HTTP/2 connection whose ping is not answered within this time is dead.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of a response that wait inside an HTTP/1 connection, and the largest head of a response.
const MAX_BUFFER: usize = 64 << 10;

impl Forward {
    /// Forwards as `identity`, through tunnels of this pool.
    pub fn new(config: &Config, identity: Identity, tunnels: Pool) -> Self {
        let shared = Shared {
            identity,
            tunnels,
            connect_timeout: config.connect_timeout,
            idle: config.upstream_idle,
            half_open_idle: config.half_open_idle,
            kept: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Opens a byte stream to an endpoint: through HBONE if its workload speaks it, and then never
    /// in any other way. Whoever keeps the stream watches the tunnel that it is inside of.
    ///
    /// # Errors
    /// See [`ConnectFailure`]; nothing has been sent.
    pub(super) async fn connect(&self, endpoint: &UpstreamEndpoint) -> Result<(Io, Option<Client>), ConnectFailure> {
        let shared = &self.shared;
        counters().upstream_connects.increment(1);
        let connected = match &endpoint.hop {
            Hop::Hbone(destinations) => {
                let address = SocketAddr::new(endpoint.address.ip(), HBONE_PORT);
                let key = PoolKey::direct(shared.identity.clone(), destinations.clone(), address);
                let opened = shared.tunnels.connect(&key, &endpoint.address.to_string(), &ConnectHeaders::default()).await;
                opened.map(|opened| (Either::Left(opened.io), Some(opened.tunnel))).map_err(ConnectFailure::Tunnel)
            }
            Hop::Plain => {
                let connected = socket::connect(endpoint.address, shared.connect_timeout).await;
                connected.map(|io| (Either::Right(io), None)).map_err(ConnectFailure::Tcp)
            }
        };
        if connected.is_err() {
            counters().upstream_connects_failed.increment(1);
        }
        connected
    }

    /// Closes connections that are idle for long; runs for ever.
    pub(super) async fn sweep(self) {
        let mut interval = tokio::time::interval((self.shared.idle / 4).max(Duration::from_secs(1)));
        loop {
            interval.tick().await;
            let idle = self.shared.idle;
            lock(&self.shared.kept).retain(|_, kept| {
                kept.sweep(idle);
                Arc::strong_count(kept) > 1 || !kept.is_empty()
            });
            self.shared.tunnels.sweep();
        }
    }

    fn kept(&self, endpoint: &UpstreamEndpoint) -> Arc<Kept> {
        let key = KeptKey { address: endpoint.address, hop: endpoint.hop.clone() };
        lock(&self.shared.kept).entry(key).or_default().clone()
    }

    async fn send(self, dispatch: Dispatch) -> Result<Answered, Failed> {
        let Dispatch { request, upstream, endpoint, in_flight } = dispatch;
        let kept = self.kept(&endpoint);
        let is_upgrade = request.headers().contains_key(UPGRADE);
        let version = match upstream.protocol {
            AppProtocol::Http2 | AppProtocol::Grpc if !is_upgrade => Version::HTTP_2,
            AppProtocol::Unspecified if !is_upgrade && request.version() == Version::HTTP_2 => Version::HTTP_2,
            AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Grpc | AppProtocol::Tcp | AppProtocol::Tls | AppProtocol::Unspecified => {
                Version::HTTP_11
            }
        };
        let exchange = Exchange { forward: self, endpoint: endpoint.clone(), kept, in_flight };
        let response = match version {
            // Boxed, as are the rarer steps of HTTP/1: every request would carry their size around.
            Version::HTTP_2 => Box::pin(exchange.http2(request)).await,
            _ => exchange.http1(request, is_upgrade).await,
        };
        match response {
            Ok(response) => Ok(Answered { response, endpoint }),
            Err((error, unsent)) => Err(Failed { error, endpoint: Some(endpoint), unsent }),
        }
    }
}

impl Service<Dispatch> for Forward {
    type Response = Answered;
    type Error = Failed;
    type Future = Pin<Box<dyn Future<Output = Result<Answered, Failed>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, dispatch: Dispatch) -> Self::Future {
        Box::pin(self.clone().send(dispatch))
    }
}

type Unsent = Option<Box<Request<Body>>>;

/// One request to one endpoint.
struct Exchange {
    forward: Forward,
    endpoint: Arc<UpstreamEndpoint>,
    kept: Arc<Kept>,
    in_flight: InFlight,
}

impl Exchange {
    async fn http1(self, mut request: Request<Body>, is_upgrade: bool) -> Result<Response<Body>, (Error, Unsent)> {
        *request.version_mut() = Version::HTTP_11;
        // A copy: a request that goes back unsent has its own still.
        let downstream = is_upgrade.then(|| request.extensions().get::<OnUpgrade>().cloned()).flatten();
        let mut is_repeated = false;
        loop {
            let (mut kept, is_reused) = match self.kept.take_http1().filter(|_| !is_repeated) {
                Some(kept) => (kept, true),
                None => match Box::pin(self.open_http1()).await {
                    Ok(opened) => (opened, false),
                    Err(error) => return Err((Error::Connect(error), Some(Box::new(request)))),
                },
            };
            let spare = if is_reused { repeatable(&request) } else { None };
            let (gated, asked) = expect::gate(request);
            match kept.send.try_send_request(gated).await {
                Ok(response) => return Ok(self.answered_http1(response, kept, downstream, asked)),
                Err(mut error) => match (error.take_message().map(|unsent| expect::put_back(unsent, asked)), spare) {
                    // The workload had closed the kept connection before it saw anything of the request.
                    (Some(unsent), _) if is_reused => request = unsent,
                    (Some(unsent), _) => return Err((Error::Connect(ConnectFailure::Stale(error.into_error())), Some(Box::new(unsent)))),
                    // It closed it while the request was on its way; there was no answer.
                    (None, Some(spare)) if !error.error().is_parse() => (request, is_repeated) = (spare, true),
                    (None, _) => return Err((from_client(error.into_error()), None)),
                },
            }
        }
    }

    async fn open_http1(&self) -> Result<Http1, ConnectFailure> {
        let (io, tunnel) = self.forward.connect(&self.endpoint).await?;
        let (send, connection) =
            http1::Builder::new().max_buf_size(MAX_BUFFER).handshake(TokioIo::new(io)).await.map_err(ConnectFailure::Http)?;
        // Ends when the sender is dropped or the workload closes.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to a workload ended");
            }
        });
        Ok(Http1 { send, tunnel })
    }

    fn answered_http1(
        self,
        mut response: Response<Incoming>,
        connection: Http1,
        downstream: Option<OnUpgrade>,
        asked: Option<expect::Asked>,
    ) -> Response<Body> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(downstream) = downstream
        {
            let upstream = hyper::upgrade::on(&mut response);
            let half_open_idle = self.forward.shared.half_open_idle;
            tokio::spawn(join_upgraded(downstream, upstream, self.in_flight, half_open_idle));
            return response.map(|_| Body::Empty);
        }
        let closes = response.headers().get(CONNECTION).is_some_and(|c| c.as_bytes().eq_ignore_ascii_case(b"close"));
        let back = (!closes).then_some((self.kept, connection));
        response.map(|body| {
            let body = Returning { body, back, asked, in_flight: Some(self.in_flight) };
            body.into_body()
        })
    }

    async fn http2(self, mut request: Request<Body>) -> Result<Response<Body>, (Error, Unsent)> {
        if let Err(error) = to_http2(&mut request) {
            return Err((error, None));
        }
        loop {
            let (mut shareable, is_reused) = match self.kept.take_http2() {
                Some(shareable) => (shareable, true),
                None => match self.kept.open_http2(self.dial_http2()).await {
                    Ok(shareable) => (shareable, false),
                    Err(error) => return Err((Error::Connect(error), Some(Box::new(request)))),
                },
            };
            if let Err(error) = shareable.send.ready().await {
                self.kept.forget_http2(&shareable);
                if is_reused {
                    continue;
                }
                return Err((Error::Connect(ConnectFailure::Stale(error)), Some(Box::new(request))));
            }
            match shareable.send.try_send_request(request).await {
                Ok(response) => {
                    let load = shareable.load;
                    return Ok(response.map(|body| Sharing { body, _load: load, _in_flight: self.in_flight }.into_body()));
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if is_reused => {
                        self.kept.forget_http2(&shareable);
                        request = unsent;
                    }
                    Some(unsent) => return Err((Error::Connect(ConnectFailure::Stale(error.into_error())), Some(Box::new(unsent)))),
                    None => return Err((from_client(error.into_error()), None)),
                },
            }
        }
    }

    async fn dial_http2(&self) -> Result<(Http2, Option<Client>), ConnectFailure> {
        let (io, tunnel) = self.forward.connect(&self.endpoint).await?;
        let (send, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(super::INNER_STREAM_WINDOW)
            .initial_connection_window_size(super::INNER_CONNECTION_WINDOW)
            .timer(TokioTimer::new())
            .keep_alive_interval((self.endpoint.hop == Hop::Plain).then_some(PING_INTERVAL))
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(TokioIo::new(io))
            .await
            .map_err(ConnectFailure::Http)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to a workload ended");
            }
        });
        Ok((send, tunnel))
    }
}

/// A copy to send on a new connection should the kept one prove dead. Only a safe method may be
/// sent again when it is not known whether the workload has seen it (RFC 9110, 9.2.2).
fn repeatable(request: &Request<Body>) -> Option<Request<Body>> {
    let may_repeat = request.method().is_safe() && http_body::Body::is_end_stream(request.body());
    may_repeat.then(|| {
        let mut copy = Request::new(Body::Empty);
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.version_mut() = request.version();
        *copy.headers_mut() = request.headers().clone();
        *copy.extensions_mut() = request.extensions().clone();
        copy
    })
}

/// HTTP/2 names the host in `:authority` and has no expectations (a proxy may drop it towards a hop
/// where it cannot be kept, RFC 9110, 10.1.1).
fn to_http2(request: &mut Request<Body>) -> Result<(), Error> {
    *request.version_mut() = Version::HTTP_2;
    let host = request.headers_mut().remove(HOST);
    request.headers_mut().remove(EXPECT);
    let authority = match &host {
        Some(host) => host.to_str().unwrap_or_default(),
        // It has been through here before, on its way to another endpoint.
        None => request.uri().authority().map_or("", |a| a.as_str()),
    };
    let target = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let uri = Uri::builder().scheme("http").authority(authority).path_and_query(target).build();
    *request.uri_mut() = uri.map_err(|_| Error::BadRequest("host is not valid"))?;
    Ok(())
}

/// A response body that gives its connection back at its end. Dropped earlier, it closes it: what
/// is left of the response would be in the way.
struct Returning {
    body: Incoming,
    back: Option<(Arc<Kept>, Http1)>,
    asked: Option<expect::Asked>,
    in_flight: Option<InFlight>,
}

impl Returning {
    fn into_body(mut self) -> Body {
        if http_body::Body::is_end_stream(&self.body) {
            self.done();
            return Body::Empty;
        }
        Body::boxed(self)
    }

    fn done(&mut self) {
        self.in_flight = None;
        let was_asked = self.asked.take().is_none();
        if let Some((kept, connection)) = self.back.take().filter(|_| was_asked) {
            kept.put_http1(connection);
        }
    }
}

impl http_body::Body for Returning {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            None => this.done(),
            Some(Err(_)) => this.back = None,
            Some(Ok(_)) if http_body::Body::is_end_stream(&this.body) => this.done(),
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Upstream)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        http_body::Body::size_hint(&self.body)
    }
}

/// A response body on a shared connection.
struct Sharing {
    body: Incoming,
    _load: Arc<()>,
    _in_flight: InFlight,
}

impl Sharing {
    fn into_body(self) -> Body {
        if http_body::Body::is_end_stream(&self.body) { Body::Empty } else { Body::boxed(self) }
    }
}

impl http_body::Body for Sharing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx).map_err(BodyError::Upstream)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        http_body::Body::size_hint(&self.body)
    }
}

/// After a 101 both connections are bytes; they end together.
async fn join_upgraded(downstream: OnUpgrade, upstream: OnUpgrade, _in_flight: InFlight, half_open_idle: Duration) {
    let (Ok(downstream), Ok(upstream)) = tokio::join!(downstream, upstream) else { return };
    // The streams themselves, for only they can be broken off.
    let (Some(mut downstream), Some(mut upstream)) = (stream::<Guard<Rewind<TunnelIo>>>(downstream), stream::<Io>(upstream)) else {
        return tracing::error!("an upgraded connection is not what it was before");
    };
    let copied = copy::bidirectional(&mut downstream, &mut upstream, Some(half_open_idle), |_, _| {}).await;
    copied.end.pass_on(&mut downstream, &mut upstream);
}

/// What hyper was given, with the bytes it has read too many.
fn stream<IO: 'static>(upgraded: Upgraded) -> Option<Rewind<IO>>
where
    TokioIo<IO>: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let parts = upgraded.downcast::<TokioIo<IO>>().ok()?;
    Some(Rewind::new(parts.read_buf, parts.io.into_inner()))
}
