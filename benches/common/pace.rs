//! When requests are due, at a given rate.
//!
//! tokio's timers go by the millisecond, which is the time between two requests of the slowest case;
//! with them the figures would show the timer. So one thread sleeps on the kernel's own timer, without
//! slack, and lets one request after the other go.

use nix::{
    sys::{prctl, time::TimeSpec},
    time::{ClockId, ClockNanosleepFlags, clock_nanosleep},
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time::Instant};

/// The schedule: request `n` of all is due at `n / rate`, and is sent by connection `n % connections`.
/// Every connection's requests are spread evenly, and no two fire at the same moment.
#[derive(Debug)]
pub struct Pace {
    start: Instant,
    interval: Duration,
    total: u32,
    due: Vec<Semaphore>,
}

impl Pace {
    /// Starts the thread; the first request is due at `start`, none after `duration`.
    pub fn start(rate: usize, connections: usize, start: Instant, duration: Duration) -> Arc<Self> {
        let due = (0..connections).map(|_| Semaphore::new(0)).collect();
        let total = (duration.as_secs_f64() * rate as f64) as u32;
        let pace = Arc::new(Self { start, interval: Duration::from_secs_f64(1.0 / rate as f64), total, due });
        let running = pace.clone();
        std::thread::spawn(move || running.run());
        pace
    }

    fn run(&self) {
        prctl::set_timerslack(1).expect("a thread may set its own");
        let until_start = self.start.saturating_duration_since(Instant::now());
        let base = ClockId::CLOCK_MONOTONIC.now().expect("there is a clock") + TimeSpec::from(until_start);
        for n in 0..self.total {
            // The place in the schedule, and not the time of the last one: being late once delays nothing else.
            let at = base + TimeSpec::from(self.interval * n);
            while clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &at).is_err() {}
            self.due[n as usize % self.due.len()].add_permits(1);
        }
    }

    /// Waits until the `turn`th request of a connection is due, and says when that was: earlier than
    /// now when the connection was busy. `None` at the end.
    pub async fn due(&self, connection: usize, turn: usize) -> Option<Instant> {
        let number = (turn * self.due.len() + connection) as u32;
        if number >= self.total {
            return None;
        }
        self.due[connection].acquire().await.ok()?.forget();
        Some(self.start + self.interval * number)
    }
}
