use super::{
    message::{self, Request, Unreadable},
    testing::*,
    *,
};
use crate::runtime::{DrainTrigger, drain};
use connection::{Connection, PACKET, Packet};
use socket2::{Domain, Socket, Type};
use std::{
    collections::HashSet,
    os::fd::{AsFd as _, OwnedFd},
    sync::Mutex,
    time::Duration,
};
use tokio::{task::JoinHandle, time::Instant};

// ---- packets ----

fn packet(bytes: &[u8], descriptors: usize) -> Packet {
    Packet {
        bytes: bytes.to_vec(),
        descriptors: (0..descriptors).map(|_| netns()).collect(),
        truncated: false,
        descriptors_truncated: false,
    }
}

#[test]
fn requests_are_read_by_their_numbers() {
    const ADD: &[u8] = b"\x0a\x16\x0a\x02u1\x12\x10\x0a\x03app\x12\x04demo\x1a\x03web";
    let Ok(Request::Add(pod)) = message::decode(packet(ADD, 1)) else { panic!("an Add") };
    assert_eq!(&*pod.uid, "u1");
    assert_eq!(pod.info, PodInfo { name: "app".into(), namespace: "demo".into(), service_account: "web".into() });
    assert_eq!(pod.netns.id(), Netns::new(netns()).unwrap().id());
    assert!(matches!(message::decode(packet(b"\x12\x04\x12\x02u1", 0)), Ok(Request::Del(uid)) if &*uid == "u1"), "its uid is field 2");
    assert!(matches!(message::decode(packet(b"\x2a\x04\x0a\x02u1", 0)), Ok(Request::Keep(uid)) if &*uid == "u1"), "it is field 5");
    assert!(matches!(message::decode(packet(b"\x1a\x00", 0)), Ok(Request::SnapshotSent)));
    assert!(matches!(message::decode(packet(b"\x0a\x04\x0a\x02u1", 1)), Ok(Request::AddWithoutInfo(uid)) if &*uid == "u1"));
    let extended = b"\x0a\x1c\x0a\x02u1\x12\x13\x0a\x03app\x12\x04demo\x1a\x03web\x22\x01x\x1a\x01y";
    assert!(matches!(message::decode(packet(extended, 1)), Ok(Request::Add(_))), "fields of a later version are passed over");
}

#[test]
fn what_cannot_be_read_is_refused_with_its_reason() {
    let rows: &[(&[u8], usize, &str)] = &[
        (&add("u1"), 0, "0 file descriptors came along, and exactly one"),
        (&add("u1"), 2, "2 file descriptors came along, and exactly one"),
        (&del("u1"), 1, "1 file descriptors came along with a request that has none"),
        (&keep("u1"), 1, "1 file descriptors came along with a request that has none"),
        (&snapshot_sent(), 1, "1 file descriptors came along with a request that has none"),
        (b"\xff\xff\xff", 0, "not a WorkloadRequest"),
        (b"\x0a\x05\x0a", 1, "not a WorkloadRequest"),
        (b"\x22\x00", 0, "of a kind that is not known"),
        (b"\x12\x04\x0a\x02u1", 0, "the uid is empty"),
        (b"\x2a\x04\x12\x02u1", 0, "the uid is empty"),
        (b"\x0a\x02\x12\x00", 1, "the uid is empty"),
    ];
    for (bytes, descriptors, reason) in rows {
        let error = message::decode(packet(bytes, *descriptors)).expect_err(reason).to_string();
        assert!(error.contains(reason), "{bytes:02x?}: {error}");
    }
    let cut = Packet { truncated: true, ..packet(&add("u1"), 1) };
    assert!(matches!(message::decode(cut), Err(Unreadable::Truncated)), "though what is left can be read");
    let cut = Packet { descriptors_truncated: true, ..packet(&add("u1"), 1) };
    assert!(matches!(message::decode(cut), Err(Unreadable::DescriptorsTruncated)));
}

#[test]
fn answers_are_written_by_their_numbers_and_fit_a_packet() {
    assert_eq!(message::hello(), b"\x08\x01");
    assert_eq!(message::ack(Ok(())), b"\x0a\x00");
    assert_eq!(message::ack(Err("no")), b"\x0a\x04\x0a\x02no");
    assert_ne!(message::ack(Err("")), message::ack(Ok(())), "a refusal without words is still one");
    let long = message::ack(Err(&"ä".repeat(2000)));
    assert!(long.len() <= PACKET);
    assert_eq!(ack(&long).unwrap(), "ä".repeat(256));
}

// ---- connections ----

