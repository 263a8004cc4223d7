//! A tree of YAML or JSON values that knows where everything stands, and the paths that lead into
//! it. Knows nothing of Kubernetes.

use serde_json::Number;

/// A place in a file, or in a piece of it; both numbers count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Position {
    pub(super) line: u32,
    pub(super) column: u32,
}

/// A value and where it starts.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) value: Value,
}

/// What a [`Node`] holds.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a mapping with its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: Position,
    pub(super) node: Node,
    /// Why the key must not stand here.
    pub(super) fault: Option<&'static str>,
}

/// A document that could not be read.
#[derive(Debug, Clone)]
pub(super) struct Broken {
    pub(super) at: Position,
    pub(super) message: String,
    /// What it said, as far as it is text.
    pub(super) text: String,
}

impl Node {
    /// The value of a key of a mapping.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|e| e.key == key).map(|e| &e.node),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::List(_) => None,
        }
    }

    /// The text, if it is one.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// The tree without places. Of a duplicate key the first value counts.
    pub(super) fn json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(b) => (*b).into(),
            Value::Number(n) => n.clone().into(),
            Value::Text(t) => t.clone().into(),
            Value::List(items) => items.iter().map(Self::json).collect(),
            Value::Map(entries) => {
                let mut map = serde_json::Map::with_capacity(entries.len());
                for entry in entries {
                    map.entry(entry.key.as_str()).or_insert_with(|| entry.node.json());
                }
                serde_json::Value::Object(map)
            }
        }
    }

    fn is_collection(&self) -> bool {
        matches!(self.value, Value::List(_) | Value::Map(_))
    }

    /// How many values it is made of.
    pub(super) fn weight(&self) -> usize {
        1 + match &self.value {
            Value::List(items) => items.iter().map(Self::weight).sum(),
            Value::Map(entries) => entries.iter().map(|e| e.node.weight()).sum(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => 0,
        }
    }

    /// How many levels it has.
    pub(super) fn depth(&self) -> usize {
        1 + match &self.value {
            Value::List(items) => items.iter().map(Self::depth).max().unwrap_or(0),
            Value::Map(entries) => entries.iter().map(|e| e.node.depth()).max().unwrap_or(0),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => 0,
        }
    }
}

/// Where the field that a path names stands; as much of the path as exists is followed. Scalars are
/// pointed at themselves, collections at their key.
pub(super) fn locate(root: &Node, field: &str) -> Position {
    walk(root, field, |entry| if entry.node.is_collection() { entry.at } else { entry.node.at })
}

/// Where the key that a path names stands, as opposed to its value.
pub(super) fn locate_key(root: &Node, field: &str) -> Position {
    walk(root, field, |entry| entry.at)
}

fn walk(root: &Node, field: &str, entry_at: impl Fn(&Entry) -> Position) -> Position {
    let (mut node, mut at) = (root, root.at);
    for step in steps(field) {
        let found = match (&node.value, step) {
            (Value::Map(entries), PathStep::Key(key)) => entries.iter().find(|e| e.key == key).map(|e| (&e.node, entry_at(e))),
            (Value::List(items), PathStep::Index(index)) => items.get(index).map(|n| (n, n.at)),
            (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::List(_) | Value::Map(_), _) => None,
        };
        let Some((next, next_at)) = found else { break };
        (node, at) = (next, next_at);
    }
    at
}

enum PathStep<'a> {
    Key(&'a str),
    Index(usize),
}

/// Cuts `spec.rules[0].labels["istio.io/x"]` into its steps.
fn steps(field: &str) -> Vec<PathStep<'_>> {
    let (mut steps, mut rest) = (Vec::new(), field);
    while !rest.is_empty() {
        if let Some((key, after)) = rest.strip_prefix("[\"").and_then(|r| r.split_once("\"]")) {
            steps.push(PathStep::Key(key));
            rest = after;
        } else if let Some((index, after)) = rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            let Ok(index) = index.parse() else { break };
            steps.push(PathStep::Index(index));
            rest = after;
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            if end > 0 {
                steps.push(PathStep::Key(&rest[..end]));
            }
            rest = &rest[end.max(usize::from(rest.starts_with('[')))..];
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
    }
    steps
}

/// Appends a key to a path, quoted when it is no plain word.
pub(super) fn join(path: &str, key: &str) -> String {
    if key.is_empty() || key.contains(['.', '[', ']', '/', '"', ' ']) {
        format!("{path}[\"{key}\"]")
    } else if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// Visits every entry that must not stand where it stands, with its path.
pub(super) fn faults(node: &Node, path: &str, visit: &mut dyn FnMut(&str, Position, &'static str)) {
    match &node.value {
        Value::Map(entries) => {
            for entry in entries {
                let path = join(path, &entry.key);
                match entry.fault {
                    Some(fault) => visit(&path, entry.at, fault),
                    None => faults(&entry.node, &path, visit),
                }
            }
        }
        Value::List(items) => items.iter().enumerate().for_each(|(i, item)| faults(item, &format!("{path}[{i}]"), visit)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => {}
    }
}
