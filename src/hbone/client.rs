//! The opening side: one HTTP/2 connection on which streams are asked for.

use super::{Config, ConnectHeaders, TunnelIo, keepalive};
use crate::transport::{gather, tls::Standing};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, StatusCode, Uri, uri::Authority};
use std::{
    fmt,
    future::{Future, pending, poll_fn},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};
use tokio::io::{AsyncRead, AsyncWrite};

/// A tunnel to one peer. Clones share it; it closes when the last clone and stream are gone.
#[derive(Clone)]
pub struct Client {
    send: SendRequest<Bytes>,
    shared: Arc<Shared>,
    standing: Standing,
}

struct Shared {
    open: AtomicUsize,
    closed: AtomicBool,
    retired: AtomicBool,
}

/// Counts a stream for as long as it lives.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.open.fetch_add(1, Ordering::Relaxed);
        Self(shared.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a stream could not be opened. In every case no byte of payload has been sent.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The peer answered something else than 200.
    #[error("http status: {0}")]
    Refused(StatusCode),
    /// The tunnel failed, or is being closed by the peer.
    #[error("http/2 error")]
    H2(#[source] h2::Error),
    /// No answer in time.
    #[error("no answer to CONNECT in time")]
    Timeout,
    /// The target cannot be written as an authority.
    #[error("invalid target")]
    Target,
}

impl Client {
    /// Performs the HTTP/2 handshake and drives the connection in a task of its own. `replaced` tells
    /// that the certificate the tunnel was opened with has been replaced: the tunnel then
    /// [retires](Self::is_retiring). It breaks off when `standing` says that the peer's own has been
    /// revoked.
    ///
    /// # Errors
    /// When the handshake fails. No time limit: the caller sets one.
    pub async fn handshake<IO>(
        io: IO,
        config: &Config,
        replaced: impl Future<Output = ()> + Send + 'static,
        standing: Standing,
    ) -> Result<Self, h2::Error>
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (io, flusher) = gather(io);
        let (send, mut connection) = builder(config).handshake::<_, Bytes>(io).await?;
        let shared = Arc::new(Shared { open: AtomicUsize::new(0), closed: AtomicBool::new(false), retired: AtomicBool::new(false) });
        let ping_pong = connection.ping_pong().expect("taken once");
        let (config, state, revoked) = (config.clone(), shared.clone(), standing.revoked());
        // The task ends with the connection: when the peer closes it, when pings go unanswered, or when the last handle is dropped.
        tokio::spawn(async move {
            let retire = async {
                replaced.await;
                state.retired.store(true, Ordering::Relaxed);
                pending().await
            };
            tokio::select! {
                biased;
                revoked = revoked => tracing::warn!(error = &revoked as &dyn std::error::Error, "tunnel closed: the peer's certificate has been revoked"),
                end = flusher.drive(connection) => if let Err(error) = end { tracing::debug!(%error, "tunnel closed") },
                () = keepalive::lost(ping_pong, &config) => tracing::warn!("tunnel closed: peer did not answer pings"),
                () = retire => {}
            }
            state.closed.store(true, Ordering::Relaxed);
        });
        Ok(Self { send, shared, standing })
    }

    /// Streams open now.
    pub fn open_streams(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Streams the peer allows at a time.
    pub fn stream_limit(&self) -> usize {
        self.send.current_max_send_streams()
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Relaxed)
    }

    /// Whether the tunnel should be left as soon as may be: it is too old, its certificate has been
    /// replaced, its pool has been told to forget it, its peer has sent GOAWAY, or it has ended. What
    /// is kept inside of it should be replaced.
    pub fn is_retiring(&mut self) -> bool {
        self.is_retired()
            || self.is_closed()
            || matches!(self.send.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_)))
    }

    /// Whether its peer is still to be trusted.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Whether we are done with it.
    pub(super) fn is_retired(&self) -> bool {
        self.shared.retired.load(Ordering::Relaxed)
    }

    /// Gives it no new streams any more.
    pub(super) fn retire(&self) {
        self.shared.retired.store(true, Ordering::Relaxed);
    }

    /// Whether both are handles of one tunnel.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Counts a stream that is about to be opened, so that callers at the same moment spread.
    pub(super) fn reserve(&self) -> Reserved {
        Reserved { client: self.clone(), open: Open::new(&self.shared) }
    }
}

/// A place on a tunnel.
pub(super) struct Reserved {
    client: Client,
    open: Open,
}

impl Reserved {
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Opens the stream. Cancel safe: dropping it resets the stream.
    pub(super) async fn connect(
        self,
        authority: &str,
        headers: &ConnectHeaders,
        config: &Config,
    ) -> Result<(TunnelIo, HeaderMap), ConnectError> {
        tokio::time::timeout(config.connect_timeout, self.open(authority, headers)).await.map_err(|_| ConnectError::Timeout)?
    }

    async fn open(self, authority: &str, headers: &ConnectHeaders) -> Result<(TunnelIo, HeaderMap), ConnectError> {
        let Self { client, open } = self;
        let authority: Authority = authority.parse().map_err(|_| ConnectError::Target)?;
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = Uri::builder().authority(authority).build().map_err(|_| ConnectError::Target)?;
        headers.write(request.headers_mut());
        let mut send = client.send;
        poll_fn(|cx| send.poll_ready(cx)).await.map_err(ConnectError::H2)?;
        let (response, stream) = send.send_request(request, false).map_err(ConnectError::H2)?;
        let response = response.await.map_err(ConnectError::H2)?;
        if response.status() != StatusCode::OK {
            return Err(ConnectError::Refused(response.status()));
        }
        let (parts, recv) = response.into_parts();
        Ok((TunnelIo::new(stream, recv, Some(Box::new(open))), parts.headers))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("open_streams", &self.open_streams()).field("closed", &self.is_closed()).finish_non_exhaustive()
    }
}

fn builder(config: &Config) -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(config.stream_window)
        .initial_connection_window_size(config.connection_window)
        .max_frame_size(config.max_frame_size)
        .max_header_list_size(16 << 10)
        .initial_max_send_streams(config.max_streams_per_tunnel)
        .max_send_buffer_size(config.client_send_buffer);
    builder
}