fn pair() -> (Connection, Link) {
    let (a, b) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    (Connection::new(a).unwrap(), Link::new(b))
}

#[tokio::test]
async fn a_packet_comes_whole_with_its_descriptors() {
    let (connection, link) = pair();
    let (one, other) = (netns(), OwnedFd::from(tempfile::tempfile().unwrap()));
    link.say(b"first", &[one.as_fd(), other.as_fd()]);
    link.say(b"second", &[]);
    let first = soon(connection.receive()).await.unwrap().unwrap();
    assert_eq!(first.bytes, b"first");
    assert!(!first.truncated && !first.descriptors_truncated);
    let id = |fd: &OwnedFd| Netns::new(fd.try_clone().unwrap()).unwrap().id();
    assert_eq!(first.descriptors.iter().map(id).collect::<Vec<_>>(), [id(&one), id(&other)]);
    for fd in &first.descriptors {
        assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }
    assert_eq!(soon(connection.receive()).await.unwrap().unwrap().bytes, b"second");
    drop(link);
    assert!(soon(connection.receive()).await.unwrap().is_none());
}

#[tokio::test]
async fn what_does_not_fit_is_known_to_be_cut() {
    let (connection, link) = pair();
    let fd = netns();
    for (length, cut) in [(PACKET - 1, false), (PACKET, false), (PACKET + 1, true), (5 * PACKET, true)] {
        link.say(&vec![b'x'; length], &[]);
        let packet = soon(connection.receive()).await.unwrap().unwrap();
        assert_eq!((packet.bytes.len(), packet.truncated), (length.min(PACKET), cut), "{length} bytes");
    }
    link.say(b"x", &[fd.as_fd(); 16]);
    assert!(soon(connection.receive()).await.unwrap().unwrap().descriptors_truncated);
    link.say(b"x", &[]);
    assert!(soon(connection.receive()).await.unwrap().unwrap().descriptors.is_empty(), "the rest is not left behind");
}

// ---- sessions ----

/// Writes down what is asked of it; pods whose uid begins with `bad` cannot be served.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

struct FakePods {
    notes: Notes,
    pending: HashSet<Name>,
}

