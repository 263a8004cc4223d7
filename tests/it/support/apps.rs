//! Applications in pods and their clients: each way to use a TCP connection that a proxy in the
//! middle can spoil.

use super::{Backend, soon, world::Pod};
use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

/// Sends back what it gets.
pub const ECHO: u16 = 8080;
/// Says `hello`, then is an echo.
pub const GREET: u16 = 8081;
/// Writes [`BURST_BYTES`] and closes.
pub const BURST: u16 = 8082;
/// Reads to the end, then says how much that was.
pub const COUNT: u16 = 8083;
/// Ends its own direction with `bye` at once, then reads to the end.
pub const BYE: u16 = 8084;
/// Answers the first bytes with a reset.
pub const RESET: u16 = 8085;
/// Answers `y`, then waits for the end.
pub const WATCH: u16 = 8086;
/// HTTP
pub const HTTP: u16 = 8087;

pub const BURST_BYTES: usize = 300_000;

/// One of each in a pod.
#[derive(Debug)]
pub struct Apps {
    seen: Arc<Mutex<Vec<(u16, IpAddr)>>>,
    ends: Arc<Mutex<Vec<String>>>,
    _backends: Vec<Backend>,
}

impl Apps {
    pub fn start(pod: &Pod) -> Self {
        let (seen, ends): (Arc<Mutex<Vec<_>>>, Arc<Mutex<Vec<_>>>) = Default::default();
        let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let start = |port| {
            let (seen, ends) = (seen.clone(), ends.clone());
            Backend::tcp(any(port), move |mut stream| {
                let (seen, ends) = (seen.clone(), ends.clone());
                async move {
                    seen.lock().unwrap().push((port, stream.peer_addr().unwrap().ip().to_canonical()));
                    let end = match serve(port, &mut stream).await {
                        Ok(read) => format!("{port}: {read} bytes"),
                        Err(error) => format!("{port}: {:?}", error.kind()),
                    };
                    ends.lock().unwrap().push(end);
                }
            })
        };
        let http = || Backend::http(any(HTTP), &pod.name);
        let backends = pod.netns.enter(|| [ECHO, GREET, BURST, COUNT, BYE, RESET, WATCH].map(start).into_iter().chain([http()]).collect());
        Self { seen, ends, _backends: backends }
    }

    /// The address that the last client of an application came from.
    pub fn last_peer(&self, port: u16) -> Option<IpAddr> {
        self.seen.lock().unwrap().iter().rev().find(|(p, _)| *p == port).map(|(_, ip)| *ip)
    }

    /// Connections of an application so far.
    pub fn connections(&self, port: u16) -> usize {
        self.seen.lock().unwrap().iter().filter(|(p, _)| *p == port).count()
    }

    /// How connections ended, as `PORT: N bytes` or `PORT: KIND OF ERROR`, oldest first.
    pub fn ends(&self, port: u16) -> Vec<String> {
        let prefix = format!("{port}: ");
        self.ends.lock().unwrap().iter().filter_map(|end| Some(end.strip_prefix(&prefix)?.to_owned())).collect()
    }
}

/// One connection; returns the bytes that were read.
async fn serve(port: u16, stream: &mut TcpStream) -> io::Result<usize> {
    let mut buf = vec![0; 64 << 10];
    let mut read = 0;
    match port {
        BURST => {
            stream.write_all(&vec![b'b'; BURST_BYTES]).await?;
            return Ok(0);
        }
        RESET => {
            read = stream.read(&mut buf).await?;
            stream.set_zero_linger()?;
            return Ok(read);
        }
        GREET => stream.write_all(b"hello").await?,
        BYE => {
            stream.write_all(b"bye").await?;
            stream.shutdown().await?;
        }
        _ => {}
    }
    loop {
        let n = stream.read(&mut buf).await?;
        read += n;
        match (port, n) {
            (COUNT, 0) => stream.write_all(format!("{read} bytes").as_bytes()).await?,
            (WATCH, 1..) => stream.write_all(b"y").await?,
            (ECHO | GREET, 1..) => stream.write_all(&buf[..n]).await?,
            (..) => {}
        }
        if n == 0 {
            return Ok(read);
        }
    }
}

