//! Every error becomes an answer: below this layer requests may fail, above it they cannot, so no
//! connection is ever dropped because a policy failed.

use super::{
    Body, Error,
    gate::always_ready,
    stage::{Failure, Inbound, Outcome, Reply},
};
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use pin_project_lite::pin_project;
use std::{
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll},
};
use tower::Service;

/// Answers errors in the client's own protocol, and panics with 500.
#[derive(Debug, Clone)]
pub struct Respond<S>(pub S);

impl<S> Service<Inbound> for Respond<S>
where
    S: Service<Inbound, Response = Reply, Error = Failure>,
{
    type Response = Reply;
    type Error = Infallible;
    type Future = Responding<S::Future>;

    always_ready!();

    fn call(&mut self, inbound: Inbound) -> Self::Future {
        let is_grpc = is_grpc(inbound.request.headers());
        // A panic while the layers run on the way down is answered as well as one in a future.
        let inner = std::panic::catch_unwind(AssertUnwindSafe(|| self.0.call(inbound)));
        Responding { inner: inner.ok(), is_grpc }
    }
}

pin_project! {
    /// The future of [`Respond`].
    #[derive(Debug)]
    pub struct Responding<F> { #[pin] inner: Option<F>, is_grpc: bool }
}

impl<F: Future<Output = Result<Reply, Failure>>> Future for Responding<F> {
    type Output = Result<Reply, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let is_grpc = *this.is_grpc;
        let internal = || answer(Failure { error: Error::Internal, outcome: Outcome::default() }, is_grpc);
        let Some(inner) = this.inner.as_pin_mut() else {
            return Poll::Ready(Ok(internal()));
        };
        // After a panic the future is never polled again, so a broken state inside it is never seen.
        Poll::Ready(Ok(match std::panic::catch_unwind(AssertUnwindSafe(|| inner.poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Ok(reply))) => reply,
            Ok(Poll::Ready(Err(failure))) => answer(failure, is_grpc),
            Err(_) => internal(),
        }))
    }
}

/// Whether the client speaks gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|t| {
        let t = t.as_bytes();
        t.starts_with(b"application/grpc") && matches!(t.get(16), None | Some(b'+' | b';'))
    })
}

fn answer(Failure { error, outcome }: Failure, is_grpc: bool) -> Reply {
    let mut response = if is_grpc { grpc(&error) } else { plain(&error) };
    if matches!(error, Error::SlowBody | Error::Overloaded) {
        // What is left of the request on this connection is not worth reading.
        response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
        response.extensions_mut().insert(super::sanitize::CloseAfter);
    }
    Reply { response, outcome, error: Some(error) }
}

fn plain(error: &Error) -> Response<Body> {
    let message = error.public_message();
    let mut response = Response::new(Body::full(message));
    *response.status_mut() = error.status();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(message.len()));
    response
}

/// Trailers-Only: HTTP 200 with `grpc-status` among the headers (gRPC over HTTP/2, "Responses").
fn grpc(error: &Error) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(u16::from(error.grpc_code())));
    headers.insert("grpc-message", HeaderValue::from_static(error.public_message()));
    response
}
