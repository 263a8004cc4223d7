//! Connections from outside of the mesh to the workload (15006): policy without an identity, then a
//! copy. Strict mutual TLS is a policy that asks for an identity.

use super::{
    connection::{self, About, Connection, Party},
    inbound::to_workload,
    open::Open,
    relay::relay,
    shared::Shared,
    tracker::{Subject, Tracked},
};
use crate::{
    runtime::Place,
    state::{NodeSnapshot, NodeWorkload},
    telemetry::{Direction as Reported, ResponseFlag},
    transport::{
        Accepted,
        socket::{self, OriginalDst, canonical},
    },
};
use std::{net::SocketAddr, sync::Arc};
use tokio::{net::TcpStream, time::Instant};

/// Serves one redirected connection.
pub(super) async fn serve(shared: Arc<Shared>, Accepted { stream, peer, local }: Accepted, place: Place) {
    // Counts as load of its worker for as long as the connection lasts.
    let _place = place;
    match socket::original_dst(&stream) {
        Ok(dst) => forward(&shared, stream, peer, dst).await,
        Err(error) => tracing::warn!(%peer, %local, %error, "no original destination"),
    }
}

/// Forwards a connection from `peer` to `dst`.
pub(super) async fn forward(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr, OriginalDst(dst): OriginalDst) {
    match shared.unless_forced(Box::pin(connect(shared, peer, dst))).await.flatten() {
        Some((connection, tracked, upstream)) => {
            shared.keep_alive(&stream);
            relay(shared, connection, Some(&tracked), (stream, upstream)).await;
        }
        // The kernel has completed the client's handshake: a reset is the best that can be said.
        None => socket::reset_on_close(&stream),
    }
}

/// Judges and connects; what is refused has been reported.
async fn connect(shared: &Arc<Shared>, peer: SocketAddr, dst: SocketAddr) -> Option<(Connection, Tracked, TcpStream)> {
    let (started, dst) = (Instant::now(), canonical(dst));
    let refuse = |error: &'static str| connection::refused(&shared.log, Reported::Inbound, (peer, dst), ResponseFlag::Connect, error);
    if shared.own.serves(dst) {
        tracing::warn!(%peer, %dst, "dropped: the destination is this proxy itself");
        refuse("the destination is this proxy itself");
        return None;
    }
    let Some((snapshot, local)) = shared.world().await else {
        refuse("the local workload is not known");
        return None;
    };
    shared.ask_who(&snapshot, peer.ip());
    let connection = open(shared, &snapshot, &local, (peer, dst), started);
    let tracked = shared.tracker.track(Subject { identity: None, source: peer.ip(), destination: dst });
    if let Err(denied) = shared.judge(&tracked, &local) {
        denied.log(&shared.config, tracked.subject(), "connection denied by policy");
        connection.end(ResponseFlag::Denied, Some(denied.to_string().into()));
        return None;
    }
    match to_workload(shared, peer.ip(), dst, true).await {
        Ok(upstream) => Some((connection, tracked, upstream)),
        Err(error) => {
            connection.end(ResponseFlag::Connect, Some(format!("connect failed: {error}").into()));
            None
        }
    }
}

fn open(
    shared: &Shared,
    snapshot: &NodeSnapshot,
    local: &NodeWorkload,
    (peer, dst): (SocketAddr, SocketAddr),
    started: Instant,
) -> Connection {
    let source = snapshot.workload(peer.ip());
    let about = About {
        direction: Reported::Inbound,
        source: Party { addr: peer, workload: source.map(|w| &*w.workload), baggage: None, identity: None },
        destination: Party { addr: dst, workload: Some(&local.workload), baggage: None, identity: None },
        service: None,
        hbone_addr: None,
        open: Open::Inbound { src: peer, service: None, actual_dst: dst, is_hbone: false },
    };
    Connection::open(shared, &about, started)
}
