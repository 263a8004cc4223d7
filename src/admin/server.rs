//! The loop that accepts and serves.

use super::{Asked, Router};
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, future::Future, io, pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower_http::compression::Compression;

/// Time for the head of a request, and between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// The least that hyper takes; no one sends us long headers.
const BUFFER: usize = 8 * 1024;
/// Connections at a time. Further ones wait in the listener's backlog: with the time limits they do
/// not wait long.
const CONNECTIONS: usize = 64;
/// Time that answers get to finish after the stop.
const GRACE: Duration = Duration::from_secs(1);
/// Pause after a failed accept: out of file descriptors, most likely, and retrying at once would
/// take the CPU from those who could give some back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `routes` until `stop` is done; answers on their way get a moment to finish. Dropping the
/// future closes every connection at once.
pub async fn serve(listener: TcpListener, routes: Router, stop: impl Future<Output = ()>) {
    let routes = Arc::new(routes);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let ending = CancellationToken::new();
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        let accepted = async {
            // Never closed, so an error cannot be; then nobody has a place either.
            let place = places.clone().acquire_owned().await.ok();
            (listener.accept().await, place)
        };
        tokio::select! {
            () = &mut stop => break,
            (accepted, place) = accepted => match accepted {
                Ok((stream, _)) => {
                    let serving = connection(stream, routes.clone(), ending.clone());
                    let life = routes.life();
                    connections.spawn(async move {
                        let _place = place;
                        timeout(life, serving).await.ok();
                    });
                }
                Err(error) => pause(&error).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    ending.cancel();
    let finished = async { while connections.join_next().await.is_some() {} };
    timeout(GRACE, finished).await.ok();
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "admin: accept failed");
    sleep(ACCEPT_PAUSE).await;
}

async fn connection(stream: TcpStream, routes: Arc<Router>, ending: CancellationToken) {
    let answer = tower::service_fn(move |request: Request<Incoming>| {
        let (parts, _) = request.into_parts();
        let answer = routes.answer(&parts.method, Asked { uri: parts.uri, headers: parts.headers });
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let compressed = Compression::new(answer);
    let service = service_fn(move |request| compressed.clone().oneshot(request));
    let mut serving = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(stream), service)
    );
    let result = tokio::select! {
        result = &mut serving => result,
        () = ending.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "admin: connection ended");
    }
}
