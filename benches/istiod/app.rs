//! The application beside a dedicated ztunnel: plain HTTP.

use super::{mesh::APP_PORT, process::Owned, site::Site, wire::Wire};
use std::{
    net::SocketAddr,
    process::{Command, ExitCode},
};
use tokio::net::{TcpListener, TcpStream};

pub fn start(site: &Site) -> Owned {
    let address = address(site);
    let mut command = Command::new(std::env::current_exe().unwrap());
    let child = Owned(command.env("CAIRN_BENCH_ROLE", "app").env("CAIRN_BENCH_ADDRESS", address.to_string()).spawn().unwrap());
    site.await_listener(address);
    child
}

/// Where it listens: on the ztunnel's own address.
pub fn address(site: &Site) -> SocketAddr {
    SocketAddr::new(site.waypoint.ip(), APP_PORT)
}

pub fn main() -> ExitCode {
    let address: SocketAddr = std::env::var("CAIRN_BENCH_ADDRESS").unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await.unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let _ = stream.set_nodelay(true);
            tokio::spawn(serve(stream));
        }
    })
}

async fn serve(stream: TcpStream) -> Option<()> {
    let head = "HTTP/1.1 200 OK\r\ndate: Sat, 01 Jan 2000 00:00:00 GMT\r\ncontent-length: 1024\r\n\r\n";
    let answer = [head.as_bytes(), &[b'x'; 1 << 10]].concat();
    let mut wire = Wire::new(stream);
    loop {
        let head = wire.request().await?;
        wire.skip(head.length).await?;
        wire.write(&answer).await?;
    }
}
