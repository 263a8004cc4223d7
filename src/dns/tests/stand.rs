//! A running proxy, its clients and its nameservers.

use crate::{
    dns::{
        Cluster, Config, DnsProxy, Limits, Listeners, Search, Source,
        fixture::{kube, mesh, pod},
        message,
    },
    model::{Name, Resource, Workload},
    runtime::drain::{self, DrainTrigger},
    state::{NodeCompiler, Store},
    telemetry::{self, DnsProtocol, MetricsFormat},
    transport::Sockets,
};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name as Domain, RecordType},
};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
    task::JoinHandle,
};

/// Nothing takes this long.
const LIMIT: Duration = Duration::from_secs(20);

pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("in time")
}

/// A proxy for a workload of namespace `demo`.
pub(super) struct Stand {
    pub(super) udp: SocketAddr,
    pub(super) tcp: SocketAddr,
    client: Name,
    pub(super) drain: DrainTrigger,
    pub(super) serving: JoinHandle<()>,
    pub(super) _store: Store<NodeCompiler>,
}

/// `web` at 10.1.0.1, and `many`, which is headless, with 300 workloads.
fn resources() -> Vec<Resource> {
    let many = kube("many", "demo", &[]);
    let pods = (0..300u16).map(|n| pod("demo", &format!("many-{n}"), &[&format!("10.2.{}.{}", n / 250, n % 250)], &[&many]).into());
    let mut out: Vec<Resource> = pods.collect();
    out.extend([kube("web", "demo", &["10.1.0.1"]).into(), many.into()]);
    out
}

/// A workload that no other test counts for.
pub(super) fn client() -> Arc<Workload> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("client-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    Arc::new(pod("demo", &name, &["10.0.0.1"], &[]))
}

pub(super) fn config(nameservers: impl IntoIterator<Item = SocketAddr>) -> Config {
    let cluster = Cluster::new("cluster.local");
    let search = Search::fixed(cluster.search("demo"));
    Config { cluster, search, nameservers: nameservers.into_iter().collect(), limits: Limits::default() }
}

pub(super) fn listeners() -> Listeners {
    Listeners::bind(&Sockets::default(), "127.0.0.1:0".parse().unwrap()).unwrap()
}

impl Stand {
    pub(super) fn new(config: Config) -> Self {
        let client = client();
        let name = client.canonical_name.clone();
        let source = move || -> Source { Box::pin(std::future::ready(Some(client.clone()))) };
        Self { client: name, ..Self::of(config, listeners(), source) }
    }

    pub(super) fn of(config: Config, listeners: Listeners, source: impl Fn() -> Source + Send + Sync + 'static) -> Self {
        let (store, handle) = mesh(resources());
        let (udp, tcp) = (listeners.udp_addresses().next().unwrap(), listeners.tcp_addresses().next().unwrap());
        telemetry::install();
        let proxy = DnsProxy::new(config, Sockets::default(), listeners, handle, source);
        let (drain, watch) = drain::new();
        let serving = tokio::spawn(proxy.serve(watch));
        Self { udp, tcp, client: "unknown".into(), drain, serving, _store: store }
    }

    /// What has been counted for the client: `requests a udp 1`.
    pub(super) fn counted(&self) -> Vec<String> {
        let rendered = telemetry::install().render(MetricsFormat::Prometheus);
        let own = format!("source_canonical_service=\"{}\"", self.client);
        let lines = rendered.lines().filter(|line| line.contains(&own)).filter_map(|line| line.strip_prefix("istio_dns_"));
        let totals = lines.filter_map(|line| {
            let (name, rest) = line.split_once("_total{")?;
            let label = |name: &str| Some(rest.split_once(&format!("{name}=\""))?.1.split('"').next()?.to_owned());
            let value = rest.rsplit(' ').next().filter(|value| *value != "0")?;
            Some(format!("{name} {} {} {value}", label("request_query_type")?, label("request_protocol")?))
        });
        let mut totals: Vec<String> = totals.collect();
        totals.sort();
        totals
    }

    /// Asks by UDP.
    pub(super) async fn udp(&self, question: &Message) -> Message {
        let socket = self.datagrams().await;
        socket.send(&question.to_vec().unwrap()).await.unwrap();
        receive(&socket).await
    }

    pub(super) async fn datagrams(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.udp).await.unwrap();
        socket
    }

    /// Asks by TCP.
    pub(super) async fn tcp(&self, question: &Message) -> Message {
        let mut stream = TcpStream::connect(self.tcp).await.unwrap();
        send_framed(&mut stream, &question.to_vec().unwrap()).await;
        receive_framed(&mut stream).await
    }
}

