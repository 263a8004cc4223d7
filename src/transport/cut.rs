//! Breaking connections off, so that nobody takes what came for everything there was.

use super::{
    Rewind,
    copy::{End, Pieces, Side},
    socket,
};
use tokio::net::TcpStream;
use tokio_util::either::Either;

/// A side of a connection that can be broken off, so that its peer cannot take what it has got for
/// everything there was.
pub trait Cuttable: Pieces {
    /// Breaks it off.
    fn break_off(&mut self);
}

impl Cuttable for TcpStream {
    fn break_off(&mut self) {
        socket::reset_on_close(self);
    }
}

impl<IO: Cuttable> Cuttable for Rewind<IO> {
    fn break_off(&mut self) {
        self.get_mut().break_off();
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

impl End {
    /// Tells the other side of one that failed, and both of a half that was given up.
    pub fn pass_on(&self, downstream: &mut impl Cuttable, upstream: &mut impl Cuttable) {
        match self {
            Self::Failed { side: Side::Upstream, .. } => downstream.break_off(),
            Self::Failed { side: Side::Downstream, .. } => upstream.break_off(),
            // What is still owed will not come: to end it in good order would say that it was all.
            Self::HalfOpenIdle => {
                downstream.break_off();
                upstream.break_off();
            }
            Self::Complete => {}
        }
    }
}
