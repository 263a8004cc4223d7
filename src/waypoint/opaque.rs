//! Opaque bytes through a waypoint: L4 policy, an endpoint, a copy.

use super::Forward;
use crate::{
    authz::Attributes,
    balance,
    hbone::TunnelIo,
    middleware::{Error, Tunnel},
    state::{Admission, Destination, Hop, InFlight, SnapshotHandle, UpstreamEndpoint, WaypointSnapshot},
    telemetry::{Direction as Reported, ResponseFlag, TcpEvent, TcpParty, TcpRecord, counters},
    transport::{
        Cuttable as _, Rewind,
        copy::{self, Direction, End, Side},
    },
};
use std::{
    future::{Future, pending},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

use super::upstream::Io;

/// A connection to a workload.
#[derive(Debug)]
pub(super) struct Connected {
    io: Io,
    endpoint: Arc<UpstreamEndpoint>,
    in_flight: InFlight,
}

/// Judges a connection by the destination's policies; HTTP conditions do not apply here.
pub(super) fn authorize(destination: &Destination, tunnel: &Tunnel, sni: Option<&str>) -> bool {
    let is_allowed = judge(destination, tunnel, sni);
    if is_allowed {
        counters().authorization_allowed.increment(1);
    }
    is_allowed
}

/// Resolves when a later snapshot denies what `judged` has let through. While the mesh does not
/// serve the destination, the last judgement stands. Cancel safe.
pub(super) async fn denied(mesh: &SnapshotHandle<WaypointSnapshot>, judged: &Destination, tunnel: &Tunnel, sni: Option<&str>) {
    let mut published = mesh.published();
    let mut rules = judged.tcp_rules.clone();
    loop {
        if let Admission::Served(now) = mesh.load().admit(judged.address)
            && !Arc::ptr_eq(&now.tcp_rules, &rules)
        {
            if !judge(&now, tunnel, sni) {
                return;
            }
            rules = now.tcp_rules.clone();
        }
        if !published.changed().await {
            return pending().await;
        }
    }
}

fn judge(destination: &Destination, tunnel: &Tunnel, sni: Option<&str>) -> bool {
    let attributes =
        Attributes { identity: Some(&tunnel.peer), source_ip: tunnel.peer_address.ip(), destination: destination.address, sni, http: None };
    let verdict = destination.tcp_rules.check(&attributes);
    if !verdict.allowed {
        counters().authorization_denied.increment(1);
        let policy = verdict.reason.rule().map(ToString::to_string).unwrap_or_default();
        tracing::info!(peer = %tunnel.peer, destination = %destination.address, policy, "connection denied by policy");
    }
    verdict.allowed
}

/// Connects to an endpoint, and to another one when that fails.
pub(super) async fn connect(forward: &Forward, destination: &Destination) -> Result<Connected, Error> {
    const TRIES: usize = 3;
    let mut tried: Vec<Arc<UpstreamEndpoint>> = Vec::new();
    let mut last = Error::NoEndpoint;
    for _ in 0..TRIES {
        let endpoints = destination.upstream.endpoints();
        let is_tried = |e: &Arc<UpstreamEndpoint>| tried.iter().any(|t| Arc::ptr_eq(t, e));
        let Some(endpoint) = balance::pick(&endpoints.ready, |e| e.in_flight(), is_tried, |below| fastrand::usize(..below)) else { break };
        let in_flight = endpoint.start();
        match forward.connect(endpoint).await {
            Ok((io, _)) => return Ok(Connected { io, endpoint: endpoint.clone(), in_flight }),
            Err(error) => last = Error::Connect(error),
        }
        tried.push(endpoint.clone());
        if tried.len() >= endpoints.ready.len() {
            break;
        }
    }
    Err(last)
}

/// The record of a connection that begins now.
pub(super) fn record(destination: &Destination, tunnel: &Tunnel, upstream: Option<&Connected>) -> TcpRecord {
    let mut source = TcpParty::new(tunnel.peer_address);
    source.identity = Some(tunnel.peer.clone());
    source.workload = tunnel.source.as_ref().map(|w| w.name.clone());
    source.namespace = Some(tunnel.peer.namespace().into());
    let mut to = TcpParty::new(upstream.map_or(destination.address, |u| u.endpoint.address));
    to.namespace = Some(destination.namespace().clone());
    if let Some(workload) = upstream.and_then(|u| u.endpoint.workload.as_ref()) {
        to.workload = Some(workload.name.clone());
    }
    if let Some(Hop::Hbone(identities)) = upstream.map(|u| &u.endpoint.hop) {
        to.identity = identities.first().cloned();
    }
    TcpRecord {
        event: TcpEvent::Complete,
        time: SystemTime::now(),
        source,
        destination: to,
        hbone_addr: Some(destination.address.to_string().into()),
        destination_service: destination.hostname().map(|h| h.name()),
        direction: Reported::Inbound,
        bytes_sent: 0,
        bytes_recv: 0,
        duration: Duration::ZERO,
        flag: ResponseFlag::None,
        error: None,
    }
}

/// Copies until both sides are done, or `denied` resolves; a side that fails resets the other.
pub(super) async fn copy(
    mut io: Rewind<TunnelIo>,
    upstream: Connected,
    half_open_idle: Duration,
    mut record: TcpRecord,
    denied: impl Future<Output = ()>,
) -> TcpRecord {
    let Connected { io: mut to, in_flight, .. } = upstream;
    let _in_flight = in_flight;
    let started = Instant::now();
    let (mut up, mut down) = (0u64, 0u64);
    let copied = copy::bidirectional(&mut io, &mut to, Some(half_open_idle), |direction, n| match direction {
        Direction::Upstream => up += n as u64,
        Direction::Downstream => down += n as u64,
    });
    let end = tokio::select! {
        biased;
        () = denied => None,
        copied = copied => Some(copied.end),
    };
    record.duration = started.elapsed();
    (record.bytes_recv, record.bytes_sent) = (up, down);
    let Some(end) = end else {
        io.break_off();
        to.break_off();
        record.flag = ResponseFlag::Denied;
        record.error = Some("denied by policy".into());
        return record;
    };
    end.pass_on(&mut io, &mut to);
    match end {
        End::Complete => {}
        End::HalfOpenIdle => record.error = Some("half-open connection was idle for too long".into()),
        End::Failed { side, error } => {
            record.flag = match side {
                Side::Downstream => ResponseFlag::DownstreamDisconnected,
                Side::Upstream => ResponseFlag::UpstreamTerminated,
            };
            record.error = Some(error.to_string().into());
        }
    }
    record
}
