//! The findings of one round, each at its place.

use super::{Located, decode::Issue, file::Piece, yaml::Position};
use crate::model::Severity;
use std::{collections::BTreeSet, path::Path};

/// Where something was read, or would be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Home<'f> {
    pub(super) file: &'f Path,
    /// The piece that places count from; none when the file as a whole is meant.
    pub(super) piece: Option<&'f Piece>,
}

impl<'f> Home<'f> {
    /// The file as a whole.
    pub(super) fn file(file: &'f Path) -> Self {
        Self { file, piece: None }
    }

    /// A place of the piece, in the file.
    pub(super) fn place(&self, at: Position) -> Position {
        self.piece.map_or(at, |piece| piece.place(at))
    }
}

/// The findings of one round.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) findings: BTreeSet<Located>,
    /// Files and lines or resources that were rejected.
    pub(super) rejected: BTreeSet<Located>,
}

impl Report {
    pub(super) fn add(&mut self, home: Home<'_>, resource: String, issue: Issue, rejects: bool) {
        let Issue { severity, at, field, message } = issue;
        let located = Located::new(home.file.display().to_string(), home.place(at), severity, resource, field, message);
        if rejects && severity == Severity::Error {
            self.rejected.insert(located.clone());
        }
        self.findings.insert(located);
    }

    pub(super) fn error(&mut self, home: Home<'_>, at: Position, resource: String, message: String) {
        self.add(home, resource, Issue { severity: Severity::Error, at, field: String::new(), message }, true);
    }

    /// What the last round did not find, and how many resources and documents were rejected for it.
    pub(super) fn news(&self, before: &BTreeSet<Located>) -> (Vec<Located>, usize) {
        let fresh: Vec<Located> = self.findings.difference(before).cloned().collect();
        let subject = |l: &Located| (l.file.clone(), l.resource.clone(), if l.resource.is_empty() { l.line } else { 0 });
        let rejected = fresh.iter().filter(|l| self.rejected.contains(l)).map(subject).collect::<BTreeSet<_>>().len();
        (fresh, rejected)
    }
}
