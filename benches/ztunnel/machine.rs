//! What the figures were measured on.

use super::{Options, facts, node};
use serde_json::{Value, json};

pub fn describe(options: &Options) -> Value {
    let mut machine = facts::describe();
    let other = node::other().map(|path| path.display().to_string());
    let version = other.as_ref().and_then(|path| facts::first_line(path, &["version"]));
    machine.insert("other".into(), json!(other));
    machine.insert("otherVersion".into(), json!(version));
    machine.insert("rounds".into(), json!(options.rounds));
    machine.insert("seconds".into(), json!(options.seconds));
    machine.into()
}

/// The same as a sentence.
pub fn sentence(machine: &Value) -> String {
    let text = |key: &str| machine[key].as_str().unwrap_or("unknown").to_owned();
    let other = match machine["other"].as_str() {
        Some(path) => format!("other: {path} ({})", text("otherVersion")),
        None => "ratios to another ztunnel are not measured: ZTUNNEL_BIN not set".to_owned(),
    };
    format!(
        "{}, {} cores shared by load generator, both proxies and server; Linux {}. {} ({}, profile {}); {other}. \
         Medians of up to {} rounds of {} s in turns.",
        text("cpu"),
        machine["cores"],
        text("kernel"),
        text("cairn"),
        text("commit"),
        text("profile"),
        machine["rounds"],
        machine["seconds"],
    )
}
