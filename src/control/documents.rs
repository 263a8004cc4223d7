//! Reads the documents of a file: YAML, or JSON, which is read as YAML.
//!
//! A file is cut at `---` lines first, and each piece is parsed on its own: what a piece says depends
//! on nothing but its text, so that one that did not change need not be parsed again.
//!
//! Aliases are expanded within a budget; merge keys and duplicate keys are marked as faults of
//! their entry, so that the rest of the document stays readable. A tag of its own makes a value a
//! mapping from the tag to what it is put on; who does not expect tags does not read them.

use super::yaml::{Broken, Entry, Node, Position, Value};
use memchr::memmem;
use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde_json::Number;
use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Deepest nesting of a document: far above any Kubernetes type, far below our stack.
const MAX_DEPTH: usize = 100;
/// Values that aliases may add to a document, against "billion laughs".
const MAX_EXPANDED: usize = 100_000;
/// Largest file: etcd refuses objects above 1.5 MiB, and a file may hold many.
pub(super) const MAX_BYTES: usize = 32 << 20;

/// Cuts a file before every line that starts a document, which YAML reserves for that.
pub(super) fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (piece, after) = rest.split_at(piece_end(rest));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Where the next document starts.
fn piece_end(bytes: &[u8]) -> usize {
    let is_marker = |at: &usize| bytes.get(at + 4).is_none_or(u8::is_ascii_whitespace);
    memmem::find_iter(bytes, b"\n---").find(is_marker).map_or(bytes.len(), |at| at + 1)
}

/// Only comments, directives and document marks.
pub(super) fn is_blank(piece: &[u8]) -> bool {
    piece.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).all(|line| matches!(line, b"" | b"---" | b"...") || matches!(line[0], b'#' | b'%'))
}

/// Reads the documents of a piece; places count from its first line. A broken document does not
/// hide those before it.
pub(super) fn documents(piece: &[u8]) -> Vec<Result<Node, Broken>> {
    tagged(piece, &[])
}

/// The same, where these tags have a meaning: `!Tag value` is read as a mapping from `!Tag` to the
/// value.
pub(super) fn tagged(piece: &[u8], tags: &'static [&'static str]) -> Vec<Result<Node, Broken>> {
    let text = match std::str::from_utf8(piece) {
        Ok(text) => text,
        Err(error) => {
            let good = &piece[..error.valid_up_to()];
            let line_start = good.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
            let line = 1 + good.iter().filter(|b| **b == b'\n').count();
            let column = 1 + String::from_utf8_lossy(&good[line_start..]).chars().count();
            let text = String::from_utf8_lossy(piece).into_owned();
            return vec![Err(Broken { at: place(line, column), message: "not UTF-8".into(), text })];
        }
    };
    // JSON may be indented with tabs, which YAML forbids; inside its strings they cannot stand.
    let body = text.trim_start_matches("---").trim_start();
    let text = if body.starts_with(['{', '[']) { Cow::Owned(text.replace('\t', " ")) } else { Cow::Borrowed(text) };
    // The parser holds a few `unreachable!`s; a file must never be able to end this process.
    let parsed = catch_unwind(AssertUnwindSafe(|| parse(&text, tags)));
    parsed.unwrap_or_else(|_| {
        let at = Position { line: 1, column: 1 };
        vec![Err(Broken { at, message: "not readable as YAML".into(), text: text.clone().into_owned() })]
    })
}

/// Reads the one YAML or JSON document of a text, which need not be a manifest, without its places;
/// null when it says nothing.
///
/// # Errors
/// When it cannot be read, or there are several; with the place.
pub fn parse_document(text: &str) -> Result<serde_json::Value, String> {
    match &documents(text.as_bytes())[..] {
        [] => Ok(serde_json::Value::Null),
        [Ok(node)] => Ok(node.json()),
        [Err(broken), ..] => Err(format!("line {}, column {}: {}", broken.at.line, broken.at.column, broken.message)),
        [Ok(_), ..] => Err("more than one document".to_owned()),
    }
}

/// Files are far below 4 GiB.
fn place(line: usize, column: usize) -> Position {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Position { line: number(line), column: number(column) }
}

fn parse(text: &str, tags: &'static [&'static str]) -> Vec<Result<Node, Broken>> {
    let mut parser = Parser::new_from_str(text);
    let mut builder = Builder { tags, ..Builder::default() };
    while let Some(next) = parser.next_event() {
        let step = match next {
            Ok((event, span)) => builder.take(event, span),
            Err(error) => {
                let mark = error.marker();
                Err((place(mark.line(), mark.col() + 1), error.info().to_owned()))
            }
        };
        if let Err((at, message)) = step {
            builder.documents.push(Err(Broken { at, message, text: text.to_owned() }));
            break;
        }
    }
    builder.documents
}

type Step<T> = Result<T, (Position, String)>;

/// Turns the parser's events into trees.
#[derive(Default)]
struct Builder {
    /// Those that have a meaning, with their `!`.
    tags: &'static [&'static str],
    documents: Vec<Result<Node, Broken>>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    expanded: usize,
}

/// A collection whose end has not come yet.
struct Open {
    at: Position,
    anchor: usize,
    tag: Option<&'static str>,
    items: Items,
}

