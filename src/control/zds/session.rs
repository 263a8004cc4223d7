//! One connection, from the hello to its end (contract, 4.2 and 4.3).

use super::{
    Pods,
    connection::{Connection, Packet},
    message::{self, Request, Unreadable},
};
use std::{future::Future, io, time::Duration};
use tokio::time::{Instant, sleep_until, timeout};

/// A packet must have been taken from us after so long; the CNI itself waits no longer for an answer.
const SEND: Duration = Duration::from_secs(5);

/// The CNI does not keep to the protocol: no later connection could be trusted either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// AddWorkload without `workload_info`.
    #[error("ZDS: the CNI added a pod without its workload_info")]
    NoWorkloadInfo,
    /// KeepWorkload behind SnapshotSent.
    #[error("ZDS: the CNI sent KeepWorkload after the snapshot")]
    KeepAfterSnapshot,
    /// SnapshotSent for the second time on one connection.
    #[error("ZDS: the CNI sent SnapshotSent twice")]
    SecondSnapshot,
}

/// How a connection came to its end, if nothing worse happened.
#[derive(Debug)]
pub(super) enum End {
    /// The CNI closed it.
    Closed,
    /// What the caller waited for has come.
    Interrupted,
}

/// Why a connection was given up.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A connection on which hello has been said.
#[derive(Debug)]
pub(super) struct Session {
    connection: Connection,
    answered: u64,
    snapshot: bool,
}

enum Event {
    Interrupted,
    Retry,
    Received(io::Result<Option<Packet>>),
}

impl Session {
    /// Says hello.
    pub(super) async fn begin(connection: Connection) -> io::Result<Self> {
        let session = Self { connection, answered: 0, snapshot: false };
        session.send(&message::hello()).await?;
        Ok(session)
    }

    /// Whether the CNI has made any use of the connection.
    pub(super) fn was_used(&self) -> bool {
        self.answered > 0
    }

    /// Answers requests until the connection ends, or `interrupt` does; a request that is being
    /// answered is answered first. Nothing is sent that was not asked for. Pods that could not be
    /// served are tried again each `retry`.
    pub(super) async fn run<P: Pods>(
        &mut self,
        pods: &mut P,
        retry: Duration,
        interrupt: impl Future<Output = ()>,
    ) -> Result<End, Failure> {
        tokio::pin!(interrupt);
        let mut retry_at = None;
        loop {
            // From the moment that there is something to retry, not from the last packet: a CNI with
            // much to say must not put it off.
            let due = pods.has_pending().then(|| *retry_at.get_or_insert_with(|| Instant::now() + retry));
            retry_at = due;
            let event = tokio::select! {
                biased;
                () = &mut interrupt => Event::Interrupted,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Event::Retry,
                packet = self.connection.receive() => Event::Received(packet),
            };
            match event {
                Event::Interrupted => return Ok(End::Interrupted),
                Event::Retry => {
                    pods.retry().await;
                    retry_at = None;
                }
                Event::Received(packet) => match packet? {
                    Some(packet) => self.answer(pods, packet).await?,
                    None => return Ok(End::Closed),
                },
            }
        }
    }

    async fn answer<P: Pods>(&mut self, pods: &mut P, packet: Packet) -> Result<(), Failure> {
        let done: Result<io::Result<()>, Failure> = match message::decode(packet) {
            Ok(request) => self.handle(pods, request).await.map_err(Failure::from),
            Err(error) => Err(error.into()),
        };
        let refusal = match &done {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(failure) => Some(failure.to_string()),
        };
        let sent = self.send(&message::ack(refusal.as_deref().map_or(Ok(()), Err))).await;
        self.answered += 1;
        // The reason to give up counts for more than an answer that nobody takes.
        let _ = done?;
        Ok(sent?)
    }

    /// Does what is asked. The inner error is a pod that cannot be served; the outer one ends the
    /// connection.
    async fn handle<P: Pods>(&mut self, pods: &mut P, request: Request) -> Result<io::Result<()>, ProtocolError> {
        match request {
            Request::Add(pod) => return Ok(pods.add(pod).await),
            Request::AddWithoutInfo(uid) => {
                tracing::error!(pod = &*uid, "the CNI does not say who the pod is");
                return Err(ProtocolError::NoWorkloadInfo);
            }
            Request::Keep(_) if self.snapshot => return Err(ProtocolError::KeepAfterSnapshot),
            Request::Keep(uid) => pods.keep(&uid),
            Request::Del(uid) if self.snapshot => pods.remove(&uid),
            Request::Del(uid) => pods.forget(&uid),
            Request::SnapshotSent if self.snapshot => return Err(ProtocolError::SecondSnapshot),
            Request::SnapshotSent => {
                self.snapshot = true;
                pods.snapshot_complete();
            }
        }
        Ok(Ok(()))
    }

    async fn send(&self, packet: &[u8]) -> io::Result<()> {
        timeout(SEND, self.connection.send(packet)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}
