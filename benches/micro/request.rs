//! One request through all layers, over a leaf that answers at once: what the proxy itself adds to
//! hyper, h2 and TLS. The columns of allocations are those of one request.

use super::resources;
use bytes::Bytes;
use cairn::{
    middleware::{Answered, Body, Context, Dispatch, Failed, Inbound, Places, RecentSeries, Recorded, Tunnel},
    model::Identity,
    state::{Admission, Destination},
    telemetry::{AccessLog, AccessLogFormat, AccessLogMode},
    waypoint::{Config, layers},
};
use divan::Bencher;
use futures_util::FutureExt as _;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use std::{convert::Infallible, io, sync::Arc};
use tower::{Service, ServiceExt as _, service_fn};

/// The destination as it is compiled from a mesh.
fn destination() -> Arc<Destination> {
    let mut store = resources::store();
    store.apply(resources::mesh(2));
    match store.handle().load().admit(resources::vip(1)) {
        Admission::Served(destination) => destination,
        refused @ (Admission::UndeclaredPort | Admission::NotServed) => panic!("not served: {refused:?}"),
    }
}

fn context(account: &str) -> Context {
    let tunnel = Tunnel {
        peer: Identity::new("cluster.local", "bench", account).unwrap(),
        peer_address: "10.0.2.1:4000".parse().unwrap(),
        source: None,
        client_cert: HeaderValue::from_static(
            "By=spiffe://cluster.local/ns/bench/sa/waypoint;URI=spiffe://cluster.local/ns/bench/sa/client",
        ),
        series: RecentSeries::default(),
    };
    Context { tunnel: Arc::new(tunnel), destination: destination() }
}

/// What a browser's request looks like behind a gateway.
fn request(path: &str, body: Body) -> Request<Body> {
    Request::builder()
        .method(if matches!(body, Body::Empty) { "GET" } else { "POST" })
        .uri(path)
        .header("host", "service-1")
        .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64)")
        .header("accept", "text/html,application/xhtml+xml")
        .header("accept-encoding", "gzip, deflate, br")
        .header("cookie", "session=eyJ1c2VyIjoiam9obiJ9")
        .header("x-request-id", "1d3d0f3e-6a4f-4f5c-9a40-0a3b4f5c6d7e")
        .header("x-forwarded-for", "10.9.9.9")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .body(body)
        .unwrap()
}

async fn answer(dispatch: Dispatch) -> Result<Answered, Failed> {
    static KIB: [u8; 1 << 10] = [b'x'; 1 << 10];
    let response = Response::builder().header("content-type", "text/html").header("content-length", "1024");
    Ok(Answered { response: response.body(Body::full(Bytes::from_static(&KIB))).unwrap(), endpoint: dispatch.endpoint })
}

/// The stack as `cairn waypoint` runs it by default, but for where the access log ends.
fn stack() -> impl Service<Inbound, Response = Response<Recorded>, Error = Infallible, Future: Send> + Clone {
    let log = AccessLog::to_writer(AccessLogMode::Errors, AccessLogFormat::Text, io::sink()).unwrap();
    cairn::telemetry::install();
    let config = Config::default();
    layers(service_fn(answer), &config, Places::new(config.max_requests), log)
}

fn through(bencher: Bencher<'_, '_>, account: &str, path: &str, body: &[u8], status: StatusCode) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let (stack, context) = (stack(), context(account));
    let inbound = || Inbound { request: request(path, Body::full(body.to_vec())), context: context.clone() };
    let exchange = |inbound| {
        let Ok(response) = stack.clone().oneshot(inbound).now_or_never().expect("nothing is waited for");
        let got = response.status();
        response.into_body().collect().now_or_never().expect("nothing is waited for").unwrap();
        got
    };
    assert_eq!(exchange(inbound()), status);
    bencher.with_inputs(inbound).bench_local_values(exchange);
}

#[divan::bench]
fn get(bencher: Bencher<'_, '_>) {
    through(bencher, "client", "/reviews/0?user=john", b"", StatusCode::OK);
}

#[divan::bench]
fn get_split(bencher: Bencher<'_, '_>) {
    through(bencher, "client", "/split/0", b"", StatusCode::OK);
}

#[divan::bench]
fn post_1k(bencher: Bencher<'_, '_>) {
    through(bencher, "client", "/reviews/0", &[b'u'; 1 << 10], StatusCode::OK);
}

#[divan::bench]
fn refused_by_policy(bencher: Bencher<'_, '_>) {
    through(bencher, "stranger", "/reviews/0", b"", StatusCode::FORBIDDEN);
}
