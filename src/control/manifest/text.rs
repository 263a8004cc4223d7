//! What is remembered of a text that is not kept: whether another is the same, or its beginning.

use std::{
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::LazyLock,
};

/// Longest part of a line that gets a mark of its own.
const STRIDE: usize = 64;

/// Of this process only, so that nobody can make two texts look the same.
static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Tells texts apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Print {
    digest: u64,
    length: u32,
    lines: u32,
}

impl Print {
    pub(super) fn of(text: &[u8]) -> Self {
        let mut hasher = KEYS.build_hasher();
        hasher.write(text);
        let lines = memchr::memchr_iter(b'\n', text).count();
        Self { digest: hasher.finish(), length: count(text.len()), lines: count(lines) }
    }

    /// How many lines the text ends.
    pub(super) fn lines(&self) -> u32 {
        self.lines
    }
}

/// Recognises the beginnings of a text: a short digest of every line, and of every part of a long
/// one, at a tenth of the text's size.
#[derive(Debug)]
pub(super) struct Text {
    length: u32,
    /// Without white space at the end.
    trimmed: u32,
    marks: Box<[u16]>,
}

impl Text {
    pub(super) fn of(text: &[u8]) -> Self {
        Self { length: count(text.len()), trimmed: count(text.trim_ascii_end().len()), marks: marks(text).collect() }
    }

    /// Whether the other is a beginning of this one, with all lines that it ends. What comes behind
    /// its last mark, less than [`STRIDE`] bytes, is not looked at. Unless something `is_last`, what
    /// it lacks may be white space alone.
    pub(super) fn begins_with(&self, other: &[u8], is_last: bool) -> bool {
        let enough = if is_last { self.trimmed } else { self.length };
        let mut own = self.marks.iter();
        count(other.len()) < enough && marks(other).all(|mark| own.next() == Some(&mark))
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A digest of each line, or of each [`STRIDE`] of it, that has an end.
fn marks(text: &[u8]) -> impl Iterator<Item = u16> {
    let strides = text.split_inclusive(|b| *b == b'\n').flat_map(|line| line.chunks(STRIDE));
    strides.filter(|part| part.len() == STRIDE || part.ends_with(b"\n")).map(|part| {
        // FNV-1a.
        let hash = part.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
        (hash ^ (hash >> 16)) as u16
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_told_apart() {
        assert_eq!(Print::of(b"a\nb\n"), Print::of(b"a\nb\n"));
        assert_ne!(Print::of(b"a\nb\n"), Print::of(b"a\nc\n"));
        assert_eq!(Print::of(b"a\nb\nc").lines(), 2);
    }

    #[test]
    fn beginnings_are_recognised() {
        let long = "x".repeat(200);
        let rows: &[(&str, &str, bool, bool)] = &[
            ("a: 1\nb: 2\n", "a: 1\n", true, true),
            ("a: 1\nb: 2\n", "a: 1\nb:", true, true),
            ("a: 1\nb: 2\n", "a: 2\n", true, false),
            ("a: 1\nb: 22\n", "a: 1\nb: 2\n", true, false),
            ("a: 1\nb: 2\n", "a: 1\nb: 2\n", true, false),
            // What is lacking says nothing.
            ("a: 1\n\n", "a: 1\n", true, false),
            ("a: 1\n\n", "a: 1\n", false, true),
            ("a: 1\n", "a: 1\nb: 2\n", true, false),
            (&long, &long[..100], true, true),
            (&long, &"y".repeat(100), true, false),
        ];
        for (whole, other, is_last, expected) in rows {
            assert_eq!(Text::of(whole.as_bytes()).begins_with(other.as_bytes(), *is_last), *expected, "{other:?} of {whole:?}");
        }
    }
}
