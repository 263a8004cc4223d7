//! Tunnels kept and shared.

use super::{Client, Config, ConnectError, ConnectHeaders, TunnelIo, client::Reserved};
use crate::{
    model::Identity,
    transport::{
        socket::{self, ConnectOptions},
        tls::{self, CertError, CertSource, TlsError, WorkloadCert},
    },
};
use http::HeaderMap;
use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::time::Instant;

/// What tells tunnels apart. Two workloads never share one, and a tunnel to an address is not used
/// for another identity that has taken the address over.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// Whose certificate is presented.
    pub source: Identity,
    /// The identities of which the peer must have one, exactly.
    pub destinations: Arc<[Identity]>,
    /// Where the tunnel leads.
    pub address: SocketAddr,
}

/// Why there is no stream. In every case no byte of payload has been sent, so that another
/// endpoint may be tried.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// No certificate to present.
    #[error("no certificate")]
    Certificate(#[source] CertError),
    /// TCP connect failed.
    #[error("connect failed")]
    Connect(#[source] io::Error),
    /// TCP connect or handshake took too long.
    #[error("connect timed out; a NetworkPolicy may block port {}", .0.port())]
    Timeout(SocketAddr),
    /// The TLS handshake failed, or the peer has the wrong identity.
    #[error("tls handshake failed")]
    Tls(#[source] TlsError),
    /// The HTTP/2 handshake failed.
    #[error("http/2 handshake failed")]
    Handshake(#[source] h2::Error),
    /// The CONNECT failed.
    #[error("CONNECT failed")]
    Stream(#[source] ConnectError),
}

/// A pool of tunnels. Clones share it.
#[derive(Debug, Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    certs: Arc<dyn CertSource>,
    slots: Mutex<HashMap<PoolKey, Arc<Slot>>>,
}

/// The tunnels of one key.
#[derive(Debug, Default)]
struct Slot {
    tunnels: Mutex<Vec<Tunnel>>,
    // Held by the one that opens a tunnel, so that a burst of requests opens one and not one each.
    opening: tokio::sync::Mutex<()>,
    // How the last attempt failed, and when: those who waited for it fail with it, instead of trying one after the other.
    failed: Mutex<Option<(Instant, TunnelError)>>,
}

/// Tries on tunnels that others use as well.
const SHARED_TRIES: usize = 2;

#[derive(Debug)]
struct Tunnel {
    client: Client,
    cert: Arc<WorkloadCert>,
    used: Instant,
}

impl Pool {
    /// An empty pool.
    pub fn new(config: Config, certs: Arc<dyn CertSource>) -> Self {
        Self { inner: Arc::new(Inner { config, certs, slots: Mutex::default() }) }
    }

    /// Opens a stream to `authority` through a tunnel of `key`: the least loaded one, or a new one
    /// when all are loaded. Also returns the headers of the answer. Cancel safe.
    ///
    /// # Errors
    /// See [`TunnelError`].
    pub async fn connect(&self, key: &PoolKey, authority: &str, headers: &ConnectHeaders) -> Result<(TunnelIo, HeaderMap), TunnelError> {
        let config = &self.inner.config;
        let cert = self.inner.certs.fetch(&key.source).await.map_err(TunnelError::Certificate)?;
        let slot = self.slot(key);
        // While one request opens another tunnel, the rest go on with what there is.
        let may_spread = slot.opening.try_lock().is_ok();
        let mut reserved = match slot.pick(config, &cert, may_spread) {
            Some(reserved) => reserved,
            None => slot.open(self, key, &cert).await?,
        };
        // A tunnel from the pool may be closing under our hands (GOAWAY, a broken socket). Nothing was sent then, so it is
        // tried again: on a tunnel that a neighbour has just opened for the same reason, and at last on one of its own.
        for _ in 0..SHARED_TRIES {
            let client = reserved.client();
            match reserved.connect(authority, headers, config).await {
                Err(ConnectError::H2(error)) if is_closing(&error) => {
                    tracing::debug!(%error, address = %key.address, "pooled tunnel is closing, opening another");
                    slot.remove(&client);
                    reserved = slot.open(self, key, &cert).await?;
                }
                other => return other.map_err(TunnelError::Stream),
            }
        }
        let fresh = self.dial(key, &cert).await?;
        let reserved = fresh.reserve();
        slot.keep(fresh, cert);
        reserved.connect(authority, headers, config).await.map_err(TunnelError::Stream)
    }

    /// Tunnels now open, over all keys.
    pub fn tunnels(&self) -> usize {
        let slots: Vec<_> = lock(&self.inner.slots).values().cloned().collect();
        slots.iter().map(|s| lock(&s.tunnels).iter().filter(|t| !t.client.is_closed()).count()).sum()
    }

    /// Forgets the tunnels of keys that are not kept: they take no more streams, and close with their
    /// last one.
    pub fn retain(&self, keep: impl Fn(&PoolKey) -> bool) {
        lock(&self.inner.slots).retain(|key, _| keep(key));
    }

    /// Forgets tunnels that are closed or idle for long.
    /// They close once their last stream has ended. Called at intervals.
    pub fn sweep(&self) {
        let idle = self.inner.config.idle_timeout;
        lock(&self.inner.slots).retain(|_, slot| {
            let mut tunnels = lock(&slot.tunnels);
            tunnels.retain(|t| !t.client.is_closed() && (t.client.open_streams() > 0 || t.used.elapsed() < idle));
            !tunnels.is_empty() || Arc::strong_count(slot) > 1
        });
    }

    fn slot(&self, key: &PoolKey) -> Arc<Slot> {
        let mut slots = lock(&self.inner.slots);
        if let Some(slot) = slots.get(key) {
            return slot.clone();
        }
        slots.entry(key.clone()).or_default().clone()
    }

    async fn dial(&self, key: &PoolKey, cert: &WorkloadCert) -> Result<Client, TunnelError> {
        let config = &self.inner.config;
        let dial = async {
            let options = ConnectOptions { local: config.source_address, ..ConnectOptions::new(config.handshake_timeout) };
            let io = socket::connect_with(key.address, options).await.map_err(TunnelError::Connect)?;
            let (io, _) = tls::connect(io, cert, &key.destinations).await.map_err(TunnelError::Tls)?;
            Client::handshake(io, config).await.map_err(TunnelError::Handshake)
        };
        tokio::time::timeout(config.handshake_timeout, dial).await.map_err(|_| TunnelError::Timeout(key.address))?
    }
}

impl Slot {
    /// A place on the least loaded tunnel that was made with `cert`; `None` when all are full, or,
    /// with `may_spread`, when another tunnel would share the load.
    fn pick(&self, config: &Config, cert: &Arc<WorkloadCert>, may_spread: bool) -> Option<Reserved> {
        let mut tunnels = lock(&self.tunnels);
        tunnels.retain(|t| !t.client.is_closed());
        let count = tunnels.iter().filter(|t| Arc::ptr_eq(&t.cert, cert)).count();
        let best = tunnels.iter_mut().filter(|t| Arc::ptr_eq(&t.cert, cert)).min_by_key(|t| t.client.open_streams())?;
        let open = best.client.open_streams();
        let full = open >= config.max_streams_per_tunnel.min(best.client.stream_limit());
        let spread = may_spread && open >= config.spread_threshold && count < config.spread_tunnels;
        if full || spread {
            return None;
        }
        best.used = Instant::now();
        Some(best.client.reserve())
    }

    /// Opens a tunnel, one at a time for each key: the others wait and share what was opened, or why
    /// it was not.
    async fn open(&self, pool: &Pool, key: &PoolKey, cert: &Arc<WorkloadCert>) -> Result<Reserved, TunnelError> {
        let since = Instant::now();
        let _opening = self.opening.lock().await;
        let config = &pool.inner.config;
        if let Some(reserved) = self.pick(config, cert, true) {
            return Ok(reserved);
        }
        if let Some((_, error)) = lock(&self.failed).as_ref().filter(|(at, _)| *at > since) {
            return self.pick(config, cert, false).ok_or_else(|| same(error));
        }
        match pool.dial(key, cert).await {
            Ok(client) => {
                let reserved = client.reserve();
                self.keep(client, cert.clone());
                *lock(&self.failed) = None;
                Ok(reserved)
            }
            Err(error) => {
                *lock(&self.failed) = Some((Instant::now(), same(&error)));
                // Spreading is a wish: when it fails, what is open still serves.
                self.pick(config, cert, false).ok_or(error)
            }
        }
    }

    fn keep(&self, client: Client, cert: Arc<WorkloadCert>) {
        let mut tunnels = lock(&self.tunnels);
        // Those of a replaced certificate take no new streams: they close with their last one.
        tunnels.retain(|t| Arc::ptr_eq(&t.cert, &cert));
        tunnels.push(Tunnel { client, cert, used: Instant::now() });
    }

    fn remove(&self, client: &Client) {
        lock(&self.tunnels).retain(|t| !t.client.is_same(client));
    }
}

fn is_closing(error: &h2::Error) -> bool {
    error.is_go_away() || error.is_io() || error.reason() == Some(h2::Reason::REFUSED_STREAM)
}

/// The same failure for somebody else who waited for it.
fn same(error: &TunnelError) -> TunnelError {
    let io = |error: &io::Error| io::Error::new(error.kind(), error.to_string());
    match error {
        TunnelError::Certificate(error) => TunnelError::Certificate(error.clone()),
        TunnelError::Connect(error) => TunnelError::Connect(io(error)),
        TunnelError::Timeout(address) => TunnelError::Timeout(*address),
        TunnelError::Tls(error) => TunnelError::Tls(match error {
            TlsError::Handshake(error) => TlsError::Handshake(io(error)),
            TlsError::UnexpectedIdentity { got, expected } => TlsError::UnexpectedIdentity { got: got.clone(), expected: expected.clone() },
            TlsError::NoIdentity => TlsError::NoIdentity,
            TlsError::TrustDomain { got, own } => TlsError::TrustDomain { got: got.clone(), own: own.clone() },
            TlsError::Alpn => TlsError::Alpn,
        }),
        TunnelError::Handshake(error) => TunnelError::Handshake(error.reason().unwrap_or(h2::Reason::INTERNAL_ERROR).into()),
        TunnelError::Stream(_) => TunnelError::Stream(ConnectError::Timeout),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
