//! Network namespaces: where a pod's sockets are made.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Socket, Type};
use std::{
    cell::RefCell,
    fmt, fs, io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

/// The namespace of the calling thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// The magic number of the file system that namespaces live in (`linux/magic.h`).
const NSFS: rustix::fs::FsWord = 0x6e73_6673;

thread_local! {
    /// Where this thread belongs, and the namespaces that it has entered from there: it does so only
    /// inside of [`Netns::run`].
    static ENTERED: RefCell<Vec<Arc<OwnedFd>>> = const { RefCell::new(Vec::new()) };
}

/// A network namespace, kept alive by this handle.
pub struct Netns {
    fd: Arc<OwnedFd>,
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
        Ok(Self { fd: Arc::new(fd), id: NetnsId { device: stat.st_dev, inode: stat.st_ino } })
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
        rustix::fs::fstatfs(&*self.fd).is_ok_and(|fs| fs.f_type == NSFS)
    }

    /// Runs `work` inside of the namespace, on this thread, and comes back to where it was; sockets that
    /// `work` makes stay there. It must not block: nothing else runs on the thread meanwhile. Nor may it
    /// start threads (or hand work to a pool that does): they would be born inside, and stay.
    ///
    /// # Errors
    /// When the namespace cannot be entered (CAP_SYS_ADMIN); then `work` has not run.
    ///
    /// # Panics
    /// Only with `work`. Ends the process when the thread cannot come back: whatever ran on it
    /// afterwards would speak for the wrong pod.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        ENTERED.with(|entered| {
            if entered.borrow().is_empty() {
                let home: OwnedFd = fs::File::open(OWN)?.into();
                entered.borrow_mut().push(Arc::new(home));
            }
            enter(&self.fd)?;
            entered.borrow_mut().push(self.fd.clone());
            let _back = Back(entered);
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
    let own = Netns::current().map_err(|error| NetnsUnusable::Enter { error })?;
    own.run(|| mark_test(mark)).map_err(|error| NetnsUnusable::Enter { error })?
}

/// The same for a process that stays where it is: whether sockets can be marked.
///
/// # Errors
/// When they cannot; the error names the capability that is missing.
pub fn mark_test(mark: u32) -> Result<(), NetnsUnusable> {
    let marked = || Socket::new(Domain::IPV4, Type::STREAM, None)?.set_mark(mark);
    marked().map_err(|error| NetnsUnusable::Mark { error })
}

fn missing(error: &io::Error, capability: &str) -> String {
    if error.kind() == io::ErrorKind::PermissionDenied { format!(" (the capability {capability} is missing)") } else { String::new() }
}

/// Brings the thread back to where it came from, also when what it did there has panicked.
struct Back<'a>(&'a RefCell<Vec<Arc<OwnedFd>>>);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        self.0.borrow_mut().pop();
        if let Some(Err(error)) = self.0.borrow().last().map(|before| enter(before)) {
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
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    use std::{os::unix::fs::MetadataExt as _, thread};

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
        let netns = Netns::new(file).unwrap();
        let mut ran = false;
        assert!(netns.run(|| ran = true).is_err());
        assert!(!ran);
        assert!(!netns.is_namespace() && Netns::current().unwrap().is_namespace());
    }

    /// A namespace of our own, or nothing where that is not allowed.
    fn another() -> Option<Netns> {
        let made = thread::spawn(|| nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).map(|()| Netns::current().unwrap()));
        match made.join().unwrap() {
            Ok(netns) => Some(netns),
            Err(error) => {
                let required = std::env::var("REQUIRE_NETNS").is_ok_and(|v| v == "1");
                assert!(!required, "REQUIRE_NETNS=1, but no namespace can be made: {error}");
                eprintln!("\n*** SKIPPED: no namespace can be made: {error}. Set REQUIRE_NETNS=1 to make this a failure. ***\n");
                None
            }
        }
    }

    fn interfaces() -> usize {
        fs::read_to_string("/proc/thread-self/net/dev").unwrap().lines().skip(2).count()
    }

    #[test]
    fn work_is_done_inside_and_the_thread_comes_home() {
        let Some(netns) = another() else { return };
        let home = Netns::current().unwrap().id();
        assert_ne!(netns.id(), home);
        let (inside, seen) = netns.run(|| (Netns::current().unwrap().id(), interfaces())).unwrap();
        assert_eq!((inside, seen), (netns.id(), 1), "nothing but its loopback, whatever there is outside");
        assert_eq!(Netns::current().unwrap().id(), home);
        let listener = netns.run(|| std::net::TcpListener::bind("0.0.0.0:0").unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(std::net::TcpListener::bind(("0.0.0.0", port)).is_ok(), "the socket stays inside");
    }

    #[test]
    fn the_thread_comes_home_from_a_panic() {
        let Some(netns) = another() else { return };
        let home = Netns::current().unwrap().id();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| netns.run(|| panic!("inside"))));
        assert!(panicked.is_err());
        assert_eq!(Netns::current().unwrap().id(), home);
    }

    #[test]
    fn one_namespace_inside_of_another_comes_back_in_steps() {
        let (Some(outer), Some(inner)) = (another(), another()) else { return };
        let home = Netns::current().unwrap().id();
        let seen = outer.run(|| {
            let inside = inner.run(|| Netns::current().unwrap().id()).unwrap();
            (inside, Netns::current().unwrap().id())
        });
        assert_eq!(seen.unwrap(), (inner.id(), outer.id()));
        assert_eq!(Netns::current().unwrap().id(), home);
    }

    /// What a test says without `lost`.
    fn without(lost: CapabilitySet, test: fn(u32) -> Result<(), NetnsUnusable>) -> Result<(), String> {
        let test = move || {
            let mut sets = capabilities(None).unwrap();
            sets.effective.remove(lost);
            set_capabilities(None, sets).unwrap();
            test(1337).map_err(|error| error.to_string())
        };
        // Capabilities are the thread's.
        thread::spawn(test).join().unwrap()
    }

    #[test]
    fn the_self_test_names_the_capability_that_is_missing() {
        if another().is_none() {
            return;
        }
        assert_eq!(without(CapabilitySet::empty(), self_test), Ok(()));
        let error = without(CapabilitySet::SYS_ADMIN, self_test).unwrap_err();
        assert!(
            error.starts_with("cannot enter a network namespace") && error.ends_with("(the capability SYS_ADMIN is missing)"),
            "{error}"
        );
        assert_eq!(without(CapabilitySet::SYS_ADMIN, mark_test), Ok(()), "who stays where it is need not enter");
        for test in [self_test, mark_test] {
            let error = without(CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW, test).unwrap_err();
            assert!(error.starts_with("cannot set SO_MARK") && error.ends_with("(the capability NET_ADMIN is missing)"), "{error}");
        }
    }
}
