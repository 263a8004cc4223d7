//! A CNI for tests: it says exactly what it is told to, in bytes that are put together by hand, so
//! that a wrong number in `proto/zds.proto` does not go unseen.

use super::connection::{Connection, Packet};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use socket2::{Domain, SockAddr, Socket, Type};
use std::{
    fs,
    io::IoSlice,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::net::UnixListener;

/// Listens where a client connects.
pub(crate) struct Cni {
    listener: UnixListener,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

/// A connection that a client has made.
pub(crate) struct Link(Connection);

impl Cni {
    pub(crate) fn listen() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ztunnel.sock");
        Self { listener: listen(&path), path, _dir: dir }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path is gone; what is connected stays so.
    pub(crate) fn stop(&self) {
        fs::remove_file(&self.path).unwrap();
    }

    /// Another CNI listens at the path.
    pub(crate) fn start(&mut self) {
        self.listener = listen(&self.path);
    }

    /// A client has connected and said hello.
    pub(crate) async fn accept(&self) -> Link {
        let link = self.accept_silently().await;
        assert_eq!(link.read().await, Some(vec![0x08, 0x01]), "ZdsHello {{ version: V1 }}");
        link
    }

    /// A client has connected.
    pub(crate) async fn accept_silently(&self) -> Link {
        let (stream, _) = soon(self.listener.accept()).await.unwrap();
        Link::new(OwnedFd::from(stream.into_std().unwrap()).into())
    }
}

fn listen(path: &Path) -> UnixListener {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    socket.bind(&SockAddr::unix(path).unwrap()).unwrap();
    socket.listen(16).unwrap();
    socket.set_nonblocking(true).unwrap();
    UnixListener::from_std(OwnedFd::from(socket).into()).unwrap()
}

impl Link {
    pub(crate) fn new(socket: Socket) -> Self {
        Self(Connection::new(socket).unwrap())
    }

    /// Sends a packet with descriptors and reads the answer: the error in it, empty if there is none.
    pub(crate) async fn ask(&self, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> String {
        self.say(packet, descriptors);
        let answer = self.read().await.expect("an answer before the end");
        ack(&answer).unwrap_or_else(|| panic!("no WorkloadResponse: {answer:02x?}"))
    }

    /// Sends a packet.
    pub(crate) fn say(&self, packet: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        let sent = sendmsg(&self.0.0, &[IoSlice::new(packet)], &mut ancillary, SendFlags::NOSIGNAL).unwrap();
        assert_eq!(sent, packet.len());
    }

    /// The next packet; `None` when the client has closed.
    pub(crate) async fn read(&self) -> Option<Vec<u8>> {
        let packet = soon(self.0.receive()).await.unwrap()?;
        let Packet { bytes, descriptors, truncated, descriptors_truncated } = packet;
        assert!(descriptors.is_empty() && !truncated && !descriptors_truncated, "a packet that the CNI can read");
        Some(bytes)
    }

    /// Adds a pod that lives in `netns`.
    pub(crate) async fn add(&self, uid: &str, netns: impl AsFd) -> String {
        self.ask(&add(uid), &[netns.as_fd()]).await
    }
}

/// What comes, or the test has failed.
pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    // So long that no clock which is put forward by what the client waits for gets there first.
    tokio::time::timeout(Duration::from_secs(3600), work).await.expect("it happens soon")
}

/// The namespace of this thread.
pub(crate) fn netns() -> OwnedFd {
    fs::File::open("/proc/thread-self/ns/net").unwrap().into()
}

/// A field of protobuf that has a length.
pub(crate) fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).ok().filter(|l| *l < 128).expect("a short field");
    [&[number << 3 | 2, length], content].concat()
}

/// `WorkloadRequest { add: AddWorkload { uid, workload_info: { name: NAME, namespace: "demo", service_account: "sa" } } }`,
/// where NAME is `pod-UID`.
pub(crate) fn add(uid: &str) -> Vec<u8> {
    let info = [field(1, format!("pod-{uid}").as_bytes()), field(2, b"demo"), field(3, b"sa")].concat();
    field(1, &[field(1, uid.as_bytes()), field(2, &info)].concat())
}

/// `WorkloadRequest { del: DelWorkload { uid } }`
pub(crate) fn del(uid: &str) -> Vec<u8> {
    field(2, &field(2, uid.as_bytes()))
}

/// `WorkloadRequest { snapshot_sent: SnapshotSent {} }`
pub(crate) fn snapshot_sent() -> Vec<u8> {
    field(3, &[])
}

/// `WorkloadRequest { keep: KeepWorkload { uid } }`
pub(crate) fn keep(uid: &str) -> Vec<u8> {
    field(5, &field(1, uid.as_bytes()))
}

/// The error of `WorkloadResponse { ack: Ack { error } }`.
pub(crate) fn ack(packet: &[u8]) -> Option<String> {
    let content = long_field(1, packet)?;
    if content.is_empty() {
        return Some(String::new());
    }
    String::from_utf8(long_field(1, content)?.to_vec()).ok()
}

/// The content of the only field of a message.
fn long_field(number: u8, message: &[u8]) -> Option<&[u8]> {
    let [tag, rest @ ..] = message else { return None };
    let (length, rest) = match *rest {
        [low, high, ..] if low & 0x80 != 0 => (usize::from(low & 0x7f) | usize::from(high) << 7, &rest[2..]),
        [length, ..] => (usize::from(length), &rest[1..]),
        [] => return None,
    };
    (*tag == number << 3 | 2 && length == rest.len()).then_some(rest)
}
