//! Network namespaces: where a pod's sockets are made.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Socket, Type};
use std::{
    cell::OnceCell,
    fmt, fs, io,
    os::fd::{AsFd as _, OwnedFd},
};

/// The namespace of the calling thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// The magic number of the file system that namespaces live in (`linux/magic.h`).
const NSFS: rustix::fs::FsWord = 0x6e73_6673;

thread_local! {
    /// Where this thread belongs. A thread enters other namespaces only inside of [`Netns::run`].
    static HOME: OnceCell<OwnedFd> = const { OnceCell::new() };
}

/// A network namespace, kept alive by this handle.
pub struct Netns {
    fd: OwnedFd,
    id: NetnsId,
}

/// What tells network namespaces of one machine apart, as long as both exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NetnsId {
    device: u64,
    inode: u64,
}

impl Netns {
    /// The namespace that `fd` refers to.
    ///
    /// # Errors
    /// When the descriptor cannot be looked at.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Self { fd, id: NetnsId { device: stat.st_dev, inode: stat.st_ino } })
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn current() -> io::Result<Self> {
        Self::new(fs::File::open(OWN)?.into())
    }

    /// What tells it from others.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Whether it is a namespace at all, of whatever kind. The kernel tells the kinds apart when one
    /// is entered.
    pub fn is_namespace(&self) -> bool {
        rustix::fs::fstatfs(&self.fd).is_ok_and(|fs| fs.f_type == NSFS)
    }

    /// Runs `work` inside of the namespace, on this thread; sockets that it makes stay there. It must
    /// not block: nothing else runs on the thread meanwhile.
    ///
    /// # Errors
    /// When the namespace cannot be entered (CAP_SYS_ADMIN); then `work` has not run.
    ///
    /// # Panics
    /// Only with `work`. Ends the process when the thread cannot come back: whatever ran on it
    /// afterwards would speak for the wrong pod.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        HOME.with(|home| {
            if home.get().is_none() {
                let own: OwnedFd = fs::File::open(OWN)?.into();
                let _ = home.set(own);
            }
            enter(&self.fd)?;
            let _back = Back(home);
            Ok(work())
        })
    }
}

/// Why sockets cannot be made in the namespaces of pods.
#[derive(Debug, thiserror::Error)]
pub enum NetnsUnusable {
    /// A namespace cannot be entered.
    #[error("cannot enter a network namespace: {error}{}", missing(.error, "SYS_ADMIN"))]
    Enter {
        /// What the kernel says.
        error: io::Error,
    },
    /// A socket cannot be made or marked there.
    #[error("cannot set SO_MARK on a socket: {error}{}", missing(.error, "NET_ADMIN"))]
    Mark {
        /// What the kernel says.
        error: io::Error,
    },
}

/// Tries, in the thread's own namespace, what has to be done for each pod: so that a process without
/// the capabilities for it fails when it starts, and not with the first pod.
///
/// # Errors
/// When it cannot be done; the error names the capability that is missing.
pub fn self_test(mark: u32) -> Result<(), NetnsUnusable> {
    let marked = || Socket::new(Domain::IPV4, Type::STREAM, None)?.set_mark(mark);
    let own = Netns::current().map_err(|error| NetnsUnusable::Enter { error })?;
    let made = own.run(marked).map_err(|error| NetnsUnusable::Enter { error })?;
    made.map_err(|error| NetnsUnusable::Mark { error })
}

fn missing(error: &io::Error, capability: &str) -> String {
    if error.kind() == io::ErrorKind::PermissionDenied { format!(" (the capability {capability} is missing)") } else { String::new() }
}

/// Brings the thread home, also when what it did there has panicked.
struct Back<'a>(&'a OnceCell<OwnedFd>);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.get().map(enter) {
            tracing::error!(%error, "a thread cannot leave a pod's network namespace");
            std::process::abort();
        }
    }
}

fn enter(namespace: &OwnedFd) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}

impl fmt::Debug for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Netns({}:{})", self.id.device, self.id.inode)
    }
}

impl fmt::Display for NetnsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.device, self.inode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn the_own_namespace_is_told_from_others_by_its_inode() {
        let (a, b) = (Netns::current().unwrap(), Netns::current().unwrap());
        assert_eq!(a.id(), b.id());
        let file = fs::metadata(OWN).unwrap();
        assert_eq!(a.id(), NetnsId { device: file.dev(), inode: file.ino() });
    }

    #[test]
    fn what_is_no_namespace_is_not_entered() {
        let file: OwnedFd = tempfile::tempfile().unwrap().into();
        let mut ran = false;
        assert!(Netns::new(file).unwrap().run(|| ran = true).is_err());
        assert!(!ran);
    }
}
