//! The text that Prometheus reads, in two dialects.

use metrics::{Key, SharedString};
use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

/// How metrics are written out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsFormat {
    /// Prometheus's text format, version 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0: families of counters without `_total`, and an end that shows that nothing was
    /// cut off.
    OpenMetrics,
}

impl MetricsFormat {
    /// The dialect for a request with this `Accept` header.
    pub fn accepted(accept: &str) -> Self {
        let media = |range: &str| range.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/openmetrics-text");
        if accept.split(',').any(media) { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// What goes into `Content-Type`.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The text while it grows.
pub(super) struct Text {
    out: String,
    format: MetricsFormat,
    help: BTreeMap<String, SharedString>,
    // Of the family that is being written.
    name: Option<String>,
}

impl Text {
    pub(super) fn new(format: MetricsFormat, help: BTreeMap<String, SharedString>) -> Self {
        Self { out: String::new(), format, help, name: None }
    }

    /// Writes the head of a family before its first series.
    pub(super) fn family(&mut self, key: &Key, kind: &str) {
        if self.name.as_deref() == Some(key.name()) {
            return;
        }
        let name = key.name().to_owned();
        let family = match self.format {
            MetricsFormat::OpenMetrics if kind == "counter" => name.strip_suffix("_total").unwrap_or(&name),
            MetricsFormat::OpenMetrics | MetricsFormat::Prometheus => &name,
        };
        if let Some(help) = self.help.get(&name) {
            // OpenMetrics escapes quotes here as well.
            let quote = self.format == MetricsFormat::OpenMetrics;
            let _ = writeln!(self.out, "# HELP {family} {}", Escaped { text: help, quote });
        }
        let _ = writeln!(self.out, "# TYPE {family} {kind}");
        self.name = Some(name);
    }

    pub(super) fn line(&mut self, key: &Key, suffix: &str, bound: Option<&str>, value: impl fmt::Display) {
        let _ = write!(self.out, "{}{suffix}", key.name());
        let labels = key.labels().map(|label| (label.key(), label.value())).chain(bound.map(|bound| ("le", bound)));
        let mut before = '{';
        for (name, value) in labels {
            let _ = write!(self.out, "{before}{name}=\"{}\"", Escaped { text: value, quote: true });
            before = ',';
        }
        if before == ',' {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }

    pub(super) fn finish(mut self) -> String {
        if self.format == MetricsFormat::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }
}

/// Backslashes and line ends escaped, and quotes where the text stands between some.
struct Escaped<'a> {
    text: &'a str,
    quote: bool,
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.text;
        while let Some(at) = rest.find(|c| matches!(c, '\\' | '\n') || (self.quote && c == '"')) {
            f.write_str(&rest[..at])?;
            f.write_str(match rest.as_bytes()[at] {
                b'\\' => "\\\\",
                b'\n' => "\\n",
                _ => "\\\"",
            })?;
            rest = &rest[at + 1..];
        }
        f.write_str(rest)
    }
}
