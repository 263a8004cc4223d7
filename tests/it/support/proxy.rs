//! A ztunnel or waypoint in a process of its own, inside of a pod: what it logs and counts.

use super::{
    eventually,
    world::{Family, Pod},
};
use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    sync::atomic::{AtomicU32, Ordering},
};

const METRICS: u16 = 15020;
const READINESS: u16 = 15021;
const ADMIN: u16 = 15000;

/// It is killed with this value.
#[derive(Debug)]
pub struct Proxy {
    pub pod: Pod,
    child: Child,
    log: PathBuf,
}

/// The fields of an access log line.
#[derive(Debug, Clone)]
pub struct Access {
    pub message: String,
    fields: BTreeMap<String, String>,
}

impl Proxy {
    /// Runs `command` in `pod`; what it writes goes to a file in `dir`.
    pub fn start(mut command: Command, pod: Pod, dir: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let log = dir.join(format!("{}-{}.log", pod.name, NEXT.fetch_add(1, Ordering::Relaxed)));
        let open = || -> File { OpenOptions::new().create(true).append(true).open(&log).unwrap() };
        command.stdout(open()).stderr(open());
        let child = pod.spawn(&mut command);
        Self { pod, child, log }
    }

    /// Everything that it has written so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// Waits until it is ready.
    pub async fn ready(&self) {
        let asked = tokio::time::timeout(super::PATIENCE, async {
            while !self.is_ready().await {
                assert!(is_alive(&self.child), "{} ended before it was ready:\n{}", self.pod.name, self.output());
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        });
        let pending = if asked.await.is_err() { self.readiness().await } else { return };
        panic!("{} does not become ready: {pending}\n{}", self.pod.name, self.output());
    }

    /// Whether it says so.
    pub async fn is_ready(&self) -> bool {
        self.readiness().await.starts_with("HTTP/1.1 200")
    }

    /// What it says of that, with the status.
    pub async fn readiness(&self) -> String {
        self.ask(READINESS, "/healthz/ready").await
    }

    /// The dump, read.
    pub async fn dump(&self) -> serde_json::Value {
        let dump = self.config_dump().await;
        dump.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str(body).ok()).unwrap_or_default()
    }

    async fn ask(&self, port: u16, path: &str) -> String {
        self.pod.ask(self.local(port), path).await
    }

    fn local(&self, port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// The dump of what it knows.
    pub async fn config_dump(&self) -> String {
        self.ask(ADMIN, "/config_dump").await
    }

    /// What it has counted.
    pub async fn metrics(&self) -> Metrics {
        Metrics::parse(&self.ask(METRICS, "/metrics").await)
    }

    /// Where others find its metrics.
    pub fn metrics_at(&self, family: Family) -> SocketAddr {
        self.pod.addr(family, METRICS)
    }

    /// The access log lines so far.
    pub fn accesses(&self) -> Vec<Access> {
        self.output().lines().filter_map(Access::parse).collect()
    }

    /// Waits for a line that `matches`.
    pub async fn access(&self, what: &str, matches: impl Fn(&Access) -> bool) -> Access {
        let found = std::cell::OnceCell::new();
        let look = || match self.accesses().into_iter().find(|access| matches(access)) {
            Some(access) => found.set(access).is_ok(),
            None => false,
        };
        let waiting = tokio::time::timeout(super::PATIENCE, eventually(what, || std::future::ready(look())));
        assert!(waiting.await.is_ok(), "not logged by {}: {what}\n{}", self.pod.name, self.output());
        found.into_inner().unwrap()
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end.
    pub async fn exit(&mut self) -> ExitStatus {
        let child = std::sync::Mutex::new(&mut self.child);
        eventually("the process ends", || std::future::ready(child.lock().unwrap().try_wait().unwrap().is_some())).await;
        self.child.wait().unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            // Once for a test that fails, what its processes had to say.
            let output = self.output();
            let from = output.len().saturating_sub(6000);
            eprintln!("---- {} ----\n{}", self.pod.name, output.get(from..).unwrap_or(&output));
        }
    }
}

/// A process that has ended and was not waited for is a zombie.
fn is_alive(child: &Child) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z') && !rest.is_empty())
}

impl Access {
    /// `TIME \t LEVEL \t TARGET \t MESSAGE \t k=v k="v" …`
    fn parse(line: &str) -> Option<Self> {
        let mut columns = line.split('\t');
        let (_time, _level, target, message) = (columns.next()?, columns.next()?, columns.next()?, columns.next()?);
        if !target.starts_with("access") {
            return None;
        }
        let (mut fields, mut rest) = (BTreeMap::new(), columns.next()?);
        while let Some((key, after)) = rest.split_once('=') {
            let (value, next) = match after.strip_prefix('"') {
                Some(quoted) => {
                    let end = quoted.match_indices('"').find(|(at, _)| !quoted[..*at].ends_with('\\')).map_or(quoted.len(), |(at, _)| at);
                    (&quoted[..end], quoted.get(end + 1..).unwrap_or_default())
                }
                None => after.split_once(' ').unwrap_or((after, "")),
            };
            fields.insert(key.trim().to_owned(), value.to_owned());
            rest = next;
        }
        Some(Self { message: message.to_owned(), fields })
    }

    /// A field; empty when it is not there.
    pub fn get(&self, key: &str) -> &str {
        self.fields.get(key).map(String::as_str).unwrap_or_default()
    }

    /// Whether all of these have these values.
    pub fn has(&self, fields: &[(&str, &str)]) -> bool {
        fields.iter().all(|(key, value)| self.get(key) == *value)
    }
}

/// Series and their values.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    series: Vec<(String, BTreeMap<String, String>, f64)>,
}

impl Metrics {
    fn parse(text: &str) -> Self {
        let body = text.split_once("\r\n\r\n").map_or(text, |(_, body)| body);
        Self { series: body.lines().filter(|line| !line.starts_with('#')).filter_map(series).collect() }
    }

    /// The sum over all series of this name that have these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let is_meant = |have: &BTreeMap<String, String>| labels.iter().all(|(key, value)| have.get(*key).is_some_and(|v| v == value));
        self.series.iter().filter(|(n, have, _)| n == name && is_meant(have)).fold(0.0, |sum, (_, _, value)| sum + value)
    }

    /// The labels and values of all series of this name.
    pub fn all(&self, name: &str) -> Vec<(&BTreeMap<String, String>, f64)> {
        self.series.iter().filter(|(n, ..)| n == name).map(|(_, labels, value)| (labels, *value)).collect()
    }
}

/// `name{key="value",…} value`
fn series(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    let (head, value) = line.rsplit_once(' ')?;
    let (name, labels) = head.split_once('{').unwrap_or((head, ""));
    let labels = labels.trim_end_matches('}').split("\",").filter_map(|pair| {
        let (key, value) = pair.split_once("=\"")?;
        Some((key.to_owned(), value.trim_end_matches('"').to_owned()))
    });
    Some((name.to_owned(), labels.collect(), value.parse().ok()?))
}
