//! Drain: how a part of the process is told to finish, and how its owner knows that it has.
//!
//! ```text
//! Running --start()--> Draining --force() or trigger dropped--> Forced
//! ```
//!
//! *Draining* means: take no new work, let the work at hand finish. *Forced* means: the deadline
//! has passed, let go of everything. The deadline itself is the owner's.

use std::fmt;
use tokio::sync::watch;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Running,
    Draining,
    Forced,
}

/// Starts a drain and waits for its end. Dropping it forces: what nobody owns must not live on.
#[derive(Debug)]
pub struct DrainTrigger {
    stage: watch::Sender<Stage>,
    tracker: TaskTracker,
}

/// Tells a task when to finish. Holding one does not delay [`DrainTrigger::drained`]; a
/// [`DrainGuard`] does.
#[derive(Debug, Clone)]
pub struct DrainWatch {
    stage: watch::Receiver<Stage>,
    tracker: TaskTracker,
}

/// Work in progress: [`DrainTrigger::drained`] waits until every guard is dropped.
#[derive(Clone)]
#[must_use = "a drain waits only as long as the guard is held"]
pub struct DrainGuard {
    _token: TaskTrackerToken,
}

/// A trigger and its watch.
pub fn new() -> (DrainTrigger, DrainWatch) {
    let (sender, receiver) = watch::channel(Stage::Running);
    let tracker = TaskTracker::new();
    // Closed from the start: `wait` then ends whenever no guard is left. Guards can still be made.
    tracker.close();
    (DrainTrigger { stage: sender, tracker: tracker.clone() }, DrainWatch { stage: receiver, tracker })
}

impl DrainTrigger {
    /// Starts the drain. Again, or after [`force`](Self::force): nothing happens.
    pub fn start(&self) {
        self.advance(Stage::Draining);
    }

    /// Ends what has not ended by itself: the deadline has passed.
    pub fn force(&self) {
        self.advance(Stage::Forced);
    }

    /// Waits until no [`DrainGuard`] is left, whether or not the drain has started. Cancel safe.
    pub async fn drained(&self) {
        self.tracker.wait().await;
    }

    /// How many guards are held.
    pub fn remaining(&self) -> usize {
        self.tracker.len()
    }

    /// A further watch.
    pub fn watch(&self) -> DrainWatch {
        DrainWatch { stage: self.stage.subscribe(), tracker: self.tracker.clone() }
    }

    fn advance(&self, to: Stage) {
        self.stage.send_if_modified(|stage| {
            let later = *stage < to;
            *stage = to.max(*stage);
            later
        });
    }
}

impl Drop for DrainTrigger {
    fn drop(&mut self) {
        self.force();
    }
}

impl DrainWatch {
    /// Waits until the drain has started. Ends at once when it has. Cancel safe.
    pub async fn signaled(&self) {
        self.reached(Stage::Draining).await;
    }

    /// Waits until the deadline of the drain has passed. Ends at once when it has. Cancel safe.
    pub async fn forced(&self) {
        self.reached(Stage::Forced).await;
    }

    /// Whether the drain has started.
    pub fn is_draining(&self) -> bool {
        *self.stage.borrow() >= Stage::Draining
    }

    /// Whether the deadline of the drain has passed.
    pub fn is_forced(&self) -> bool {
        *self.stage.borrow() >= Stage::Forced
    }

    /// Marks work in progress for as long as the guard lives.
    pub fn guard(&self) -> DrainGuard {
        DrainGuard { _token: self.tracker.token() }
    }

    async fn reached(&self, stage: Stage) {
        // An error means that the trigger is gone, and its last word was `Forced`: also the end.
        let _ = self.stage.clone().wait_for(|now| *now >= stage).await;
    }
}

impl fmt::Debug for DrainGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DrainGuard")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn stages_are_seen_by_every_watch_early_or_late() {
        let (trigger, watch) = new();
        let early = watch.clone();
        assert!(!watch.is_draining() && early.signaled().now_or_never().is_none());
        trigger.start();
        early.signaled().await;
        trigger.watch().signaled().await;
        assert!(watch.is_draining() && !watch.is_forced());
        assert!(watch.forced().now_or_never().is_none());
        trigger.force();
        watch.forced().await;
        trigger.start();
        assert!(watch.is_forced(), "a drain never goes back");
    }

    #[tokio::test]
    async fn drained_waits_for_guards_and_for_nothing_else() {
        let (trigger, watch) = new();
        let guard = watch.guard();
        let second = guard.clone();
        trigger.start();
        drop(guard);
        assert_eq!(trigger.remaining(), 1);
        assert!(trigger.drained().now_or_never().is_none());
        drop(second);
        trigger.drained().await;
        let _late = watch.guard();
        assert!(trigger.drained().now_or_never().is_none(), "a guard made during the drain counts");
    }

    #[tokio::test]
    async fn a_dropped_trigger_forces() {
        let (trigger, watch) = new();
        drop(trigger);
        watch.signaled().await;
        watch.forced().await;
    }
}
