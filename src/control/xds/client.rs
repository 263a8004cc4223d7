//! From one stream to the next (contract, 3.2).

use super::{
    backoff::{Backoff, Ending, jittered},
    decode,
    demand::{self, Asked, Demand},
    resources::{ResourceType, Resources},
    status::{Reporter, Status},
    stream::{End, Ended},
};
use crate::{
    runtime::DrainWatch,
    state::Change,
    telemetry::{self, XdsTermination, XdsTypeMetrics},
    transport::grpc,
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};
use tonic::Code;

/// While the control plane stays away, that is a warning so often, and detail in between.
const REMIND: Duration = Duration::from_secs(60);

/// Which control plane, and what to ask of it.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it is and who we are to it.
    pub server: grpc::Server,
    /// As whom we ask.
    pub node: Node,
    /// For what.
    pub types: Types,
    /// How to understand it.
    pub decode: decode::Config,
}

/// The proxy, as the control plane knows it (contract, 3.1).
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// `ztunnel~IP~POD.NAMESPACE~NAMESPACE.svc.cluster.local`
    pub id: String,
    /// Further facts.
    pub metadata: prost_types::Struct,
}

/// What is subscribed to besides services and workloads, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Types {
    /// Policies as well.
    pub authorization: bool,
    /// Services and workloads only as they are asked for ([`Demand`]), instead of all.
    pub on_demand: bool,
}

/// One response of the control plane. It is acknowledged when `applied` is fired; dropping that ends the
/// client.
#[derive(Debug)]
pub struct Update {
    /// What changes, as one batch.
    pub changes: Vec<Change>,
    /// What was rejected of it.
    pub rejected: Vec<Rejection>,
    /// To be fired when the changes are in force.
    pub applied: oneshot::Sender<()>,
}

/// A resource that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Its name with the control plane.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Follows a control plane.
#[derive(Debug)]
pub struct Client {
    pub(super) config: Config,
    /// Read and written by one thread at a time, and none that carries traffic.
    pub(super) resources: Arc<Mutex<Resources>>,
    pub(super) asked: Asked,
    pub(super) reporter: Reporter,
    pub(super) addresses: XdsTypeMetrics,
    pub(super) policies: XdsTypeMetrics,
    pub(super) unknown: XdsTypeMetrics,
}

impl Types {
    /// In the order in which they are asked for.
    pub(super) fn all(self) -> impl Iterator<Item = ResourceType> {
        [ResourceType::Address].into_iter().chain(self.authorization.then_some(ResourceType::Authorization))
    }

    /// Those that are told without being asked for.
    fn unasked(self) -> impl Iterator<Item = ResourceType> {
        self.all().filter(move |what| *what == ResourceType::Authorization || !self.on_demand)
    }
}

/// A client that does nothing before [`Client::run`], what to ask it for, and how it is doing.
pub fn client(config: Config) -> (Client, Demand, Status) {
    telemetry::install();
    let types = config.types;
    let (demand, asked) = demand::new(types.on_demand);
    let (reporter, status) = Reporter::new(types.unasked().collect());
    let resources = Arc::new(Mutex::new(Resources::new(config.decode.clone(), types)));
    let client = Client {
        config,
        resources,
        asked,
        reporter,
        addresses: XdsTypeMetrics::resolve(ResourceType::Address.url()),
        policies: XdsTypeMetrics::resolve(ResourceType::Authorization.url()),
        unknown: XdsTypeMetrics::resolve("unknown"),
    };
    (client, demand, status)
}

impl Client {
    /// Follows the control plane, from one stream to the next, until the drain is forced or nobody takes
    /// updates any more. Not until the drain starts: connections that are let finish are still to see
    /// policies and endpoints change. Who waits for a demand then waits no longer.
    pub async fn run(self, updates: mpsc::Sender<Update>, drain: DrainWatch) {
        tokio::select! {
            biased;
            () = drain.forced() => {}
            () = Box::pin(self.follow(updates)) => {}
        }
    }

    async fn follow(mut self, updates: mpsc::Sender<Update>) {
        let mut backoff = Backoff::new();
        let mut complaints = Complaints::default();
        loop {
            let begun = Instant::now();
            let Ended { delivered, end } = self.stream(&updates).await;
            let (ending, reason) = match &end {
                End::Unwanted => return,
                End::Complete => (Ending::Complete, XdsTermination::Complete),
                End::NoConnection(_) => (Ending::Failed, XdsTermination::ConnectionError),
                End::Failed(status) if is_reconnect(status) => (Ending::Reconnect, XdsTermination::Reconnect),
                End::Failed(_) | End::Unreadable(_) => (Ending::Failed, XdsTermination::Error),
            };
            self.reporter.metrics().terminated(reason);
            let error = end.to_string();
            let was_connected = self.reporter.disconnected(&error);
            self.asked.disconnected();
            let retry_in = jittered(backoff.after(ending, delivered, begun.elapsed()));
            let server = &self.config.server.address;
            if was_connected && ending != Ending::Failed {
                tracing::info!(%server, %error, ?retry_in, "the stream from the control plane has ended");
            } else if complaints.is_due(was_connected) {
                tracing::warn!(%server, %error, ?retry_in, "the control plane is not connected; the last state keeps serving");
            } else {
                tracing::debug!(%server, %error, ?retry_in, "the control plane is still not connected");
            }
            sleep(retry_in).await;
        }
    }

    pub(super) fn metrics_of(&self, what: Option<ResourceType>) -> &XdsTypeMetrics {
        match what {
            Some(ResourceType::Address) => &self.addresses,
            Some(ResourceType::Authorization) => &self.policies,
            None => &self.unknown,
        }
    }
}

/// Ends that are part of a server's life.
fn is_reconnect(status: &tonic::Status) -> bool {
    let has = |message: &str| status.message().contains(message);
    matches!(status.code(), Code::Unknown | Code::Cancelled | Code::DeadlineExceeded)
        || (status.code() == Code::Unavailable && (has("transport is closing") || has("received prior goaway")))
}

/// Keeps the log readable while there is no control plane for hours.
#[derive(Debug, Default)]
struct Complaints(Option<Instant>);

impl Complaints {
    fn is_due(&mut self, was_connected: bool) -> bool {
        let due = was_connected || self.0.is_none_or(|last| last.elapsed() >= REMIND);
        if due {
            self.0 = Some(Instant::now());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_that_are_part_of_a_servers_life_are_told_from_errors() {
        let rows = [
            (Code::Unknown, "h2 protocol error", true),
            (Code::Cancelled, "", true),
            (Code::DeadlineExceeded, "", true),
            (Code::Unavailable, "transport is closing", true),
            (Code::Unavailable, "closing transport due to: connection error, received prior goaway: code: NO_ERROR", true),
            (Code::Unavailable, "no healthy upstream", false),
            (Code::Unauthenticated, "transport is closing", false),
            (Code::Internal, "", false),
            (Code::OutOfRange, "too large", false),
        ];
        for (code, message, expected) in rows {
            assert_eq!(is_reconnect(&tonic::Status::new(code, message)), expected, "{code:?} {message}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_control_plane_that_stays_away_is_a_warning_now_and_then() {
        let mut complaints = Complaints::default();
        let mut due = Vec::new();
        for second in 0..130 {
            if complaints.is_due(second == 10) {
                due.push(second);
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(due, [0, 10, 70], "at first, when a stream was lost, and as a reminder");
    }
}
