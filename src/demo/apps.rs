//! The applications of bookinfo, as small as they can be. They know nothing of the mesh; they call
//! each other by name through the SOCKS5 port of their own ztunnel.

use super::socks;
use crate::{
    app::AppError,
    model::Workload,
    transport::listener::{self, ListenOptions},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::task::JoinSet;

/// Headers that an application hands on to those it calls.
const CARRIED: [HeaderName; 3] =
    [HeaderName::from_static("x-request-id"), HeaderName::from_static("end-user"), HeaderName::from_static("x-demo-fail-first")];

/// One application.
#[derive(Debug, Clone)]
pub(super) struct App {
    kind: Kind,
    pod: String,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Productpage,
    Details,
    Reviews { stars: Option<&'static str> },
    Ratings,
}

/// The applications that run; they end with it.
#[derive(Debug, Default)]
pub(super) struct Apps {
    tasks: JoinSet<()>,
}

impl App {
    /// The application of a workload, by its canonical name and revision; `None` for a client.
    pub(super) fn of(workload: &Workload) -> Option<Self> {
        let kind = match &*workload.canonical_name {
            "productpage" => Kind::Productpage,
            "details" => Kind::Details,
            "ratings" => Kind::Ratings,
            "reviews" => Kind::Reviews {
                stars: match &*workload.canonical_revision {
                    "v2" => Some("black"),
                    "v3" => Some("red"),
                    _ => None,
                },
            },
            _ => return None,
        };
        Some(Self { kind, pod: workload.name.to_string() })
    }
}

/// Requests that were failed once already.
type Failed = Arc<Mutex<VecDeque<Bytes>>>;

impl Apps {
    /// Starts an application at `address` whose calls go through `proxy`.
    pub(super) fn start(&mut self, app: App, address: SocketAddr, proxy: SocketAddr) -> Result<(), AppError> {
        let failed = |error| AppError::Run(anyhow::anyhow!("cannot listen on {address}: {error}"));
        let listener = listener::bind(address, ListenOptions::default()).map_err(failed)?;
        let app = Arc::new(app);
        let once = Failed::default();
        self.tasks.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener::accept(&listener) => {
                        let (app, once) = (app.clone(), once.clone());
                        let service = service_fn(move |request| {
                            let (app, once) = (app.clone(), once.clone());
                            async move { Ok::<_, Infallible>(app.answer(request, proxy, &once).await) }
                        });
                        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(accepted.stream), service);
                        open.spawn(async move { drop(connection.await) });
                    }
                    Some(_) = open.join_next() => {}
                }
            }
        });
        Ok(())
    }
}

impl App {
    async fn answer(&self, request: Request<Incoming>, proxy: SocketAddr, once: &Failed) -> Response<Full<Bytes>> {
        let headers = request.headers();
        let carried = carried(headers);
        let client = headers.get("x-forwarded-client-cert").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let mut answer = json!({ "pod": self.pod, "client": client });
        let status = match self.kind {
            Kind::Productpage => {
                answer["details"] = call(proxy, "details", "/details/0", &carried).await;
                answer["reviews"] = call(proxy, "reviews", "/reviews/0", &carried).await;
                StatusCode::OK
            }
            Kind::Details => {
                answer["title"] = json!("The Comedy of Errors");
                StatusCode::OK
            }
            Kind::Reviews { stars } => {
                answer["text"] = json!("An extremely entertaining play by Shakespeare.");
                if let Some(colour) = stars {
                    answer["colour"] = json!(colour);
                    answer["ratings"] = call(proxy, "ratings", "/ratings/0", &carried).await;
                }
                StatusCode::OK
            }
            Kind::Ratings => {
                answer["stars"] = json!(5);
                if fails(headers, once) { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
            }
        };
        let response = Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
        response.body(Full::new(Bytes::from(format!("{answer}\n")))).expect("status and header are valid")
    }
}

fn carried(headers: &HeaderMap) -> HeaderMap {
    CARRIED.into_iter().filter_map(|name| headers.get(&name).map(|value| (name, value.clone()))).collect()
}

/// A request that asks for it is failed the first time it is seen, so that a retry shows.
fn fails(headers: &HeaderMap, once: &Failed) -> bool {
    if !headers.contains_key("x-demo-fail-first") {
        return false;
    }
    let id = headers.get("x-request-id").map(|v| Bytes::copy_from_slice(v.as_bytes())).unwrap_or_default();
    let mut failed = once.lock().unwrap_or_else(PoisonError::into_inner);
    if failed.contains(&id) {
        return false;
    }
    if failed.len() >= 1024 {
        failed.pop_front();
    }
    failed.push_back(id);
    true
}

/// Calls another application by name; what went wrong is part of the answer.
async fn call(proxy: SocketAddr, service: &str, path: &str, carried: &HeaderMap) -> Value {
    let mut request = Request::get(path).header(header::HOST, format!("{service}:9080"));
    request.headers_mut().expect("the request is valid").extend(carried.clone());
    let request = request.body(Full::default()).expect("the request is valid");
    match socks::send(proxy, service, 9080, request).await {
        Ok(response) if response.status() == StatusCode::OK => serde_json::from_slice(response.body()).unwrap_or(Value::Null),
        Ok(response) => json!({ "error": response.status().as_u16() }),
        Err(error) => json!({ "error": error.to_string() }),
    }
}
