//! What the figures were measured on.

use super::{Options, proxy};
use serde_json::{Value, json};
use std::process::Command;

pub fn describe(options: &Options) -> Value {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).map(|rest| rest.trim_start_matches([' ', '\t', ':']));
    let binary = env!("CARGO_BIN_EXE_cairn");
    let profile = std::path::Path::new(binary).parent().and_then(|dir| dir.file_name()).map(|name| name.to_string_lossy().into_owned());
    json!({
        "cpu": model,
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": first_line("uname", &["-r"]),
        "cairn": first_line(binary, &["--version"]),
        "commit": first_line("git", &["describe", "--always", "--dirty"]),
        "profile": profile,
        "envoy": envoy_version(),
        "servicesOfTheLargeMesh": options.services,
        "rounds": options.rounds,
        "seconds": options.seconds,
    })
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
    let line = first_line(&proxy::envoy()?.display().to_string(), &["--version"])?;
    // `PATH  version: COMMIT/VERSION/…`
    let (_, version) = line.split_once("version: ")?;
    version.split('/').nth(1).map(ToOwned::to_owned)
}

fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).trim().lines().next().map(ToOwned::to_owned);
    text.filter(|line| !line.is_empty())
}