pub(super) async fn receive(socket: &UdpSocket) -> Message {
    let mut buffer = vec![0; 65536];
    let length = within(socket.recv(&mut buffer)).await.unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

pub(super) async fn send_framed(stream: &mut TcpStream, message: &[u8]) {
    stream.write_all(&[&(message.len() as u16).to_be_bytes(), message].concat()).await.unwrap();
}

pub(super) async fn receive_framed(stream: &mut TcpStream) -> Message {
    let length = within(stream.read_u16()).await.unwrap();
    let mut message = vec![0; length.into()];
    within(stream.read_exact(&mut message)).await.unwrap();
    Message::from_vec(&message).unwrap()
}

pub(super) fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(fastrand::u16(..), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Domain::from_ascii(name).unwrap(), kind));
    message
}

pub(super) fn with_payload(mut message: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.set_edns(edns);
    message
}

/// The code and the data of an answer, which must be one to the question.
pub(super) fn told(question: &Message, answer: &Message) -> (ResponseCode, Vec<String>) {
    assert_eq!((answer.metadata.id, &answer.queries), (question.metadata.id, &question.queries));
    assert!(answer.metadata.recursion_available);
    (answer.metadata.response_code, answer.answers.iter().map(|record| record.data.to_string()).collect())
}

/// One question that a nameserver has got.
pub(super) struct Asked {
    pub(super) bytes: Vec<u8>,
    pub(super) protocol: DnsProtocol,
    answer: mpsc::Sender<Vec<u8>>,
}

impl Asked {
    pub(super) fn message(&self) -> Message {
        Message::from_vec(&self.bytes).unwrap()
    }

    /// The start of an answer to it.
    pub(super) fn reply(&self) -> Message {
        let mut reply = self.message().into_response();
        reply.metadata.recursion_available = true;
        reply
    }

    pub(super) async fn send(&self, message: &Message) {
        self.send_bytes(message.to_vec().unwrap()).await;
    }

    pub(super) async fn send_bytes(&self, bytes: Vec<u8>) {
        // Nobody may want it any more.
        let _ = self.answer.send(bytes).await;
    }
}

/// A nameserver that hands over each question to be answered.
pub(super) struct Nameserver {
    pub(super) address: SocketAddr,
    asked: mpsc::Receiver<Asked>,
}

impl Nameserver {
    pub(super) async fn new() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            // The port may be taken for TCP.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let (sender, asked) = mpsc::channel(16);
        tokio::spawn(datagrams(udp, sender.clone()));
        tokio::spawn(connections(tcp, sender));
        Self { address, asked }
    }

    pub(super) async fn asked(&mut self) -> Asked {
        within(self.asked.recv()).await.unwrap()
    }

    pub(super) fn is_asked(&mut self) -> bool {
        self.asked.try_recv().is_ok()
    }
}

async fn datagrams(socket: UdpSocket, sender: mpsc::Sender<Asked>) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; 65536];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
        let (answer, mut answers) = mpsc::channel::<Vec<u8>>(16);
        let socket = socket.clone();
        tokio::spawn(async move {
            while let Some(bytes) = answers.recv().await {
                let _ = socket.send_to(&bytes, peer).await;
            }
        });
        let asked = Asked { bytes: buffer[..length].to_vec(), protocol: DnsProtocol::Udp, answer };
        if sender.send(asked).await.is_err() {
            return;
        }
    }
}

async fn connections(listener: TcpListener, sender: mpsc::Sender<Asked>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let sender = sender.clone();
        tokio::spawn(async move {
            let length = stream.read_u16().await.unwrap();
            let mut bytes = vec![0; length.into()];
            stream.read_exact(&mut bytes).await.unwrap();
            let (answer, mut answers) = mpsc::channel::<Vec<u8>>(16);
            if sender.send(Asked { bytes, protocol: DnsProtocol::Tcp, answer }).await.is_err() {
                return;
            }
            while let Some(bytes) = answers.recv().await {
                send_framed(&mut stream, &bytes).await;
            }
        });
    }
}

/// An address where nobody listens.
pub(super) async fn nobody() -> SocketAddr {
    // The socket is closed at once.
    UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// The id of a message as it is on the wire.
pub(super) fn id(bytes: &[u8]) -> u16 {
    message::id(bytes)
}
