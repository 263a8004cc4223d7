//! An HBONE server in a pod that leads each CONNECT on by its authority: the gateway of a network, an
//! instance of a waypoint, or a ztunnel elsewhere. It does not judge.

use super::world::Pod;
use cairn::{
    hbone::{self, Connect},
    model::Identity,
    runtime::drain,
    transport::{WorkloadCert, tls},
};
use http::StatusCode;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// It ends with this value.
#[derive(Debug)]
pub struct Gateway {
    seen: Arc<Seen>,
    _tasks: JoinSet<()>,
}

/// A CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    pub authority: String,
    /// `x-forwarded-network`
    pub network: Option<String>,
    pub peer: Identity,
}

#[derive(Debug, Default)]
struct Seen {
    connected: Mutex<Vec<Connected>>,
    /// The serial number of each tunnel's client certificate, oldest first.
    serials: Mutex<Vec<String>>,
    open: AtomicUsize,
}

impl Gateway {
    /// Accepts tunnels at port 15008 of `pod`; an authority that is not in `routes` gets 503.
    pub fn start(pod: &Pod, cert: WorkloadCert, routes: &[(&str, SocketAddr)]) -> Self {
        let routes: BTreeMap<String, SocketAddr> = routes.iter().map(|(authority, to)| ((*authority).to_owned(), *to)).collect();
        let listener = pod.netns.enter(|| std::net::TcpListener::bind(pod.at(15008))).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let seen = Arc::new(Seen::default());
        let served = Arc::new(Served { pod: pod.clone(), cert, routes, seen: seen.clone() });
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut tunnels = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                tunnels.spawn(tunnel(served.clone(), stream));
            }
        });
        Self { seen, _tasks: tasks }
    }

    /// The CONNECTs so far.
    pub fn connected(&self) -> Vec<Connected> {
        self.seen.connected.lock().unwrap().clone()
    }

    /// The serial numbers of the clients' certificates, decimal, one for each tunnel so far.
    pub fn serials(&self) -> Vec<String> {
        self.seen.serials.lock().unwrap().clone()
    }

    /// Tunnels that are open now.
    pub fn open(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }
}

struct Served {
    pod: Pod,
    cert: WorkloadCert,
    routes: BTreeMap<String, SocketAddr>,
    seen: Arc<Seen>,
}

async fn tunnel(served: Arc<Served>, stream: TcpStream) {
    let Ok((io, peer, _)) = tls::accept(stream, &served.cert, None).await else { return };
    let leaf = io.get_ref().1.peer_certificates().and_then(|chain| chain.first()).expect("a client has a certificate");
    let serial = X509Certificate::from_der(leaf).unwrap().1.serial.to_string();
    served.seen.serials.lock().unwrap().push(serial);
    served.seen.open.fetch_add(1, Ordering::SeqCst);
    let (_trigger, watch) = drain::new();
    let mut streams = JoinSet::new();
    let on_connect = |connect: Connect| {
        let network = connect.headers().get("x-forwarded-network").map(|value| value.to_str().unwrap().to_owned());
        let connected = Connected { authority: connect.authority().to_owned(), network, peer: peer.clone() };
        served.seen.connected.lock().unwrap().push(connected);
        let served = served.clone();
        streams.spawn(async move { lead(&served, connect).await });
    };
    let _ = hbone::serve(io, &hbone::Config::default(), watch, std::future::pending(), &tls::Standing::default(), on_connect).await;
    served.seen.open.fetch_sub(1, Ordering::SeqCst);
}

async fn lead(served: &Served, connect: Connect) {
    let Some(to) = served.routes.get(connect.authority()) else { return connect.refuse(StatusCode::SERVICE_UNAVAILABLE) };
    let Ok(mut upstream) = served.pod.connect(*to).await else { return connect.refuse(StatusCode::SERVICE_UNAVAILABLE) };
    let Ok(mut io) = connect.accept(None) else { return };
    let _ = tokio::io::copy_bidirectional(&mut io, &mut upstream).await;
}