/// Bytes that are not all the same.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8).collect()
}

/// Sends `bytes` to an echo while it reads, ends, and expects the same bytes and the end.
pub async fn echo(mut stream: TcpStream, bytes: &[u8]) -> io::Result<()> {
    let (mut from, mut to) = stream.split();
    let mut back = Vec::new();
    let send = async {
        to.write_all(bytes).await?;
        to.shutdown().await
    };
    let (sent, read) = soon("echo", async { tokio::join!(send, from.read_to_end(&mut back)) }).await;
    sent.and(read)?;
    if back == bytes { Ok(()) } else { Err(io::Error::other(format!("{} of {} bytes came back", back.len(), bytes.len()))) }
}

/// One message to an echo and back, on a connection that stays.
pub async fn exchange(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    stream.write_all(message).await?;
    let mut back = vec![0; message.len()];
    soon("echo", stream.read_exact(&mut back)).await?;
    if back == message { Ok(()) } else { Err(io::Error::other("other bytes came back")) }
}

/// Sends, ends its direction, and reads the answer to the end.
pub async fn talk(mut stream: TcpStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(bytes).await?;
    stream.shutdown().await?;
    let mut back = Vec::new();
    soon("answer", stream.read_to_end(&mut back)).await?;
    Ok(back)
}

/// How the other side ends a connection that nothing was said on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With its FIN, after this many bytes.
    Closed(usize),
    Failed(io::ErrorKind),
}

/// Waits for the end.
pub async fn end(stream: &mut TcpStream) -> End {
    let mut rest = Vec::new();
    match soon("the end of a connection", stream.read_to_end(&mut rest)).await {
        Ok(read) => End::Closed(read),
        Err(error) => End::Failed(error.kind()),
    }
}

/// Connects to where a proxy does not let it: the connection is made and then closed. A reset that
/// is fast shows as the outcome of the connect already.
pub async fn refusal(from: &Pod, to: SocketAddr) -> End {
    match from.connect(to).await {
        Ok(mut stream) => end(&mut stream).await,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => End::Failed(error.kind()),
        Err(error) => panic!("{} does not even connect to {to}: {error}", from.name),
    }
}

/// Short connections to an echo, one after the other, on several tasks.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicUsize>,
    bad: Arc<Mutex<Vec<String>>>,
    tasks: JoinSet<()>,
}

impl Load {
    pub fn start(from: &Pod, to: SocketAddr, tasks: usize) -> Self {
        let (stop, good, bad): (Arc<AtomicBool>, Arc<AtomicUsize>, Arc<Mutex<Vec<_>>>) = Default::default();
        let mut set = JoinSet::new();
        for task in 0..tasks {
            let (from, stop, good, bad) = (from.clone(), stop.clone(), good.clone(), bad.clone());
            set.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    match round(&from, to).await {
                        Ok(()) => drop(good.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => {
                            bad.lock().unwrap().push(format!("task {task}: {error}"));
                            // What fails fails fast; the list stays readable.
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    }
                }
            });
        }
        Self { stop, good, bad, tasks: set }
    }

    /// Connections that went well so far.
    pub fn good(&self) -> usize {
        self.good.load(Ordering::Relaxed)
    }

    pub fn bad(&self) -> Vec<String> {
        self.bad.lock().unwrap().clone()
    }

    /// Waits until that many more have gone well.
    pub async fn more(&self, count: usize) {
        let goal = self.good() + count;
        super::eventually("load goes on", async || self.good() >= goal).await;
    }

    /// Ends it; returns what went wrong.
    pub async fn stop(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        self.bad()
    }
}

async fn round(from: &Pod, to: SocketAddr) -> io::Result<()> {
    let at = |step: &'static str| move |error: io::Error| io::Error::new(error.kind(), format!("{step}: {error}"));
    let stream = from.connect(to).await.map_err(at("connect"))?;
    echo(stream, &pattern(2000)).await.map_err(at("echo"))
}
