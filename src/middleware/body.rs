//! The one body type of the stack.

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

/// A request or response body. Streams; nothing is held back.
pub enum Body {
    /// No body.
    Empty,
    /// One piece.
    Full(Bytes),
    /// As it comes from the client.
    Downstream(Incoming),
    /// As it comes from the workload.
    Upstream(Incoming),
    /// Wrapped by a layer.
    Boxed(UnsyncBoxBody<Bytes, BodyError>),
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client's side.
    #[error("request body broke off")]
    Downstream(#[source] hyper::Error),
    /// The workload's side.
    #[error("response body broke off")]
    Upstream(#[source] hyper::Error),
    /// A time limit of the route passed.
    #[error("time limit of the route passed")]
    Deadline,
    /// The client sent nothing for too long.
    #[error("request body was idle for too long")]
    Idle,
    /// The workload answered without asking for the body.
    #[error("body was not asked for")]
    Unwanted,
}

impl Body {
    /// A body of one piece.
    pub fn full(data: impl Into<Bytes>) -> Self {
        let data = data.into();
        if data.is_empty() { Self::Empty } else { Self::Full(data) }
    }

    /// Erases a layer's own body type.
    pub fn boxed<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error = BodyError> + Send + 'static,
    {
        Self::Boxed(UnsyncBoxBody::new(body))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this {
            Self::Empty => Poll::Ready(None),
            Self::Full(data) => {
                let data = std::mem::take(data);
                *this = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Self::Downstream(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::Downstream),
            Self::Upstream(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::Upstream),
            Self::Boxed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) => false,
            Self::Downstream(body) | Self::Upstream(body) => body.is_end_stream(),
            Self::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(data) => SizeHint::with_exact(data.len() as u64),
            Self::Downstream(body) | Self::Upstream(body) => body.size_hint(),
            Self::Boxed(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Empty => "Empty",
            Self::Full(_) => "Full",
            Self::Downstream(_) => "Downstream",
            Self::Upstream(_) => "Upstream",
            Self::Boxed(_) => "Boxed",
        };
        f.write_str(kind)
    }
}
