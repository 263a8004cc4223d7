//! Pods with proxies, on loopback.

use super::fixture::{Built, NAMESPACE, identity, uid};
use crate::{
    cert::DevCa,
    control::xds::Demand,
    hbone::{self, Connect, HBONE_PORT},
    model::{Identity, ResourceName},
    runtime::{DrainTrigger, Workers, drain},
    state::{NodeCompiler, NodeSnapshot, Own, SnapshotHandle, Store},
    telemetry::{AccessLog, Record, TcpRecord},
    transport::{Accepted, CertFuture, CertSource, TlsError, WorkloadCert, listener, tls},
    ztunnel::{Config, Listeners, Local, Ztunnel},
};
use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// A test that hangs fails, with the place where it hung.
pub(super) async fn within<F: Future>(test: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), test).await.expect("done in time")
}

pub(super) struct Stand {
    ca: DevCa,
    store: Store<NodeCompiler>,
}

/// An address, with the listener that a proxy needs there.
pub(super) struct Place {
    pub(super) ip: IpAddr,
    pub(super) inbound: TcpListener,
}

impl Place {
    /// A loopback address that nobody else uses.
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            // Processes begin at different places; within one, no address comes twice.
            let n = (std::process::id() % 4096) * 512 + NEXT.fetch_add(1, Ordering::Relaxed);
            let ip = IpAddr::from(Ipv4Addr::from(0x7f40_0000 | (n & 0x003f_ffff)));
            if let Ok(inbound) = listener::bind(SocketAddr::new(ip, HBONE_PORT), listener::ListenOptions::default()) {
                return Self { ip, inbound };
            }
        }
    }

    pub(super) fn text(&self) -> String {
        self.ip.to_string()
    }
}

/// A proxy at work.
pub(super) struct Running {
    pub(super) socks5: SocketAddr,
    pub(super) drain: DrainTrigger,
    records: mpsc::Receiver<Record>,
}

impl Running {
    /// The next line of the access log.
    pub(super) async fn record(&mut self) -> TcpRecord {
        match self.records.recv().await {
            Some(Record::Tcp(record)) => *record,
            other => panic!("{other:?}"),
        }
    }
}

/// The same certificate for whoever it is asked for.
#[derive(Debug)]
struct AnyCert(Arc<WorkloadCert>);

impl CertSource for AnyCert {
    fn fetch<'a>(&'a self, _: &'a Identity) -> CertFuture<'a> {
        Box::pin(std::future::ready(Ok(self.0.clone())))
    }
}

impl Stand {
    /// Proxies of the pods `client`, `server` and `server-2`.
    pub(super) fn new() -> Self {
        let local = Own::Workloads(["client", "server", "server-2"].map(uid).into());
        let ca = DevCa::create("cluster.local", Duration::from_secs(3600)).unwrap();
        Self { ca, store: Store::new(NodeCompiler::new(local, "istio-system")) }
    }

    pub(super) fn apply(&mut self, resources: impl IntoIterator<Item = Built>) {
        self.store.apply(resources.into_iter().map(Built::change));
    }

    pub(super) fn remove(&mut self, resource: Built) {
        self.store.apply([crate::state::Change::Remove(resource.0.key())]);
    }

    pub(super) fn handle(&self) -> SnapshotHandle<NodeSnapshot> {
        self.store.handle()
    }

    pub(super) fn cert(&self, name: &str) -> Arc<WorkloadCert> {
        let issued = self.ca.issue(&identity(name), Duration::from_secs(600)).unwrap();
        Arc::new(WorkloadCert::from_pem(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes(), issued.roots_pem.as_bytes()).unwrap())
    }

    pub(super) fn config() -> Config {
        Config { workload_wait: Duration::from_millis(50), ..Config::default() }
    }

    pub(super) fn ztunnel(&self, name: &str, cert: &str) -> (Ztunnel, mpsc::Receiver<Record>) {
        self.ztunnel_with(name, self.cert(cert), Self::config())
    }

    fn ztunnel_with(&self, name: &str, cert: Arc<WorkloadCert>, config: Config) -> (Ztunnel, mpsc::Receiver<Record>) {
        let (log, records) = AccessLog::capture();
        let certs = Arc::new(AnyCert(cert));
        let local = Local { name: ResourceName::new(NAMESPACE, name), service_account: name.into() };
        (Ztunnel::new(Arc::new(config), local, certs, self.handle(), Workers::current(), log), records)
    }

    /// Starts the proxy of a pod.
    pub(super) async fn start(&self, name: &str, place: Place) -> Running {
        self.start_as(name, name, place, None).await
    }

    /// Starts the proxy of a pod as it is configured.
    pub(super) async fn start_with(&self, name: &str, place: Place, config: Config) -> Running {
        self.start_certified(name, place, config, self.cert(name)).await
    }

    /// The same, with a certificate that is known.
    pub(super) async fn start_certified(&self, name: &str, place: Place, config: Config, cert: Arc<WorkloadCert>) -> Running {
        self.serve(self.ztunnel_with(name, cert, config), place, None).await
    }

