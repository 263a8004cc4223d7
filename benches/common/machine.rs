//! What the figures were measured on.

use serde_json::{Map, Value, json};
use std::process::Command;

/// Processor, kernel and build.
pub fn describe() -> Map<String, Value> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).map(|rest| rest.trim_start_matches([' ', '\t', ':']));
    let binary = env!("CARGO_BIN_EXE_cairn");
    let profile = std::path::Path::new(binary).parent().and_then(|dir| dir.file_name()).map(|name| name.to_string_lossy().into_owned());
    let facts = [
        ("cpu", json!(model)),
        ("cores", json!(std::thread::available_parallelism().map_or(0, usize::from))),
        ("kernel", json!(first_line("uname", &["-r"]))),
        ("cairn", json!(first_line(binary, &["--version"]))),
        ("commit", json!(first_line("git", &["describe", "--always", "--dirty"]))),
        ("profile", json!(profile)),
    ];
    facts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// What a program says first, if it can be run.
pub fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).trim().lines().next().map(ToOwned::to_owned);
    text.filter(|line| !line.is_empty())
}
