//! The node agent that tells a ztunnel which pods to serve: the CNI's side of ZDS. Its bytes are
//! written by hand (contract, 4.1), so that an error in the product's encoding cannot hide here.

use super::world::Pod;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
    sockopt::{Timeout, set_socket_timeout},
};
use std::{
    collections::BTreeMap,
    io::IoSlice,
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

/// ZdsHello with version V1.
const HELLO: [u8; 2] = [0x08, 0x01];
/// Istio's CNI waits for 5 s; a debug build on a busy machine may take longer.
const ACK_WITHIN: Duration = Duration::from_secs(15);

/// A CNI that listens.
#[derive(Debug)]
pub struct Cni {
    path: PathBuf,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    listener: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pods: BTreeMap<String, Listed>,
    /// Connections with a snapshot, oldest first.
    sessions: Vec<OwnedFd>,
    accepted: usize,
    snapshots: usize,
    complaints: Vec<String>,
}

#[derive(Debug)]
struct Listed {
    name: String,
    namespace: String,
    account: String,
    /// Gone after a restart of the CNI; then the pod is kept, not added.
    netns: Option<OwnedFd>,
}

impl Cni {
    /// Listens at `path`.
    pub fn listen(path: &Path) -> Self {
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(path).unwrap()).unwrap();
        rustix::net::listen(&listener, 8).unwrap();
        let shared = Arc::new(Shared { listener, state: Mutex::default() });
        let accepting = std::thread::spawn({
            let shared = shared.clone();
            move || {
                while let Ok(session) = rustix::net::accept_with(&shared.listener, SocketFlags::CLOEXEC) {
                    let mut state = shared.state.lock().unwrap();
                    state.accepted += 1;
                    match state.greet(&session) {
                        Ok(()) => state.sessions.push(session),
                        Err(complaint) => state.complaints.push(complaint),
                    }
                }
            }
        });
        Self { path: path.to_owned(), shared, accepting: Some(accepting) }
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A pod that is part of the next snapshot, without telling anyone now.
    pub fn list(&self, pod: &Pod) {
        self.shared.state.lock().unwrap().pods.insert(pod.uid(), Listed::from(pod));
    }

    /// A new pod: tells the newest connection, and returns once it is served.
    pub fn add(&self, pod: &Pod) -> Result<(), String> {
        let mut state = self.shared.state.lock().unwrap();
        let (uid, listed) = (pod.uid(), Listed::from(pod));
        let session = state.sessions.last().ok_or("no ztunnel is connected")?;
        let told = ask(session, &listed.add(&uid), listed.netns.as_ref().map(|fd| fd.as_fd()));
        state.pods.insert(uid, listed);
        told
    }

    /// A pod is gone: tells all connections.
    pub fn del(&self, uid: &str) -> Result<(), String> {
        let mut state = self.shared.state.lock().unwrap();
        state.pods.remove(uid);
        // A ztunnel that has ended meanwhile does not answer.
        state.sessions.retain(|session| !is_closed(session));
        state.sessions.iter().try_for_each(|session| ask(session, &del(uid), None))
    }

    /// Forgets a pod without telling anyone: the next snapshot is without it.
    pub fn forget(&self, uid: &str) {
        self.shared.state.lock().unwrap().pods.remove(uid);
    }

    /// Closes all connections; with `keep`, the namespaces of the pods are lost as well.
    pub fn restart(&self, keep: bool) {
        let mut state = self.shared.state.lock().unwrap();
        state.sessions.clear();
        if keep {
            state.pods.values_mut().for_each(|pod| pod.netns = None);
        }
    }

    /// How many connections were accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.state.lock().unwrap().accepted
    }

    /// How many snapshots were acknowledged so far.
    pub fn snapshots(&self) -> usize {
        self.shared.state.lock().unwrap().snapshots
    }

    /// What a ztunnel has answered with an error, or not at all.
    pub fn complaints(&self) -> Vec<String> {
        self.shared.state.lock().unwrap().complaints.clone()
    }
}

impl Drop for Cni {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.shared.listener, Shutdown::Both);
        let _ = self.accepting.take().map(JoinHandle::join);
    }
}

