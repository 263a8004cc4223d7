//! One file as it was last read: its pieces, and what each of them says.
//!
//! What a piece says is kept without its text. A piece that did not change is known by its digest and
//! shared with the version of the file that was read before.

use super::{
    Config, decode,
    decode::Object,
    documents,
    files::{Stamp, words},
    spread::spread,
    text::{Print, Text},
    yaml::{Broken, Position},
};
use std::{
    collections::HashMap,
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    path::Path,
    sync::Arc,
    time::Duration,
};

/// Coarsest clock of file systems in use: a file that is younger than this may change again
/// without a new time stamp.
const CLOCK_GRAIN: Duration = Duration::from_millis(50);
/// How long a file that has become a beginning of itself counts as being written anew.
const HALF_WRITTEN: Duration = Duration::from_millis(500);
/// Pieces that are worth a thread, at about 20 µs each.
const PIECES_AT_LEAST: usize = 100;

/// Some editors start a file with it.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// A file as it was last read.
#[derive(Debug)]
pub(super) struct ManifestFile {
    pub(super) stamp: Stamp,
    /// Read so soon after its last write that the stamp may miss the next one.
    pub(super) is_fresh: bool,
    /// Tells apart what it said, and whether that was believed.
    digest: u64,
    /// What it says, piece by piece, in the order of the file.
    pub(super) pieces: Vec<Piece>,
    /// Why it does not count as a whole; then there are no pieces.
    pub(super) broken: Option<Broken>,
    /// What it said when it was last believed to be whole, where that is not what it says now.
    whole: Option<Vec<Piece>>,
    is_uncertain: bool,
    /// Pieces that hold something else than objects of ours.
    others: Vec<u32>,
}

/// A part of a file that is read on its own.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// How many lines of the file come before it.
    pub(super) lines_before: u32,
    print: Print,
    pub(super) body: Arc<Body>,
}

/// What a piece says. Places count from the piece's first line.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) objects: Box<[Object]>,
    pub(super) broken: Box<[Broken]>,
    text: Text,
}

impl Body {
    fn read(config: &Config, piece: &[u8]) -> Self {
        let (mut objects, mut broken) = (Vec::new(), Vec::new());
        if !documents::is_blank(piece) {
            for document in documents::documents(piece) {
                match document {
                    Ok(node) => decode::objects(config, &node, &mut objects),
                    Err(b) => broken.push(b),
                }
            }
        }
        Self { objects: objects.into(), broken: broken.into(), text: Text::of(piece) }
    }

    fn has_others(&self) -> bool {
        !self.broken.is_empty() || self.objects.iter().any(|o| !matches!(o, Object::Ours(_)))
    }

    /// Whether something in it cannot be told to be there or not.
    fn is_uncertain(&self) -> bool {
        !self.broken.is_empty() || self.objects.iter().any(|o| matches!(o, Object::Nameless { .. }))
    }
}

impl Piece {
    /// Whether this is its text.
    pub(super) fn says(&self, text: &[u8]) -> bool {
        self.print == Print::of(text)
    }

    /// A place of the piece, in the file.
    pub(super) fn place(&self, at: Position) -> Position {
        Position { line: at.line + self.lines_before, ..at }
    }
}

impl ManifestFile {
    /// What it says now, which may not be what it said when it was read. Nothing when it cannot be read.
    pub(super) fn reread(&self, path: &Path) -> Option<Vec<u8>> {
        let mut bytes = contents(path, self.stamp.size()).ok()?;
        if bytes.starts_with(BOM) {
            bytes.drain(..BOM.len());
        }
        Some(bytes)
    }

    /// Reads a file. A file that cannot be read is a broken one, not an absent one.
    pub(super) fn read(config: &Config, path: &Path, stamp: Stamp, before: Option<&Self>) -> Self {
        let is_fresh = stamp.is_younger_than(CLOCK_GRAIN);
        let mut file =
            Self { stamp, is_fresh, digest: 0, pieces: Vec::new(), broken: None, whole: None, is_uncertain: false, others: Vec::new() };
        let bytes = match contents(path, stamp.size()) {
            Ok(bytes) => bytes,
            Err(error) => return file.unbelieved(before, Position::default(), words(&error)),
        };
        let bytes = bytes.strip_prefix(BOM).unwrap_or(&bytes);
        let pieces: Vec<(&[u8], Print)> = documents::pieces(bytes).map(|piece| (piece, Print::of(piece))).collect();
        file.digest = digest(&pieces);
        let whole = before.map(Self::whole).unwrap_or_default();
        if bytes.len() > documents::MAX_BYTES {
            let message = format!("file is larger than {} MiB", documents::MAX_BYTES >> 20);
            return file.unbelieved(before, Position { line: 1, column: 1 }, message);
        }
        if bytes.is_empty() && !whole.is_empty() {
            let message = "file has become empty; what it held stays until the file is removed";
            return file.unbelieved(before, Position::default(), message.into());
        }
        if stamp.is_younger_than(HALF_WRITTEN) && looks_half_written(&pieces, whole) {
            (file.digest, file.is_fresh) = (!file.digest, true);
            return file.unbelieved(before, Position::default(), "file looks half-written".into());
        }
        file.pieces = read_pieces(config, &pieces, before.map(|b| &*b.pieces).unwrap_or_default());
        file.others = (0..).zip(&file.pieces).filter(|(_, p)| p.body.has_others()).map(|(i, _)| i).collect();
        let (is_uncertain, is_broken) = (|p: &Piece| p.body.is_uncertain(), |p: &Piece| !p.body.broken.is_empty());
        let judged = (file.others().any(is_uncertain), file.others().any(is_broken));
        file.is_uncertain = judged.0;
        if judged.1 {
            file.whole = Some(whole.to_owned());
        }
        file
    }

