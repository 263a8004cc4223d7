//! HTTP inside a tunnel: hyper's server over the stream, the stack behind it.

use super::{
    guard::{Guard, Upgraded},
    interim::Interims,
    tunnel::Tunnels,
};
use crate::{
    hbone::TunnelIo,
    middleware::{Body, Context, Inbound, Recorded, Tunnel},
    runtime::DrainWatch,
    state::{Admission, SnapshotHandle, WaypointSnapshot},
    transport::Rewind,
};
use http::{Request, Response, StatusCode};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{convert::Infallible, future::Future, net::SocketAddr, pin::Pin, sync::Arc};
use tower::ServiceExt as _;

/// HTTP/1.1 and 1.0, with upgrades.
pub(super) async fn http1(tunnels: &Tunnels, io: Rewind<TunnelIo>, tunnel: Arc<Tunnel>, address: SocketAddr, drain: &DrainWatch) {
    let interims = Interims::default();
    let upgraded = Upgraded::default();
    let config = &tunnels.config;
    let io = Guard::new(io, config.max_request_head, config.request_head_timeout, interims.clone(), upgraded.clone());
    let edge = Edge::new(tunnels, tunnel, address);
    let service = service_fn(move |request: Request<Incoming>| {
        let (answer, upgraded) = (interims.before(request.map(Body::Downstream), |request| edge.call(request)), upgraded.clone());
        async move {
            let response = answer.await;
            if response.as_ref().is_ok_and(|r| r.status() == StatusCode::SWITCHING_PROTOCOLS) {
                upgraded.set();
            }
            response
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .max_header_size(tunnels.config.max_request_head)
        .max_buf_size(tunnels.config.max_request_head.max(MIN_BUFFER))
        .auto_date_header(false)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    until_drained(connection, drain, |connection| connection.graceful_shutdown()).await;
}

/// hyper asks for at least this much.
const MIN_BUFFER: usize = 8 << 10;

/// HTTP/2 with prior knowledge.
pub(super) async fn http2(tunnels: &Tunnels, io: Rewind<TunnelIo>, tunnel: Arc<Tunnel>, address: SocketAddr, drain: &DrainWatch) {
    let edge = Edge::new(tunnels, tunnel, address);
    let service = service_fn(move |request: Request<Incoming>| edge.call(request.map(Body::Downstream)));
    let hbone = &tunnels.config.hbone;
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .auto_date_header(false)
        .max_header_list_size(u32::try_from(tunnels.config.max_request_head).unwrap_or(u32::MAX))
        .max_concurrent_streams(hbone.max_concurrent_streams)
        .max_pending_accept_reset_streams(hbone.max_pending_resets)
        .initial_stream_window_size(super::INNER_STREAM_WINDOW)
        .initial_connection_window_size(super::INNER_CONNECTION_WINDOW)
        .serve_connection(TokioIo::new(io), service);
    until_drained(connection, drain, |connection| connection.graceful_shutdown()).await;
}

/// Serves a connection to its end; from the drain on it finishes what it has begun and takes no more.
async fn until_drained<C>(connection: C, drain: &DrainWatch, shut_down: impl FnOnce(Pin<&mut C>))
where
    C: Future<Output = Result<(), hyper::Error>>,
{
    tokio::pin!(connection);
    tokio::select! {
        end = connection.as_mut() => log(end),
        () = drain.signaled() => {
            shut_down(connection.as_mut());
            log(connection.await);
        }
    }
}

fn log(end: Result<(), hyper::Error>) {
    if let Err(error) = end {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        tracing::debug!(%error, cause, "connection inside a tunnel ended");
    }
}

/// The mouth of the stack for one client connection.
#[derive(Clone)]
struct Edge {
    stack: super::HttpStack,
    mesh: SnapshotHandle<WaypointSnapshot>,
    tunnel: Arc<Tunnel>,
    address: SocketAddr,
}

impl Edge {
    fn new(tunnels: &Tunnels, tunnel: Arc<Tunnel>, address: SocketAddr) -> Self {
        Self { stack: tunnels.stack.clone(), mesh: tunnels.mesh.clone(), tunnel, address }
    }

    /// Each request sees the snapshot of its own moment, so that long-lived connections follow new
    /// routes and policies.
    fn call(&self, request: Request<Body>) -> impl Future<Output = Result<Response<Recorded>, Infallible>> + use<> {
        let admission = self.mesh.load().admit(self.address);
        let (stack, tunnel) = (self.stack.clone(), self.tunnel.clone());
        async move {
            match admission {
                Admission::Served(destination) => {
                    let context = Context { tunnel, destination };
                    stack.oneshot(Inbound { request, context }).await
                }
                // Unbound since the tunnel was opened.
                Admission::UndeclaredPort | Admission::NotServed => Ok(Recorded::unserved()),
            }
        }
    }
}
