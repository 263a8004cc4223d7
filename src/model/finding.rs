//! What is wrong, or probably wrong, with a resource.

use super::ResourceId;

/// How bad a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Legal, but surely not what was meant.
    Warning,
    /// The resource is rejected.
    Error,
}

/// A judgement about one field of one resource, without the place in a file: the source that read
/// the resource knows where the field stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Error or warning.
    pub severity: Severity,
    /// The resource.
    pub resource: ResourceId,
    /// Path of the field as in `spec.rules[0].matches[1].path.value`; empty for the whole resource.
    pub field: String,
    /// What is wrong, in lower case and without a full stop.
    pub message: String,
}
