//! `cairn certs`

use super::AppError;
use crate::{cert::DevCa, model::Identity, settings::CertsCommand};
use std::io::Write;

/// Makes or extends a development CA and writes certificates.
///
/// # Errors
/// When an identity is not valid or a file cannot be written.
pub fn certs(command: &CertsCommand, out: &mut dyn Write) -> Result<(), AppError> {
    let identity = |account: &crate::model::ResourceName| Identity::new(&command.trust_domain, &account.namespace, &account.name);
    let identities = command.accounts.iter().map(identity).collect::<Result<Vec<_>, _>>().map_err(AppError::config)?;
    DevCa::write_directory(&command.out, &command.trust_domain, &identities, command.ttl).map_err(AppError::config)?;
    for identity in &identities {
        let directory = command.out.join(identity.namespace()).join(identity.service_account());
        writeln!(out, "{identity}  {}", directory.display()).map_err(AppError::run)?;
    }
    Ok(())
}
