//! Which files there are, and whether they changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

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

    /// How long it was, in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
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
    /// Directories in which files can come and go.
    pub(super) dirs: BTreeSet<PathBuf>,
}

/// Looks at all files without reading them.
pub(super) fn scan(paths: &[PathBuf]) -> Scan {
    let mut walk = Walk::default();
    for path in paths {
        // Also what it is a link to may be switched there.
        let parent = path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
        walk.scan.dirs.extend(parent.map(Path::to_owned));
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
        self.scan.dirs.insert(path.to_owned());
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

/// Whether a file of a directory counts.
pub(super) fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
}

/// The operating system's reason, without its number.
pub(super) fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_ascii_lowercase()
}