impl State {
    /// Hello, the pods, and the end of the snapshot.
    fn greet(&mut self, session: &OwnedFd) -> Result<(), String> {
        for direction in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(session, direction, Some(ACK_WITHIN)).unwrap();
        }
        let hello = receive(session)?;
        if hello != HELLO {
            return Err(format!("not a hello: {hello:?}"));
        }
        for (uid, pod) in &self.pods {
            let told = match &pod.netns {
                Some(netns) => ask(session, &pod.add(uid), Some(netns.as_fd())),
                None => ask(session, &keep(uid), None),
            };
            if let Err(complaint) = told {
                self.complaints.push(format!("{uid}: {complaint}"));
            }
        }
        ask(session, &snapshot_sent(), None)?;
        self.snapshots += 1;
        Ok(())
    }
}

impl From<&Pod> for Listed {
    fn from(pod: &Pod) -> Self {
        let netns = Some(pod.netns.handle());
        Self { name: pod.name.clone(), namespace: super::world::NS.into(), account: pod.account.clone(), netns }
    }
}

impl Listed {
    /// WorkloadRequest with AddWorkload.
    fn add(&self, uid: &str) -> Vec<u8> {
        let info = [text(1, &self.name), text(2, &self.namespace), text(3, &self.account)].concat();
        bytes(1, &[text(1, uid), bytes(2, &info)].concat())
    }
}

/// WorkloadRequest with DelWorkload, whose uid is field 2.
pub fn del(uid: &str) -> Vec<u8> {
    bytes(2, &text(2, uid))
}

/// WorkloadRequest with SnapshotSent.
pub fn snapshot_sent() -> Vec<u8> {
    bytes(3, &[])
}

/// WorkloadRequest with KeepWorkload, which is payload 5.
pub fn keep(uid: &str) -> Vec<u8> {
    bytes(5, &text(1, uid))
}

fn text(field: u8, value: &str) -> Vec<u8> {
    bytes(field, value.as_bytes())
}

/// A length-delimited field. Everything here is shorter than what a two-byte length can say.
fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap();
    let mut out = vec![field << 3 | 2];
    match length {
        0..128 => out.push(length as u8),
        128.. => out.extend([length as u8 | 0x80, u8::try_from(length >> 7).unwrap()]),
    }
    out.extend(value);
    out
}

/// Sends one packet and waits for its acknowledgement.
fn ask(session: &OwnedFd, packet: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), String> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = fd.into_iter().collect();
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    }
    rustix::net::sendmsg(session, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL).map_err(|e| format!("not sent: {e}"))?;
    let response = receive(session)?;
    // WorkloadResponse.ack, and in it Ack.error.
    let told = value(&response, 1).and_then(|ack| if ack.is_empty() { Some(ack) } else { value(ack, 1) });
    match told {
        Some([]) => Ok(()),
        Some(error) => Err(format!("refused: {}", String::from_utf8_lossy(error))),
        None => Err(format!("not an acknowledgement: {response:?}")),
    }
}

/// The value of the only field, which must be this one and length-delimited.
fn value(message: &[u8], field: u8) -> Option<&[u8]> {
    let (length, value) = match message {
        [key, low, high, rest @ ..] if *key == field << 3 | 2 && *low >= 128 => (usize::from(*low & 127) + (usize::from(*high) << 7), rest),
        [key, length, rest @ ..] if *key == field << 3 | 2 => (usize::from(*length), rest),
        _ => return None,
    };
    (value.len() == length).then_some(value)
}

fn receive(session: &OwnedFd) -> Result<Vec<u8>, String> {
    let mut buf = vec![0; 1024];
    let (n, _) = rustix::net::recv(session, &mut buf[..], RecvFlags::empty()).map_err(|e| format!("no answer: {e}"))?;
    if n == 0 {
        return Err("the connection was closed".into());
    }
    buf.truncate(n);
    Ok(buf)
}

fn is_closed(session: &OwnedFd) -> bool {
    let mut buf = [0; 1];
    match rustix::net::recv(session, &mut buf[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((n, _)) => n == 0,
        Err(error) => error != rustix::io::Errno::AGAIN,
    }
}
