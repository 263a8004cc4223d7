//! Who comes first where there are fewer cores than work.

use std::cell::Cell;

/// A tenth of the weight that other threads have: less would keep a change of policy waiting for as
/// long as there is much traffic.
const NICE: i32 = 10;

thread_local! {
    static GIVES_WAY: Cell<bool> = const { Cell::new(false) };
}

/// From now on this thread seldom gets a core that one with traffic wants. Without privileges that cannot
/// be undone, so it is for threads that never carry any, those of `spawn_blocking` for one.
pub fn give_way() {
    if GIVES_WAY.replace(true) {
        return;
    }
    // On Linux it is the thread that has a priority, not the process.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "the priority of a thread cannot be lowered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_thread_that_gives_way() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let within = std::thread::spawn(move || {
            give_way();
            give_way();
            nice()
        });
        assert_eq!(within.join().unwrap(), before.max(NICE));
        assert_eq!(nice(), before, "others stay as they are");
    }
}
