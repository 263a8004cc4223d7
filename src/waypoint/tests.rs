//! The stack in memory, over a leaf that does as it is told.

use super::{Config, stack::layers};
use crate::{
    authz::{Layer, Ruleset},
    hbone::TunnelError,
    middleware::{
        Answered, Body, BodyError, ConnectFailure, Context, Dispatch, Error, Failed, Inbound, Places, RecentSeries, Recorded, Tunnel,
    },
    model::{
        Action, AppProtocol, AuthorizationPolicy, Hostname, Identity, PathPattern, PolicyTarget, ResourceName, RouteMatch, ServiceKey,
        Timeouts,
    },
    route::{Entry, Rank, RouteTable},
    state::{Backends, Destination, DestinationKind, Hop, RetryPlan, RulePlan, Upstream, UpstreamEndpoint},
    telemetry::{AccessLog, HttpRecord, Record},
};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use std::{
    convert::Infallible,
    future::{Future, pending},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};
use tower::{Service, ServiceExt as _, service_fn};

type Answering = Pin<Box<dyn Future<Output = Result<Answered, Failed>> + Send>>;

/// A destination with one endpoint that needs no connection.
struct World {
    policies: Vec<AuthorizationPolicy>,
    plan: RulePlan,
    path: Option<&'static str>,
    endpoints: usize,
    config: Config,
}

impl World {
    fn new() -> Self {
        let timeouts = Timeouts::default();
        let plan =
            RulePlan { name: "r".into(), filters: Vec::new(), backends: Backends::Destination, timeouts, retry: RetryPlan::mesh_default() };
        Self { policies: Vec::new(), plan, path: None, endpoints: 1, config: Config::default() }
    }

    fn denying(mut self) -> Self {
        self.policies.push(AuthorizationPolicy {
            name: ResourceName::new("app", "p"),
            target: PolicyTarget::Namespace,
            action: Action::Allow,
            rules: Vec::new(),
            dry_run: false,
            invalid: None,
        });
        self
    }

    fn context(self) -> Context {
        let address = "10.0.0.1:80".parse().unwrap();
        let endpoint = |n| Arc::new(UpstreamEndpoint::new(([10, 0, 1, n], 8080).into(), Hop::Plain, None));
        let endpoints = (0..self.endpoints).map(|n| endpoint(n as u8)).collect();
        let plan = Arc::new(self.plan);
        let routes = self.path.map(|path| {
            let matching = RouteMatch { path: PathPattern::Exact(path.into()), ..RouteMatch::default() };
            let rank = Rank { created: None, route: ResourceName::new("app", "r"), rule: 0, index: 0 };
            Arc::new(RouteTable::build(vec![Entry { matching, rank, payload: plan.clone() }]).unwrap())
        });
        let destination = Destination {
            kind: DestinationKind::Service(ServiceKey { namespace: "app".into(), hostname: Hostname::new("a.app.svc.cluster.local") }),
            address,
            protocol: AppProtocol::Http,
            routes,
            passthrough: plan,
            http_rules: Arc::new(Ruleset::compile(&self.policies, Layer::Http)),
            tcp_rules: Arc::default(),
            upstream: Arc::new(Upstream::fixed(None, 80, AppProtocol::Http, "u".into(), endpoints)),
        };
        let tunnel = Tunnel {
            peer: Identity::new("cluster.local", "app", "client").unwrap(),
            peer_address: "10.0.2.1:4000".parse().unwrap(),
            source: None,
            client_cert: HeaderValue::from_static("By=x;URI=y"),
            series: RecentSeries::default(),
        };
        Context { tunnel: Arc::new(tunnel), destination: Arc::new(destination) }
    }
}

/// The layers over `leaf`, for requests in one context.
struct Stack<S> {
    service: S,
    context: Context,
    records: mpsc::Receiver<Record>,
}

fn stack<F>(
    world: World,
    leaf: F,
) -> Stack<impl Service<Inbound, Response = Response<Recorded>, Error = Infallible, Future: Send> + Clone + Send + Sync>
where
    F: FnMut(Dispatch) -> Answering + Clone + Send + Sync + 'static,
{
    let (log, records) = AccessLog::capture();
    let service = layers(service_fn(leaf), &world.config, Places::new(world.config.max_requests), log);
    Stack { service, context: world.context(), records }
}

