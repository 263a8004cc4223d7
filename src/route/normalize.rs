//! One spelling for each path, so that policy, routes and workload judge the same thing
//! (`meshConfig.pathNormalization`; RFC 3986, section 6.2.2).
//!
//! The workload must be sent the normalised path, not the one received: otherwise it may read as
//! another resource what policy has let pass.

use std::{borrow::Cow, str::FromStr};

/// How much of a path is normalised: `meshConfig.pathNormalization.normalization`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum PathNormalization {
    /// `NONE`: the path stays as received. Policies on paths can be evaded; for workloads that need
    /// the raw spelling.
    None,
    /// `BASE`, `DEFAULT`: dot segments are removed, `\` becomes `/`, escapes of unreserved
    /// characters are decoded and the digits of the others upper-cased.
    #[default]
    Base,
    /// `MERGE_SLASHES`: and then several slashes become one.
    MergeSlashes,
    /// `DECODE_AND_MERGE_SLASHES`: and before that `%2F` and `%5C` are slashes too.
    DecodeAndMergeSlashes,
}

/// A text that is none of Istio's normalizations.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown path normalization {0:?}: expected NONE, BASE, DEFAULT, MERGE_SLASHES or DECODE_AND_MERGE_SLASHES")]
pub struct UnknownNormalization(String);

impl FromStr for PathNormalization {
    type Err = UnknownNormalization;

    fn from_str(text: &str) -> Result<Self, UnknownNormalization> {
        match text {
            "NONE" => Ok(Self::None),
            "BASE" | "DEFAULT" => Ok(Self::Base),
            "MERGE_SLASHES" => Ok(Self::MergeSlashes),
            "DECODE_AND_MERGE_SLASHES" => Ok(Self::DecodeAndMergeSlashes),
            _ => Err(UnknownNormalization(text.chars().take(64).collect())),
        }
    }
}

/// Why a path is refused, with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not start with `/`.
    #[error("path does not start with a slash")]
    Relative,
    /// `%` without two hexadecimal digits.
    #[error("path holds a percent sign that is no escape")]
    Escape,
    /// A control character, or an escaped NUL.
    #[error("path holds a control character")]
    Control,
    /// `#` or `?`: more than a path. Policy would judge something else than the workload reads.
    #[error("path holds a fragment or a query")]
    Delimiter,
}

/// The one spelling of `path` (which has no query) under `mode`. Idempotent, and borrowed when
/// nothing changes.
///
/// Not touched: path parameters (`;`), escapes of reserved characters, `%2F` and `%5C` unless the
/// mode says so. Characters outside ASCII become escapes, as Envoy does: policies and routes spell
/// them so.
///
/// # Errors
/// When the path is none, see [`PathError`]. In mode `None` escapes are not looked at.
pub fn normalize(path: &str, mode: PathNormalization) -> Result<Cow<'_, str>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::Relative);
    }
    if path.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(PathError::Control);
    }
    if path.bytes().any(|byte| matches!(byte, b'#' | b'?')) {
        return Err(PathError::Delimiter);
    }
    if mode == PathNormalization::None || is_plain(path, mode) {
        return Ok(Cow::Borrowed(path));
    }
    let spelled = respell(path, mode == PathNormalization::DecodeAndMergeSlashes)?;
    // Dots before slashes, as Envoy does: in `/a//../b` the dots take back the empty segment.
    let resolved = remove_dot_segments(&spelled);
    let normal = match mode {
        PathNormalization::None | PathNormalization::Base => resolved,
        PathNormalization::MergeSlashes | PathNormalization::DecodeAndMergeSlashes => merge_slashes(&resolved),
    };
    Ok(if normal == path { Cow::Borrowed(path) } else { Cow::Owned(normal) })
}

/// Whether nothing in the path can need work; most paths are so.
fn is_plain(path: &str, mode: PathNormalization) -> bool {
    let merges = matches!(mode, PathNormalization::MergeSlashes | PathNormalization::DecodeAndMergeSlashes);
    let mut previous = 0;
    path.bytes().all(|byte| {
        let pair = (previous, byte);
        previous = byte;
        byte.is_ascii() && !matches!(byte, b'%' | b'\\') && pair != (b'/', b'.') && !(merges && pair == (b'/', b'/'))
    })
}

/// Spells every character in its one way: escapes decoded or upper-cased, `\` as `/`.
fn respell(path: &str, decode_slashes: bool) -> Result<String, PathError> {
    let mut rest = path.as_bytes();
    let mut spelled = String::with_capacity(rest.len());
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match byte {
            b'%' => {
                let [high, low, after @ ..] = tail else { return Err(PathError::Escape) };
                if !high.is_ascii_hexdigit() || !low.is_ascii_hexdigit() {
                    return Err(PathError::Escape);
                }
                respell_escape(byte_of(*high, *low), decode_slashes, &mut spelled)?;
                rest = after;
            }
            b'\\' => spelled.push('/'),
            byte if byte.is_ascii() => spelled.push(char::from(*byte)),
            byte => push_escape(*byte, &mut spelled),
        }
    }
    Ok(spelled)
}

fn respell_escape(byte: u8, decode_slashes: bool, spelled: &mut String) -> Result<(), PathError> {
    match byte {
        0 => return Err(PathError::Control),
        b'/' | b'\\' if decode_slashes => spelled.push('/'),
        b'-' | b'.' | b'_' | b'~' => spelled.push(char::from(byte)),
        byte if byte.is_ascii_alphanumeric() => spelled.push(char::from(byte)),
        byte => push_escape(byte, spelled),
    }
    Ok(())
}

fn push_escape(byte: u8, spelled: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 0xF)]);
    spelled.extend(['%', digit(byte >> 4), digit(byte)]);
}

/// The byte that two hexadecimal digits spell.
pub(super) fn byte_of(high: u8, low: u8) -> u8 {
    let value = |digit: u8| char::from(digit).to_digit(16).unwrap_or_default() as u8;
    value(high) << 4 | value(low)
}

/// RFC 3986, section 5.2.4, for a path that starts with `/`.
fn remove_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            segment => {
                kept.push(segment);
                continue;
            }
        }
        // A path that ends in dots names a directory.
        if last {
            kept.push("");
        }
    }
    let mut whole = String::with_capacity(path.len());
    for segment in kept {
        whole.push('/');
        whole.push_str(segment);
    }
    whole
}

fn merge_slashes(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !merged.ends_with('/') {
            merged.push(character);
        }
    }
    merged
}

#[cfg(test)]
mod tests;
