//! How long to wait before the next stream (contract, 3.2).

use std::time::Duration;

/// The first wait, and what a server that merely restarts costs.
const FIRST: Duration = Duration::from_millis(10);
/// After errors.
const LONGEST: Duration = Duration::from_secs(15);
/// After ends that are part of a server's life, and after streams that ended as soon as they were of
/// use: none of them may become a hot loop.
const LONGEST_SOON: Duration = Duration::from_secs(1);
/// A stream that told something was of use when it lived for so long.
const SETTLED: Duration = Duration::from_secs(1);

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// In good order.
    Complete,
    /// As when a server restarts or moves its clients.
    Reconnect,
    /// Badly, or it did not begin.
    Failed,
}

/// Waits that double as long as streams are of no use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    /// The wait after a stream that lived for `lived` and told something or did not.
    pub(super) fn after(&mut self, ending: Ending, delivered: bool, lived: Duration) -> Duration {
        // A stream on demand may be of use without a word.
        let settled = lived >= LONGEST || (delivered && lived >= SETTLED);
        if settled {
            self.next = FIRST;
        }
        match ending {
            Ending::Complete if settled => Duration::ZERO,
            Ending::Complete if !delivered => self.wait(LONGEST),
            Ending::Failed if !delivered => self.wait(LONGEST),
            Ending::Complete | Ending::Reconnect | Ending::Failed => self.wait(LONGEST_SOON),
        }
    }

    fn wait(&mut self, longest: Duration) -> Duration {
        let wait = self.next.min(longest);
        self.next = (wait * 2).min(LONGEST);
        wait
    }
}

/// Up to a fifth more or less, so that the proxies of a mesh do not all come at once.
pub(super) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.8 + 0.4 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::{Ending::*, *};

    const SHORT: Duration = Duration::from_millis(5);
    const LONG: Duration = Duration::from_secs(60);

    fn waits(ending: Ending, delivered: bool, lived: Duration) -> Vec<u128> {
        let mut backoff = Backoff::new();
        (0..13).map(|_| backoff.after(ending, delivered, lived).as_millis()).collect()
    }

    #[test]
    fn streams_of_no_use_wait_twice_as_long_each_time() {
        let doubling = [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10_240, 15_000, 15_000];
        assert_eq!(waits(Failed, false, SHORT), doubling);
        assert_eq!(waits(Complete, false, SHORT), doubling, "an end without a word is no good order");
    }

    #[test]
    fn what_is_soon_over_is_tried_again_soon_but_not_hotly() {
        let soon = [10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000, 1000, 1000, 1000];
        for (ending, delivered) in [(Reconnect, false), (Reconnect, true), (Failed, true), (Complete, true)] {
            assert_eq!(waits(ending, delivered, SHORT), soon, "{ending:?} {delivered}");
        }
    }

    #[test]
    fn a_stream_of_use_begins_anew() {
        assert_eq!(waits(Complete, true, LONG), [0; 13]);
        assert_eq!(waits(Complete, false, LONG), [0; 13], "on demand, with nothing demanded");
        assert_eq!(waits(Failed, true, LONG), [10; 13]);
        assert_eq!(waits(Reconnect, true, SETTLED), [10; 13]);
        let mut backoff = Backoff::new();
        for _ in 0..20 {
            backoff.after(Failed, false, SHORT);
        }
        assert_eq!(backoff.after(Failed, true, LONG), FIRST);
        assert_eq!(backoff.after(Failed, false, SHORT), FIRST * 2);
    }

    #[test]
    fn the_jitter_is_a_fifth() {
        for _ in 0..1000 {
            let wait = jittered(Duration::from_millis(100)).as_micros();
            assert!((80_000..=120_000).contains(&wait), "{wait}");
        }
        assert_eq!(jittered(Duration::ZERO), Duration::ZERO);
    }
}
