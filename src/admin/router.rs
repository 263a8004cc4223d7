//! A table of paths. Unknown paths are 404; a known path with another method is 405.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use http_body_util::Full;
use std::{
    borrow::Cow,
    fmt,
    future::{Future, ready},
    pin::Pin,
    time::Duration,
};

/// An answer that is known as a whole.
pub type Answer = Response<Full<Bytes>>;

/// An answer on its way. Dropping it gives the question up.
pub type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

type Handler = Box<dyn Fn(Asked) -> Answering + Send + Sync>;

/// Time for a whole connection, so that a reader that stopped reading does not keep its place.
const LIFE: Duration = Duration::from_secs(60);

/// The paths that one server knows.
pub struct Router {
    routes: Vec<Route>,
    life: Duration,
}

struct Route {
    path: &'static str,
    method: Option<Method>,
    about: &'static str,
    handler: Handler,
}

impl Default for Router {
    fn default() -> Self {
        Self { routes: Vec::new(), life: LIFE }
    }
}

impl Router {
    /// A server that knows no path.
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers GET, and HEAD without the body. Handlers run on the server's task: they must not
    /// block for long.
    #[must_use]
    pub fn get(self, path: &'static str, about: &'static str, handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        self.route(Some(Method::GET), path, about, at_once(handler))
    }

    /// Answers POST.
    #[must_use]
    pub fn post(self, path: &'static str, about: &'static str, handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        self.route(Some(Method::POST), path, about, at_once(handler))
    }

    /// Answers GET, HEAD and POST.
    #[must_use]
    pub fn any(self, path: &'static str, about: &'static str, handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        self.route(None, path, about, at_once(handler))
    }

    /// The same, with answers that take their time: `limit` at the longest.
    #[must_use]
    pub fn any_in_time<F>(
        mut self,
        path: &'static str,
        about: &'static str,
        limit: Duration,
        handler: impl Fn(Asked) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        self.life = self.life.max(limit + LIFE);
        self.route(None, path, about, Box::new(move |asked| Box::pin(handler(asked))))
    }

    /// Answers `/` with the list of all paths added so far.
    #[must_use]
    pub fn with_index(self) -> Self {
        let line = |r: &Route| format!("{:<4} {:<27} {}\n", r.method.as_ref().unwrap_or(&Method::GET).as_str(), r.path, r.about);
        let list: String = self.routes.iter().map(line).collect();
        self.get("/", "this list", move |_| text(StatusCode::OK, list.clone()))
    }

    fn route(mut self, method: Option<Method>, path: &'static str, about: &'static str, handler: Handler) -> Self {
        self.routes.push(Route { path, method, about, handler });
        self
    }

    /// How long a connection may live.
    pub(super) fn life(&self) -> Duration {
        self.life
    }

    /// The answer to a request. Bodies of requests are not looked at.
    pub(super) fn answer(&self, method: &Method, asked: Asked) -> Answering {
        let known: Vec<&Route> = self.routes.iter().filter(|r| r.path == asked.uri.path()).collect();
        if known.is_empty() {
            return now(text(StatusCode::NOT_FOUND, "not found\n"));
        }
        match known.iter().find(|r| r.takes(method)) {
            Some(route) => (route.handler)(asked),
            None => {
                let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
                let allow: Vec<&str> = known.iter().map(|r| r.allow()).collect();
                if let Ok(allow) = HeaderValue::from_str(&allow.join(", ")) {
                    answer.headers_mut().insert(header::ALLOW, allow);
                }
                now(answer)
            }
        }
    }
}

impl Route {
    fn takes(&self, method: &Method) -> bool {
        match &self.method {
            Some(Method::GET) => [Method::GET, Method::HEAD].contains(method),
            Some(one) => one == method,
            None => [Method::GET, Method::HEAD, Method::POST].contains(method),
        }
    }

    fn allow(&self) -> &str {
        match &self.method {
            Some(Method::GET) => "GET, HEAD",
            Some(one) => one.as_str(),
            None => "GET, HEAD, POST",
        }
    }
}

fn at_once(handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Handler {
    Box::new(move |asked| now(handler(&asked)))
}

fn now(answer: Answer) -> Answering {
    Box::pin(ready(answer))
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.routes.iter().map(|r| r.path)).finish()
    }
}

/// What a request asks.
#[derive(Debug, Clone)]
pub struct Asked {
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
}

impl Asked {
    /// The first value of `name` in the query, percent-decoded; empty when it stands without `=`.
    pub fn get(&self, name: &str) -> Option<String> {
        self.uri.query().unwrap_or_default().split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then(|| decode(value))
        })
    }

    /// The header `Accept`, all lines of it as one.
    pub fn accept(&self) -> String {
        let lines = self.headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
        lines.collect::<Vec<_>>().join(",")
    }
}

/// Undoes percent-encoding; what is not well encoded stays as it is.
fn decode(text: &str) -> String {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                out.extend(&part.as_bytes()[2..]);
            }
            None => {
                out.push(b'%');
                out.extend(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A plain text answer.
pub(super) fn text(status: StatusCode, body: impl Into<Cow<'static, str>>) -> Answer {
    typed(status, "text/plain; charset=utf-8", body)
}

/// An answer of some media type.
pub(super) fn typed(status: StatusCode, media_type: &'static str, body: impl Into<Cow<'static, str>>) -> Answer {
    let body = match body.into() {
        Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
        Cow::Owned(text) => Bytes::from(text),
    };
    bytes(status, media_type, body)
}

/// An answer that is no text.
pub(super) fn bytes(status: StatusCode, media_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}
