//! Which files there are, whether they changed, and what they say.

use super::{
    Config, decode,
    decode::Object,
    documents,
    yaml::{Broken, Position},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, Metadata},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// Coarsest clock of file systems in use: a file that is younger than this may change again
/// without a new time stamp.
const CLOCK_GRAIN: Duration = Duration::from_millis(50);
/// How long a file that has become a beginning of itself counts as being written anew.
const HALF_WRITTEN: Duration = Duration::from_millis(500);
/// Deepest directory below a given path.
const MAX_DEPTH: usize = 16;

/// What tells one version of a file from another. Symbolic links are followed, so the swap of a
/// ConfigMap's `..data` link shows as another inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: SystemTime,
    changed: (i64, i64),
    size: u64,
    inode: (u64, u64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.len(),
            inode: (metadata.dev(), metadata.ino()),
        }
    }

    /// Whether the last write is less than `quiet` ago. Times in the future count as old, so that a
    /// wrong clock cannot hide a file.
    pub(super) fn is_younger_than(&self, quiet: Duration) -> bool {
        SystemTime::now().duration_since(self.modified).is_ok_and(|age| age < quiet)
    }
}

/// The files below the configured paths, and the paths that could not be read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    pub(super) files: BTreeMap<PathBuf, Stamp>,
    pub(super) errors: BTreeMap<PathBuf, String>,
}

/// Looks at all files without reading them.
pub(super) fn scan(paths: &[PathBuf]) -> Scan {
    let mut walk = Walk::default();
    for path in paths {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => walk.directory(path, &metadata, 0),
            Ok(metadata) if metadata.is_file() => walk.file(path, &metadata),
            Ok(_) => drop(walk.scan.errors.insert(path.clone(), "neither a file nor a directory".into())),
            Err(error) => drop(walk.scan.errors.insert(path.clone(), words(&error))),
        }
    }
    walk.scan
}

#[derive(Default)]
struct Walk {
    scan: Scan,
    /// Device and inode of what was visited: links can lead to the same place twice, or in circles.
    seen: BTreeSet<(u64, u64)>,
}

impl Walk {
    fn directory(&mut self, path: &Path, metadata: &Metadata, depth: usize) {
        if !self.seen.insert((metadata.dev(), metadata.ino())) {
            return;
        }
        if depth > MAX_DEPTH {
            return drop(self.scan.errors.insert(path.to_owned(), format!("more than {MAX_DEPTH} directories deep")));
        }
        let mut entries: Vec<PathBuf> = match fs::read_dir(path).and_then(|entries| entries.map(|e| Ok(e?.path())).collect()) {
            Ok(entries) => entries,
            // Also when it breaks off half-way: what was not listed is not gone.
            Err(error) => return drop(self.scan.errors.insert(path.to_owned(), words(&error))),
        };
        entries.sort();
        for entry in entries {
            // Also skips `..data` and the dated directory of a mounted ConfigMap: its files are
            // linked from here under their own names.
            if entry.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b".")) {
                continue;
            }
            match fs::metadata(&entry) {
                Ok(metadata) if metadata.is_dir() => self.directory(&entry, &metadata, depth + 1),
                Ok(metadata) if metadata.is_file() && is_manifest(&entry) => self.file(&entry, &metadata),
                Ok(_) => {}
                // Removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !entry.is_symlink() => {}
                // Whatever its name: it may have been a directory, and what was read below it is not gone.
                Err(error) => drop(self.scan.errors.insert(entry, words(&error))),
            }
        }
    }

    fn file(&mut self, path: &Path, metadata: &Metadata) {
        if self.seen.insert((metadata.dev(), metadata.ino())) {
            self.scan.files.insert(path.to_owned(), Stamp::of(metadata));
        }
    }
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
}

/// The operating system's reason, without its number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_ascii_lowercase()
}

/// A file as it was last read.
#[derive(Debug)]
pub(super) struct ManifestFile {
    pub(super) stamp: Stamp,
    /// Read so soon after its last write that the stamp may miss the next one.
    pub(super) is_fresh: bool,
    /// Tells apart what it said, and whether that was believed.
    digest: u64,
    /// What it said when it was last believed to be whole.
    whole: Vec<u8>,
    pub(super) objects: Vec<Object>,
    pub(super) broken: Vec<Broken>,
}

impl ManifestFile {
    /// Reads a file. A file that cannot be read is a broken one, not an absent one.
    pub(super) fn read(config: &Config, path: &Path, stamp: Stamp, before: Option<&Self>) -> Self {
        let whole = before.map(|b| b.whole.clone()).unwrap_or_default();
        let is_fresh = stamp.is_younger_than(CLOCK_GRAIN);
        let mut file = Self { stamp, is_fresh, digest: 0, whole, objects: Vec::new(), broken: Vec::new() };
        let bytes = match contents(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                file.broken.push(whole_file(words(&error)));
                return file;
            }
        };
        file.digest = digest(&bytes);
        if bytes.is_empty() && !file.whole.is_empty() {
            file.broken.push(whole_file("file has become empty; what it held stays until the file is removed".into()));
        } else if looks_half_written(&bytes, &file.whole) && stamp.is_younger_than(HALF_WRITTEN) {
            file.broken.push(whole_file("file looks half-written".into()));
            (file.digest, file.is_fresh) = (!file.digest, true);
        } else {
            file.decode(config, bytes);
        }
        file
    }

    fn decode(&mut self, config: &Config, bytes: Vec<u8>) {
        for document in documents::documents(&bytes) {
            match document {
                Ok(node) => self.objects.extend(decode::objects(config, node)),
                Err(broken) => self.broken.push(broken),
            }
        }
        if self.broken.is_empty() {
            self.whole = bytes;
        }
    }

    /// Whether both say the same.
    pub(super) fn same_contents(&self, other: &Self) -> bool {
        self.digest == other.digest
    }

    /// Whether something in it cannot be told to be there or not.
    pub(super) fn is_uncertain(&self) -> bool {
        !self.broken.is_empty() || self.objects.iter().any(|o| matches!(o, Object::Nameless { .. }))
    }
}

fn whole_file(message: String) -> Broken {
    Broken { at: Position::default(), message, text: String::new() }
}

/// A writer that truncates and writes shows the beginning of the file for a moment; what is read of
/// it may well be valid, and mean less than it should. Taking away whole documents is an edit.
fn looks_half_written(bytes: &[u8], whole: &[u8]) -> bool {
    whole.strip_prefix(bytes).is_some_and(|rest| !rest.starts_with(b"---") && !rest.trim_ascii().is_empty())
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than allowed, so that the parser sees that it is too much.
    File::open(path)?.take(documents::MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