impl Notes {
    fn add(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Pods for FakePods {
    fn connected(&mut self) {
        self.pending.clear();
        self.notes.add("connected".into());
    }

    fn disconnected(&mut self) {
        self.notes.add("disconnected".into());
    }

    async fn add(&mut self, pod: Pod) -> io::Result<()> {
        self.notes.add(format!("add {} {}", pod.uid, pod.info.name));
        if pod.uid.starts_with("bad") {
            self.pending.insert(pod.uid);
            return Err(io::Error::other("port 15008 is taken"));
        }
        // Answers wait for it, though others run meanwhile.
        tokio::task::yield_now().await;
        self.notes.add(format!("added {}", pod.uid));
        Ok(())
    }

    fn keep(&mut self, uid: &Name) {
        self.notes.add(format!("keep {uid}"));
    }

    fn forget(&mut self, uid: &Name) {
        self.notes.add(format!("forget {uid}"));
    }

    fn remove(&mut self, uid: &Name) {
        self.pending.remove(uid);
        self.notes.add(format!("remove {uid}"));
    }

    fn snapshot_complete(&mut self) {
        self.notes.add("snapshot".into());
    }

    fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    async fn retry(&mut self) {
        self.notes.add("retry".into());
    }
}

/// A client that runs.
struct Run {
    notes: Notes,
    drain: DrainTrigger,
    task: JoinHandle<Result<(), ProtocolError>>,
}

fn run(cni: &Cni) -> Run {
    let client = Client::new(Config { socket: cni.path().to_owned(), ..Config::default() });
    let (trigger, watch) = drain::new();
    let notes = Notes::default();
    let mut pods = FakePods { notes: notes.clone(), pending: HashSet::new() };
    Run { notes, drain: trigger, task: tokio::spawn(async move { client.run(&mut pods, &watch).await }) }
}

impl Run {
    async fn end(self) -> Result<(), ProtocolError> {
        soon(self.task).await.unwrap()
    }
}

enum Then {
    GoesOn,
    Reconnects,
    Exits(ProtocolError),
}

/// What is sent: the bytes, and how many descriptors.
type Said = (Vec<u8>, usize);

#[tokio::test]
async fn requests_are_handled_as_the_contract_says() {
    let add_1 = || (add("1"), 1);
    let snapshot = || (snapshot_sent(), 0);
    let no_info = || (field(1, &field(1, b"1")), 1);
    // What is said; the answer to the last of it (all others are well); what happens then; notes.
    let rows: Vec<(&str, Vec<Said>, &str, Then, &str)> = vec![
        ("add", vec![add_1()], "", Then::GoesOn, "add 1 pod-1, added 1"),
        ("add after the snapshot", vec![snapshot(), add_1()], "", Then::GoesOn, "snapshot, add 1 pod-1, added 1"),
        ("keep", vec![(keep("1"), 0), snapshot()], "", Then::GoesOn, "keep 1, snapshot"),
        ("del before the snapshot", vec![add_1(), (del("1"), 0)], "", Then::GoesOn, "add 1 pod-1, added 1, forget 1"),
        ("del after the snapshot", vec![snapshot(), (del("1"), 0)], "", Then::GoesOn, "snapshot, remove 1"),
        ("a start that fails", vec![(add("bad"), 1)], "port 15008 is taken", Then::GoesOn, "add bad pod-bad"),
        ("no info", vec![no_info()], "workload_info", Then::Exits(ProtocolError::NoWorkloadInfo), ""),
        (
            "keep after the snapshot",
            vec![snapshot(), (keep("1"), 0)],
            "after the snapshot",
            Then::Exits(ProtocolError::KeepAfterSnapshot),
            "snapshot",
        ),
        ("a second snapshot", vec![snapshot(), snapshot()], "twice", Then::Exits(ProtocolError::SecondSnapshot), "snapshot"),
        ("no descriptor", vec![(add("1"), 0)], "0 file descriptors", Then::Reconnects, ""),
        ("two descriptors", vec![(add("1"), 2)], "2 file descriptors", Then::Reconnects, ""),
        ("a descriptor on del", vec![(del("1"), 1)], "1 file descriptors", Then::Reconnects, ""),
        ("a descriptor on keep", vec![(keep("1"), 1)], "1 file descriptors", Then::Reconnects, ""),
        ("a descriptor on the snapshot", vec![(snapshot_sent(), 1)], "1 file descriptors", Then::Reconnects, ""),
        ("garbage", vec![add_1(), (b"\xff\xff".to_vec(), 0)], "not a WorkloadRequest", Then::Reconnects, "add 1 pod-1, added 1"),
        ("an unknown request", vec![(field(4, b""), 0)], "not known", Then::Reconnects, ""),
        ("too long", vec![([add("1"), vec![0; PACKET]].concat(), 1)], "longer than 1024", Then::Reconnects, ""),
        ("too many descriptors", vec![(add("1"), 16)], "cannot all be received", Then::Reconnects, ""),
    ];
    for (case, said, last, then, notes) in rows {
        let cni = Cni::listen();
        let run = run(&cni);
        let link = cni.accept().await;
        let fd = netns();
        let mut answers = Vec::new();
        for (bytes, descriptors) in &said {
            answers.push(link.ask(bytes, &vec![fd.as_fd(); *descriptors]).await);
        }
        let answer = answers.pop().unwrap();
        assert!(answers.iter().all(String::is_empty), "{case}: {answers:?}");
        assert!(if last.is_empty() { answer.is_empty() } else { answer.contains(last) }, "{case}: {answer}");
        let expect = |rest: &[&str]| {
            let all = ["connected"].into_iter().chain(notes.split(", ").filter(|n| !n.is_empty())).chain(rest.iter().copied());
            assert_eq!(run.notes.take(), all.collect::<Vec<_>>(), "{case}");
        };
        match then {
            Then::GoesOn => {
                expect(&[]);
                assert_eq!(link.ask(&del("probe"), &[]).await, "", "{case}");
            }
            Then::Reconnects => {
                assert_eq!(link.read().await, None, "{case}");
                let again = cni.accept().await;
                assert_eq!(again.ask(&snapshot_sent(), &[]).await, "", "{case}: a new session");
                expect(&["disconnected", "connected", "snapshot"]);
            }
            Then::Exits(error) => {
                assert_eq!(link.read().await, None, "{case}");
                expect(&["disconnected"]);
                assert_eq!(run.end().await, Err(error), "{case}");
            }
        }
    }
}

#[tokio::test]
async fn each_request_has_one_answer_in_order() {
    let cni = Cni::listen();
    let run = run(&cni);
    let link = cni.accept().await;
    let fd = netns();
    // A CNI that does not wait for answers.
    link.say(&add("1"), &[fd.as_fd()]);
    link.say(&add("bad"), &[fd.as_fd()]);
    link.say(&keep("2"), &[]);
    link.say(&snapshot_sent(), &[]);
    link.say(&del("3"), &[]);
    let mut answers = Vec::new();
    for _ in 0..5 {
        answers.push(ack(&link.read().await.unwrap()).unwrap());
    }
    assert_eq!(answers, ["", "port 15008 is taken", "", "", ""]);
    assert_eq!(run.notes.take(), ["connected", "add 1 pod-1", "added 1", "add bad pod-bad", "keep 2", "snapshot", "remove 3"]);
    run.drain.start();
    assert_eq!(link.read().await, None, "nothing was sent that was not asked for");
}

#[tokio::test(start_paused = true)]
async fn pods_that_failed_are_tried_again_on_the_same_connection() {
    let cni = Cni::listen();
    let run = run(&cni);
    let link = cni.accept().await;
    let fd = netns();
    let begin = Instant::now();
    assert_ne!(link.add("bad", &fd).await, "");
    assert_eq!(run.notes.take(), ["connected", "add bad pod-bad"]);
    let mut retries = Vec::new();
    let mut other = 0;
    // A CNI with something to say each second does not put it off.
    while retries.len() < 3 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(link.ask(&keep("other"), &[]).await, "");
        for note in run.notes.take() {
            if note == "retry" { retries.push(begin.elapsed().as_secs()) } else { other += 1 }
        }
        assert!(other < 100, "{retries:?}");
    }
    assert_eq!(retries, [5, 10, 15]);
    assert_eq!(link.ask(&snapshot_sent(), &[]).await, "");
    assert_eq!(link.ask(&del("bad"), &[]).await, "");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!run.notes.take().contains(&"retry".to_owned()), "nothing is left to try");
}

