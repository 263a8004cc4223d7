//! Interim responses (103 Early Hints and the like) from a workload to a client of HTTP/1.1.
//!
//! hyper's server writes none but 100. The bytes are written here, beside it, and cannot fall into
//! another response: only hyper's own task writes them, and only inside `poll_flush` of its stream,
//! which hyper calls when it has nothing left to write itself. The final response is kept from
//! hyper until they are on their way.
//!
//! A client of HTTP/2 gets none, for hyper has no place to write between its frames; nor does one
//! that waits for 100 (Continue), see `expect.rs`. Interim responses may be dropped (RFC 9110, 15.2).

use crate::middleware::{Body, remove_hop_by_hop};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode, Version};
use pin_project_lite::pin_project;
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

/// Bytes that may wait for a slow client; what a workload sends beyond is dropped.
const MAX_WAITING: usize = 64 << 10;

/// The interim responses of one client connection. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Interims {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    // Looked at on every flush, so not behind the lock.
    is_waiting: AtomicBool,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    // The request being answered. What a try that was given up still says is for none.
    exchange: u64,
    bytes: BytesMut,
    connection: Option<Waker>,
}

impl Interims {
    /// Takes what the workload says before its answer to this request; `answer` yields that.
    pub(super) fn before<F: Future>(&self, mut request: Request<Body>, answer: impl FnOnce(Request<Body>) -> F) -> Before<F> {
        let exchange = self.next();
        // RFC 9110, 15.2: never to a client of HTTP/1.0.
        if request.version() == Version::HTTP_11 {
            let interims = self.clone();
            hyper::ext::on_informational(&mut request, move |response| {
                if response.status() != StatusCode::CONTINUE {
                    interims.push(exchange, response.status(), response.headers());
                }
            });
        }
        Before { answer: answer(request), interims: self.clone(), ready: None }
    }

    fn next(&self) -> u64 {
        let mut queue = self.lock();
        queue.exchange += 1;
        queue.exchange
    }

    fn push(&self, exchange: u64, status: StatusCode, headers: &HeaderMap) {
        let mut headers = headers.clone();
        remove_hop_by_hop(&mut headers, false);
        let head = encode(status, &headers);
        let mut queue = self.lock();
        if queue.exchange != exchange || queue.bytes.len() + head.len() > MAX_WAITING {
            return;
        }
        queue.bytes.extend_from_slice(&head);
        self.shared.is_waiting.store(true, Ordering::Release);
        if let Some(waker) = &queue.connection {
            waker.wake_by_ref();
        }
    }

    /// What is to be written now, by the connection's own task.
    pub(super) fn take(&self) -> Bytes {
        if !self.shared.is_waiting.load(Ordering::Acquire) {
            return Bytes::new();
        }
        let mut queue = self.lock();
        self.shared.is_waiting.store(false, Ordering::Release);
        // A final response that waits may go on.
        if let Some(waker) = &queue.connection {
            waker.wake_by_ref();
        }
        queue.bytes.split().freeze()
    }

    /// The task to wake when there is something to write, and when it is taken.
    fn wake(&self, cx: &Context<'_>) {
        let mut queue = self.lock();
        match &mut queue.connection {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    fn is_taken(&self) -> bool {
        self.lock().bytes.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encode(status: StatusCode, headers: &HeaderMap) -> BytesMut {
    let mut head = BytesMut::from(format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default()).as_bytes());
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}

pin_project! {
    /// An answer that comes after its interim responses.
    #[derive(Debug)]
    pub(super) struct Before<F: Future> { #[pin] answer: F, interims: Interims, ready: Option<F::Output> }
}

impl<F: Future> Future for Before<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        // Before the answer is asked for, so that no interim response goes by unnoticed.
        this.interims.wake(cx);
        if this.ready.is_none() {
            *this.ready = Some(ready!(this.answer.poll(cx)));
            // After the answer nothing is interim.
            this.interims.next();
        }
        if !this.interims.is_taken() {
            return Poll::Pending;
        }
        Poll::Ready(this.ready.take().expect("set above, and taken once"))
    }
}
