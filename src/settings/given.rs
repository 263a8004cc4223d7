//! What stood on the command line itself: a flag wins over everything that a variable says.

use clap::{ArgMatches, parser::ValueSource};
use std::collections::BTreeSet;

/// The flags that were given, by the names of their fields.
#[derive(Debug, Default)]
pub(super) struct Given {
    flags: BTreeSet<String>,
}

impl Given {
    /// Those of a subcommand.
    pub(super) fn of(matches: &ArgMatches) -> Self {
        let Some((_, matches)) = matches.subcommand() else { return Self::default() };
        let is_given = |id: &&clap::Id| matches.value_source(id.as_str()) == Some(ValueSource::CommandLine);
        Self { flags: matches.ids().filter(is_given).map(ToString::to_string).collect() }
    }

    /// Whether the flag was given.
    pub(super) fn has(&self, field: &str) -> bool {
        self.flags.contains(field)
    }

    /// The flag as one writes it.
    pub(super) fn flag(field: &str) -> String {
        match field {
            "xds_headers" => "--xds-header".to_owned(),
            "ca_headers" => "--ca-header".to_owned(),
            _ => format!("--{}", field.replace('_', "-")),
        }
    }
}
