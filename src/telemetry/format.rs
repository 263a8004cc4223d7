//! How records look: Istio's access log for requests, ztunnel's for connections.
//!
//! Everything that a peer can choose is escaped, so that no request can write a line, or a field,
//! of its own.

mod json;
#[cfg(test)]
mod tests;
mod text;

pub(super) use json::write_json;
pub(super) use text::write_text;

use super::HttpRecord;
use http::Version;
use std::{
    fmt,
    time::{Duration, SystemTime},
};
use time::OffsetDateTime;

/// RFC 3339 in UTC with a fixed number of digits, as Envoy (3) and ztunnel (6) print it.
struct Timestamp {
    time: SystemTime,
    digits: u8,
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = OffsetDateTime::from(self.time);
        write!(f, "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}", t.year(), u8::from(t.month()), t.day(), t.hour(), t.minute(), t.second())?;
        match self.digits {
            3 => write!(f, ".{:03}Z", t.millisecond()),
            _ => write!(f, ".{:06}Z", t.microsecond()),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

/// Envoy's word for an answer that came from the endpoint.
fn detail(record: &HttpRecord) -> &'static str {
    record.detail.unwrap_or("via_upstream")
}
