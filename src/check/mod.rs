//! What is legal but surely wrong in a mesh, and the report that `cairn check` prints.

mod backends;
mod bindings;
mod policies;
mod routes;

#[cfg(test)]
mod tests;

use crate::{
    control::manifest::{Config, Loaded, Located, Owns, load},
    model::{Finding, Mesh, ResourceId, Severity},
};
use std::io::{self, Write};

/// Exit code of `cairn check` when there are errors.
pub const EXIT_ERRORS: u8 = 2;

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// One line for each finding, and a summary.
    Text,
    /// One JSON object: `errors`, `warnings`, `findings`.
    Json,
}

/// Warns of what is legal but surely wrong. `root_namespace` is the one whose policies hold for the
/// whole mesh. What manifests do not own is not missed in them.
pub fn lint(mesh: &Mesh, root_namespace: &str, owns: Owns) -> Vec<Finding> {
    let mut findings = Vec::new();
    routes::lint(mesh, &mut findings);
    backends::lint(mesh, &mut findings);
    if owns == Owns::Everything {
        policies::lint(mesh, root_namespace, &mut findings);
        bindings::lint(mesh, &mut findings);
    }
    findings
}

/// Reads manifests once and finds all that is wrong or probably wrong with them.
pub fn report(config: Config) -> Vec<Located> {
    let (root_namespace, owns) = (config.root_namespace.clone(), config.owns);
    // Leniently, so that resources with broken references are judged as well.
    let Loaded { mesh, mut findings, source } = load(Config { lenient: true, ..config });
    findings.extend(source.locate(lint(&mesh, &root_namespace, owns)));
    findings.sort();
    findings.dedup();
    findings
}

/// Writes a report and returns the exit code.
///
/// # Errors
/// When the output cannot be written.
pub fn write(findings: &[Located], output: Output, to: &mut dyn Write) -> io::Result<u8> {
    let errors = findings.iter().filter(|f| f.is_error()).count();
    let warnings = findings.len() - errors;
    match output {
        Output::Text => {
            for finding in findings {
                writeln!(to, "{finding}")?;
            }
            writeln!(to, "{}, {}", counted(errors, "error"), counted(warnings, "warning"))?;
        }
        Output::Json => {
            let report = serde_json::json!({ "errors": errors, "warnings": warnings, "findings": findings });
            serde_json::to_writer_pretty(&mut *to, &report)?;
            writeln!(to)?;
        }
    }
    Ok(if errors > 0 { EXIT_ERRORS } else { 0 })
}

fn counted(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

fn warning(resource: ResourceId, field: impl Into<String>, message: impl Into<String>) -> Finding {
    Finding { severity: Severity::Warning, resource, field: field.into(), message: message.into() }
}
