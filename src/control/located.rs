//! A finding with its place in a file, as users read it.

use super::yaml::Position;
use crate::model::Severity;
use serde::{Serialize, Serializer};
use std::fmt;

/// A [`Finding`](crate::model::Finding) with its place in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Located {
    /// The file, as the path given by the user leads to it.
    pub file: String,
    /// Line, from 1; 0 when the file itself is meant.
    pub line: usize,
    /// Column, from 1; 0 when the file itself is meant.
    pub column: usize,
    /// Error or warning.
    #[serde(serialize_with = "severity_word")]
    pub severity: Severity,
    /// Kind, namespace and name; empty when no resource could be read.
    pub resource: String,
    /// Path of the field; empty for the whole resource.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

impl Located {
    pub(super) fn new(file: String, at: Position, severity: Severity, resource: String, field: String, message: String) -> Self {
        Self { file, line: at.line as usize, column: at.column as usize, severity, resource, field, message }
    }

    /// Whether the resource is rejected for it.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

// Serde hands fields over by reference.
fn severity_word<S: Serializer>(severity: &Severity, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(word(*severity))
}

impl fmt::Display for Located {
    /// `FILE:LINE:COL: error: HTTPRoute bookinfo/reviews: spec.rules[0].x: message`; what is not
    /// known is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}: ", word(self.severity))?;
        for part in [&self.resource, &self.field] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.message)
    }
}
