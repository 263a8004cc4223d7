//! Copying, from the moment both sides stand to the end of the connection, whoever brings it about.

use super::{
    connection::Connection,
    shared::Shared,
    tracker::{Denied, Tracked},
};
use crate::{
    telemetry::ResponseFlag,
    transport::{Cuttable, copy::End},
};
use std::future::pending;

enum Ended {
    Copied(End),
    Denied(Denied),
    Forced,
}

/// Copies until both sides are done, one fails, a later snapshot denies what is `tracked`, or the
/// drain is forced; then reports.
pub(super) async fn relay(
    shared: &Shared,
    mut connection: Connection,
    tracked: Option<&Tracked>,
    (mut downstream, mut upstream): (impl Cuttable, impl Cuttable),
) {
    let denied = async {
        match tracked {
            Some(tracked) => tracked.denied().await,
            None => pending().await,
        }
    };
    let ended = tokio::select! {
        // The deadline first: it also cuts the tunnel, and that must not look like the peer's doing.
        biased;
        () = shared.drain.forced() => Ended::Forced,
        denied = denied => Ended::Denied(denied),
        end = connection.copy(&mut downstream, &mut upstream, shared.config.half_open_idle) => Ended::Copied(end),
    };
    match ended {
        Ended::Copied(end) => {
            end.pass_on(&mut downstream, &mut upstream);
            connection.copied(end);
        }
        Ended::Denied(denied) => {
            if let Some(tracked) = tracked {
                denied.log(&shared.config, tracked.subject(), "open connection closed by policy");
            }
            downstream.break_off();
            upstream.break_off();
            connection.end(ResponseFlag::Denied, Some(denied.to_string().into()));
        }
        Ended::Forced => {
            downstream.break_off();
            upstream.break_off();
            // Dropped unfinished, the connection reports that itself.
        }
    }
}
