//! Where time is spent: a signal every few milliseconds of CPU time, and the stack it finds.

use super::{Builder, Frame, ProfileError, Symbol};
use pprof::{ProfilerGuardBuilder, Report};
use std::time::Duration;

/// A signal that finds a thread here must not unwind: it may hold the locks that unwinding takes.
const NOT_UNWOUND: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];

/// Samples the whole process for `duration`, `frequency` times in a second of CPU time. Dropping the
/// future ends it.
///
/// # Errors
/// When the profiler cannot be started: only one can run at a time.
pub async fn cpu(duration: Duration, frequency: u16) -> Result<Vec<u8>, ProfileError> {
    let builder = ProfilerGuardBuilder::default().frequency(i32::from(frequency)).blocklist(&NOT_UNWOUND);
    let guard = builder.build().map_err(|error| ProfileError::Start(error.to_string()))?;
    tokio::time::sleep(duration).await;
    // Names are looked up now, which takes its time.
    let made = tokio::task::spawn_blocking(move || {
        let report = guard.report().build().map_err(|error| ProfileError::Report(error.to_string()))?;
        Ok(encode(&report, duration, frequency))
    });
    made.await.map_err(|error| ProfileError::Report(error.to_string()))?
}

fn encode(report: &Report, duration: Duration, frequency: u16) -> Vec<u8> {
    let period = 1_000_000_000 / i64::from(frequency.max(1));
    let mut builder = Builder::new(&[("samples", "count"), ("cpu", "nanoseconds")], period);
    for (frames, count) in &report.data {
        let count = *count as i64;
        let places = frames.frames.iter().map(|inlined| frame(inlined));
        builder.sample(places, vec![count, count * period], &[("thread", &frames.thread_name)]);
    }
    builder.finish(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
}

fn frame(inlined: &[pprof::Symbol]) -> Frame {
    let address = inlined.iter().find_map(|symbol| symbol.addr).map_or(0, |address| address as u64);
    let symbols = inlined.iter().map(|symbol| Symbol {
        name: symbol.name(),
        file: symbol.filename.as_ref().map(|file| file.display().to_string()).unwrap_or_default(),
        line: symbol.lineno.map_or(0, i64::from),
    });
    Frame { address, symbols: symbols.collect() }
}

#[cfg(test)]
mod tests {
    use super::super::proto::Profile;
    use super::*;
    use prost::Message as _;
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        thread,
    };

    #[inline(never)]
    fn keep_busy_for_the_profile(until: &AtomicBool) -> u64 {
        let mut n = 1_u64;
        while !until.load(Ordering::Relaxed) {
            n = std::hint::black_box(n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
        n
    }

    #[tokio::test]
    async fn a_busy_function_is_in_the_profile_and_one_profile_is_made_at_a_time() {
        let stop = Arc::new(AtomicBool::new(false));
        let busy = thread::spawn({
            let stop = stop.clone();
            move || keep_busy_for_the_profile(&stop)
        });
        let first = tokio::spawn(cpu(Duration::from_secs(1), 200));
        let mut refused = false;
        while !refused && !first.is_finished() {
            refused = matches!(cpu(Duration::ZERO, 100).await, Err(ProfileError::Start(_)));
        }
        let bytes = first.await.unwrap();
        stop.store(true, Ordering::Relaxed);
        busy.join().unwrap();
        let bytes = match bytes {
            Ok(bytes) => bytes,
            // The other came first.
            Err(ProfileError::Start(_)) => return,
            Err(error) => panic!("{error}"),
        };
        assert!(refused);
        let profile = Profile::decode(&*bytes).unwrap();
        assert!(profile.string_table.iter().any(|text| text.contains("keep_busy_for_the_profile")), "{:?}", profile.string_table);
    }
}
