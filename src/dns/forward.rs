//! Questions that others answer: messages go to the nameservers as they came, and come back as they
//! are. Only the id differs on the way, which forged answers must guess, along with the port.

use super::message::{self, Request};
use crate::{
    telemetry::DnsProtocol,
    transport::{Sockets, socket::ConnectOptions},
};
use rustix::rand::{GetRandomFlags, getrandom};
use std::{io, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::{Instant, timeout, timeout_at},
};

/// By UDP a nameserver is asked twice: either message may get lost.
const ROUNDS: usize = 2;
/// Answers by UDP are taken up to this length; a longer one is asked for again by TCP.
const MAX_UDP: usize = 4096;

/// The nameservers, and the way to them.
#[derive(Debug)]
pub(super) struct Forwarder {
    nameservers: Vec<SocketAddr>,
    sockets: Sockets,
    udp_timeout: Duration,
    tcp_timeout: Duration,
}

impl Forwarder {
    /// `udp_timeout`: for one answer by UDP. `tcp_timeout`: for a connect, and again for the answer.
    pub(super) fn new(nameservers: Vec<SocketAddr>, sockets: Sockets, udp_timeout: Duration, tcp_timeout: Duration) -> Self {
        Self { nameservers, sockets, udp_timeout, tcp_timeout }
    }

    /// The first answer that a nameserver gives, whatever it says; `None` when none gives any. Cancel
    /// safe.
    pub(super) async fn ask(&self, request: &Request<'_>, protocol: DnsProtocol) -> Option<Vec<u8>> {
        let rounds = match protocol {
            DnsProtocol::Udp => ROUNDS,
            DnsProtocol::Tcp => 1,
        };
        for nameserver in std::iter::repeat_n(&self.nameservers, rounds).flatten() {
            let answer = match protocol {
                DnsProtocol::Udp => self.udp(request, *nameserver).await,
                DnsProtocol::Tcp => self.tcp(request, *nameserver).await,
            };
            match answer {
                Ok(answer) => return Some(answer),
                Err(error) => tracing::debug!(target: "dns", %nameserver, %error, "nameserver does not answer"),
            }
        }
        None
    }

    async fn udp(&self, request: &Request<'_>, nameserver: SocketAddr) -> io::Result<Vec<u8>> {
        let deadline = Instant::now() + self.udp_timeout;
        let socket = self.sockets.udp_to(nameserver).await?;
        let (id, question) = with_random_id(request)?;
        timeout_at(deadline, socket.send(&question)).await??;
        timeout_at(deadline, answer_by_udp(&socket, request, id)).await?
    }

    async fn tcp(&self, request: &Request<'_>, nameserver: SocketAddr) -> io::Result<Vec<u8>> {
        let mut stream = self.sockets.connect(nameserver, ConnectOptions::new(self.tcp_timeout)).await?;
        let (id, question) = with_random_id(request)?;
        let exchange = async {
            write(&mut stream, &question).await?;
            let mut answer = read(&mut stream, message::MAX_MESSAGE).await?;
            check(&answer, request, id)?;
            message::set_id(&mut answer, message::id(request.bytes()));
            Ok(answer)
        };
        timeout(self.tcp_timeout, exchange).await?
    }
}

/// The answer among what comes. What is none may be from someone who guesses, and the answer still
/// to come.
async fn answer_by_udp(socket: &UdpSocket, request: &Request<'_>, id: u16) -> io::Result<Vec<u8>> {
    let limit = request.payload().min(MAX_UDP);
    // A byte more than is taken shows that there was more.
    let mut buffer = vec![0; limit + 1];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or_default();
        match check(answer, request, id) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => tracing::debug!(target: "dns", "answer to another question"),
            Err(error) => return Err(error),
            Ok(()) if length > limit => return Ok(request.truncated(answer)),
            Ok(()) => {
                buffer.truncate(length);
                message::set_id(&mut buffer, message::id(request.bytes()));
                return Ok(buffer);
            }
        }
    }
}

/// Fails with `InvalidData` for what is no answer to the request, and with another kind for one that
/// only says that the nameserver has no use for it.
fn check(answer: &[u8], request: &Request<'_>, id: u16) -> io::Result<()> {
    if message::answers(answer, id, request.question()) {
        Ok(())
    } else if message::is_bare_error(answer, id) {
        Err(io::Error::other("an error without the question"))
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// The request under an id that nobody can foresee.
fn with_random_id(request: &Request<'_>) -> io::Result<(u16, Vec<u8>)> {
    let mut id = [0; 2];
    getrandom(&mut id, GetRandomFlags::empty())?;
    let id = u16::from_ne_bytes(id);
    let mut question = request.bytes().to_vec();
    message::set_id(&mut question, id);
    Ok((id, question))
}

/// Writes a message to a connection.
pub(super) async fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    // In one piece: some read a length alone as the end.
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}

/// Reads a message of at most `limit` bytes from a connection.
pub(super) async fn read(stream: &mut TcpStream, limit: usize) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}
