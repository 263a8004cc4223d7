//! One stream (contract, 3.1 and 3.2).

use super::{
    client::{Client, Update},
    codec::Raw,
    requests,
    resources::{ResourceType, Resources, Response},
};
use crate::{runtime::priority, transport::grpc::GrpcError};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::uri::PathAndQuery;
use prost::DecodeError;
use std::{
    error::Error,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, PoisonError},
    time::SystemTime,
};
use tokio::sync::{mpsc, oneshot};
use tonic::{Extensions, Request, Status, Streaming, client::Grpc, metadata::MetadataMap, transport::Channel};

const METHOD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// What a message may take: a large mesh comes in one.
const LONGEST: usize = 200 << 20;
/// A message up to here is no work to speak of.
const SHORT: usize = 16 << 10;
/// Requests that wait for the server to read them. It is not kept from sending unless it has so many to
/// read: there is one for each of its responses, and one for all demands that come meanwhile.
const QUEUE: usize = 64;
/// How much of what was rejected the log tells.
const LONGEST_LOG: usize = 4 << 10;

/// What was of a stream.
#[derive(Debug)]
pub(super) struct Ended {
    /// Whether it told anything.
    pub(super) delivered: bool,
    pub(super) end: End,
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// Nobody takes updates.
    #[error("nobody takes updates")]
    Unwanted,
    #[error("the control plane has ended the stream")]
    Complete,
    #[error("{}", whole(.0))]
    NoConnection(#[from] GrpcError),
    #[error("{}", describe(.0))]
    Failed(Status),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

/// What was received can not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("the control plane has sent what is no response: {0}")]
    Response(#[from] DecodeError),
    #[error("reading a response has failed")]
    Panic,
}

impl Client {
    /// Opens a stream and follows it to its end.
    pub(super) async fn stream(&mut self, updates: &mpsc::Sender<Update>) -> Ended {
        let mut delivered = false;
        let end = match self.follow_stream(updates, &mut delivered).await {
            Ok(()) => End::Complete,
            Err(end) => end,
        };
        Ended { delivered, end }
    }

    async fn follow_stream(&mut self, updates: &mpsc::Sender<Update>, delivered: &mut bool) -> Result<(), End> {
        let metadata = self.config.server.credentials.metadata().await?;
        let channel = self.config.server.connect().await?;
        let first = self.opening().await?;
        let (requests, outgoing) = mpsc::channel(QUEUE);
        // A server may answer no sooner than it has something to say: demands go out before.
        let mut responses = self.demanding(&requests, open(channel, metadata, first, outgoing)).await.map_err(End::Failed)?;
        self.reporter.connected();
        self.asked.connected();
        tracing::info!(server = %self.config.server.address, "connected to the control plane");
        while let Some(message) = self.demanding(&requests, responses.message()).await.map_err(End::Failed)? {
            let taken = self.demanding(&requests, self.take(message, updates, delivered)).await?;
            send(&requests, taken.answer).await;
            if let Some(what) = taken.what.filter(|_| taken.whole) {
                self.reporter.acknowledged(what);
            }
        }
        Ok(())
    }

    /// What to begin a stream with.
    async fn opening(&self) -> Result<Vec<Bytes>, Unreadable> {
        let (types, node, demanded) = (self.config.types, self.config.node.clone(), self.asked.all());
        self.with_resources(move |resources| requests::opening(resources, types, &node, &demanded)).await
    }

    /// Does `work`, and sends what is demanded in the meantime.
    async fn demanding<F: Future>(&self, requests: &mpsc::Sender<Bytes>, work: F) -> F::Output {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = self.send_demanded(requests) => {}
            }
        }
    }

    /// Sends the next demands, all in one request. Cancel safe: they are not taken before they can be sent.
    async fn send_demanded(&self, requests: &mpsc::Sender<Bytes>) {
        match requests.reserve().await {
            Ok(place) => place.send(requests::subscribe(&self.asked.changed().await)),
            // The end of the stream is seen elsewhere.
            Err(_) => std::future::pending().await,
        }
    }

