//! `Expect: 100-continue` end to end: the body is not asked of the client before the workload asks
//! for it (RFC 9110, 10.1.1). Other interim responses to such a request are dropped.

use crate::middleware::{Body, BodyError};
use bytes::Bytes;
use http::{Request, StatusCode, header::EXPECT};
use http_body::{Frame, SizeHint};
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Sleep, sleep},
};

/// A workload that says nothing for this long gets the body unasked, as the RFC advises clients
/// that do not know whether the other side heeds the expectation.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Closed,
    Open,
}

/// Keeps the gate's other end: dropped with the response, it ends a body nobody asked for.
#[derive(Debug, Clone)]
pub(super) struct Asked(#[expect(dead_code, reason = "held for its drop")] Arc<watch::Sender<Gate>>);

/// Puts the body of a client that waits to be asked for it behind a gate that opens at the
/// workload's 100 (Continue). A request that was [`put_back`] has its gate already.
pub(super) fn gate(mut request: Request<Body>) -> (Request<Body>, Option<Asked>) {
    if !request.headers().contains_key(EXPECT) {
        return (request, None);
    }
    if let Some(asked) = request.extensions_mut().remove::<Asked>() {
        return (request, Some(asked));
    }
    let (send, receive) = watch::channel(Gate::Closed);
    let send = Arc::new(send);
    let opener = Arc::downgrade(&send);
    let mut request = request.map(|body| Body::boxed(Gated { body, gate: Some(Box::pin(opened(receive))), patience: None }));
    hyper::ext::on_informational(&mut request, move |response| {
        if response.status() == StatusCode::CONTINUE
            && let Some(gate) = opener.upgrade()
        {
            gate.send_replace(Gate::Open);
        }
    });
    (request, Some(Asked(send)))
}

/// Makes a request that was not sent after all ready for another connection.
pub(super) fn put_back(mut unsent: Request<Body>, asked: Option<Asked>) -> Request<Body> {
    if let Some(asked) = asked {
        unsent.extensions_mut().insert(asked);
    }
    unsent
}

/// True once the gate is open, false when its keeper is gone.
async fn opened(mut gate: watch::Receiver<Gate>) -> bool {
    gate.wait_for(|state| *state == Gate::Open).await.is_ok()
}

struct Gated {
    body: Body,
    gate: Option<Pin<Box<dyn Future<Output = bool> + Send>>>,
    // Counts from when the body is first wanted.
    patience: Option<Pin<Box<Sleep>>>,
}

impl http_body::Body for Gated {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(gate) = &mut this.gate {
            match gate.as_mut().poll(cx) {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(Some(Err(BodyError::Unwanted))),
                Poll::Pending => ready!(this.patience.get_or_insert_with(|| Box::pin(sleep(PATIENCE))).as_mut().poll(cx)),
            }
            this.gate = None;
        }
        Pin::new(&mut this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt as _, Full};

    #[tokio::test(start_paused = true)]
    async fn a_request_that_was_put_back_is_gated_once() {
        let body = Body::boxed(Full::new(Bytes::from_static(b"body")).map_err(|never| match never {}));
        let request = Request::post("/").header(EXPECT, "100-continue").body(body).unwrap();
        let (request, asked) = gate(request);
        let (request, asked) = gate(put_back(request, asked));
        assert!(asked.is_some() && request.extensions().get::<Asked>().is_none());
        let since = tokio::time::Instant::now();
        assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "body");
        assert_eq!(since.elapsed(), PATIENCE);
    }
}
