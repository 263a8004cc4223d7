//! Port 15000, on loopback only: what an operator looks at and may change.

use super::{
    Answer, Asked, Router,
    profile::profiles,
    router::{text, typed},
};
use crate::telemetry::log::LogHandle;
use http::StatusCode;

/// `/config_dump`, `/logging`, `/quitquitquit`, `/version` and `/debug/pprof/…`. `config_dump` gives JSON; `quit`
/// begins the drain and returns at once. More paths may be added; close with
/// [`Router::with_index`].
pub fn debug(config_dump: impl Fn() -> String + Send + Sync + 'static, log: LogHandle, quit: impl Fn() + Send + Sync + 'static) -> Router {
    let router = Router::new()
        .any("/config_dump", "the configuration that is served, as JSON", move |_| typed(StatusCode::OK, JSON, config_dump()))
        .post("/logging", "?level=warn, ?level=cairn::hbone=debug (beside what is set), ?reset, or both", move |asked| logging(&log, asked))
        .post("/quitquitquit", "drain and exit", move |_| {
            quit();
            text(StatusCode::OK, "shutdown now\n")
        })
        .get("/version", "name and version of this build, as JSON", |_| typed(StatusCode::OK, JSON, VERSION));
    profiles(router)
}

const JSON: &str = "application/json";

const VERSION: &str = concat!("{\"name\":\"", env!("CARGO_PKG_NAME"), "\",\"version\":\"", env!("CARGO_PKG_VERSION"), "\"}\n");

/// Replies with the filter as it stands afterwards.
fn logging(log: &LogHandle, asked: &Asked) -> Answer {
    let reset = asked.get("reset").map_or(Ok(()), |_| log.reset());
    let changed = reset.and_then(|()| asked.get("level").map_or(Ok(()), |level| log.add(&level)));
    match changed {
        Ok(()) => text(StatusCode::OK, format!("current log level is {}\n", log.current())),
        Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}
