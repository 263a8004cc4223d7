//! The search domains of a workload, as its own resolver has them.

use super::{Cluster, resolv_conf::ResolvConf};
use crate::{
    model::Hostname,
    transport::{Netns, netns::NetnsId},
};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Mutex, task::JoinHandle, time::Instant};

const RESOLV_CONF: &str = "etc/resolv.conf";
/// More than that no resolv.conf has; the file is the workload's, who may put anything there.
const MAX_FILE: u64 = 64 * 1024;
/// Where a pod cannot be looked into, trying again is of no use for so long.
const RETRY: Duration = Duration::from_secs(60);
/// A question does not wait longer for the file.
const WAIT: Duration = Duration::from_millis(500);

/// Where search domains come from.
#[derive(Debug)]
pub struct Search(Kind);

#[derive(Debug)]
enum Kind {
    Fixed(Arc<[Hostname]>),
    Pod { id: NetnsId, proc: PathBuf, state: Mutex<State> },
}

#[derive(Debug, Default)]
struct State {
    known: Option<Arc<[Hostname]>>,
    // A read from a file system of the workload may hang: there is never a second one beside it.
    reading: Option<JoinHandle<Option<Vec<Hostname>>>>,
    failed: Option<Instant>,
}

impl Search {
    /// These, for a workload in the place of this process.
    pub fn fixed(domains: impl Into<Arc<[Hostname]>>) -> Self {
        Self(Kind::Fixed(domains.into()))
    }

    /// Those of the pod whose network namespace this is: what its own `/etc/resolv.conf` says, if it
    /// can be reached (for that the proxy must see the node's processes), else what Kubernetes gives
    /// to pods of its namespace.
    pub fn of_pod(netns: &Netns) -> Self {
        Self::of_pod_below("/proc".into(), netns.id())
    }

    fn of_pod_below(proc: PathBuf, id: NetnsId) -> Self {
        Self(Kind::Pod { id, proc, state: Mutex::default() })
    }

    /// The domains now, for a workload of `namespace`. Cancel safe.
    pub(super) async fn domains(&self, cluster: &Cluster, namespace: &str) -> Arc<[Hostname]> {
        let known = match &self.0 {
            Kind::Fixed(domains) => Some(domains.clone()),
            Kind::Pod { id, proc, state } => state.lock().await.read(proc, *id).await,
        };
        known.unwrap_or_else(|| cluster.search(namespace).into())
    }
}

impl State {
    async fn read(&mut self, proc: &Path, id: NetnsId) -> Option<Arc<[Hostname]>> {
        if self.known.is_some() || self.failed.is_some_and(|failed| failed.elapsed() < RETRY) {
            return self.known.clone();
        }
        let reading = self.reading.get_or_insert_with(|| {
            let proc = proc.to_owned();
            tokio::task::spawn_blocking(move || of_namespace(&proc, id))
        });
        let read = tokio::time::timeout(WAIT, reading).await;
        if read.is_ok() {
            self.reading = None;
        }
        match read.ok().and_then(Result::ok).flatten() {
            Some(domains) => self.known = Some(domains.into()),
            None => self.failed = Some(Instant::now()),
        }
        self.known.clone()
    }
}

/// The search domains of a process in a network namespace, the first below `proc` that has some. Not
/// our own: for a moment, one of our threads may be anywhere.
fn of_namespace(proc: &Path, id: NetnsId) -> Option<Vec<Hostname>> {
    let mut processes: Vec<u32> = fs::read_dir(proc).ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    processes.sort_unstable();
    let others = processes.into_iter().filter(|pid| *pid != std::process::id()).map(|pid| proc.join(pid.to_string()));
    let inside = others.filter(|process| is_inside(process, id));
    inside
        .filter_map(|process| read(&process.join("root")).ok())
        .map(|text| ResolvConf::parse(&text).search)
        .find(|found| !found.is_empty())
}

fn is_inside(process: &Path, id: NetnsId) -> bool {
    let netns = File::open(process.join("ns/net")).and_then(|file| Netns::new(file.into()));
    netns.is_ok_and(|netns| netns.id() == id)
}

