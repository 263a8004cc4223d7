//! One connection as it is reported: opened once, counted while it lasts, ended once.

use super::{
    open::{Listed, Open},
    shared::Shared,
};
use crate::{
    hbone::Baggage,
    model::{Identity, Kind, Name, Service, Workload},
    telemetry::{
        AccessLog, Direction as Reported, Reporter, ResponseFlag, SecurityPolicy, TcpEvent, TcpLabels, TcpMetrics, TcpParty, TcpRecord,
        WorkloadLabels, counters,
    },
    transport::{
        copy::{Direction, End, Pieces, bidirectional},
        tls::Standing,
    },
};
use std::{
    borrow::Cow,
    io,
    net::SocketAddr,
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

/// One end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Party<'a> {
    /// Its address.
    pub(super) addr: SocketAddr,
    /// What the mesh knows of it.
    pub(super) workload: Option<&'a Workload>,
    /// What it says of itself, where the mesh knows nothing.
    pub(super) baggage: Option<&'a Baggage>,
    /// Who it has proved to be.
    pub(super) identity: Option<&'a Identity>,
}

/// What is known of a connection when it opens.
#[derive(Debug, Clone)]
pub(super) struct About<'a> {
    /// Which side reports.
    pub(super) direction: Reported,
    /// The client.
    pub(super) source: Party<'a>,
    /// The server.
    pub(super) destination: Party<'a>,
    /// The service that was addressed.
    pub(super) service: Option<&'a Service>,
    /// The authority of the CONNECT.
    pub(super) hbone_addr: Option<Name>,
    /// As it is listed while it is open.
    pub(super) open: Open,
}

impl<'a> Party<'a> {
    fn record(&self) -> TcpParty {
        let baggage = |field: fn(&Baggage) -> &Name| self.baggage.map(field).filter(|text| !text.is_empty()).cloned();
        let (workload, namespace, cluster) = match self.workload {
            Some(w) => (Some(w.name.clone()), Some(w.namespace.clone()), Some(w.cluster.clone()).filter(|c| !c.is_empty())),
            None => (
                baggage(|b| &b.service_name),
                self.identity.map(|i| i.namespace().into()).or_else(|| baggage(|b| &b.namespace)),
                baggage(|b| &b.cluster),
            ),
        };
        TcpParty { addr: self.addr, workload, namespace, identity: self.identity.cloned(), cluster }
    }

    fn labels(&self) -> WorkloadLabels<'a> {
        let mut labels = match (self.workload, self.baggage) {
            (Some(workload), _) => WorkloadLabels::of(workload),
            (None, Some(b)) => WorkloadLabels {
                workload: &b.workload,
                canonical_service: &b.service_name,
                canonical_revision: &b.revision,
                namespace: &b.namespace,
                principal: "",
                app: &b.workload,
                version: &b.revision,
                cluster: &b.cluster,
                region: &b.region,
                zone: &b.zone,
            },
            (None, None) => WorkloadLabels::default(),
        };
        // Only what mutual TLS has proved.
        labels.principal = self.identity.map_or("", Identity::as_str);
        labels
    }
}

impl About<'_> {
    fn labels(&self) -> TcpLabels<'_> {
        let is_proved = self.source.identity.is_some() && self.destination.identity.is_some();
        TcpLabels {
            reporter: match self.direction {
                Reported::Inbound => Reporter::Destination,
                Reported::Outbound => Reporter::Source,
            },
            source: self.source.labels(),
            destination: self.destination.labels(),
            service: self.service.map_or("", |s| s.key.hostname.as_str()),
            service_name: self.service.map_or("", short_name),
            service_namespace: self.service.map_or("", |s| &s.key.namespace),
            security: if is_proved { SecurityPolicy::MutualTls } else { SecurityPolicy::None },
        }
    }

    fn record(&self) -> TcpRecord {
        TcpRecord {
            event: TcpEvent::Complete,
            time: SystemTime::now(),
            source: self.source.record(),
            destination: self.destination.record(),
            hbone_addr: self.hbone_addr.clone(),
            destination_service: self.service.map(|s| s.key.hostname.name()),
            direction: self.direction,
            bytes_sent: 0,
            bytes_recv: 0,
            duration: Duration::ZERO,
            flag: ResponseFlag::None,
            error: None,
        }
    }
}

fn short_name(service: &Service) -> &str {
    let host = service.key.hostname.as_str();
    match service.source.kind {
        Kind::Service => host.split('.').next().unwrap_or(host),
        Kind::Namespace
        | Kind::EndpointSlice
        | Kind::Pod
        | Kind::ServiceEntry
        | Kind::WorkloadEntry
        | Kind::Gateway
        | Kind::HttpRoute
        | Kind::AuthorizationPolicy => host,
    }
}

