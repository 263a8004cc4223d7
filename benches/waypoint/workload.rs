//! The workload behind HBONE: an HTTP application that costs as little as it can.

use super::{process::Owned, site::Site, wire::Wire};
use bytes::Bytes;
use cairn::{
    hbone,
    runtime::drain,
    transport::{Rewind, WorkloadCert, tls},
};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    process::{Command, ExitCode},
    sync::{Arc, LazyLock},
};
use tokio::net::TcpListener;

pub fn start(site: &Site) -> Owned {
    let child = Command::new(std::env::current_exe().unwrap())
        .env("CAIRN_BENCH_ROLE", "workload")
        .env("CAIRN_BENCH_ADDRESS", site.workload.to_string())
        .env("CAIRN_BENCH_CERTS", site.certs("bench", "workload"))
        .spawn()
        .unwrap();
    site.await_listener(site.workload);
    Owned(child)
}

pub fn main() -> ExitCode {
    let address: SocketAddr = std::env::var("CAIRN_BENCH_ADDRESS").unwrap().parse().unwrap();
    let cert = Arc::new(cert(Path::new(&std::env::var("CAIRN_BENCH_CERTS").unwrap())));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await.unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let _ = stream.set_nodelay(true);
            let cert = cert.clone();
            tokio::spawn(async move {
                let Ok((io, ..)) = tls::accept(stream, &cert, None).await else { return };
                let (_trigger, watch) = drain::new();
                let config = hbone::Config { max_concurrent_streams: 100_000, ..hbone::Config::default() };
                let _ = hbone::serve(io, &config, watch, std::future::pending(), &tls::Standing::default(), |connect| {
                    drop(tokio::spawn(serve(connect)))
                })
                .await;
            });
        }
    })
}

pub fn cert(dir: &Path) -> WorkloadCert {
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    WorkloadCert::from_pem(&read("cert-chain.pem"), &read("key.pem"), &read("roots.pem")).unwrap()
}

async fn serve(connect: hbone::Connect) {
    let Ok(io) = connect.accept(None) else { return };
    let mut wire = Wire::new(io);
    match wire.peek().await {
        Some(first) if first.starts_with(b"PRI ") => {
            let (read, io) = wire.into_parts();
            let io = TokioIo::new(Rewind::new(read.into(), io));
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service_fn(answer)).await;
        }
        _ => drop(serve_http1(wire).await),
    }
}

async fn serve_http1(mut wire: Wire<hbone::TunnelIo>) -> Option<()> {
    static SMALL: LazyLock<Vec<u8>> = LazyLock::new(|| response(1 << 10));
    static LARGE: LazyLock<Vec<u8>> = LazyLock::new(|| response(1 << 20));
    loop {
        let head = wire.request().await?;
        wire.skip(head.length).await?;
        wire.write(if head.is_large { &LARGE } else { &SMALL }).await?;
    }
}

fn response(size: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ndate: Sat, 01 Jan 2000 00:00:00 GMT\r\ncontent-length: {size}\r\n\r\n");
    [head.as_bytes(), &vec![b'x'; size]].concat()
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    static LARGE: [u8; 1 << 20] = [b'x'; 1 << 20];
    let size = if request.uri().path() == "/1m" { 1 << 20 } else { 1 << 10 };
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    Ok(Response::new(Full::new(Bytes::from_static(&LARGE[..size]))))
}
