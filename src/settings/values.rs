//! Parsers of single values.

use crate::{control::manifest::parse_duration, model::ResourceName};
use std::time::Duration;

/// `10s`, `500ms`, `1h30m` (GEP-2257).
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "not a duration like 500ms, 10s or 1h30m".to_owned())
}

/// `NAMESPACE/NAME`
pub(super) fn resource_name(text: &str) -> Result<ResourceName, String> {
    match text.split('/').collect::<Vec<_>>()[..] {
        [namespace, name] if !namespace.is_empty() && !name.is_empty() => Ok(ResourceName::new(namespace, name)),
        _ => Err("not of the form NAMESPACE/NAME".to_owned()),
    }
}
