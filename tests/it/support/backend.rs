//! Applications: what stands behind a workload's proxy.

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Body of an application's answer.
pub type AppBody = BoxBody<Bytes, hyper::Error>;
type Answering = Pin<Box<dyn Future<Output = Response<AppBody>> + Send>>;
type Handler = Arc<dyn Fn(Request<Incoming>) -> Answering + Send + Sync>;

/// What an application saw of a request.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: http::Method,
    pub target: String,
    pub version: http::Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

/// An application. It ends with the test.
#[derive(Debug)]
pub struct Backend {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<Seen>>>,
    _task: JoinSet<()>,
}

/// A body of one piece.
pub fn full(data: impl Into<Bytes>) -> AppBody {
    Full::new(data.into()).map_err(|never: Infallible| match never {}).boxed()
}

impl Backend {
    /// An HTTP application that answers every request with its own `name`, and remembers what it
    /// saw.
    pub fn http(address: SocketAddr, name: &str) -> Self {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (name, remember) = (name.to_owned(), seen.clone());
        let handler = move |request: Request<Incoming>| -> Answering {
            let (name, remember) = (name.clone(), remember.clone());
            Box::pin(async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await;
                let (trailers, body) = body.map_or((None, Bytes::new()), |b| (b.trailers().cloned(), b.to_bytes()));
                let target = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
                let seen = Seen { method: head.method, target, version: head.version, headers: head.headers, body, trailers };
                remember.lock().unwrap().push(seen);
                Response::builder().header("x-pod", &name).body(full(name)).unwrap()
            })
        };
        Self::with_seen(address, Arc::new(handler), seen)
    }

    /// An HTTP application of your own.
    pub fn custom<F, Fut>(address: SocketAddr, handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Response<AppBody>> + Send + 'static,
    {
        Self::with_seen(address, Arc::new(move |request| Box::pin(handler(request))), Arc::default())
    }

    fn with_seen(address: SocketAddr, handler: Handler, seen: Arc<Mutex<Vec<Seen>>>) -> Self {
        Self::start(address, seen, move |stream| {
            let handler = handler.clone();
            async move { serve_http(stream, handler).await }
        })
    }

    /// An application that speaks bytes.
    pub fn tcp<F, Fut>(address: SocketAddr, serve: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::start(address, Arc::default(), serve)
    }

    fn start<F, Fut>(address: SocketAddr, seen: Arc<Mutex<Vec<Seen>>>, serve: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind(address).expect("the test's network is its own");
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                open.spawn(serve(stream));
            }
        });
        Self { address, connections, seen, _task: task }
    }

    /// Connections that were accepted so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Requests that were seen so far ([`Backend::http`] only).
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The last request.
    pub fn last(&self) -> Seen {
        self.seen().pop().expect("a request was seen")
    }
}

/// HTTP/1 with upgrades, or HTTP/2 with prior knowledge.
async fn serve_http(stream: TcpStream, handler: Handler) {
    let mut first = [0; 3];
    let is_http2 = stream.peek(&mut first).await.is_ok() && &first == b"PRI";
    let service = service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let io = TokioIo::new(stream);
    // A client that breaks off is part of the tests.
    if is_http2 {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades().await;
    }
}

/// Reads until the other side is done.
pub async fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    all
}