enum Items {
    List(Vec<Node>),
    /// Entries, and the key whose value comes next.
    Map(Vec<Entry>, Option<(String, Position, Option<&'static str>)>),
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Step<()> {
        let at = place(span.start.line(), span.start.col() + 1);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                (self.anchors, self.expanded) = (HashMap::new(), 0);
                Ok(())
            }
            Event::Alias(id) => self.alias(id, at),
            Event::Scalar(text, style, anchor, tag) => {
                if let Some(pending) = self.awaits_key() {
                    let fault = (text == "<<" && style == ScalarStyle::Plain).then_some("merge keys are not supported");
                    *pending = Some((text.into_owned(), at, fault));
                    return Ok(());
                }
                let own = self.own_tag(tag.as_deref());
                let value = match own {
                    Some(_) if text.is_empty() && style == ScalarStyle::Plain => Value::Null,
                    // Who puts a tag on it says that it is no number.
                    Some(_) => Value::Text(text.into_owned()),
                    None => scalar(text, style, tag.as_deref()).ok_or_else(|| (at, self.unknown_tag()))?,
                };
                self.place(under(own, Node { at, value }), anchor)
            }
            Event::SequenceStart(anchor, tag) => self.start(at, anchor, tag.as_deref(), Items::List(Vec::new())),
            Event::MappingStart(anchor, tag) => self.start(at, anchor, tag.as_deref(), Items::Map(Vec::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => self.end(at),
        }
    }

    /// The slot for a key, if the innermost mapping waits for one.
    fn awaits_key(&mut self) -> Option<&mut Option<(String, Position, Option<&'static str>)>> {
        match &mut self.open.last_mut()?.items {
            Items::Map(_, pending) if pending.is_none() => Some(pending),
            Items::Map(..) | Items::List(_) => None,
        }
    }

    /// A tag that has a meaning.
    fn own_tag(&self, tag: Option<&Tag>) -> Option<&'static str> {
        let tag = tag.filter(|tag| tag.handle == "!")?;
        self.tags.iter().copied().find(|own| own.strip_prefix('!') == Some(tag.suffix.as_str()))
    }

    fn unknown_tag(&self) -> String {
        match self.tags {
            [] => "tags are not supported".into(),
            known => format!("unknown tag; known are {}", known.join(", ")),
        }
    }

    fn start(&mut self, at: Position, anchor: usize, tag: Option<&Tag>, items: Items) -> Step<()> {
        if self.awaits_key().is_some() {
            return Err((at, "a key must be text".into()));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err((at, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let own = self.own_tag(tag);
        if own.is_none() && tag.is_some_and(|t| !t.is_yaml_core_schema() || !matches!(t.suffix.as_str(), "map" | "seq")) {
            return Err((at, self.unknown_tag()));
        }
        self.open.push(Open { at, anchor, tag: own, items });
        Ok(())
    }

    fn end(&mut self, at: Position) -> Step<()> {
        let Some(open) = self.open.pop() else { return Err((at, "end without a start".into())) };
        let value = match open.items {
            Items::List(items) => Value::List(items),
            Items::Map(mut entries, _) => {
                mark_duplicates(&mut entries);
                Value::Map(entries)
            }
        };
        self.place(under(open.tag, Node { at: open.at, value }), open.anchor)
    }

    fn alias(&mut self, id: usize, at: Position) -> Step<()> {
        if self.awaits_key().is_some() {
            return Err((at, "a key must be text".into()));
        }
        let Some(node) = self.anchors.get(&id).cloned() else { return Err((at, "alias of an unfinished anchor".into())) };
        self.expanded += node.weight();
        if self.expanded > MAX_EXPANDED {
            return Err((at, format!("aliases expand to more than {MAX_EXPANDED} values")));
        }
        if self.open.len() + node.depth() > MAX_DEPTH {
            return Err((at, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.place(node, 0)
    }

    fn place(&mut self, node: Node, anchor: usize) -> Step<()> {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.items) {
            None => self.documents.push(Ok(node)),
            Some(Items::List(items)) => items.push(node),
            Some(Items::Map(entries, pending)) => match pending.take() {
                Some((key, at, fault)) => entries.push(Entry { key, at, node, fault }),
                None => return Err((node.at, "a key must be text".into())),
            },
        }
        Ok(())
    }
}

/// What a tag makes of a value.
fn under(tag: Option<&'static str>, node: Node) -> Node {
    let Some(tag) = tag else { return node };
    let at = node.at;
    Node { at, value: Value::Map(vec![Entry { key: tag.to_owned(), at, node, fault: None }]) }
}

fn mark_duplicates(entries: &mut [Entry]) {
    let mut seen = HashSet::with_capacity(entries.len());
    for entry in entries {
        if !seen.insert(entry.key.clone()) {
            entry.fault = Some("duplicate key");
        }
    }
}

/// YAML 1.2 core schema; quoted scalars are text. `None`: the tag has no meaning.
fn scalar(text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>) -> Option<Value> {
    match tag.map(|tag| (tag.is_yaml_core_schema(), tag.suffix.as_str())) {
        None if style == ScalarStyle::Plain => Some(plain(&text)),
        None | Some((true, "str")) => Some(Value::Text(text.into_owned())),
        Some((true, "int" | "float" | "bool" | "null")) => Some(plain(&text)),
        Some(_) => None,
    }
}

fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => number(text).map_or_else(|| Value::Text(text.to_owned()), Value::Number),
    }
}

fn number(text: &str) -> Option<Number> {
    if let Some(hex) = text.strip_prefix("0x") {
        return plain_digits(hex).then(|| u64::from_str_radix(hex, 16).ok()).flatten().map(Number::from);
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return plain_digits(octal).then(|| u64::from_str_radix(octal, 8).ok()).flatten().map(Number::from);
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let starts = unsigned.bytes().next().is_some_and(|b| b.is_ascii_digit() || b == b'.');
    if !starts || !unsigned.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'-' | b'+')) {
        return None;
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    let whole = text.parse::<u64>().map(Number::from).or_else(|_| text.parse::<i64>().map(Number::from)).ok();
    whole.or_else(|| text.parse::<f64>().ok().and_then(Number::from_f64))
}

fn plain_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit())
}
