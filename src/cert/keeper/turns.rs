//! Who may ask the issuer next.

use crate::model::Identity;
use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

/// How urgent a certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    /// One is in use that is still good, or there is no hope at the moment.
    Background,
    /// It will be needed.
    Warmup,
    /// A connection waits for it.
    RealTime,
}

/// A bounded number of turns, given by priority, then in the order of arrival.
#[derive(Debug)]
pub(super) struct Turns {
    line: Mutex<Line>,
}

#[derive(Debug)]
struct Line {
    free: usize,
    arrivals: u64,
    waiting: BTreeMap<(Reverse<Priority>, u64), Waiting>,
}

#[derive(Debug)]
struct Waiting {
    identity: Identity,
    turn: oneshot::Sender<Turn>,
}

/// Resolves to a [`Turn`]. Dropped, it leaves the line.
pub(super) type Ticket = oneshot::Receiver<Turn>;

/// The right to ask; dropped, it goes to the next in line.
#[derive(Debug)]
pub(super) struct Turn(Arc<Turns>);

impl Turns {
    pub(super) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { line: Mutex::new(Line { free: count, arrivals: 0, waiting: BTreeMap::new() }) })
    }

    /// Joins the line.
    pub(super) fn enqueue(self: &Arc<Self>, identity: &Identity, priority: Priority) -> Ticket {
        let (turn, ticket) = oneshot::channel();
        let mut line = self.lock();
        if line.free > 0 {
            line.free -= 1;
            drop(line);
            // The ticket is still ours: this cannot fail.
            let _ = turn.send(Turn(self.clone()));
        } else {
            line.arrivals += 1;
            let rank = (Reverse(priority), line.arrivals);
            line.waiting.insert(rank, Waiting { identity: identity.clone(), turn });
        }
        ticket
    }

    /// Moves an identity that waits for something less urgent behind those that are as urgent.
    pub(super) fn raise(&self, identity: &Identity, priority: Priority) {
        let mut line = self.lock();
        let found =
            line.waiting.iter().find(|(rank, waiting)| rank.0.0 < priority && waiting.identity == *identity && !waiting.turn.is_closed());
        let Some(rank) = found.map(|(rank, _)| *rank) else { return };
        if let Some(waiting) = line.waiting.remove(&rank) {
            line.arrivals += 1;
            let rank = (Reverse(priority), line.arrivals);
            line.waiting.insert(rank, waiting);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next that still waits; without one, a turn is free.
    fn next(&self) -> Option<Waiting> {
        let mut line = self.lock();
        while let Some((_, waiting)) = line.waiting.pop_first() {
            if !waiting.turn.is_closed() {
                return Some(waiting);
            }
        }
        line.free += 1;
        None
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(next) = self.0.next() {
            // Should it have gone this moment, the turn comes back and is dropped once more.
            let _ = next.turn.send(Self(self.0.clone()));
        }
    }
}
