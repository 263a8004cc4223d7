//! What the figures were measured on.

use super::{Options, facts, proxy};
use serde_json::{Value, json};

pub fn describe(options: &Options) -> Value {
    let mut machine = facts::describe();
    machine.insert("envoy".into(), json!(envoy_version()));
    machine.insert("servicesOfTheLargeMesh".into(), json!(options.services));
    machine.insert("rounds".into(), json!(options.rounds));
    machine.insert("seconds".into(), json!(options.seconds));
    machine.into()
}

/// The same as a sentence.
pub fn sentence(machine: &Value) -> String {
    let text = |key: &str| machine[key].as_str().unwrap_or("unknown").to_owned();
    format!(
        "{}, {} cores shared by load generator, proxy and workload; Linux {}. {} ({}, profile {}); Envoy {}. \
         Medians of up to {} rounds of {} s in turns; the large mesh has {} services.",
        text("cpu"),
        machine["cores"],
        text("kernel"),
        text("cairn"),
        text("commit"),
        text("profile"),
        text("envoy"),
        machine["rounds"],
        machine["seconds"],
        machine["servicesOfTheLargeMesh"],
    )
}

fn envoy_version() -> Option<String> {
    let line = facts::first_line(&proxy::envoy()?.display().to_string(), &["--version"])?;
    // `PATH  version: COMMIT/VERSION/…`
    let (_, version) = line.split_once("version: ")?;
    version.split('/').nth(1).map(ToOwned::to_owned)
}
