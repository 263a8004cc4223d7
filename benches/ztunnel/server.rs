//! The application in a pod: small answers, and bytes in both directions.

use super::{process::Owned, wire::Wire, world::Pod};
use std::{
    net::{Ipv4Addr, TcpStream as Blocking},
    process::{Command, ExitCode},
    sync::LazyLock,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::Instant,
};

/// HTTP/1.1 with 1 KiB in each answer.
pub const HTTP: u16 = 8080;
/// Reads to the end, then says how much it was: 8 bytes, the most significant first.
pub const SINK: u16 = 8081;
/// Writes for as long as somebody reads.
pub const SOURCE: u16 = 8082;
/// Writes what it reads.
pub const ECHO: u16 = 8083;
pub const PORTS: [u16; 4] = [HTTP, SINK, SOURCE, ECHO];
/// Bytes that are read or written at a time.
pub const CHUNK: usize = 256 << 10;

/// Starts it in a pod, and waits until it listens.
pub fn start(pod: &Pod) -> Owned {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let process = Owned(pod.spawn(command.env("CAIRN_BENCH_ROLE", "server")));
    let deadline = Instant::now() + Duration::from_secs(10);
    // By the loopback, which nothing redirects.
    while PORTS.iter().any(|port| pod.netns.enter(|| Blocking::connect((Ipv4Addr::LOCALHOST, *port))).is_err()) {
        assert!(Instant::now() < deadline, "the application does not listen");
        std::thread::sleep(Duration::from_millis(2));
    }
    process
}

pub fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        for port in PORTS {
            tokio::spawn(listen(port));
        }
        std::future::pending().await
    })
}

async fn listen(port: u16) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind((Ipv4Addr::UNSPECIFIED, port).into()).unwrap();
    let listener: TcpListener = socket.listen(4096).unwrap();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        tokio::spawn(async move {
            let _ = match port {
                HTTP => answer(stream).await,
                SINK => sink(stream).await,
                SOURCE => source(stream).await,
                _ => echo(stream).await,
            };
        });
    }
}

async fn answer(stream: TcpStream) -> Option<()> {
    static ANSWER: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let head = "HTTP/1.1 200 OK\r\ndate: Sat, 01 Jan 2000 00:00:00 GMT\r\ncontent-length: 1024\r\n\r\n";
        [head.as_bytes(), &[b'x'; 1 << 10]].concat()
    });
    let mut wire = Wire::new(stream);
    loop {
        let head = wire.request().await?;
        wire.skip(head.length).await?;
        wire.write(&ANSWER).await?;
    }
}

async fn sink(mut stream: TcpStream) -> Option<()> {
    let (mut buffer, mut total) = (vec![0; CHUNK], 0);
    loop {
        match stream.read(&mut buffer).await.ok()? {
            0 => break,
            read => total += read as u64,
        }
    }
    stream.write_all(&total.to_be_bytes()).await.ok()
}

async fn source(mut stream: TcpStream) -> Option<()> {
    let buffer = vec![b'd'; CHUNK];
    loop {
        stream.write_all(&buffer).await.ok()?;
    }
}

async fn echo(mut stream: TcpStream) -> Option<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        stream.write_all(&buffer[..read]).await.ok()?;
    }
}
