//! Profiles, under the paths that Go programs have made a habit.

use super::{
    Answer, Asked, Router,
    router::{bytes, text},
};
use crate::telemetry::pprof::{self, ProfileError, heap};
use http::StatusCode;
use std::{ops::RangeInclusive, time::Duration};

const SECONDS: RangeInclusive<u64> = 1..=300;
const FREQUENCY: RangeInclusive<u64> = 1..=1000;
/// More than names of a whole heap take to be looked up.
const HEAP_LIMIT: Duration = Duration::from_secs(120);

/// Adds `/debug/pprof/…`.
pub(super) fn profiles(router: Router) -> Router {
    let limit = Duration::from_secs(*SECONDS.end()) + HEAP_LIMIT;
    router
        .any_in_time("/debug/pprof/profile", "CPU profile: ?seconds=10&frequency=100", limit, cpu)
        .any_in_time("/debug/pprof/heap", "memory in use, while profiling is active", HEAP_LIMIT, |_| in_use())
        .any("/debug/pprof/heap/profiling", "?activate=true or ?activate=false", profiling)
}

async fn cpu(asked: Asked) -> Answer {
    let wanted = number(&asked, "seconds", 10, SECONDS).and_then(|s| Ok((s, number(&asked, "frequency", 100, FREQUENCY)?)));
    let (seconds, frequency) = match wanted {
        Ok(wanted) => wanted,
        Err(error) => return text(StatusCode::BAD_REQUEST, error),
    };
    answer(pprof::cpu(Duration::from_secs(seconds), u16::try_from(frequency).unwrap_or(u16::MAX)).await)
}

async fn in_use() -> Answer {
    match tokio::task::spawn_blocking(heap::profile).await {
        Ok(profile) => answer(profile),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn profiling(asked: &Asked) -> Answer {
    let changed = match asked.get("activate").as_deref() {
        Some("true") => heap::activate(true),
        Some("false") => heap::activate(false),
        None => Ok(()),
        Some(_) => return text(StatusCode::BAD_REQUEST, "activate: neither true nor false\n"),
    };
    match changed {
        Ok(()) => text(StatusCode::OK, if heap::is_active() { "heap profiling is active\n" } else { "heap profiling is not active\n" }),
        Err(error) => failed(&error),
    }
}

fn answer(profile: Result<Vec<u8>, ProfileError>) -> Answer {
    match profile {
        Ok(profile) => bytes(StatusCode::OK, "application/octet-stream", profile.into()),
        Err(error) => failed(&error),
    }
}

fn failed(error: &ProfileError) -> Answer {
    text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))
}

fn number(asked: &Asked, name: &str, default: u64, range: RangeInclusive<u64>) -> Result<u64, String> {
    let Some(given) = asked.get(name) else { return Ok(default) };
    let wrong = || format!("{name}: not a number from {} to {}\n", range.start(), range.end());
    given.parse().ok().filter(|n| range.contains(n)).ok_or_else(wrong)
}