/// The resolv.conf below a root directory. All of it belongs to the workload: a link leads nowhere
/// out of it, and neither a device nor a pipe is waited for.
fn read(root: &Path) -> io::Result<String> {
    let root = File::open(root)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(openat2(&root, RESOLV_CONF, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)?);
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    /// A directory like `/proc`, in which files stand for namespaces.
    struct Proc(TempDir);

    impl Proc {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn namespace(&self, name: &str) -> NetnsId {
            let path = self.0.path().join(name);
            Netns::new(File::options().write(true).create(true).truncate(false).open(path).unwrap().into()).unwrap().id()
        }

        /// A process in a namespace; the root directory that it sees.
        fn process(&self, pid: u32, namespace: &str) -> PathBuf {
            self.namespace(namespace);
            let process = self.0.path().join(pid.to_string());
            fs::create_dir_all(process.join("ns")).unwrap();
            fs::create_dir_all(process.join("root/etc")).unwrap();
            symlink(self.0.path().join(namespace), process.join("ns/net")).unwrap();
            process.join("root")
        }

        fn search(&self, namespace: &str) -> Option<String> {
            let found = of_namespace(self.0.path(), self.namespace(namespace))?;
            Some(found.iter().map(Hostname::as_str).collect::<Vec<_>>().join(" "))
        }
    }

    fn write(root: &Path, text: &str) {
        fs::write(root.join(RESOLV_CONF), text).unwrap();
    }

    #[test]
    fn the_first_process_in_the_namespace_that_has_search_domains_is_believed() {
        let proc = Proc::new();
        write(&proc.process(7, "other"), "search other.example");
        proc.process(8, "pod");
        write(&proc.process(9, "pod"), "nameserver 10.0.0.1");
        write(&proc.process(100, "pod"), "search second.example");
        write(&proc.process(20, "pod"), "search first.example corp.example");
        write(&proc.process(std::process::id(), "ours"), "search ours.example");
        fs::create_dir(proc.0.path().join("self")).unwrap();
        assert_eq!(proc.search("pod").as_deref(), Some("first.example corp.example"));
        assert_eq!(proc.search("other").as_deref(), Some("other.example"));
        assert_eq!(proc.search("ours"), None);
        assert_eq!(proc.search("empty"), None);
    }

    #[test]
    fn nothing_leads_out_of_the_workloads_own_files() {
        let proc = Proc::new();
        let outside = proc.0.path().join("outside");
        fs::write(&outside, "search outside.example").unwrap();
        let link = |namespace, to: &Path| symlink(to, proc.process(5, namespace).join(RESOLV_CONF)).unwrap();
        link("absolute", &outside);
        assert_eq!(proc.search("absolute"), None);
        fs::remove_dir_all(proc.0.path().join("5")).unwrap();
        link("relative", Path::new("../../../outside"));
        assert_eq!(proc.search("relative"), None);
        fs::remove_dir_all(proc.0.path().join("5")).unwrap();
        link("inside", Path::new("/run/resolv.conf"));
        fs::create_dir(proc.0.path().join("5/root/run")).unwrap();
        fs::write(proc.0.path().join("5/root/run/resolv.conf"), "search inside.example").unwrap();
        assert_eq!(proc.search("inside").as_deref(), Some("inside.example"));
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        let proc = Proc::new();
        let root = proc.process(5, "pipe");
        rustix::fs::mknodat(rustix::fs::CWD, root.join(RESOLV_CONF), rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(proc.search("pipe"), None);
        fs::create_dir(proc.process(6, "directory").join(RESOLV_CONF)).unwrap();
        assert_eq!(proc.search("directory"), None);
        let long = proc.process(7, "long");
        write(&long, &format!("{}search late.example", "#\n".repeat(MAX_FILE as usize / 2)));
        assert_eq!(proc.search("long"), None);
        fs::write(proc.process(8, "binary").join(RESOLV_CONF), b"search \xff.example").unwrap();
        assert_eq!(proc.search("binary"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_found_is_kept_and_what_is_not_is_tried_again_later() {
        let proc = Proc::new();
        let cluster = Cluster::new("cluster.local");
        let search = Search::of_pod_below(proc.0.path().to_owned(), proc.namespace("pod"));
        let text = async || search.domains(&cluster, "demo").await.iter().map(Hostname::to_string).collect::<Vec<_>>().join(" ");
        let usual = "demo.svc.cluster.local svc.cluster.local cluster.local";
        assert_eq!(text().await, usual);
        write(&proc.process(5, "pod"), "search corp.example");
        assert_eq!(text().await, usual, "not looked for again at once");
        tokio::time::advance(RETRY).await;
        assert_eq!(text().await, "corp.example");
        fs::remove_dir_all(proc.0.path().join("5")).unwrap();
        tokio::time::advance(RETRY).await;
        assert_eq!(text().await, "corp.example");
        assert_eq!(*Search::fixed([Hostname::new("x")]).domains(&cluster, "demo").await, [Hostname::new("x")]);
    }
}
