//! The arguments of Istio's images, so that only the image needs to be swapped.

use super::{Environment, UsageError};
use std::ffi::OsString;

/// Turns `proxy …` into the subcommand that is meant. Other command lines stay as they are.
pub(super) fn translate(args: Vec<OsString>, environment: &mut Environment) -> Result<Vec<OsString>, UsageError> {
    let word = |at: usize| args.get(at).and_then(|word| word.to_str());
    match (word(1), word(2)) {
        (Some("proxy"), Some("waypoint")) => waypoint(args.into_iter().skip(3), environment),
        // Any words may follow there, and there are no flags.
        (Some("proxy"), _) => Ok(vec!["cairn".into(), "ztunnel".into()]),
        _ => Ok(args),
    }
}

/// Istio's flags become ours; those that are none of Istio's stay, for the parser to judge.
fn waypoint(mut args: impl Iterator<Item = OsString>, environment: &mut Environment) -> Result<Vec<OsString>, UsageError> {
    let mut ours: Vec<OsString> = vec!["cairn".into(), "waypoint".into()];
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy().into_owned();
        let (flag, inline) = text.split_once('=').map_or((text.as_str(), None), |(flag, value)| (flag, Some(value.to_owned())));
        let mut value = || {
            let value = inline.clone().or_else(|| args.next().map(|value| value.to_string_lossy().into_owned()));
            value.ok_or_else(|| UsageError::wrong(format!("{flag}: a value is missing")))
        };
        match flag {
            "--domain" => ours.push(format!("--cluster-domain={}", cluster_domain(&value()?)?).into()),
            // The proxy's own level comes first in the Deployment; the other is of the agent around it.
            "--proxyLogLevel" | "--log_output_level" => {
                if let Some(level) = level(&value()?) {
                    environment.set_missing("RUST_LOG", level.to_owned(), flag);
                }
            }
            "--log_as_json" => ours.push("--log-json".into()),
            "--serviceCluster" | "--proxyComponentLogLevel" => drop(value()?),
            _ => ours.push(arg),
        }
    }
    Ok(ours)
}

/// `NAMESPACE.svc.DOMAIN`
fn cluster_domain(text: &str) -> Result<&str, UsageError> {
    let domain = text.split_once(".svc.").map(|(_, domain)| domain).filter(|domain| !domain.is_empty());
    domain.ok_or_else(|| UsageError::wrong(format!("--domain {text:?}: not of the form NAMESPACE.svc.DOMAIN")))
}

/// The level of everything, in our words. Levels of single parts are of parts that we do not have.
fn level(text: &str) -> Option<&'static str> {
    let simple = text.strip_prefix("default:").or_else(|| text.strip_prefix("all:")).unwrap_or(text);
    match simple {
        "trace" => Some("trace"),
        "debug" => Some("debug"),
        "info" => Some("info"),
        "warning" | "warn" => Some("warn"),
        "error" | "critical" | "fatal" => Some("error"),
        "off" | "none" => Some("off"),
        _ => None,
    }
}