/// A connection from the moment it is known whose it is. Dropped without an [`end`](Self::end), it
/// was cut by the deadline of a drain, and is reported so.
#[derive(Debug)]
pub(super) struct Connection {
    log: AccessLog,
    started: Instant,
    // Of the tunnel that it goes through.
    standing: Standing,
    // Taken at the end.
    open: Option<Box<(TcpRecord, TcpMetrics, Listed)>>,
}

impl Connection {
    /// Counts a connection as opened.
    pub(super) fn open(shared: &Shared, about: &About<'_>, started: Instant) -> Self {
        // Whoever comes first starts the collection.
        counters();
        let metrics = shared.series.open(&about.labels());
        let listed = shared.open.list_one(about.open.clone());
        if shared.log.wants_opened() {
            shared.log.tcp(TcpRecord { event: TcpEvent::Opened, ..about.record() });
        }
        Self { log: shared.log.clone(), started, standing: Standing::default(), open: Some(Box::new((about.record(), metrics, listed))) }
    }

    /// Goes through a tunnel whose peer has this standing.
    pub(super) fn through(mut self, standing: Standing) -> Self {
        self.standing = standing;
        self
    }

    /// Copies until both directions have ended, and counts. Dropping the future ends nothing: the
    /// counts stand.
    pub(super) async fn copy<D, U>(&mut self, downstream: &mut D, upstream: &mut U, half_open_idle: Duration) -> End
    where
        D: Pieces,
        U: Pieces,
    {
        bidirectional(downstream, upstream, Some(half_open_idle), |direction, n| self.moved(direction, n as u64)).await.end
    }

    fn moved(&mut self, direction: Direction, bytes: u64) {
        let Some((record, metrics, _)) = self.open.as_deref_mut() else { return };
        // The record tells what the reporter's own pod sent and received; the metrics, what the server did.
        match (direction, record.direction) {
            (Direction::Upstream, Reported::Outbound) | (Direction::Downstream, Reported::Inbound) => record.bytes_sent += bytes,
            (Direction::Downstream, Reported::Outbound) | (Direction::Upstream, Reported::Inbound) => record.bytes_recv += bytes,
        }
        match direction {
            Direction::Upstream => metrics.received(bytes),
            Direction::Downstream => metrics.sent(bytes),
        }
    }

    /// Ends as copying ended.
    pub(super) fn copied(self, end: End) {
        match end {
            End::Complete => self.end(ResponseFlag::None, None),
            End::HalfOpenIdle => self.end(ResponseFlag::None, Some("half-open connection was idle for too long".into())),
            End::Failed { error, .. } => self.broken_off(&error),
        }
    }

    /// Ends a connection that stood until one side broke it off: there is no flag for that (contract,
    /// 6.1), only the error in the access log. Unless its tunnel was closed because the peer's certificate
    /// has been revoked.
    pub(super) fn broken_off(self, error: &io::Error) {
        match self.standing.check() {
            Ok(()) => self.end(ResponseFlag::None, Some(error.to_string().into())),
            Err(revoked) => self.end(ResponseFlag::CertRevoked, Some(revoked.to_string().into())),
        }
    }

    /// Counts the connection as closed and writes its line.
    pub(super) fn end(mut self, flag: ResponseFlag, error: Option<Cow<'static, str>>) {
        self.finish(flag, error);
    }

    fn finish(&mut self, flag: ResponseFlag, error: Option<Cow<'static, str>>) {
        let Some((mut record, metrics, _)) = self.open.take().map(|open| *open) else { return };
        metrics.close(flag);
        (record.time, record.duration, record.flag, record.error) = (SystemTime::now(), self.started.elapsed(), flag, error);
        self.log.tcp(record);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.finish(ResponseFlag::None, Some("closed by drain deadline".into()));
    }
}

/// Writes the line of a connection that was refused before it was known whose it is.
pub(super) fn refused(
    log: &AccessLog,
    direction: Reported,
    (source, destination): (SocketAddr, SocketAddr),
    flag: ResponseFlag,
    error: impl Into<Cow<'static, str>>,
) {
    if log.wants(true) {
        log.tcp(TcpRecord {
            event: TcpEvent::Refused,
            time: SystemTime::now(),
            source: TcpParty::new(source),
            destination: TcpParty::new(destination),
            hbone_addr: None,
            destination_service: None,
            direction,
            bytes_sent: 0,
            bytes_recv: 0,
            duration: Duration::ZERO,
            flag,
            error: Some(error.into()),
        });
    }
}
