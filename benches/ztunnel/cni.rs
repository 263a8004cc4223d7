//! The node agent that tells a ztunnel which pods to serve: the CNI's side of ZDS (contract, 4).

use super::world::{NAMESPACE, Pod};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    sockopt::{Timeout, set_socket_timeout},
};
use std::{
    io::IoSlice,
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

/// ZdsHello with version V1.
const HELLO: [u8; 2] = [0x08, 0x01];
/// WorkloadRequest with SnapshotSent.
const SNAPSHOT_SENT: [u8; 2] = [3 << 3 | 2, 0];
/// WorkloadResponse with an Ack that holds no error, or one that is empty.
const ACKS: [&[u8]; 2] = [&[1 << 3 | 2, 0], &[1 << 3 | 2, 2, 1 << 3 | 2, 0]];
const PATIENCE: Duration = Duration::from_secs(30);

/// A CNI that listens for one ztunnel.
#[derive(Debug)]
pub struct Cni {
    path: PathBuf,
    listener: OwnedFd,
}

/// A ztunnel that has been told of its pods, and serves them as long as this is kept.
#[derive(Debug)]
pub struct Session(#[allow(dead_code, reason = "closed with its owner")] OwnedFd);

impl Cni {
    /// Listens at `path`.
    pub fn listen(path: &Path) -> Self {
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(path).unwrap()).unwrap();
        rustix::net::listen(&listener, 8).unwrap();
        set_socket_timeout(&listener, Timeout::Recv, Some(PATIENCE)).unwrap();
        Self { path: path.to_owned(), listener }
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for a ztunnel and tells it of these pods; they are served when this returns.
    ///
    /// # Errors
    /// When it does not come, or refuses something.
    pub fn enrol<'a>(&self, pods: impl IntoIterator<Item = &'a Pod>) -> Result<Session, String> {
        let session = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC).map_err(|e| format!("no ztunnel has come: {e}"))?;
        for direction in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&session, direction, Some(PATIENCE)).unwrap();
        }
        let hello = receive(&session)?;
        if hello != HELLO {
            return Err(format!("not a hello: {hello:?}"));
        }
        for pod in pods {
            ask(&session, &add(pod), Some(pod.netns.handle().as_fd())).map_err(|reason| format!("{}: {reason}", pod.name))?;
        }
        ask(&session, &SNAPSHOT_SENT, None)?;
        Ok(Session(session))
    }
}

/// WorkloadRequest with AddWorkload, whose service account is called like the pod.
fn add(pod: &Pod) -> Vec<u8> {
    let info = [field(1, pod.name.as_bytes()), field(2, NAMESPACE.as_bytes()), field(3, pod.name.as_bytes())].concat();
    field(1, &[field(1, format!("uid-{}", pod.name).as_bytes()), field(2, &info)].concat())
}

/// A length-delimited field. Everything here is shorter than what one byte of length can say.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    assert!(value.len() < 128);
    [&[number << 3 | 2, value.len() as u8], value].concat()
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
    let answer = receive(session)?;
    ACKS.contains(&&answer[..]).then_some(()).ok_or_else(|| format!("refused: {}", String::from_utf8_lossy(&answer)))
}

fn receive(session: &OwnedFd) -> Result<Vec<u8>, String> {
    let mut buf = vec![0; 1024];
    let (n, _) = rustix::net::recv(session, &mut buf[..], RecvFlags::empty()).map_err(|e| format!("no answer: {e}"))?;
    buf.truncate(n);
    if buf.is_empty() { Err("the connection was closed".into()) } else { Ok(buf) }
}
