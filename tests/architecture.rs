//! Holds the source to its floor plan: imports go down only, every room says what it is for, and no
//! file outgrows a reader. rustc itself accepts any knot of modules in one crate.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The rooms of `src/` by floor. A room imports only from floors below its own.
const FLOORS: &[&[&str]] = &[
    &["model", "proto"],
    &["authz", "balance", "route", "runtime", "telemetry"],
    &["state", "transport"],
    &["cert", "control", "dns", "hbone"],
    &["middleware"],
    &["admin", "check", "waypoint", "ztunnel"],
    &["settings"],
    &["app"],
    &["demo"],
];

/// The crate's two mouths: they name rooms and belong to none.
const ROOTS: [&str; 2] = ["lib", "main"];

/// Files of tests are exempt: tables are long.
const MAX_LINES: usize = 500;

struct Source {
    /// Below `src/`.
    path: PathBuf,
    text: String,
}

impl Source {
    fn room(&self) -> &str {
        let first = self.path.components().next().and_then(|c| c.as_os_str().to_str()).unwrap_or_default();
        first.trim_end_matches(".rs")
    }

    /// How many modules lie between the file's own module and the crate: `model/mod.rs` has 1,
    /// `model/name.rs` 2.
    fn depth(&self) -> usize {
        let parts = self.path.components().count();
        if self.path.file_name().is_some_and(|f| f == "mod.rs") { parts - 1 } else { parts }
    }

    fn is_test(&self) -> bool {
        self.path.file_name().is_some_and(|f| f == "tests.rs") || self.path.components().any(|c| c.as_os_str() == "tests")
    }

    fn code(&self) -> String {
        code_only(&self.text)
    }
}

/// The text without line comments and literals, which may name, open and close anything.
fn code_only(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(c) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(raw) = raw_string(rest) {
            raw
        } else if c == '"' {
            1 + end_of_string(&rest[1..])
        } else if c == '\'' {
            // A lifetime has no second quote right behind its first character.
            let escaped = rest[1..].starts_with('\\');
            let from = rest.char_indices().nth(if escaped { 3 } else { 2 }).map_or(rest.len(), |(at, _)| at);
            if escaped { rest[from..].find('\'').map_or(1, |at| from + at + 1) } else { from + usize::from(rest[from..].starts_with('\'')) }
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        // What looked like a character literal and is none stays code.
        if c == '\'' && !rest[..skip].ends_with('\'') {
            out.push_str(&rest[..skip]);
        }
        rest = &rest[skip..];
    }
    out
}

