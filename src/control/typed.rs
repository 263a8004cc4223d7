//! From a tree to a type that serde knows, without losing the paths.

use super::yaml::{self, Node};
use serde::de::DeserializeOwned;
use std::fmt::Write as _;

/// What became of a tree.
#[derive(Debug)]
pub(super) struct Typed<T> {
    /// The value, or the path of the field that has the wrong type, and what is wrong.
    pub(super) value: Result<T, (String, String)>,
    /// Paths of the fields that the type does not have, as far as it was read.
    pub(super) unknown: Vec<String>,
}

/// Reads a tree as a type.
pub(super) fn typed<T: DeserializeOwned>(node: &Node) -> Typed<T> {
    let json = node.json();
    let (mut unknown, mut track) = (Vec::new(), serde_path_to_error::Track::new());
    let tracked = serde_path_to_error::Deserializer::new(&json, &mut track);
    let result = serde_ignored::deserialize(tracked, |path| unknown.push(ignored_path(&path)));
    let value = result.map_err(|error: serde_json::Error| (error_path(&track.path()), plain_words(&error.to_string())));
    Typed { value, unknown }
}

fn ignored_path(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", ignored_path(parent)),
        Path::Map { parent, key } => yaml::join(&ignored_path(parent), key),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => ignored_path(parent),
    }
}

fn error_path(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => drop(write!(text, "[{index}]")),
            Segment::Map { key } => text = yaml::join(&text, key),
            // An enum's variant is the value, not a field of its own.
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    text
}

/// Serde's words for what users know by other names.
fn plain_words(message: &str) -> String {
    message.replace("invalid type: map,", "invalid type: mapping,").replace("invalid type: sequence,", "invalid type: list,")
}
