//! A request body that can be sent more than once, up to a limit.

use super::{Body, body::BodyError};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

/// The original body and what was read of it. Only the last copy made reads on: it replays what was
/// kept and then goes on where the one before stopped, which breaks off if it is still read (a
/// workload may answer before the request has ended; two readers would take each other's wake-ups).
#[derive(Debug, Clone)]
pub(super) struct Replay {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    rest: Body,
    kept: Vec<Bytes>,
    trailers: Option<http::HeaderMap>,
    size: usize,
    limit: usize,
    // More was read than may be kept: no further copy can be complete.
    is_spent: bool,
    is_ended: bool,
    copies: u32,
}

impl Replay {
    /// Keeps up to `limit` bytes.
    pub(super) fn new(rest: Body, limit: usize) -> Self {
        let is_ended = rest.is_end_stream();
        let shared = Shared { rest, kept: Vec::new(), trailers: None, size: 0, limit, is_spent: false, is_ended, copies: 0 };
        Self { shared: Arc::new(Mutex::new(shared)) }
    }

    /// Another copy, from the start; `None` when the limit was passed.
    pub(super) fn copy(&self) -> Option<Body> {
        let mut shared = self.lock();
        if shared.is_spent {
            return None;
        }
        if shared.is_ended && shared.size == 0 && shared.trailers.is_none() {
            return Some(Body::Empty);
        }
        shared.copies += 1;
        Some(Body::boxed(Copied { replay: self.clone(), number: shared.copies, next: 0, sent_trailers: false }))
    }

    /// Whether another copy can be made.
    pub(super) fn is_whole(&self) -> bool {
        !self.lock().is_spent
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        match frame.data_ref() {
            Some(data) if !self.is_spent => {
                self.size += data.len();
                if self.size > self.limit {
                    self.is_spent = true;
                    self.kept = Vec::new();
                } else {
                    self.kept.push(data.clone());
                }
            }
            Some(_) => {}
            None => self.trailers = frame.trailers_ref().cloned(),
        }
    }
}

struct Copied {
    replay: Replay,
    number: u32,
    next: usize,
    sent_trailers: bool,
}

impl HttpBody for Copied {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let replay = this.replay.clone();
        let mut shared = replay.lock();
        if this.number != shared.copies {
            return Poll::Ready(Some(Err(BodyError::Unwanted)));
        }
        if let Some(data) = shared.kept.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if shared.is_ended {
            let trailers = shared.trailers.clone().filter(|_| !this.sent_trailers);
            this.sent_trailers = true;
            return Poll::Ready(trailers.map(|t| Ok(Frame::trailers(t))));
        }
        let frame = std::task::ready!(Pin::new(&mut shared.rest).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                shared.keep(frame);
                this.next = shared.kept.len();
                if frame.is_trailers() {
                    this.sent_trailers = true;
                    shared.is_ended = true;
                }
            }
            Some(Err(_)) => shared.is_spent = true,
            None => shared.is_ended = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let shared = self.replay.lock();
        let trailers_due = shared.trailers.is_some() && !self.sent_trailers;
        let at_end = shared.is_ended || shared.rest.is_end_stream();
        self.next >= shared.kept.len() && at_end && !trailers_due
    }

    fn size_hint(&self) -> SizeHint {
        let shared = self.replay.lock();
        let replayed: u64 = shared.kept.iter().skip(self.next).map(|d| d.len() as u64).sum();
        let mut hint = shared.rest.size_hint();
        let (lower, upper) = (hint.lower() + replayed, hint.upper().map(|u| u + replayed));
        if let Some(upper) = upper {
            hint.set_upper(upper);
        }
        hint.set_lower(lower);
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt as _, StreamBody};

    fn body(parts: &[&'static str], trailers: bool) -> Body {
        let mut frames: Vec<Result<Frame<Bytes>, BodyError>> =
            parts.iter().map(|p| Ok(Frame::data(Bytes::from_static(p.as_bytes())))).collect();
        if trailers {
            frames.push(Ok(Frame::trailers(http::HeaderMap::from_iter([(http::header::ETAG, "x".parse().unwrap())]))));
        }
        Body::boxed(StreamBody::new(futures_util::stream::iter(frames)))
    }

    #[tokio::test]
    async fn every_copy_is_whole_with_trailers() {
        let replay = Replay::new(body(&["ab", "cd"], true), 4);
        for _ in 0..3 {
            let collected = replay.copy().unwrap().collect().await.unwrap();
            assert_eq!(collected.trailers().unwrap()[http::header::ETAG], "x");
            assert_eq!(collected.to_bytes(), "abcd");
        }
    }

    #[tokio::test]
    async fn a_copy_goes_on_where_the_one_before_broke_off() {
        let replay = Replay::new(body(&["ab", "cd", "ef"], false), 100);
        let mut first = replay.copy().unwrap();
        first.frame().await.unwrap().unwrap();
        drop(first);
        assert_eq!(replay.copy().unwrap().collect().await.unwrap().to_bytes(), "abcdef");
    }

    #[tokio::test]
    async fn only_the_last_copy_reads_on() {
        let replay = Replay::new(body(&["ab", "cd"], false), 100);
        let mut first = replay.copy().unwrap();
        first.frame().await.unwrap().unwrap();
        let second = replay.copy().unwrap();
        assert!(matches!(first.frame().await, Some(Err(BodyError::Unwanted))));
        assert_eq!(second.collect().await.unwrap().to_bytes(), "abcd");
    }

    #[tokio::test]
    async fn beyond_the_limit_the_first_copy_goes_on_and_no_other_is_made() {
        let replay = Replay::new(body(&["ab", "cd", "ef"], false), 3);
        let first = replay.copy().unwrap();
        assert_eq!(first.collect().await.unwrap().to_bytes(), "abcdef");
        assert!(replay.copy().is_none());
    }

    #[tokio::test]
    async fn an_empty_body_stays_empty() {
        let replay = Replay::new(Body::Empty, 3);
        assert!(replay.copy().unwrap().is_end_stream());
    }
}
