//! Finds the places of findings that come when the text has long been decoded and let go: in the
//! files, as far as they still say the same.

use super::{
    Located,
    decode::{self, Object},
    documents,
    file::{ManifestFile, Piece},
    yaml::{self, Node, Position},
};
use crate::model::{Finding, ResourceId};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
};

/// Where an object was found.
type Home<'f> = (&'f Path, usize, &'f Piece, Position);

/// Places each finding at its field; at its object, when the file has changed since it was read.
pub(super) fn locate(files: &BTreeMap<PathBuf, ManifestFile>, findings: Vec<Finding>) -> Vec<Located> {
    let homes = homes(files, &findings);
    let mut places: Vec<Position> = vec![Position::default(); findings.len()];
    // File by file and piece by piece, so that each is read once and one tree is held at a time.
    let mut order: Vec<(Home<'_>, usize)> = findings.iter().enumerate().filter_map(|(i, f)| Some((*homes.get(&f.resource)?, i))).collect();
    order.sort_by_key(|((path, piece, ..), i)| (*path, *piece, *i));
    for in_file in order.chunk_by(|(a, _), (b, _)| a.0 == b.0) {
        let bytes = in_file.first().and_then(|((path, ..), _)| files.get(*path).and_then(|f| f.reread(path))).unwrap_or_default();
        let mut texts = documents::pieces(&bytes).enumerate();
        for in_piece in in_file.chunk_by(|(a, _), (b, _)| a.1 == b.1) {
            let Some(((_, index, piece, _), _)) = in_piece.first() else { continue };
            let text = texts.by_ref().find(|(i, _)| i == index).map(|(_, text)| text).filter(|text| piece.says(text));
            let nodes: Vec<Node> = text.map(documents::documents).unwrap_or_default().into_iter().flatten().collect();
            for ((.., start), i) in in_piece {
                let finding = &findings[*i];
                let node = nodes.iter().find_map(|document| decode::find(document, &finding.resource));
                places[*i] = piece.place(node.map_or(*start, |node| yaml::locate(node, &finding.field)));
            }
        }
    }
    let located = |(finding, at): (Finding, Position)| {
        let file = homes.get(&finding.resource).map(|(path, ..)| path.display().to_string()).unwrap_or_default();
        let (resource, Finding { severity, field, message, .. }) = (finding.resource.to_string(), finding);
        Located::new(file, at, severity, resource, field, message)
    };
    findings.iter().cloned().zip(places).map(located).collect()
}

/// The first object of each id.
fn homes<'f>(files: &'f BTreeMap<PathBuf, ManifestFile>, findings: &[Finding]) -> HashMap<ResourceId, Home<'f>> {
    let wanted: HashSet<&ResourceId> = findings.iter().map(|f| &f.resource).collect();
    let mut homes = HashMap::new();
    for (path, file) in files {
        for (index, piece) in file.pieces.iter().enumerate() {
            for object in &piece.body.objects {
                if let Object::Ours(decoded) = object
                    && wanted.contains(&decoded.id)
                {
                    homes.entry(decoded.id.clone()).or_insert((path.as_path(), index, piece, decoded.at));
                }
            }
        }
    }
    homes
}
