//! Where questions come from: UDP and TCP, side by side on each address.

use super::{
    forward::{read, write},
    proxy::Shared,
};
use crate::{
    runtime::DrainWatch,
    telemetry::DnsProtocol,
    transport::{
        Sockets,
        listener::{self, ListenOptions},
    },
};
use futures_util::future::join;
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
};

/// The longest question that is read: a name, and options around it.
const MAX_REQUEST: usize = 4096;
/// Datagrams that are still read at the start of a drain, however many more keep coming.
const MAX_LEFT: usize = 1024;
/// After an error that concerns the socket as a whole.
const BACKOFF: Duration = Duration::from_millis(10);

/// The sockets of a proxy.
#[derive(Debug)]
pub struct Listeners {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

impl Listeners {
    /// Listens on an address. With port 0, TCP gets a port of its own.
    ///
    /// # Errors
    /// When the address is taken or not ours, or an option is not permitted.
    pub fn bind(sockets: &Sockets, address: SocketAddr) -> io::Result<Self> {
        let udp = sockets.udp(address)?;
        let tcp = sockets.listen(address, ListenOptions::default())?;
        Ok(Self { udp: vec![udp], tcp: vec![tcp] })
    }

    /// Listens on localhost: on 127.0.0.1, and with `ipv6` also on ::1 if there is one.
    ///
    /// # Errors
    /// When the port is taken, or an option is not permitted.
    pub fn bind_localhost(sockets: &Sockets, port: u16, ipv6: bool) -> io::Result<Self> {
        let mut out = Self::bind(sockets, (Ipv4Addr::LOCALHOST, port).into())?;
        if ipv6 {
            match Self::bind(sockets, (Ipv6Addr::LOCALHOST, port).into()) {
                Ok(Self { udp, tcp }) => {
                    out.udp.extend(udp);
                    out.tcp.extend(tcp);
                }
                Err(error) if is_without_ipv6(&error) => tracing::debug!(target: "dns", %error, "no DNS on ::1"),
                Err(error) => return Err(error),
            }
        }
        Ok(out)
    }

    /// The addresses for UDP.
    pub fn udp_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.udp.iter().filter_map(|socket| socket.local_addr().ok())
    }

    /// The addresses for TCP.
    pub fn tcp_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.tcp.iter().filter_map(|listener| listener.local_addr().ok())
    }

    /// Whether what is sent to an address comes to us.
    pub(super) fn hear(&self, address: SocketAddr) -> bool {
        let is_ours = |own: SocketAddr| {
            own == address || (own.port() == address.port() && (own.ip().is_unspecified() || address.ip().is_unspecified()))
        };
        self.udp_addresses().chain(self.tcp_addresses()).any(is_ours)
    }

    /// Serves until the drain starts.
    pub(super) async fn serve(self, shared: Arc<Shared>, drain: DrainWatch) {
        let places = Arc::new(Semaphore::new(shared.limits.connections));
        let mut all = JoinSet::new();
        for socket in self.udp {
            all.spawn(datagrams(Arc::new(socket), shared.clone(), drain.clone()));
        }
        for listener in self.tcp {
            all.spawn(connections(listener, places.clone(), shared.clone(), drain.clone()));
        }
        all.join_all().await;
    }
}

/// No loopback address of IPv6, or no IPv6 at all.
fn is_without_ipv6(error: &io::Error) -> bool {
    let is_unsupported = error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error());
    error.kind() == io::ErrorKind::AddrNotAvailable || is_unsupported
}

async fn datagrams(socket: Arc<UdpSocket>, shared: Arc<Shared>, drain: DrainWatch) {
    // A byte more than is read shows that there was more.
    let mut buffer = [0; MAX_REQUEST + 1];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            () = drain.signaled() => break,
        };
        match received {
            Ok((length, peer)) => answer_datagram(&socket, &shared, &drain, buffer.get(..length).unwrap_or_default(), peer),
            Err(error) => {
                tracing::debug!(target: "dns", %error, "no question received");
                tokio::time::sleep(BACKOFF).await;
            }
        }
    }
    // Nobody else will read what is already here.
    for _ in 0..MAX_LEFT {
        let Ok((length, peer)) = socket.try_recv_from(&mut buffer) else { return };
        answer_datagram(&socket, &shared, &drain, buffer.get(..length).unwrap_or_default(), peer);
    }
}

fn answer_datagram(socket: &Arc<UdpSocket>, shared: &Arc<Shared>, drain: &DrainWatch, question: &[u8], peer: SocketAddr) {
    if question.len() > MAX_REQUEST {
        return tracing::debug!(target: "dns", %peer, "question is too long");
    }
    let (socket, shared, drain, question) = (socket.clone(), shared.clone(), drain.clone(), question.to_vec());
    let guard = drain.guard();
    tokio::spawn(async move {
        let _held = guard;
        let answering = async {
            let Some(answer) = shared.respond(&question, DnsProtocol::Udp).await else { return };
            if let Err(error) = socket.send_to(&answer, peer).await {
                tracing::debug!(target: "dns", %peer, %error, "answer not delivered");
            }
        };
        tokio::select! {
            () = answering => (),
            () = drain.forced() => (),
        }
    });
}

async fn connections(listener: TcpListener, places: Arc<Semaphore>, shared: Arc<Shared>, drain: DrainWatch) {
    loop {
        let next = join(places.clone().acquire_owned(), listener::accept(&listener));
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = drain.signaled() => return,
        };
        let (shared, drain, guard) = (shared.clone(), drain.clone(), drain.guard());
        tokio::spawn(async move {
            let _held = (place, guard);
            let serving = serve_connection(accepted.stream, &shared, &drain);
            let ended = tokio::select! {
                ended = serving => ended,
                () = drain.forced() => Ok(()),
            };
            if let Err(error) = ended {
                tracing::debug!(target: "dns", peer = %accepted.peer, %error, "connection ended");
            }
        });
    }
}

/// Answers one question after the other, until the client has no more or is idle for too long. During
/// a drain the question at hand is the last.
async fn serve_connection(mut stream: TcpStream, shared: &Shared, drain: &DrainWatch) -> io::Result<()> {
    let idle = shared.limits.idle;
    loop {
        let question = tokio::select! {
            biased;
            question = tokio::time::timeout(idle, read(&mut stream, MAX_REQUEST)) => question??,
            () = drain.signaled() => return Ok(()),
        };
        // Who sends what cannot be answered has lost the thread.
        let Some(answer) = shared.respond(&question, DnsProtocol::Tcp).await else { return Ok(()) };
        tokio::time::timeout(idle, write(&mut stream, &answer)).await??;
    }
}
