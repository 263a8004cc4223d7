//! From arguments and environment to a [`Cli`].

use super::{Cli, Command, Environment, given::Given, image};
use clap::{
    Arg, CommandFactory as _, FromArgMatches as _,
    builder::Resettable,
    error::{ContextKind, ContextValue, ErrorKind},
};
use std::{error::Error as _, ffi::OsString};

/// Why there is nothing to run.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// The arguments are wrong, or only help was asked for.
    #[error("{0}")]
    Arguments(clap::Error),
    /// The environment is wrong; the text names the variable.
    #[error("{0}")]
    Environment(String),
}

impl UsageError {
    pub(super) fn wrong(text: impl Into<String>) -> Self {
        Self::Environment(text.into())
    }

    pub(super) fn variable(origin: &str, value: &str, reason: impl AsRef<str>) -> Self {
        // An inlined file is not repeated whole.
        let value: String = value.chars().take(128).collect();
        Self::Environment(format!("{origin}={value:?}: {}", reason.as_ref()))
    }
}

impl Cli {
    /// Reads a command line, the program's name first. What a flag does not say, the variable does
    /// that its help names; `proxy ztunnel` and `proxy waypoint` are what Istio's images are called
    /// with.
    ///
    /// # Errors
    /// When an argument or a variable is wrong, or asks for what there is not.
    pub fn read<I, T>(args: I, environment: &Environment) -> Result<Self, UsageError>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        let mut environment = environment.clone();
        let args = image::translate(args.into_iter().map(Into::into).collect(), &mut environment)?;
        // What only one mode reads must not hinder the other.
        let environment = match args.get(1).and_then(|word| word.to_str()) {
            Some("ztunnel") => environment.of_ztunnel()?,
            Some("waypoint") => environment.of_waypoint()?,
            _ => environment,
        };
        let (mut cli, given) = parse(&args, &environment)?;
        match &mut cli.command {
            Command::Ztunnel(command) => command.complete(&environment, &given)?,
            Command::Waypoint(command) => command.complete(&environment, &given)?,
            Command::Demo(_) | Command::Check(_) | Command::Certs(_) => {}
        }
        Ok(cli)
    }
}

fn parse(args: &[OsString], environment: &Environment) -> Result<(Cli, Given), UsageError> {
    let mut named = Cli::command();
    named.build();
    let command = Cli::command().mut_subcommands(|sub| sub.mut_args(|arg| told(arg, environment)));
    let mut matches = command.try_get_matches_from(args).map_err(|error| blame(error, &named, environment))?;
    let given = Given::of(&matches);
    let cli = Cli::from_arg_matches_mut(&mut matches).map_err(|error| UsageError::Arguments(error.format(&mut Cli::command())))?;
    Ok((cli, given))
}

/// The flag with its variable's value as the default. Clap would read the process's environment,
/// which a test cannot have for itself, and would not say which variable is wrong.
fn told(arg: Arg, environment: &Environment) -> Arg {
    let Some(name) = variable(&arg) else { return arg };
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let arg = arg.env(Resettable::Reset).help(format!("{help} [env: {name}]"));
    match environment.get(&name) {
        Some(value) => arg.default_value(value.to_owned()).required(false),
        None => arg,
    }
}

fn variable(arg: &Arg) -> Option<String> {
    arg.get_env().map(|name| name.to_string_lossy().into_owned())
}

/// Flags whose values are not repeated, however wrong: they may be secrets.
const SECRET: [&str; 2] = ["--xds-header", "--ca-header"];

/// A wrong value that stood in a variable is blamed on the variable.
fn blame(error: clap::Error, command: &clap::Command, environment: &Environment) -> UsageError {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (Some(flag), Some(value)) = (text(ContextKind::InvalidArg), text(ContextKind::InvalidValue)) else {
        return UsageError::Arguments(error);
    };
    if let Some(source) = error.source().filter(|_| SECRET.iter().any(|secret| flag.starts_with(secret))) {
        return UsageError::wrong(format!("{flag}: {source}"));
    }
    let guilty = command.get_subcommands().flat_map(|sub| sub.get_arguments()).find(|arg| arg.to_string() == flag);
    let variable = guilty.and_then(variable).filter(|name| environment.get(name) == Some(value));
    let Some(variable) = variable else { return UsageError::Arguments(error) };
    let reason = match (error.kind(), error.source(), error.get(ContextKind::ValidValue)) {
        (ErrorKind::InvalidValue, _, Some(ContextValue::Strings(valid))) => format!("not one of {}", valid.join(", ")),
        (_, Some(source), _) => source.to_string(),
        (..) => "not a possible value".to_owned(),
    };
    UsageError::variable(environment.origin(&variable), value, reason)
}
