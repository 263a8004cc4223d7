//! The names of the files, and how they are written.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Leaf and intermediates.
pub(super) const CHAIN: &str = "cert-chain.pem";
/// The leaf's key.
pub(super) const KEY: &str = "key.pem";
/// The trust anchors.
pub(super) const ROOTS: &str = "roots.pem";
/// The trust anchors under the name that Istio's agent gives them.
pub(super) const ISTIO_ROOTS: &str = "root-cert.pem";
/// The key of the development CA.
pub(super) const CA_KEY: &str = "ca-key.pem";

/// An identity's parts hold no `/`, but may be the two names that lead elsewhere.
pub(super) fn is_directory_name(part: &str) -> bool {
    !matches!(part, "." | "..")
}

/// Who may read a file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Access {
    /// Everybody (0644).
    Public,
    /// The owner (0600).
    Secret,
}

/// Writes the whole file or nothing: a reader sees the old content or the new. A secret is never
/// readable by others, not even while it is written.
pub(super) fn write_atomically(path: &Path, content: &[u8], access: Access) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.{:08x}", std::process::id(), fastrand::u32(..)));
    let written = create(&temporary, access).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&temporary, path)).inspect_err(|_| {
        // Best effort; the first error is the one that matters.
        let _ = fs::remove_file(&temporary);
    })
}

fn create(path: &Path, access: Access) -> io::Result<File> {
    let mode = match access {
        Access::Public => 0o644,
        Access::Secret => 0o600,
    };
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}