impl<S> Stack<S>
where
    S: Service<Inbound, Response = Response<Recorded>, Error = Infallible> + Clone,
{
    fn inbound(&self, path: &str) -> Inbound {
        let request = Request::get(path).header("host", "test").body(Body::Empty).unwrap();
        Inbound { request, context: self.context.clone() }
    }

    async fn get(&self, path: &str) -> Response<Recorded> {
        let Ok(response) = self.service.clone().oneshot(self.inbound(path)).await;
        response
    }

    /// The one record of a request.
    fn record(&mut self) -> Box<HttpRecord> {
        match self.records.try_recv() {
            Ok(Record::Http(record)) => record,
            other => panic!("{other:?}"),
        }
    }
}

fn answer(dispatch: Dispatch, body: Body) -> Answering {
    Box::pin(async move { Ok(Answered { response: Response::new(body), endpoint: dispatch.endpoint }) })
}

fn fail(dispatch: Dispatch, error: Error) -> Answering {
    Box::pin(async move { Err(Failed { error, endpoint: Some(dispatch.endpoint), unsent: None }) })
}

/// `begin`, and then nothing.
fn endless() -> Body {
    let frames = futures_util::stream::unfold(true, |first| async move {
        if !first {
            pending::<()>().await;
        }
        Some((Ok::<_, BodyError>(Frame::data(Bytes::from_static(b"begin"))), false))
    });
    Body::boxed(StreamBody::new(Box::pin(frames)))
}

#[tokio::test]
async fn malformed_is_told_before_denied_and_denied_before_unrouted() {
    let rows = [
        (World::new().denying(), "/%zz", 400, "IH"),
        (World { path: Some("/only"), ..World::new() }.denying(), "/else", 403, "DENY"),
        (World { path: Some("/only"), ..World::new() }, "/else", 404, "NR"),
        (World { path: Some("/only"), endpoints: 0, ..World::new() }, "/else", 404, "NR"),
        (World { path: Some("/only"), endpoints: 0, ..World::new() }, "/only", 503, "UH"),
        (World { path: Some("/only"), ..World::new() }, "/x/../only", 200, "-"),
    ];
    for (world, path, status, flag) in rows {
        let mut stack = stack(world, |dispatch| answer(dispatch, Body::Empty));
        let response = stack.get(path).await;
        assert_eq!(response.status().as_u16(), status, "{path}");
        drop(response);
        assert_eq!(stack.record().flag.as_str(), flag, "{path}");
        assert!(stack.records.try_recv().is_err(), "one record for each request");
    }
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_leaf_are_answers() {
    type Make = fn() -> Error;
    let rows: [(Make, u16, &str, u32); 4] = [
        (|| Error::Connect(ConnectFailure::Tcp(std::io::ErrorKind::ConnectionRefused.into())), 503, "UF", 3),
        (|| Error::Connect(ConnectFailure::Tunnel(TunnelError::Timeout("10.0.0.1:15008".parse().unwrap()))), 503, "UF", 3),
        (|| Error::SlowBody, 408, "SI", 1),
        (|| Error::BadRequest("host is not valid"), 400, "IH", 1),
    ];
    for (error, status, flag, attempts) in rows {
        // The request comes back unsent where nothing was sent.
        let mut stack = stack(World::new(), move |dispatch| {
            let error = error();
            if !matches!(error, Error::Connect(_)) {
                return fail(dispatch, error);
            }
            Box::pin(async move { Err(Failed { error, endpoint: Some(dispatch.endpoint), unsent: Some(Box::new(dispatch.request)) }) })
        });
        let response = stack.get("/").await;
        assert_eq!(response.status().as_u16(), status);
        drop(response);
        let record = stack.record();
        assert_eq!((record.flag.as_str(), record.attempts), (flag, attempts));
        assert!(record.error.is_some_and(|e| !e.is_empty()));
    }
}

#[tokio::test]
async fn a_panic_is_answered_with_500_wherever_it_happens() {
    let mut at_once = stack(World::new(), |_| panic!("in call"));
    let mut later = stack(World::new(), |_| Box::pin(async { panic!("in the future") }));
    assert_eq!(at_once.get("/").await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(later.get("/").await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!((at_once.record().flag.as_str(), later.record().flag.as_str()), ("INTERNAL", "INTERNAL"));
}

#[tokio::test(start_paused = true)]
async fn above_the_limit_requests_are_refused_and_not_queued() {
    let mut world = World::new();
    world.config.max_requests = 2;
    let mut stack = stack(world, |_| Box::pin(pending()));
    let mut held: Vec<_> = (0..2).map(|_| Box::pin(stack.service.clone().oneshot(stack.inbound("/")))).collect();
    for future in &mut held {
        assert!(futures_util::poll!(future).is_pending());
    }
    let refused = stack.get("/").await;
    assert_eq!((refused.status(), &refused.headers()["connection"]), (StatusCode::SERVICE_UNAVAILABLE, &HeaderValue::from_static("close")));
    drop(refused);
    assert_eq!(stack.record().flag.as_str(), "UO");
    // A client that goes away leaves its place.
    held.clear();
    assert_eq!((stack.record().flag.as_str(), stack.record().flag.as_str()), ("DC", "DC"));
    let mut next = Box::pin(stack.service.clone().oneshot(stack.inbound("/")));
    assert!(futures_util::poll!(&mut next).is_pending());
}

#[tokio::test(start_paused = true)]
async fn the_request_limit_answers_504_or_cuts_the_body() {
    let timed = || {
        let mut world = World::new();
        world.plan.timeouts.request = Some(Duration::from_secs(3));
        world
    };
    let start = Instant::now();
    let mut silent = stack(timed(), |_| Box::pin(pending()));
    let response = silent.get("/").await;
    assert_eq!((response.status(), start.elapsed().as_secs()), (StatusCode::GATEWAY_TIMEOUT, 3));
    drop(response);
    assert_eq!(silent.record().flag.as_str(), "UT");

    let start = Instant::now();
    let mut slow = stack(timed(), |dispatch| {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(2)).await;
            answer(dispatch, endless()).await
        })
    });
    let mut body = slow.get("/").await.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "begin");
    assert!(matches!(body.frame().await, Some(Err(BodyError::Deadline))));
    assert_eq!(start.elapsed().as_secs(), 3, "from the request's arrival");
    drop(body);
    assert_eq!(slow.record().flag.as_str(), "UT");
}

