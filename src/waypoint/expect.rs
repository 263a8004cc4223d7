//! `Expect: 100-continue` end to end: the body is not asked of the client before the workload asks
//! for it (RFC 9110, 10.1.1). Other interim responses to such a request are dropped.

use crate::middleware::{Body, BodyError};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header::EXPECT};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use std::{
    future::Future,
    pin::Pin,
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
#[derive(Debug)]
pub(super) struct Asked(#[expect(dead_code, reason = "held for its drop")] std::sync::Arc<watch::Sender<Gate>>);

/// Whether the client waits to be asked for its body.
pub(super) fn is_expected(headers: &HeaderMap) -> bool {
    headers.contains_key(EXPECT)
}

/// Puts the body behind a gate that opens at the workload's 100 (Continue).
pub(super) fn gate(request: Request<Body>) -> (Request<Body>, Asked) {
    let (send, receive) = watch::channel(Gate::Closed);
    let send = std::sync::Arc::new(send);
    let opener = std::sync::Arc::downgrade(&send);
    let mut request = request.map(|body| Body::boxed(Gated { body, gate: Some(Box::pin(opened(receive))), patience: sleep(PATIENCE) }));
    hyper::ext::on_informational(&mut request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            if let Some(gate) = opener.upgrade() {
                gate.send_replace(Gate::Open);
            }
        }
    });
    (request, Asked(send))
}

/// True once the gate is open, false when its keeper is gone.
async fn opened(mut gate: watch::Receiver<Gate>) -> bool {
    gate.wait_for(|state| *state == Gate::Open).await.is_ok()
}

pin_project! {
    struct Gated { body: Body, gate: Option<Pin<Box<dyn Future<Output = bool> + Send>>>, #[pin] patience: Sleep }
}

impl http_body::Body for Gated {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.project();
        if let Some(gate) = this.gate {
            match gate.as_mut().poll(cx) {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(Some(Err(BodyError::Unwanted))),
                Poll::Pending => ready!(this.patience.poll(cx)),
            }
            *this.gate = None;
        }
        Pin::new(this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
