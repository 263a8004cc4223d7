//! The accepting side: one HTTP/2 connection as a sequence of CONNECTs.

use super::{Config, ConnectTarget, TargetError, TunnelIo, headers, keepalive};
use crate::{
    runtime::DrainWatch,
    transport::{
        Flusher, Gathered, gather,
        tls::{Revoked, Standing},
    },
};
use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

/// One CONNECT, not yet answered. Dropping it resets the stream.
#[derive(Debug)]
pub struct Connect {
    method: Method,
    authority: String,
    headers: HeaderMap,
    recv: RecvStream,
    respond: SendResponse<Bytes>,
    live: Live,
}

/// What has become of the streams of a tunnel. A stream lives until its [`Connect`] and its
/// [`TunnelIo`] are gone, even if the peer has reset it long before.
#[derive(Debug)]
struct Activity {
    live: AtomicUsize,
    last: Mutex<Instant>,
}

/// Counts a stream for as long as it lives.
#[derive(Debug)]
struct Live(Arc<Activity>);

impl Activity {
    fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// When the last stream ended.
    fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.live.fetch_add(1, Ordering::Relaxed);
        Self(activity.clone())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.live.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connect {
    /// Where it wants to go; `None` when the method is not CONNECT, which is answered with 400.
    ///
    /// # Errors
    /// When the authority names no target, which is answered with 400.
    pub fn target(&self) -> Option<Result<ConnectTarget, TargetError>> {
        (self.method == Method::CONNECT).then(|| ConnectTarget::parse(&self.authority))
    }

    /// The authority as sent, for logs.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The request headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Resolves when the peer has reset the stream: whatever is being done for it is in vain. Cancel
    /// safe.
    pub async fn broken_off(&mut self) {
        // The only other outcome is an error of the connection, and then the peer is gone as well.
        let _ = poll_fn(|cx| self.respond.poll_reset(cx)).await;
    }

    /// Answers with an error: headers only, with END_STREAM.
    pub fn refuse(mut self, status: StatusCode) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        // A peer that has gone away needs no answer.
        let _ = self.respond.send_response(response, true);
    }

    /// Answers 200, with the baggage of the destination if given, and yields the byte stream.
    ///
    /// # Errors
    /// When the peer has reset the stream meanwhile.
    pub fn accept(mut self, baggage: Option<&HeaderValue>) -> Result<TunnelIo, h2::Error> {
        let mut response = Response::new(());
        headers::answer(response.headers_mut(), baggage);
        let send = self.respond.send_response(response, false)?;
        Ok(TunnelIo::new(send, self.recv, Some(Box::new(self.live))))
    }
}