#[tokio::test(start_paused = true)]
async fn each_try_has_its_own_limit_within_the_requests() {
    let mut world = World { endpoints: 3, ..World::new() };
    world.plan.timeouts = Timeouts { request: Some(Duration::from_secs(10)), backend_request: Some(Duration::from_secs(1)) };
    world.plan.retry = RetryPlan { attempts: 2, codes: Vec::new(), on_reset: true, backoff: Duration::from_millis(1) };
    let tries = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = tries.clone();
    let mut stack = stack(world, move |dispatch| {
        seen.lock().unwrap().push(dispatch.endpoint.address);
        Box::pin(pending())
    });
    let start = Instant::now();
    let response = stack.get("/").await;
    assert_eq!((response.status(), start.elapsed().as_secs()), (StatusCode::GATEWAY_TIMEOUT, 3));
    drop(response);
    let mut tried = tries.lock().unwrap().clone();
    let record = stack.record();
    assert_eq!((record.attempts, record.upstream), (3, tried.last().copied()));
    tried.sort();
    tried.dedup();
    assert_eq!(tried.len(), 3, "another endpoint each time");
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_is_due_after_the_limit_is_not_made() {
    let mut world = World::new();
    world.plan.timeouts.request = Some(Duration::from_millis(250));
    world.plan.retry = RetryPlan { attempts: 9, codes: vec![StatusCode::BAD_GATEWAY], on_reset: true, backoff: Duration::from_millis(100) };
    let tries = Arc::new(AtomicUsize::new(0));
    let count = tries.clone();
    let stack = stack(world, move |dispatch| {
        count.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            let mut response = Response::new(Body::Empty);
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            Ok(Answered { response, endpoint: dispatch.endpoint })
        })
    });
    assert_eq!(stack.get("/").await.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(tries.load(Ordering::SeqCst), 2, "at 0, and after 100 to 150 ms; the third would be after 200 more");
}

#[tokio::test]
async fn a_body_that_is_not_read_to_its_end_is_a_client_that_went_away() {
    let mut stack = stack(World::new(), |dispatch| answer(dispatch, endless()));
    drop(stack.get("/").await);
    assert_eq!(stack.record().flag.as_str(), "DC");
}

/// What one request costs in stack moves and in the box at the mouth. Grown on purpose only.
#[tokio::test]
async fn futures_stay_small() {
    let stack = stack(World::new(), |dispatch| answer(dispatch, Body::Empty));
    let request = stack.inbound("/");
    assert!(size_of_val(&request) <= 320, "{}", size_of_val(&request));
    let future = stack.service.clone().call(request);
    assert!(size_of_val(&future) <= 320, "{}", size_of_val(&future));
    assert!(size_of::<Body>() <= 64, "{}", size_of::<Body>());
    assert!(size_of::<Dispatch>() <= 320, "{}", size_of::<Dispatch>());
}
