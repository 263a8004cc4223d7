//! The diagnostic log: `tracing` to standard error, with a filter that can change at run time.

use std::sync::OnceLock;
use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt};

/// What is logged when neither argument nor `RUST_LOG` says otherwise.
const DEFAULT: &str = "info";

static HANDLE: OnceLock<LogHandle> = OnceLock::new();

/// Changes the filter of the running process.
#[derive(Debug, Clone)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
    initial: String,
}

/// Why a filter was not taken over.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not a list of `LEVEL` or `TARGET=LEVEL`.
    #[error("not a log filter: {0:?}")]
    Filter(String),
    /// The process logs elsewhere.
    #[error("the log's filter cannot be changed")]
    Gone,
}

impl LogError {
    fn filter(text: &str) -> Self {
        Self::Filter(text.chars().take(128).collect())
    }
}

impl LogHandle {
    /// Replaces the filter: a level, or directives such as `cairn::hbone=debug,warn`.
    ///
    /// # Errors
    /// When the text is no filter; the old one stays.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        let parsed = parse(filter).ok_or_else(|| LogError::filter(filter))?;
        self.filter.reload(parsed).map_err(|_| LogError::Gone)
    }

    /// Returns to the filter that the process started with.
    ///
    /// # Errors
    /// When the process logs elsewhere.
    pub fn reset(&self) -> Result<(), LogError> {
        self.set(&self.initial)
    }

    /// The filter as it stands.
    pub fn current(&self) -> String {
        self.filter.with_current(ToString::to_string).unwrap_or_default()
    }
}

/// Whether a text is a filter: a level, or directives such as `cairn::hbone=debug,warn`.
///
/// # Errors
/// When it is none.
pub fn check(filter: &str) -> Result<(), LogError> {
    parse(filter).map(drop).ok_or_else(|| LogError::filter(filter))
}

/// Starts logging to standard error what `level` says; nonsense counts for nothing. Later calls
/// change nothing and return the same handle.
pub fn init(level: Option<&str>, json: bool) -> LogHandle {
    HANDLE
        .get_or_init(|| {
            let (handle, layer) = filter(level);
            let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
            // An error means that a test or an embedder logs already: leave it alone.
            if json {
                tracing_subscriber::registry().with(layer).with(lines.json().flatten_event(true)).try_init().ok();
            } else {
                let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
                tracing_subscriber::registry().with(layer).with(lines.with_ansi(ansi)).try_init().ok();
            }
            handle
        })
        .clone()
}

fn filter(level: Option<&str>) -> (LogHandle, reload::Layer<EnvFilter, Registry>) {
    let wanted = level.filter(|text| parse(text).is_some()).unwrap_or(DEFAULT);
    let (layer, filter) = reload::Layer::new(parse(wanted).unwrap_or_default());
    (LogHandle { filter, initial: wanted.to_owned() }, layer)
}

/// `EnvFilter` reads any single word as a target at its most verbose, so `/logging?level=wran`
/// would open the flood gates; a word without `=` must be a level here.
fn parse(text: &str) -> Option<EnvFilter> {
    let sound = |directive: &str| match directive.rsplit_once('=') {
        Some((target, level)) => !target.is_empty() && is_level(level),
        None => is_level(directive),
    };
    (!text.trim().is_empty() && text.split(',').all(|d| sound(d.trim()))).then(|| EnvFilter::try_new(text).ok())?
}

fn is_level(text: &str) -> bool {
    ["off", "error", "warn", "info", "debug", "trace"].iter().any(|level| text.eq_ignore_ascii_case(level))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_leaves_the_filter_as_it_was() {
        let (handle, _layer) = filter(Some("warn"));
        assert!(matches!(handle.set("wran"), Err(LogError::Filter(_))));
        assert!(handle.set("cairn=loud").is_err());
        assert!(handle.set("").is_err());
        assert_eq!(handle.current(), "warn");
    }

    #[test]
    fn reset_returns_to_the_start() {
        let (handle, _layer) = filter(None);
        handle.set("cairn::hbone=debug,warn").unwrap();
        assert!(handle.current().contains("cairn::hbone=debug"));
        handle.reset().unwrap();
        assert_eq!(handle.current(), "info");
    }

    #[test]
    fn nonsense_is_as_good_as_nothing() {
        let (handle, _layer) = filter(Some("nonsense"));
        assert_eq!(handle.current(), "info");
    }
}
