//! Copying, from the moment both sides stand to the end of the connection, whoever brings it about.

use super::{
    Shared,
    connection::Connection,
    tracker::{Denied, Tracked},
};
use crate::{
    hbone::TunnelIo,
    telemetry::ResponseFlag,
    transport::{
        copy::{End, Side},
        socket,
    },
};
use h2::Reason;
use std::future::pending;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_util::either::Either;

/// A side of a connection that can be broken off, so that its peer cannot take what it has got for
/// everything there was.
pub(super) trait Cuttable: AsyncRead + AsyncWrite + Unpin {
    /// Breaks it off.
    fn break_off(&mut self);
}

impl Cuttable for TcpStream {
    fn break_off(&mut self) {
        socket::reset_on_close(self);
    }
}

impl Cuttable for TunnelIo {
    /// With the code that RFC 9113, 8.5 asks for.
    fn break_off(&mut self) {
        self.reset(Reason::CONNECT_ERROR);
    }
}

impl<L: Cuttable, R: Cuttable> Cuttable for Either<L, R> {
    fn break_off(&mut self) {
        match self {
            Self::Left(io) => io.break_off(),
            Self::Right(io) => io.break_off(),
        }
    }
}

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
            match &end {
                End::Failed { side: Side::Upstream, .. } => downstream.break_off(),
                End::Failed { side: Side::Downstream, .. } => upstream.break_off(),
                End::Complete | End::HalfOpenIdle => {}
            }
            connection.copied(end);
        }
        Ended::Denied(denied) => {
            tracing::info!(subject = ?tracked.map(Tracked::subject), %denied, "open connection closed by policy");
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