    /// Takes one response over, until it is in force.
    async fn take(&self, message: Bytes, updates: &mpsc::Sender<Update>, delivered: &mut bool) -> Result<Taken, End> {
        let size = message.len();
        let Response { url, what, nonce, batch } = self.read(message).await?;
        *delivered = true;
        self.metrics_of(what).message(size, batch.rejected.len());
        if what.is_none() {
            tracing::error!(url, "the control plane has sent resources of a type that nobody asked for");
            return Ok(Taken { what, whole: true, answer: requests::answer(url, nonce, &[]) });
        }
        let whole = batch.rejected.is_empty();
        if !whole {
            let reasons = requests::detail(&batch.rejected, LONGEST_LOG);
            tracing::warn!(url, rejected = batch.rejected.len(), reasons, "resources of the control plane are rejected");
        }
        let answer = requests::answer(url, nonce, &batch.rejected);
        let (applied, in_force) = oneshot::channel();
        let update = Update { changes: batch.changes, rejected: batch.rejected, applied };
        updates.send(update).await.map_err(|_| End::Unwanted)?;
        in_force.await.map_err(|_| End::Unwanted)?;
        self.reporter.metrics().updated(SystemTime::now());
        self.asked.answered(&batch.absent, false);
        self.asked.answered(&batch.found, true);
        Ok(Taken { what, whole, answer })
    }

    /// What a message says. A short one is read sooner than another thread is woken.
    async fn read(&self, message: Bytes) -> Result<Response, Unreadable> {
        if message.len() > SHORT {
            return Ok(self.with_resources(move |resources| resources.read(message)).await??);
        }
        let read = || self.resources.lock().unwrap_or_else(PoisonError::into_inner).read(message);
        let read = catch_unwind(AssertUnwindSafe(read)).map_err(|_| Unreadable::Panic)?;
        Ok(read?)
    }

    /// Work on resources, which takes as long as there are many, is for a thread that carries no traffic.
    async fn with_resources<T: Send + 'static>(&self, work: impl FnOnce(&mut Resources) -> T + Send + 'static) -> Result<T, Unreadable> {
        let resources = Arc::clone(&self.resources);
        let done = tokio::task::spawn_blocking(move || {
            priority::give_way();
            work(&mut resources.lock().unwrap_or_else(PoisonError::into_inner))
        });
        done.await.map_err(|_| Unreadable::Panic)
    }
}

/// A response that is in force.
struct Taken {
    what: Option<ResourceType>,
    /// Whether nothing of it was rejected.
    whole: bool,
    answer: Bytes,
}

async fn send(requests: &mpsc::Sender<Bytes>, request: Bytes) {
    // The end of the stream is seen elsewhere.
    let _ = requests.send(request).await;
}

/// Calls the server. Ends with the first headers of its answer.
async fn open(
    channel: Channel,
    metadata: MetadataMap,
    first: Vec<Bytes>,
    mut outgoing: mpsc::Receiver<Bytes>,
) -> Result<Streaming<Bytes>, Status> {
    let mut grpc = Grpc::new(channel).max_decoding_message_size(LONGEST);
    grpc.ready().await.map_err(|error| Status::unavailable(format!("the connection is gone: {error}")))?;
    let requests = stream::iter(first).chain(stream::poll_fn(move |cx| outgoing.poll_recv(cx)));
    let request = Request::from_parts(metadata, Extensions::default(), requests);
    Ok(grpc.streaming(request, PathAndQuery::from_static(METHOD), Raw).await?.into_inner())
}

/// An error with all of its causes.
fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn describe(status: &Status) -> String {
    match status.source() {
        Some(cause) => format!("{:?}: {}: {}", status.code(), status.message(), whole(cause)),
        None => format!("{:?}: {}", status.code(), status.message()),
    }
}
