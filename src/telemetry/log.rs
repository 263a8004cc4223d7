//! The diagnostic log: `tracing` to standard error, with a filter that can change at run time.

use super::access::{AccessLogMode, SharedMode};
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
    access: SharedMode,
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
        self.filter.reload(parsed).map_err(|_| LogError::Gone)?;
        self.access.set(access_mode(filter));
        Ok(())
    }

    /// Changes one target and leaves the rest, as Istio's `?level=TARGET=LEVEL` may be sent again and
    /// again.
    ///
    /// # Errors
    /// When the text is no filter; the old one stays.
    pub fn add(&self, directives: &str) -> Result<(), LogError> {
        check(directives)?;
        let target = |directive: &str| directive.rsplit_once('=').map(|(target, _)| target.trim().to_owned());
        let new: Vec<_> = directives.split(',').map(target).collect();
        let current = self.current();
        let kept = current.split(',').filter(|old| !new.contains(&target(old)));
        let whole: Vec<&str> = kept.chain([directives]).collect();
        self.set(&whole.join(","))
    }

    /// What the filter says for the target `access`.
    pub(super) fn access(&self) -> SharedMode {
        self.access.clone()
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
    (LogHandle { filter, initial: wanted.to_owned(), access: SharedMode::new(access_mode(wanted)) }, layer)
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

/// What a filter lets through of the target `access`: the longest directive that fits decides, and
/// without any only errors pass.
fn access_mode(filter: &str) -> AccessLogMode {
    let directives = filter.split(',').map(|d| d.trim().rsplit_once('=').unwrap_or(("", d.trim())));
    let fitting = directives.filter(|(target, _)| "access".starts_with(target));
    match fitting.max_by_key(|(target, _)| target.len()).map(|(_, level)| level.to_ascii_lowercase()).as_deref() {
        Some("off") => AccessLogMode::Off,
        Some("info") => AccessLogMode::All,
        Some("debug" | "trace") => AccessLogMode::Debug,
        _ => AccessLogMode::Errors,
    }
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
    fn one_target_is_changed_beside_the_others() {
        let (handle, _layer) = filter(Some("warn,cairn::hbone=info"));
        handle.add("cairn::hbone=debug").unwrap();
        handle.add("cairn::dns=trace,access=info").unwrap();
        let current = handle.current();
        let mut directives: Vec<&str> = current.split(',').collect();
        directives.sort_unstable();
        assert_eq!(directives, ["access=info", "cairn::dns=trace", "cairn::hbone=debug", "warn"]);
        assert!(handle.add("cairn::dns").is_err());
        handle.add("error").unwrap();
        assert!(!handle.current().contains("warn"), "a bare level takes the place of the bare level: {}", handle.current());
    }

    #[test]
    fn the_filter_governs_the_access_log() {
        let rows = [
            ("info", AccessLogMode::All),
            ("INFO", AccessLogMode::All),
            ("warn", AccessLogMode::Errors),
            ("error", AccessLogMode::Errors),
            ("off", AccessLogMode::Off),
            ("debug", AccessLogMode::Debug),
            ("access=off,debug", AccessLogMode::Off),
            ("info, access=debug", AccessLogMode::Debug),
            ("cairn=debug", AccessLogMode::Errors),
            ("acc=trace,info", AccessLogMode::Debug),
        ];
        for (text, mode) in rows {
            assert_eq!(access_mode(text), mode, "{text}");
        }
        let (handle, _layer) = filter(None);
        let log = crate::telemetry::AccessLog::to_writer(AccessLogMode::Filter, Default::default(), std::io::sink())
            .unwrap()
            .governed_by(&handle);
        assert!(log.wants(false) && !log.wants_opened());
        handle.set("access=debug").unwrap();
        assert!(log.wants_opened());
        handle.set("access=off,info").unwrap();
        assert!(!log.wants(true));
        handle.reset().unwrap();
        assert!(log.wants(false));
    }

    #[test]
    fn nonsense_is_as_good_as_nothing() {
        let (handle, _layer) = filter(Some("nonsense"));
        assert_eq!(handle.current(), "info");
    }
}
