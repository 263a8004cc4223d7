//! Path templates: `/users/{*}/files/{**}`.

use crate::model::{Name, PathTemplate, Segment};

const ONE: &str = "{*}";
const REST: &str = "{**}";

/// Reads Istio's notation. `{*}` is one segment that is not empty, `{**}` any remainder; nothing but
/// literals may follow `{**}`. A trailing `/` is kept and must be there in the path.
///
/// # Errors
/// What is wrong, in words for the author of the policy.
pub fn parse_template(text: &str) -> Result<PathTemplate, String> {
    let Some(path) = text.strip_prefix('/') else { return Err(format!("path template {text:?} does not start with a slash")) };
    let last = path.split('/').count() - 1;
    let mut after_rest = false;
    let mut segments = Vec::with_capacity(last + 1);
    for (index, part) in path.split('/').enumerate() {
        let segment = match part {
            ONE | REST if after_rest => return Err(format!("nothing but text may follow {REST} in path template {text:?}")),
            ONE => Segment::Any,
            REST => Segment::Rest,
            "" if index == last && index > 0 => Segment::Literal("".into()),
            literal => Segment::Literal(parse_literal(literal, text)?),
        };
        after_rest |= segment == Segment::Rest;
        segments.push(segment);
    }
    Ok(PathTemplate { segments })
}

fn parse_literal(literal: &str, text: &str) -> Result<Name, String> {
    if literal.is_empty() {
        return Err(format!("path template {text:?} has an empty segment"));
    }
    if literal.contains(['{', '}']) {
        return Err(format!("a segment of path template {text:?} is neither text nor {ONE} nor {REST}: {literal:?}"));
    }
    // pchar of RFC 3986 without `*`, which would look like the plain notation's wildcard.
    let pchar = |c: char| c.is_ascii_alphanumeric() || "-._~%!$&'()+,;:@=".contains(c);
    if !literal.chars().all(pchar) {
        return Err(format!("a segment of path template {text:?} holds a character that is not allowed: {literal:?}"));
    }
    Ok(literal.into())
}

/// A template, ready to compare.
#[derive(Debug)]
pub(super) struct TemplateMatcher {
    before: Box<[Segment]>,
    // What must end the path if there is a `{**}`: the literals after it, each behind its slash.
    after: Option<String>,
}

impl TemplateMatcher {
    pub(super) fn new(template: &PathTemplate) -> Self {
        let segments = &template.segments;
        let Some(rest) = segments.iter().position(|segment| *segment == Segment::Rest) else {
            return Self { before: segments.clone().into(), after: None };
        };
        let (before, after) = segments.split_at(rest);
        let literal = |segment: &Segment| match segment {
            Segment::Literal(text) => Some(format!("/{text}")),
            // `parse_template` lets none stand here.
            Segment::Any | Segment::Rest => None,
        };
        Self { before: before.into(), after: Some(after.iter().filter_map(literal).collect()) }
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        let mut rest = Some(path);
        for segment in &self.before {
            let Some(path) = rest.and_then(|rest| rest.strip_prefix('/')) else { return false };
            let (part, after) = path.find('/').map_or((path, None), |slash| (&path[..slash], Some(&path[slash..])));
            let fits = match segment {
                Segment::Literal(text) => **text == *part,
                Segment::Any => !part.is_empty(),
                Segment::Rest => false,
            };
            if !fits {
                return false;
            }
            rest = after;
        }
        match &self.after {
            None => rest.is_none(),
            Some(end) => rest.and_then(|rest| rest.strip_prefix('/')).is_some_and(|rest| rest.ends_with(end.as_str())),
        }
    }
}