/// The length of the raw string that `text` begins with.
fn raw_string(text: &str) -> Option<usize> {
    let hashes = text.strip_prefix('r')?.bytes().take_while(|b| *b == b'#').count();
    let body = text[1 + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(2 + hashes + body.find(&end)? + end.len())
}

/// The length up to and including the closing quote.
fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn sources() -> Vec<Source> {
    fn walk(root: &Path, dir: &Path, out: &mut Vec<Source>) {
        for entry in fs::read_dir(dir).expect("src is readable") {
            let path = entry.expect("src is readable").path();
            if path.is_dir() {
                walk(root, &path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("source files are text");
                out.push(Source { path: path.strip_prefix(root).expect("below root").to_owned(), text });
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut out = Vec::new();
    walk(&root, &root, &mut out);
    out.retain(|s| !(s.depth() == 1 && ROOTS.contains(&s.room())));
    assert!(out.len() > FLOORS.len(), "the walk found the source");
    out.sort_by(|a, b| a.path.cmp(&b.path));
    out
}

fn floors() -> BTreeMap<&'static str, usize> {
    FLOORS.iter().enumerate().flat_map(|(floor, rooms)| rooms.iter().map(move |room| (*room, floor))).collect()
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    &text[..end]
}

/// The heads of a `use` tree: `a::b` has `a`, `{a::b, c}` has `a` and `c`.
fn heads(tree: &str) -> Vec<&str> {
    let tree = tree.trim_start();
    if !tree.starts_with('{') {
        return vec![identifier(tree)];
    }
    let (mut out, mut depth, mut at_head) = (Vec::new(), 0, true);
    for (at, c) in tree.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' if depth == 1 => at_head = true,
            c if depth == 1 && at_head && (c.is_alphabetic() || c == '_') => {
                out.push(identifier(&tree[at..]));
                at_head = false;
            }
            _ => {}
        }
    }
    out
}

/// The rooms that code at `depth` modules below the crate names, through `crate::` or through
/// enough `super::` to leave its own room. `mod` blocks inside a file add `super`s of their own, so
/// a chain counts from the innermost block it may stand in.
fn imports(code: &str, depth: usize) -> Vec<String> {
    let mut out = Vec::new();
    for (at, word) in code.match_indices("crate::") {
        if !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            out.extend(heads(&code[at + word.len()..]).into_iter().map(str::to_owned));
        }
    }
    let mut rest = code;
    while let Some(at) = rest.find("super::") {
        let blocks = open_mod_blocks(&code[..code.len() - rest.len() + at]);
        let mut tail = &rest[at..];
        let mut supers = 0;
        while let Some(next) = tail.strip_prefix("super::") {
            supers += 1;
            tail = next;
        }
        if supers >= depth + blocks {
            out.extend(heads(tail).into_iter().map(str::to_owned));
        }
        rest = tail;
    }
    out.sort();
    out.dedup();
    out
}

/// How many `mod name { … }` blocks are open at the end of `code`.
fn open_mod_blocks(code: &str) -> usize {
    let mut blocks = Vec::new();
    let mut statement = String::new();
    for c in code.chars() {
        match c {
            '{' => {
                blocks.push(statement.split_whitespace().rev().nth(1) == Some("mod"));
                statement.clear();
            }
            '}' => {
                blocks.pop();
                statement.clear();
            }
            ';' => statement.clear(),
            c => statement.push(c),
        }
    }
    blocks.into_iter().filter(|is_mod| *is_mod).count()
}

fn assert_none(rule: &str, broken: Vec<String>) {
    assert!(broken.is_empty(), "{rule}\n  {}\n", broken.join("\n  "));
}

#[test]
fn imports_go_down_only() {
    let floors = floors();
    let mut broken = Vec::new();
    for source in sources() {
        let room = source.room();
        let Some(here) = floors.get(room) else { continue };
        for to in imports(&source.code(), source.depth()) {
            match floors.get(to.as_str()) {
                Some(there) if to != room && there >= here => {
                    broken.push(format!("src/{}: {room} (floor {here}) imports {to} (floor {there})", source.path.display()));
                }
                _ => {}
            }
        }
    }
    assert_none("a room may import only from lower floors; take the power as a value, or move the noun down:", broken);
}

#[test]
fn every_room_has_a_floor_and_every_floor_its_rooms() {
    let floors = floors();
    let rooms: Vec<String> = sources().iter().map(|s| s.room().to_owned()).collect();
    let mut broken: Vec<String> =
        rooms.iter().filter(|room| !floors.contains_key(room.as_str())).map(|room| format!("src/{room} is on no floor")).collect();
    broken.dedup();
    broken.extend(floors.keys().filter(|room| !rooms.iter().any(|r| r == *room)).map(|room| format!("{room} is listed but not in src/")));
    assert_none("tests/architecture.rs lists every room of src/ once:", broken);
}

#[test]
fn every_room_says_what_it_is_for() {
    let broken = sources()
        .into_iter()
        .filter(|s| s.path.components().count() == 2 && s.path.ends_with("mod.rs") || s.path.components().count() == 1)
        .filter(|s| !s.text.starts_with("//!"))
        .map(|s| format!("src/{}", s.path.display()))
        .collect();
    assert_none("a room's mod.rs begins with a `//!` doc:", broken);
}

#[test]
fn files_stay_readable() {
    let broken = sources()
        .into_iter()
        .filter(|s| !s.is_test())
        .map(|s| (s.text.lines().count(), s.path))
        .filter(|(lines, _)| *lines > MAX_LINES)
        .map(|(lines, path)| format!("src/{}: {lines} lines", path.display()))
        .collect();
    assert_none(&format!("a file has at most {MAX_LINES} lines:"), broken);
}

#[test]
fn the_scan_sees_through_groups_and_supers() {
    let seen = |code: &str, depth| imports(code, depth).join(" ");
    assert_eq!(seen("use crate::{model::{Mesh, Name}, route as r};", 2), "model route");
    assert_eq!(seen("fn f() -> crate::state::Store {}", 2), "state");
    assert_eq!(seen("use super::Name;", 2), "", "still inside the room");
    assert_eq!(seen("use super::super::route::Table;", 2), "route", "out of the room");
    assert_eq!(seen("use super::{app, demo};", 1), "app demo", "from a mod.rs");
    assert_eq!(seen("mod tests { use super::super::Name; }", 2), "", "one `super` only leaves the block");
    assert_eq!(seen("mod tests { use super::super::super::app::run; }", 2), "app");
    assert_eq!(seen("$crate::model::Name; my_crate::app::x", 2), "model", "other crates are not ours");
}

#[test]
fn the_scan_skips_comments_and_literals() {
    let left = |text: &str| code_only(text).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(left("a // crate::x\nb"), "a b");
    assert_eq!(left(r#"f("spiffe://{\"}", c) // x"#), "f(, c)");
    assert_eq!(left("f(r#\"crate::\"x\"#, r\"{\") g"), "f(, ) g");
    assert_eq!(left(r"m('{', '\'', '\u{7f}', b'\\') n"), "m(, , , b) n");
    assert_eq!(left("fn f<'a>(x: &'a str, y: &'static str) {}"), "fn f<'a>(x: &'a str, y: &'static str) {}");
}

/// The steps of the documented stack are the layers of the real one, in order.
#[test]
fn the_documented_life_of_a_request_names_the_layers_in_order() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let doc = fs::read_to_string(root.join("docs/life-of-a-request.md")).unwrap();
    let documented: Vec<String> = doc
        .lines()
        .skip_while(|line| *line != "### The stack")
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next().map(str::to_owned))
        .collect();
    let stack = fs::read_to_string(root.join("src/waypoint/stack.rs")).unwrap();
    let body = stack.split("ServiceBuilder::new()").nth(1).expect("the stack is built here");
    let mut layers: Vec<String> = body
        .lines()
        .filter_map(|line| line.trim().strip_prefix(".layer(layer_fn("))
        .map(|layer| layer.rsplit('|').next().unwrap().trim())
        .map(|layer| layer.chars().take_while(|c| c.is_alphanumeric()).collect())
        .filter(|name: &String| name != "BoxCloneSyncService")
        .collect();
    layers.push("Forward".to_owned());
    assert_eq!(documented, layers);
}
