//! `cairn check`

use super::AppError;
use crate::{check, settings::CheckCommand};
use std::io::Write;

/// Prints what is wrong with manifests; the exit status.
///
/// # Errors
/// When the report cannot be written.
pub fn check(command: &CheckCommand, out: &mut dyn Write) -> Result<u8, AppError> {
    let findings = check::report(command.names.source(command.paths.clone(), true));
    check::write(&findings, command.output.into(), out).map_err(AppError::run)
}
