use super::*;
use crate::{
    control::zds::{
        Config, PodInfo,
        testing::{Cni, Link, del, keep, netns, snapshot_sent, soon},
    },
    telemetry::{MetricsFormat, MetricsHandle},
    transport::Netns,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    sync::{Mutex, PoisonError},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

/// Writes down what becomes of proxies.
#[derive(Clone, Default)]
struct Stage(Arc<Mutex<Play>>);

#[derive(Default)]
struct Play {
    notes: Vec<String>,
    /// Pods that cannot be started.
    failing: BTreeSet<String>,
    /// Pods whose start never ends.
    stuck: BTreeSet<String>,
    /// Pods with connections that only end by force.
    busy: BTreeSet<String>,
}

impl Stage {
    fn set<T>(&self, change: impl FnOnce(&mut Play) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, text: String) {
        self.set(|play| play.notes.push(text));
    }

    fn take(&self) -> Vec<String> {
        self.set(|play| std::mem::take(&mut play.notes))
    }

    /// Waits until something has been written down, and takes it.
    async fn next(&self) -> Vec<String> {
        let noted = async {
            loop {
                let notes = self.take();
                if !notes.is_empty() {
                    return notes;
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        soon(noted).await
    }
}

impl StartProxy for Stage {
    type Proxy = FakeProxy;

    async fn start(&self, pod: &Pod, drain: DrainWatch) -> io::Result<FakeProxy> {
        let uid = pod.uid.to_string();
        if self.set(|play| play.stuck.contains(&uid)) {
            std::future::pending::<()>().await;
        }
        if self.set(|play| play.failing.contains(&uid)) {
            self.note(format!("{uid} fails"));
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "port 15008 is taken"));
        }
        self.note(format!("{uid} starts"));
        let (stage, guard) = (self.clone(), drain.guard());
        tokio::spawn(async move {
            let _guard = guard;
            drain.signaled().await;
            stage.note(format!("{uid} says goaway"));
            if stage.set(|play| play.busy.contains(&uid)) {
                drain.forced().await;
                stage.note(format!("{uid} lets go"));
            }
        });
        Ok(FakeProxy)
    }
}

struct FakeProxy;

impl RunningProxy for FakeProxy {
    fn connections(&self) -> Connections {
        let inbound = InboundConnection {
            src: "10.0.0.1:1000".parse().unwrap(),
            original_dst: None,
            actual_dst: "10.0.0.2:80".parse().unwrap(),
            protocol: "HBONE".into(),
        };
        Connections { inbound: vec![inbound], outbound: Vec::new() }
    }
}

/// An enrolment that is told by hand.
struct Told {
    stage: Stage,
    pods: Enrolment<Stage>,
    readiness: Readiness,
    metrics: MetricsHandle,
}

impl Told {
    fn new() -> Self {
        let (stage, readiness) = (Stage::default(), Readiness::new());
        let (counters, metrics) = MetricsHandle::apart(PodCounters::resolve);
        let mut pods = Enrolment::new(PodsConfig::default(), stage.clone(), readiness.clone(), counters);
        pods.connected();
        Self { stage, pods, readiness, metrics }
    }

    async fn add(&mut self, uid: &str, netns: &OwnedFd) -> Result<(), String> {
        self.pods.add(pod(uid, netns)).await.map_err(|error| error.to_string())
    }

    fn ready(&self) -> bool {
        self.readiness.is_ready()
    }

    /// `active pending started stopped`
    fn counts(&self) -> String {
        let text = self.metrics.render(MetricsFormat::Prometheus);
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or("none").to_owned();
        ["active_proxy_count", "pending_proxy_count", "proxies_started_total", "proxies_stopped_total"]
            .map(|name| value(&format!("workload_manager_{name}")))
            .join(" ")
    }

    async fn all_stopped(&self) {
        self.pods.stopping.close();
        soon(self.pods.stopping.wait()).await;
        self.pods.stopping.reopen();
    }
}

fn pod(uid: &str, netns: &OwnedFd) -> Pod {
    let info = PodInfo { name: format!("pod-{uid}").into(), namespace: "demo".into(), service_account: "sa".into() };
    Pod { uid: uid.into(), info, netns: Arc::new(Netns::new(netns.try_clone().unwrap()).unwrap()) }
}

/// What passes for another namespace.
fn other_netns() -> OwnedFd {
    tempfile::tempfile().unwrap().into()
}

fn name(uid: &str) -> Name {
    uid.into()
}

#[tokio::test]
async fn adding_a_pod_again_changes_nothing_unless_its_namespace_is_another() {
    let mut told = Told::new();
    let (first, second) = (netns(), other_netns());
    told.stage.set(|play| play.busy.insert("a".into()));
    assert_eq!(told.add("a", &first).await, Ok(()));
    assert_eq!(told.stage.take(), ["a starts"]);
    for _ in 0..2 {
        assert_eq!(told.add("a", &netns()).await, Ok(()));
        assert_eq!(told.stage.take(), [""; 0], "another descriptor of the same namespace");
    }
    assert_eq!(told.add("a", &second).await, Ok(()));
    told.all_stopped().await;
    let mut notes = told.stage.take();
    notes.sort();
    assert_eq!(notes, ["a lets go", "a says goaway", "a starts"]);
    assert_eq!(told.counts(), "1 0 2 1");
    assert_eq!(told.add("a", &second).await, Ok(()));
    assert_eq!(told.stage.take(), [""; 0]);
}

#[tokio::test]
async fn a_pod_whose_new_namespace_fails_is_pending_and_its_old_proxy_gone() {
    let mut told = Told::new();
    assert_eq!(told.add("a", &netns()).await, Ok(()));
    told.stage.set(|play| play.failing.insert("a".into()));
    assert_eq!(told.add("a", &other_netns()).await, Err("port 15008 is taken".into()));
    told.all_stopped().await;
    assert_eq!(told.counts(), "0 1 1 1");
}

#[tokio::test(start_paused = true)]
async fn a_removed_pod_says_goaway_and_lets_go_soon_after() {
    let mut told = Told::new();
    told.stage.set(|play| play.busy.insert("busy".into()));
    for uid in ["busy", "idle"] {
        assert_eq!(told.add(uid, &netns()).await, Ok(()));
    }
    told.pods.snapshot_complete();
    told.stage.take();
    let begin = Instant::now();
    told.pods.remove(&name("idle"));
    assert_eq!(told.stage.next().await, ["idle says goaway"]);
    told.all_stopped().await;
    assert!(begin.elapsed() < PodsConfig::default().farewell, "nothing to wait for: {:?}", begin.elapsed());
    let begin = Instant::now();
    told.pods.remove(&name("busy"));
    assert_eq!(told.stage.next().await, ["busy says goaway"]);
    assert_eq!(told.stage.next().await, ["busy lets go"]);
    let taken = begin.elapsed();
    assert!((100..110).contains(&taken.as_millis()), "{taken:?}");
    told.all_stopped().await;
    assert_eq!(told.counts(), "0 0 2 2");
    told.pods.remove(&name("busy"));
    told.pods.remove(&name("nobody"));
    assert_eq!((told.stage.take(), told.ready()), (vec![], true));
}

#[tokio::test]
async fn the_snapshot_stops_whom_it_does_not_name() {
    let mut told = Told::new();
    for uid in ["added", "kept", "lost", "forgotten"] {
        assert_eq!(told.add(uid, &netns()).await, Ok(()));
    }
    told.pods.snapshot_complete();
    told.pods.disconnected();
    told.pods.connected();
    told.stage.take();
    assert_eq!(told.add("added", &netns()).await, Ok(()));
    told.pods.keep(&name("kept"));
    told.pods.keep(&name("forgotten"));
    told.pods.keep(&name("nobody"));
    told.pods.forget(&name("forgotten"));
    assert_eq!(told.stage.take(), [""; 0], "until the snapshot is complete all run on");
    told.pods.snapshot_complete();
    told.all_stopped().await;
    let mut notes = told.stage.take();
    notes.sort();
    assert_eq!(notes, ["forgotten says goaway", "lost says goaway"]);
    assert_eq!(told.pods.states().all().into_keys().collect::<Vec<_>>(), [name("added"), name("kept")]);
    // What was named on this connection has no bearing on the next.
    told.pods.disconnected();
    told.pods.connected();
    told.pods.snapshot_complete();
    told.all_stopped().await;
    assert_eq!(told.counts(), "0 0 4 4");
}

#[tokio::test]
async fn readiness_is_lost_and_found() {
    let mut told = Told::new();
    assert_eq!(told.readiness.pending(), ["workload proxy manager"]);
    assert_eq!(told.add("a", &netns()).await, Ok(()));
    assert!(!told.ready(), "the snapshot is not complete");
    told.pods.snapshot_complete();
    assert!(told.ready());
    told.stage.set(|play| play.failing.insert("b".into()));
    assert!(told.add("b", &netns()).await.is_err());
    assert_eq!(told.readiness.pending(), ["workload proxy manager"]);
    told.pods.retry().await;
    assert!(!told.ready());
    told.stage.set(|play| play.failing.clear());
    told.pods.retry().await;
    assert!(told.ready());
    told.pods.disconnected();
    assert_eq!(told.readiness.pending(), ["workload proxy manager"]);
    told.pods.connected();
    assert!(!told.ready());
    told.stage.set(|play| play.failing.insert("c".into()));
    assert!(told.add("c", &netns()).await.is_err());
    told.pods.snapshot_complete();
    assert!(!told.ready(), "the snapshot is complete, but one of its pods is not served");
    told.pods.remove(&name("c"));
    assert!(told.ready(), "the last pending pod is gone");
}

#[tokio::test]
async fn pending_pods_are_those_of_this_connection() {
    let mut told = Told::new();
    told.stage.set(|play| play.failing.extend(["a".into(), "b".into()]));
    assert!(told.add("a", &netns()).await.is_err());
    assert!(told.add("b", &netns()).await.is_err());
    assert_eq!((told.pods.has_pending(), told.counts()), (true, "0 2 0 0".into()));
    told.pods.forget(&name("a"));
    assert_eq!((told.pods.has_pending(), told.counts()), (true, "0 1 0 0".into()));
    told.pods.disconnected();
    told.pods.connected();
    assert_eq!((told.pods.has_pending(), told.counts()), (false, "0 0 0 0".into()));
    assert!(told.add("a", &netns()).await.is_err());
    told.stage.set(|play| play.failing.clear());
    assert_eq!(told.add("a", &netns()).await, Ok(()), "the CNI itself tries again");
    assert_eq!((told.pods.has_pending(), told.counts()), (false, "1 0 1 0".into()));
}

#[tokio::test(start_paused = true)]
async fn a_start_that_gets_stuck_fails_before_the_cni_gives_up() {
    let mut told = Told::new();
    told.stage.set(|play| play.stuck.extend(["a".into(), "b".into()]));
    for uid in ["a", "b"] {
        assert_eq!(told.add(uid, &netns()).await, Err("the start took too long".into()));
    }
    let begin = Instant::now();
    told.pods.retry().await;
    assert!(begin.elapsed() < Duration::from_secs(5), "all at once: {:?}", begin.elapsed());
    assert_eq!(told.counts(), "0 2 0 0");
}

#[tokio::test]
async fn the_states_are_those_of_the_config_dump() {
    let mut told = Told::new();
    told.stage.set(|play| play.failing.insert("b".into()));
    assert_eq!(told.add("a", &netns()).await, Ok(()));
    assert!(told.add("b", &netns()).await.is_err());
    let states = told.pods.states();
    let info = |name: &str| serde_json::json!({ "name": name, "namespace": "demo", "serviceAccount": "sa" });
    let inbound = serde_json::json!([{ "src": "10.0.0.1:1000", "originalDst": null, "actualDst": "10.0.0.2:80", "protocol": "HBONE" }]);
    let expected = serde_json::json!({
        "a": { "state": "Up", "connections": { "inbound": inbound, "outbound": [] }, "info": info("pod-a") },
        "b": { "state": "Pending", "connections": { "inbound": [], "outbound": [] }, "info": info("pod-b") },
    });
    assert_eq!(serde_json::to_value(states.all()).unwrap(), expected);
    told.stage.take();
    drop(told.pods);
    assert_eq!(told.stage.next().await, ["a says goaway"], "nobody owns them any longer");
    assert_eq!(states.all(), BTreeMap::new());
}

// ---- with a CNI ----

struct Node {
    cni: Cni,
    stage: Stage,
    readiness: Readiness,
    states: PodStates<FakeProxy>,
    drain: DrainTrigger,
    task: JoinHandle<Result<(), ProtocolError>>,
}

impl Node {
    fn start() -> Self {
        let Told { stage, pods, readiness, metrics: _ } = Told::new();
        let cni = Cni::listen();
        let client = Client::new(Config { socket: cni.path().to_owned(), ..Config::default() });
        let (drain, watch) = drain::new();
        let states = pods.states();
        Self { cni, stage, readiness, states, drain, task: tokio::spawn(pods.serve(client, watch)) }
    }

    fn pods(&self) -> String {
        self.states.all().iter().map(|(uid, pod)| format!("{uid}:{:?}", pod.state)).collect::<Vec<_>>().join(" ")
    }
}

async fn well(link: &Link, packet: &[u8]) {
    assert_eq!(link.ask(packet, &[]).await, "");
}

#[tokio::test]
async fn proxies_outlive_the_cni_and_are_stopped_when_the_next_does_not_name_them() {
    let node = Node::start();
    let link = node.cni.accept().await;
    for uid in ["a", "b", "c"] {
        assert_eq!(link.add(uid, netns()).await, "");
    }
    assert!(!node.readiness.is_ready());
    well(&link, &snapshot_sent()).await;
    assert!(node.readiness.is_ready());
    drop(link);
    let link = node.cni.accept().await;
    assert_eq!((node.pods().as_str(), node.readiness.is_ready()), ("a:Up b:Up c:Up", false));
    assert_eq!(node.stage.take(), ["a starts", "b starts", "c starts"]);
    assert_eq!(link.add("a", netns()).await, "");
    well(&link, &keep("b")).await;
    well(&link, &snapshot_sent()).await;
    assert_eq!((node.pods().as_str(), node.readiness.is_ready()), ("a:Up b:Up", true));
    assert_eq!(node.stage.next().await, ["c says goaway"]);
    well(&link, &del("a")).await;
    assert_eq!((node.pods().as_str(), node.readiness.is_ready()), ("b:Up", true));
    assert_eq!(node.stage.next().await, ["a says goaway"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_could_not_be_started_is_started_later() {
    let node = Node::start();
    let link = node.cni.accept().await;
    node.stage.set(|play| play.failing.insert("a".into()));
    let begin = Instant::now();
    assert_eq!(link.add("a", netns()).await, "port 15008 is taken");
    well(&link, &snapshot_sent()).await;
    assert_eq!((node.pods().as_str(), node.readiness.is_ready()), ("a:Pending", false));
    assert_eq!(node.stage.take(), ["a fails"]);
    assert_eq!(node.stage.next().await, ["a fails"]);
    assert_eq!(begin.elapsed().as_secs(), 5);
    node.stage.set(|play| play.failing.clear());
    assert_eq!(node.stage.next().await, ["a starts"]);
    assert_eq!(begin.elapsed().as_secs(), 10);
    soon(node.readiness.ready()).await;
    assert_eq!(node.pods(), "a:Up");
    well(&link, &del("nobody")).await;
}

#[tokio::test(start_paused = true)]
async fn a_pending_pod_can_be_deleted() {
    for snapshot_first in [false, true] {
        let node = Node::start();
        let link = node.cni.accept().await;
        node.stage.set(|play| play.failing.insert("a".into()));
        if snapshot_first {
            well(&link, &snapshot_sent()).await;
        }
        assert_ne!(link.add("a", netns()).await, "");
        well(&link, &del("a")).await;
        if !snapshot_first {
            well(&link, &snapshot_sent()).await;
        }
        assert_eq!((node.pods().as_str(), node.readiness.is_ready()), ("", true));
        node.stage.take();
        sleep(Duration::from_secs(60)).await;
        assert_eq!(node.stage.take(), [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_drain_lets_connections_end_and_is_waited_for() {
    let node = Node::start();
    let link = node.cni.accept().await;
    node.stage.set(|play| play.busy.extend(["b".into(), "c".into()]));
    for uid in ["a", "b", "c"] {
        assert_eq!(link.add(uid, netns()).await, "");
    }
    well(&link, &snapshot_sent()).await;
    node.stage.take();
    node.drain.start();
    assert_eq!(link.read().await, None, "the CNI is no longer listened to");
    sleep(Duration::from_secs(3600)).await;
    let mut notes = node.stage.take();
    notes.sort();
    assert_eq!(notes, ["a says goaway", "b says goaway", "c says goaway"]);
    assert_eq!((node.pods().as_str(), node.drain.remaining()), ("b:Up c:Up", 1));
    node.drain.force();
    soon(node.drain.drained()).await;
    assert_eq!(soon(node.task).await.unwrap(), Ok(()));
    let mut notes = node.stage.take();
    notes.sort();
    assert_eq!(notes, ["b lets go", "c lets go"]);
}

#[tokio::test]
async fn a_cni_that_breaks_the_protocol_ends_everything() {
    let mut node = Node::start();
    let link = node.cni.accept().await;
    assert_eq!(link.add("a", netns()).await, "");
    well(&link, &snapshot_sent()).await;
    assert_ne!(link.ask(&snapshot_sent(), &[]).await, "");
    assert_eq!(soon(&mut node.task).await.unwrap(), Err(ProtocolError::SecondSnapshot));
    assert_eq!(node.stage.take()[0], "a starts");
    assert_eq!(node.pods(), "");
    assert!(!node.readiness.is_ready());
}
