//! Bytes through a tunnel: HTTP/2 over mutual TLS over loopback, both ends in one thread.

use cairn::{
    cert::{DevCa, StaticCertSource},
    hbone::{self, ConnectHeaders, Pool, PoolKey, TunnelIo},
    model::Identity,
    runtime::drain,
    transport::{Sockets, WorkloadCert, tls},
};
use divan::{Bencher, counter::BytesCount};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    runtime::Runtime,
};

const BULK: usize = 8 << 20;
const MESSAGE: usize = 1 << 10;

struct Tunnel {
    runtime: Runtime,
    pool: Pool,
    key: PoolKey,
}

fn cert(ca: &DevCa, account: &str) -> Arc<WorkloadCert> {
    let identity = Identity::new("cluster.local", "bench", account).unwrap();
    let issued = ca.issue(&identity, Duration::from_secs(3600)).unwrap();
    Arc::new(WorkloadCert::from_pem(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes(), issued.roots_pem.as_bytes()).unwrap())
}

impl Tunnel {
    /// A tunnel to a server that does `serve` with each stream.
    fn new<F: Future<Output = ()> + Send + 'static>(serve: fn(TunnelIo) -> F) -> Self {
        let ca = DevCa::create("cluster.local", Duration::from_secs(3600)).unwrap();
        let (server, client) = (cert(&ca, "server"), cert(&ca, "client"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let key = PoolKey::direct(client.identity().clone(), [server.identity().clone()].into(), address);
        runtime.spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (io, ..) = tls::accept(stream, &server, None).await.unwrap();
            let (_trigger, watch) = drain::new();
            let accept = |connect: hbone::Connect| drop(tokio::spawn(serve(connect.accept(None).unwrap())));
            let _ = hbone::serve(io, &hbone::Config::default(), watch, std::future::pending(), &tls::Standing::default(), accept).await;
        });
        let pool = Pool::new(hbone::Config::default(), Arc::new(StaticCertSource::new(client)), Sockets::default());
        Self { runtime, pool, key }
    }

    fn open(&self) -> TunnelIo {
        let connect = async { self.pool.connect(&self.key, "10.0.0.1:80", &ConnectHeaders::default()).await };
        self.runtime.block_on(connect).unwrap().io
    }
}

/// Takes `BULK` bytes, then says so with one.
async fn swallow(mut io: TunnelIo) {
    let (mut buffer, mut left) = (vec![0; 64 << 10], BULK);
    while let Ok(read @ 1..) = io.read(&mut buffer).await {
        left -= read;
        if left == 0 {
            left = BULK;
            if io.write_all(&[1]).await.is_err() {
                return;
            }
        }
    }
}

async fn echo(mut io: TunnelIo) {
    let mut buffer = vec![0; MESSAGE];
    while io.read_exact(&mut buffer).await.is_ok() && io.write_all(&buffer).await.is_ok() {}
}

#[divan::bench(sample_count = 50, sample_size = 1)]
fn bulk_8m(bencher: Bencher<'_, '_>) {
    let tunnel = Tunnel::new(swallow);
    let (mut io, chunk) = (tunnel.open(), vec![b'x'; 64 << 10]);
    bencher.counter(BytesCount::new(BULK)).bench_local(|| {
        tunnel.runtime.block_on(async {
            for _ in 0..BULK / chunk.len() {
                io.write_all(&chunk).await.unwrap();
            }
            io.read_u8().await.unwrap()
        })
    });
}

#[divan::bench]
fn ping_pong_1k(bencher: Bencher<'_, '_>) {
    let tunnel = Tunnel::new(echo);
    let (mut io, mut buffer) = (tunnel.open(), vec![b'x'; MESSAGE]);
    bencher.counter(BytesCount::new(2 * MESSAGE)).bench_local(|| {
        tunnel.runtime.block_on(async {
            io.write_all(&buffer).await.unwrap();
            io.read_exact(&mut buffer).await.unwrap()
        })
    });
}

#[divan::bench]
fn connect(bencher: Bencher<'_, '_>) {
    let tunnel = Tunnel::new(echo);
    // The tunnel itself is there already.
    let _first = tunnel.open();
    // Closed within the time: open ones would ask for more tunnels.
    bencher.bench_local(|| drop(tunnel.open()));
}