/// How a tunnel came to its end.
#[derive(Debug, thiserror::Error)]
pub enum ServerEnd {
    /// The HTTP/2 handshake took too long.
    #[error("http/2 handshake timed out")]
    HandshakeTimeout,
    /// The peer broke the protocol, or the connection broke.
    #[error("http/2 error")]
    H2(#[source] h2::Error),
    /// Pings went unanswered.
    #[error("peer did not answer pings")]
    PingTimeout,
    /// The drain deadline passed.
    #[error("closed by drain deadline")]
    Forced,
    /// A certificate of the peer has been revoked.
    #[error("the peer's certificate has been revoked")]
    Revoked(#[source] Revoked),
}

/// Serves one tunnel until it ends: hands each CONNECT to `on_connect`, which must not block.
///
/// Sends GOAWAY when `drain` is signalled, some time after `replaced` has resolved, when no CONNECT
/// comes in time, and when the tunnel has been idle for long; open streams go on. `replaced` tells
/// that the certificate the tunnel was accepted with has been replaced
/// ([`CertSource::replaced`](crate::transport::CertSource::replaced)). Breaks off when `standing` says
/// that the peer's own has been revoked. Not cancel safe: dropping it cuts all streams.
///
/// # Errors
/// See [`ServerEnd`]; an orderly end is `Ok`.
pub async fn serve<IO>(
    io: IO,
    config: &Config,
    drain: DrainWatch,
    replaced: impl Future<Output = ()>,
    standing: &Standing,
    mut on_connect: impl FnMut(Connect),
) -> Result<(), ServerEnd>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (io, flusher) = gather(io);
    let revoked = standing.revoked();
    tokio::pin!(revoked);
    let handshake = flusher.drive(builder(config).handshake::<_, Bytes>(io));
    let handshake = tokio::time::timeout(config.handshake_timeout, handshake);
    let mut connection = tokio::select! {
        biased;
        revoked = &mut revoked => return Err(ServerEnd::Revoked(revoked)),
        handshake = handshake => match handshake {
            Ok(Ok(connection)) => connection,
            Ok(Err(e)) => return Err(ServerEnd::H2(e)),
            Err(_) => return Err(ServerEnd::HandshakeTimeout),
        },
    };
    let ping_pong = connection.ping_pong().expect("taken once");
    let lost = keepalive::lost(ping_pong, config);
    let signaled = drain.signaled();
    let forced = drain.forced();
    // All clients at once would all come back at once.
    let outdated = async {
        replaced.await;
        tokio::time::sleep(config.rotation_spread.mul_f64(fastrand::f64())).await;
    };
    tokio::pin!(lost, signaled, forced, outdated);
    let activity = Arc::new(Activity { live: AtomicUsize::new(0), last: Mutex::new(Instant::now()) });
    let most = most_live(config);
    let (mut was_used, mut closing) = (false, false);
    let quiet = tokio::time::sleep(config.first_connect_timeout);
    tokio::pin!(quiet);
    loop {
        tokio::select! {
            biased;
            // Before the peer is given anything more.
            revoked = &mut revoked => {
                // Not `NO_ERROR`: to the streams that would be an end in good order.
                connection.abrupt_shutdown(h2::Reason::INADEQUATE_SECURITY);
                flush(&mut connection, &flusher).await;
                return Err(ServerEnd::Revoked(revoked));
            }
            next = flusher.drive(connection.accept()) => match next {
                Some(Ok((_, mut respond))) if activity.live() >= most => respond.send_reset(h2::Reason::REFUSED_STREAM),
                Some(Ok((request, respond))) => {
                    if !was_used && !closing {
                        quiet.as_mut().reset(Instant::now() + config.idle_timeout);
                    }
                    was_used = true;
                    on_connect(connect(request, respond, Live::new(&activity)));
                }
                Some(Err(e)) if is_ordinary_end(&e) => return Ok(()),
                Some(Err(e)) => return Err(ServerEnd::H2(e)),
                None => return Ok(()),
            },
            () = &mut signaled, if !closing => {
                closing = true;
                connection.graceful_shutdown();
                quiet.as_mut().reset(Instant::now() + config.handshake_timeout);
            }
            () = &mut outdated, if !closing => {
                closing = true;
                connection.graceful_shutdown();
                quiet.as_mut().reset(Instant::now() + config.handshake_timeout);
            }
            () = &mut forced => {
                connection.abrupt_shutdown(h2::Reason::NO_ERROR);
                flush(&mut connection, &flusher).await;
                return Err(ServerEnd::Forced);
            }
            () = &mut lost => {
                connection.abrupt_shutdown(h2::Reason::NO_ERROR);
                flush(&mut connection, &flusher).await;
                return Err(ServerEnd::PingTimeout);
            }
            () = &mut quiet => {
                let is_busy = connection.has_streams() || activity.live() > 0;
                let limit = if was_used { config.idle_timeout } else { config.first_connect_timeout };
                let now = Instant::now();
                let until = activity.last() + limit;
                if closing && !is_busy {
                    // It has been told, and does not go.
                    connection.abrupt_shutdown(h2::Reason::NO_ERROR);
                    flush(&mut connection, &flusher).await;
                    return Ok(());
                } else if closing {
                    quiet.as_mut().reset(now + config.handshake_timeout);
                } else if is_busy {
                    quiet.as_mut().reset(now + config.idle_timeout);
                } else if until > now {
                    quiet.as_mut().reset(until);
                } else {
                    closing = true;
                    connection.graceful_shutdown();
                    quiet.as_mut().reset(now + config.handshake_timeout);
                }
            }
        }
    }
}

/// Streams that may live at a time. A stream that its peer has reset is none to HTTP/2 any more, but
/// lives on until whoever serves it notices; without a bound, opening and resetting in turn would
/// pile them up (CVE-2023-44487). Twice the limit leaves honest peers time to be noticed.
fn most_live(config: &Config) -> usize {
    2 * config.max_concurrent_streams as usize
}

/// Lets a GOAWAY reach the wire before the socket closes.
async fn flush<IO: AsyncRead + AsyncWrite + Unpin>(connection: &mut h2::server::Connection<Gathered<IO>, Bytes>, flusher: &Flusher<IO>) {
    let closed = poll_fn(|cx| connection.poll_closed(cx));
    let _ = tokio::time::timeout(Duration::from_millis(100), flusher.drive(closed)).await;
}

/// Peers close tunnels without ceremony; that is no error worth a log line.
fn is_ordinary_end(e: &h2::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected, UnexpectedEof};
    e.get_io().is_some_and(|io| matches!(io.kind(), BrokenPipe | ConnectionReset | NotConnected | UnexpectedEof))
        || (e.is_go_away() && e.reason() == Some(h2::Reason::NO_ERROR))
}

fn connect(request: http::Request<RecvStream>, respond: SendResponse<Bytes>, live: Live) -> Connect {
    let (parts, recv) = request.into_parts();
    let authority = parts.uri.authority().map(|a| a.as_str().to_owned()).unwrap_or_default();
    Connect { method: parts.method, authority, headers: parts.headers, recv, respond, live }
}

fn builder(config: &Config) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(config.stream_window)
        .initial_connection_window_size(config.connection_window)
        .max_frame_size(config.max_frame_size)
        .max_concurrent_streams(config.max_concurrent_streams)
        .max_header_list_size(config.max_header_list_size)
        .max_send_buffer_size(config.server_send_buffer)
        .max_pending_accept_reset_streams(config.max_pending_resets);
    builder
}
