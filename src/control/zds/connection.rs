//! A SOCK_SEQPACKET connection: one packet is one message, and file descriptors may come along.

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg, send};
use socket2::{Domain, SockAddr, Socket, Type};
use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};
use tokio::{io::Interest, net::UnixDatagram};

/// The longest packet that can be read, in bytes, here and on the other side.
pub(super) const PACKET: usize = 1024;

/// A request carries one descriptor at most; there is room for some more so that they can be counted.
const DESCRIPTORS: usize = 4;

/// A packet as it came.
#[derive(Debug)]
pub(super) struct Packet {
    /// Its bytes, at most [`PACKET`].
    pub(super) bytes: Vec<u8>,
    /// What came along; closed on exec.
    pub(super) descriptors: Vec<OwnedFd>,
    /// It was longer.
    pub(super) truncated: bool,
    /// There were more descriptors.
    pub(super) descriptors_truncated: bool,
}

/// A connection to the CNI. The standard library knows no SEQPACKET; to be told when there is
/// something to read, the socket passes for its next of kin.
#[derive(Debug)]
pub(super) struct Connection(pub(super) UnixDatagram);

impl Connection {
    /// Connects to the socket at `path`; never waits.
    ///
    /// # Errors
    /// When nobody listens there, or the listener has no place for us right now.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        // Without waiting: a listener that is stuck must not stop this thread.
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)?;
        Self::new(socket)
    }

    /// Over a connected SEQPACKET socket.
    pub(super) fn new(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let socket = std::os::unix::net::UnixDatagram::from(OwnedFd::from(socket));
        Ok(Self(UnixDatagram::from_std(socket)?))
    }

    /// The next packet; `None` when the other side has closed. Cancel safe.
    ///
    /// An empty packet cannot be told from the end, and no message is empty.
    pub(super) async fn receive(&self) -> io::Result<Option<Packet>> {
        let packet = self.0.async_io(Interest::READABLE, || receive(&self.0)).await?;
        let end = packet.bytes.is_empty() && packet.descriptors.is_empty();
        Ok((!end).then_some(packet))
    }

    /// Sends one packet. Cancel safe: it has been sent whole or not at all.
    pub(super) async fn send(&self, packet: &[u8]) -> io::Result<()> {
        let sent = self.0.async_io(Interest::WRITABLE, || Ok(send(&self.0, packet, SendFlags::NOSIGNAL)?)).await?;
        if sent == packet.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

fn receive(socket: impl AsFd) -> io::Result<Packet> {
    let mut bytes = vec![0; PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        // Credentials would come only to those who asked for them.
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    bytes.truncate(received.bytes);
    Ok(Packet {
        bytes,
        descriptors,
        truncated: received.flags.contains(ReturnFlags::TRUNC),
        descriptors_truncated: received.flags.contains(ReturnFlags::CTRUNC),
    })
}