    fn unbelieved(mut self, before: Option<&Self>, at: Position, message: String) -> Self {
        self.broken = Some(Broken { at, message, text: String::new() });
        self.is_uncertain = true;
        self.whole = Some(before.map(Self::whole).unwrap_or_default().to_owned());
        self
    }

    fn whole(&self) -> &[Piece] {
        self.whole.as_ref().unwrap_or(&self.pieces)
    }

    /// Whether both say the same.
    pub(super) fn same_contents(&self, other: &Self) -> bool {
        self.digest == other.digest
    }

    /// Pieces that hold something else than objects of ours, or that cannot be read.
    pub(super) fn others(&self) -> impl Iterator<Item = &Piece> {
        self.others.iter().filter_map(|i| self.pieces.get(*i as usize))
    }

    /// Whether something in it cannot be told to be there or not.
    pub(super) fn is_uncertain(&self) -> bool {
        self.is_uncertain
    }
}

/// Takes over what is known of the pieces that were there before, wherever they stood.
fn read_pieces(config: &Config, pieces: &[(&[u8], Print)], before: &[Piece]) -> Vec<Piece> {
    let known = recognise(pieces, before);
    let unknown: Vec<&[u8]> = pieces.iter().zip(&known).filter(|(_, known)| known.is_none()).map(|((text, _), _)| *text).collect();
    let mut news = spread(&unknown, PIECES_AT_LEAST, |text| Arc::new(Body::read(config, text))).into_iter();
    let mut lines_before = 0;
    let mut read = Vec::with_capacity(pieces.len());
    for ((_, print), known) in pieces.iter().zip(known) {
        // There is a new one for each that is not known.
        let Some(body) = known.or_else(|| news.next()) else { break };
        read.push(Piece { lines_before, print: *print, body });
        lines_before += print.lines();
    }
    read
}

/// What each of these pieces is known to say.
fn recognise(pieces: &[(&[u8], Print)], before: &[Piece]) -> Vec<Option<Arc<Body>>> {
    if before.is_empty() {
        return vec![None; pieces.len()];
    }
    let mut by_print: Option<HashMap<Print, usize>> = None;
    let mut next = 0;
    let mut find = |print: &Print| {
        // Mostly it is where it was. A new piece mostly stands in the place of an old one.
        let mut found = Some(next).filter(|i| before.get(*i).is_some_and(|old| old.print == *print));
        if found.is_none() {
            let by_print = by_print.get_or_insert_with(|| before.iter().enumerate().map(|(i, old)| (old.print, i)).collect());
            found = by_print.get(print).copied();
        }
        next = found.unwrap_or(next) + 1;
        Some(before.get(found?)?.body.clone())
    };
    pieces.iter().map(|(_, print)| find(print)).collect()
}

/// A writer that truncates and writes shows the beginning of the file for a moment; what is read of
/// it may well be valid, and mean less than it should. Taking away whole documents is an edit.
fn looks_half_written(pieces: &[(&[u8], Print)], whole: &[Piece]) -> bool {
    let Some((last, print)) = pieces.last() else { return false };
    let same = pieces.len() - 1;
    let Some(old) = whole.get(same) else { return false };
    if pieces.iter().zip(whole).take(same).any(|((_, new), old)| *new != old.print) || *print == old.print {
        return false;
    }
    let is_last = whole.len() == pieces.len();
    // The writer may have stopped within the mark that starts the next piece.
    let before_mark = last.strip_suffix(b"--").or_else(|| last.strip_suffix(b"-"));
    old.body.text.begins_with(last, is_last) || (!is_last && before_mark.is_some_and(|piece| Print::of(piece) == old.print))
}

fn digest(pieces: &[(&[u8], Print)]) -> u64 {
    let mut hasher = DefaultHasher::new();
    pieces.iter().for_each(|(_, print)| print.hash(&mut hasher));
    hasher.finish()
}

fn contents(path: &Path, size: u64) -> io::Result<Vec<u8>> {
    // One byte more than allowed, so that it shows that it is too much.
    let limit = documents::MAX_BYTES as u64 + 1;
    let mut bytes = Vec::with_capacity(usize::try_from(size.min(limit)).unwrap_or_default() + 1);
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}
