//! The proxy in front of a workload, as simple as can be: it accepts tunnels for one identity and
//! connects to whatever the CONNECT names. It remembers what it was asked.

use cairn::{
    hbone,
    model::Identity,
    runtime::drain,
    transport::{WorkloadCert, tls},
};
use http::StatusCode;
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{net::TcpListener, net::TcpStream, task::JoinSet};

/// What a CONNECT asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    pub authority: String,
    pub peer: Identity,
}

/// A stand-in for a ztunnel.
#[derive(Debug)]
pub struct Peer {
    asked: Arc<Mutex<Vec<Asked>>>,
    tunnels: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    tasks: JoinSet<()>,
}

impl Peer {
    /// Accepts tunnels at `address` with this certificate.
    pub fn start(address: SocketAddr, cert: Arc<WorkloadCert>) -> Self {
        let listener = std::net::TcpListener::bind(address).expect("the test's network is its own");
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let (asked, tunnels, open): (Arc<Mutex<Vec<Asked>>>, Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
        let mut tasks = JoinSet::new();
        let (remember, count, live) = (asked.clone(), tunnels.clone(), open.clone());
        tasks.spawn(async move {
            let mut tunnels = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (cert, remember, count, live) = (cert.clone(), remember.clone(), count.clone(), live.clone());
                tunnels.spawn(async move {
                    let Ok((io, peer, _)) = tls::accept(stream, &cert, None).await else { return };
                    count.fetch_add(1, Ordering::SeqCst);
                    let (_trigger, watch) = drain::new();
                    let mut streams = JoinSet::new();
                    let on_connect = |connect: hbone::Connect| {
                        let asked = Asked { authority: connect.authority().to_owned(), peer: peer.clone() };
                        remember.lock().unwrap().push(asked);
                        streams.spawn(forward(connect, live.clone()));
                    };
                    let _ =
                        hbone::serve(io, &hbone::Config::default(), watch, std::future::pending(), &tls::Standing::default(), on_connect)
                            .await;
                });
            }
        });
        Self { asked, tunnels, open, tasks }
    }

    /// The CONNECTs so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Tunnels that were opened so far.
    pub fn tunnels(&self) -> usize {
        self.tunnels.load(Ordering::SeqCst)
    }

    /// Streams open now.
    pub fn open_streams(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Cuts everything.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn forward(connect: hbone::Connect, open: Arc<AtomicUsize>) {
    let Some(Ok(hbone::ConnectTarget::Address(target))) = connect.target() else {
        return connect.refuse(StatusCode::BAD_REQUEST);
    };
    let Ok(mut upstream) = TcpStream::connect(target).await else {
        return connect.refuse(StatusCode::SERVICE_UNAVAILABLE);
    };
    let Ok(mut io) = connect.accept(None) else { return };
    let _open = Open::new(open);
    let _ = tokio::io::copy_bidirectional(&mut io, &mut upstream).await;
}

/// Counts a stream until it ends, also when its tunnel ends first and takes it along.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
