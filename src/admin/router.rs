//! A table of paths. Unknown paths are 404; a known path with another method is 405.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, Uri, header};
use http_body_util::Full;
use std::{borrow::Cow, fmt};

/// An answer that is known as a whole.
pub type Answer = Response<Full<Bytes>>;

type Handler = Box<dyn Fn(&Query<'_>) -> Answer + Send + Sync>;

/// The paths that one server knows.
#[derive(Default)]
pub struct Router {
    routes: Vec<Route>,
}

struct Route {
    path: &'static str,
    method: Method,
    about: &'static str,
    handler: Handler,
}

impl Router {
    /// A server that knows no path.
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers GET, and HEAD without the body. Handlers run on the server's task: they must not
    /// block for long.
    #[must_use]
    pub fn get(self, path: &'static str, about: &'static str, handler: impl Fn(&Query<'_>) -> Answer + Send + Sync + 'static) -> Self {
        self.route(Method::GET, path, about, Box::new(handler))
    }

    /// Answers POST.
    #[must_use]
    pub fn post(self, path: &'static str, about: &'static str, handler: impl Fn(&Query<'_>) -> Answer + Send + Sync + 'static) -> Self {
        self.route(Method::POST, path, about, Box::new(handler))
    }

    /// Answers `/` with the list of all paths added so far.
    #[must_use]
    pub fn with_index(self) -> Self {
        let line = |r: &Route| format!("{:<4} {:<20} {}\n", r.method, r.path, r.about);
        let list: String = self.routes.iter().map(line).collect();
        self.get("/", "this list", move |_| text(StatusCode::OK, list.clone()))
    }

    fn route(mut self, method: Method, path: &'static str, about: &'static str, handler: Handler) -> Self {
        self.routes.push(Route { path, method, about, handler });
        self
    }

    /// The answer to a request. Bodies of requests are not looked at.
    pub(super) fn answer(&self, method: &Method, uri: &Uri) -> Answer {
        let known: Vec<&Route> = self.routes.iter().filter(|r| r.path == uri.path()).collect();
        if known.is_empty() {
            return text(StatusCode::NOT_FOUND, "not found\n");
        }
        let wanted = if *method == Method::HEAD { &Method::GET } else { method };
        match known.iter().find(|r| r.method == *wanted) {
            Some(route) => (route.handler)(&Query(uri.query().unwrap_or_default())),
            None => {
                let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
                let allow: Vec<&str> =
                    known.iter().map(|r| if r.method == Method::GET { "GET, HEAD" } else { r.method.as_str() }).collect();
                if let Ok(allow) = HeaderValue::from_str(&allow.join(", ")) {
                    answer.headers_mut().insert(header::ALLOW, allow);
                }
                answer
            }
        }
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.routes.iter().map(|r| r.path)).finish()
    }
}

/// The query of a request's URI.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a>(pub(super) &'a str);

impl Query<'_> {
    /// The first value of `name`, percent-decoded; empty when it stands without `=`.
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then(|| decode(value))
        })
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
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}