    /// A list that revokes a certificate, in PEM.
    pub(super) fn revokes(&self, cert: &WorkloadCert) -> String {
        tls::fixture::revoking(self.ca.issuer(), cert)
    }

    /// Starts the proxy of a pod with the certificate of another, and with a listener that stands
    /// where a captured connection would go.
    pub(super) async fn start_as(&self, name: &str, cert: &str, place: Place, outbound: Option<TcpListener>) -> Running {
        self.serve(self.ztunnel(name, cert), place, outbound).await
    }

    /// Starts the proxy of a pod that knows what it has asked for.
    pub(super) async fn start_asking(&self, name: &str, place: Place, demand: Demand) -> Running {
        let (ztunnel, records) = self.ztunnel(name, name);
        self.serve((ztunnel.with_demand(Some(demand)), records), place, None).await
    }

    async fn serve(&self, (ztunnel, records): (Ztunnel, mpsc::Receiver<Record>), place: Place, outbound: Option<TcpListener>) -> Running {
        let socks5 = TcpListener::bind((place.ip, 0)).await.unwrap();
        let address = socks5.local_addr().unwrap();
        let (drain, watch) = drain::new();
        let listeners = Listeners { inbound: Some(place.inbound), outbound, socks5: Some(socks5), ..Listeners::default() };
        tokio::spawn(ztunnel.serve(listeners, Workers::current().for_connection(), watch));
        Running { socks5: address, drain, records }
    }

    /// A tunnel to `place` as `name`, to say whatever a client may say.
    pub(super) async fn tunnel(&self, name: &str, ip: IpAddr, expected: &str) -> h2::client::SendRequest<bytes::Bytes> {
        self.try_tunnel(name, ip, expected).await.unwrap()
    }

    /// The same, if it can be had.
    pub(super) async fn try_tunnel(
        &self,
        name: &str,
        ip: IpAddr,
        expected: &str,
    ) -> Result<h2::client::SendRequest<bytes::Bytes>, TlsError> {
        let io = TcpStream::connect((ip, HBONE_PORT)).await.unwrap();
        let (io, ..) = tls::connect(io, &self.cert(name), &[identity(expected)], None).await?;
        let (send, connection) = h2::client::handshake(io).await.unwrap();
        tokio::spawn(connection);
        Ok(send)
    }

    /// A stand-in for a waypoint: tells the authority of each CONNECT and sends back what it gets.
    pub(super) fn waypoint(&self, name: &str, place: Place) -> mpsc::Receiver<String> {
        let (tell, told) = mpsc::channel(16);
        let cert = self.cert(name);
        tokio::spawn(async move {
            let (_trigger, watch) = drain::new();
            let Accepted { stream, .. } = listener::accept(&place.inbound).await;
            let (io, ..) = tls::accept(stream, &cert, None).await.unwrap();
            let on_connect = |connect: Connect| {
                tell.try_send(connect.authority().to_owned()).unwrap();
                let io = connect.accept(None).unwrap();
                tokio::spawn(async move {
                    let (mut read, mut write) = tokio::io::split(io);
                    tokio::io::copy(&mut read, &mut write).await.unwrap();
                    write.shutdown().await.unwrap();
                });
            };
            hbone::serve(io, &hbone::Config::default(), watch, std::future::pending(), &tls::Standing::default(), on_connect).await.ok();
        });
        told
    }
}

/// A server that sends back what it gets, at a port of its own.
pub(super) async fn echo(ip: IpAddr) -> u16 {
    serve(ip, |mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

/// A server that waits for the end of what it gets and tells its length.
pub(super) async fn count(ip: IpAddr) -> u16 {
    serve(ip, |mut stream| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(all.len().to_string().as_bytes()).await.unwrap();
    })
    .await
}

pub(super) async fn serve<F>(ip: IpAddr, handle: impl Fn(TcpStream) -> F + Send + 'static) -> u16
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(handle(stream));
        }
    });
    port
}

/// Asks a SOCKS5 listener for a host or an address; the reply's code, when it is not success.
pub(super) async fn socks(proxy: SocketAddr, host: &str, port: u16) -> Result<TcpStream, u8> {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let mut request = vec![5, 1, 0, 5, 1, 0];
    match host.parse() {
        Ok(IpAddr::V4(ip)) => request.extend([1].into_iter().chain(ip.octets())),
        Ok(IpAddr::V6(ip)) => request.extend([4].into_iter().chain(ip.octets())),
        Err(_) => request.extend([3, host.len() as u8].into_iter().chain(host.bytes())),
    }
    request.extend(port.to_be_bytes());
    stream.write_all(&request).await.unwrap();
    let mut reply = [0; 12];
    stream.read_exact(&mut reply).await.unwrap();
    assert_eq!(reply[..3], [5, 0, 5]);
    if reply[3] == 0 { Ok(stream) } else { Err(reply[3]) }
}

/// Sends a word and waits for it to come back.
pub(super) async fn says_back(stream: &mut TcpStream, word: &str) {
    stream.write_all(word.as_bytes()).await.unwrap();
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(back, word.as_bytes());
}