// ---- from one connection to the next ----

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_closed_is_made_again_at_once() {
    let cni = Cni::listen();
    let run = run(&cni);
    for _ in 0..5 {
        let link = cni.accept().await;
        assert_eq!(link.ask(&snapshot_sent(), &[]).await, "");
        let closed = Instant::now();
        drop(link);
        let again = cni.accept().await;
        assert_eq!(closed.elapsed(), Duration::ZERO);
        assert_eq!(again.ask(&keep("1"), &[]).await, "", "the snapshot begins anew");
    }
    assert!(!run.task.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_cni_that_closes_before_it_says_anything_is_not_beset() {
    let cni = Cni::listen();
    let _run = run(&cni);
    let mut waits = Vec::new();
    let mut closed = Instant::now();
    for _ in 0..15 {
        drop(cni.accept_silently().await);
        waits.push(closed.elapsed());
        closed = Instant::now();
    }
    assert!(waits[1] < Duration::from_millis(10), "{waits:?}");
    assert!(waits[14] > Duration::from_secs(11), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_cni_that_does_not_listen_is_waited_for() {
    let mut cni = Cni::listen();
    let run = run(&cni);
    let link = cni.accept().await;
    assert_eq!(link.ask(&snapshot_sent(), &[]).await, "");
    cni.stop();
    drop(link);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(run.notes.take(), ["connected", "snapshot", "disconnected"]);
    let back = Instant::now();
    cni.start();
    let _link = cni.accept().await;
    assert!(back.elapsed() <= Duration::from_secs(15), "{:?}", back.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_cni_that_takes_over_the_path_is_turned_to() {
    let mut cni = Cni::listen();
    let run = run(&cni);
    let old = cni.accept().await;
    assert_eq!(old.ask(&snapshot_sent(), &[]).await, "");
    cni.stop();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(old.ask(&del("1"), &[]).await, "", "a path without a socket is no reason to leave");
    cni.start();
    let new = cni.accept().await;
    assert_eq!(old.read().await, None);
    assert_eq!(new.ask(&keep("1"), &[]).await, "");
    assert_eq!(run.notes.take(), ["connected", "snapshot", "remove 1", "disconnected", "connected", "keep 1"]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(new.ask(&snapshot_sent(), &[]).await, "", "and stayed with");
}

#[tokio::test]
async fn the_drain_closes_the_connection() {
    let cni = Cni::listen();
    let run = run(&cni);
    let link = cni.accept().await;
    assert_eq!(link.ask(&snapshot_sent(), &[]).await, "");
    run.drain.start();
    assert_eq!(link.read().await, None);
    assert_eq!(run.end().await, Ok(()));
}

#[tokio::test]
async fn the_drain_ends_a_client_that_nobody_listens_to() {
    let cni = Cni::listen();
    cni.stop();
    let run = run(&cni);
    run.drain.start();
    assert_eq!(run.end().await, Ok(()));
}
