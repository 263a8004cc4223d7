//! Whether a match can never be reached, for warnings about configuration.

use super::{compile_regex, precedence::trimmed};
use crate::model::{PathPattern, RouteMatch, ValueMatch};

/// Whether every request that `later` matches is matched by `earlier` too, so that `later` is dead
/// if `earlier` is asked first. Says `true` only when certain: languages of two different regular
/// expressions are not compared.
pub fn shadows(earlier: &RouteMatch, later: &RouteMatch) -> bool {
    covers_path(&earlier.path, &later.path)
        && earlier.method.as_ref().is_none_or(|method| later.method.as_ref() == Some(method))
        && earlier.headers.iter().all(|wide| later.headers.iter().any(|h| h.name == wide.name && covers(&wide.value, &h.value)))
        && earlier.query.iter().all(|wide| later.query.iter().any(|q| q.name == wide.name && covers(&wide.value, &q.value)))
}

fn covers_path(wide: &PathPattern, narrow: &PathPattern) -> bool {
    match (wide, narrow) {
        (PathPattern::Exact(wide), PathPattern::Exact(narrow)) => wide == narrow,
        (PathPattern::Prefix(wide), PathPattern::Exact(narrow)) => has_prefix(narrow, wide),
        (PathPattern::Prefix(wide), PathPattern::Prefix(narrow)) => has_prefix(trimmed(narrow), wide),
        // Every normalised path starts with a slash, so `/` covers all.
        (PathPattern::Prefix(wide), PathPattern::Regex(_)) => trimmed(wide).is_empty(),
        (PathPattern::Regex(wide), PathPattern::Exact(narrow)) => matches(wide, narrow),
        (PathPattern::Regex(wide), PathPattern::Regex(narrow)) => wide == narrow || covers_all_paths(wide),
        (PathPattern::Regex(wide), PathPattern::Prefix(_)) => covers_all_paths(wide),
        // A prefix has more than one path.
        (PathPattern::Exact(_), PathPattern::Prefix(_) | PathPattern::Regex(_)) => false,
    }
}

// No normalised path holds a line break, which `.` does not match.
fn covers_all_paths(pattern: &str) -> bool {
    matches!(pattern, ".*" | "/.*" | ".+")
}

fn has_prefix(path: &str, prefix: &str) -> bool {
    path.strip_prefix(trimmed(prefix)).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn covers(wide: &ValueMatch, narrow: &ValueMatch) -> bool {
    match (wide, narrow) {
        (ValueMatch::Exact(wide), ValueMatch::Exact(narrow)) | (ValueMatch::Regex(wide), ValueMatch::Regex(narrow)) => wide == narrow,
        (ValueMatch::Regex(wide), ValueMatch::Exact(narrow)) => matches(wide, narrow),
        (ValueMatch::Exact(_), ValueMatch::Regex(_)) => false,
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    compile_regex(pattern).is_ok_and(|regex| regex.is_match(text))
}

#[cfg(test)]
mod tests;
