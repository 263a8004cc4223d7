//! Tunnels kept and shared.

mod error;
mod key;
mod slot;

pub use error::TunnelError;
pub use key::{PoolKey, Via};

use super::{Client, Config, ConnectHeaders, TunnelIo};
use crate::{
    model::Identity,
    transport::{
        CertError, CertSource, Sockets, TlsError, WorkloadCert,
        socket::ConnectOptions,
        tls::{self, Standing},
    },
};
use http::HeaderMap;
use slot::{Dialed, Slot};
use std::{
    collections::HashMap,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::io::{AsyncRead, AsyncWrite};

/// A pool of tunnels. Clones share it.
#[derive(Debug, Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    certs: Arc<dyn CertSource>,
    sockets: Sockets,
    slots: Mutex<HashMap<PoolKey, Arc<Slot>>>,
}

/// A stream whose CONNECT was answered with 200.
#[derive(Debug)]
pub struct Opened {
    /// The bytes.
    pub io: TunnelIo,
    /// The headers of the answer, which may hold the baggage of the destination.
    pub headers: HeaderMap,
    /// Which of [`PoolKey::destinations`] the peer has proved to be.
    pub peer: Identity,
    /// The tunnel, which stays open for as long as this is held.
    pub tunnel: Client,
}

/// Tries on tunnels that others use as well.
const SHARED_TRIES: usize = 2;

impl Pool {
    /// An empty pool whose connections are made by `sockets`.
    pub fn new(config: Config, certs: Arc<dyn CertSource>, sockets: Sockets) -> Self {
        Self { inner: Arc::new(Inner { config, certs, sockets, slots: Mutex::default() }) }
    }

    /// Opens a stream to `authority` through a tunnel of `key`: the least loaded one, or a new one
    /// when all are loaded. Cancel safe.
    ///
    /// # Errors
    /// See [`TunnelError`].
    pub async fn connect(&self, key: &PoolKey, authority: &str, headers: &ConnectHeaders) -> Result<Opened, TunnelError> {
        let config = &self.inner.config;
        let cert = self.certificate(&key.source).await?;
        let slot = self.slot(key);
        let mut place = match slot.pick(config, &cert) {
            Some(place) => place,
            None => slot.open(self, key, headers).await?,
        };
        // A tunnel from the pool may be closing under our hands. It is tried again: on a tunnel that a neighbour has just
        // opened for the same reason, and at last on one of its own.
        for tries in 1..=SHARED_TRIES {
            let client = place.client();
            match place.connect(authority, headers, config).await {
                Err(error) if TunnelError::is_closing(&error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, address = %key.address(), "pooled tunnel is closing, opening another");
                    slot.remove(&client);
                }
                other => return other.map_err(TunnelError::Stream),
            }
            place = if tries < SHARED_TRIES { slot.open(self, key, headers).await? } else { slot.open_own(self, key, headers).await? };
        }
        place.connect(authority, headers, config).await.map_err(TunnelError::Stream)
    }

    /// Tunnels now open, over all keys.
    pub fn tunnels(&self) -> usize {
        let slots: Vec<_> = lock(&self.inner.slots).values().cloned().collect();
        slots.iter().map(|slot| slot.tunnels()).sum()
    }

    /// Forgets the tunnels of keys that `keep` no longer wants, and the tunnels inside of those:
    /// they take no new streams and close with their last one. `keep` must not use the pool.
    ///
    /// A stream that is being opened at the same time may still get such a tunnel.
    pub fn retain(&self, keep: impl Fn(&PoolKey) -> bool) {
        lock(&self.inner.slots).retain(|key, slot| {
            let stays = key.layers().all(&keep);
            if !stays {
                slot.clear();
            }
            stays
        });
    }

    /// Forgets tunnels that are closed, too old, or have been given no stream for long.
    /// They close once their last stream has ended. Called at intervals.
    pub fn sweep(&self) {
        lock(&self.inner.slots).retain(|_, slot| slot.sweep(&self.inner.config) || Arc::strong_count(slot) > 1);
    }

    fn slot(&self, key: &PoolKey) -> Arc<Slot> {
        let mut slots = lock(&self.inner.slots);
        if let Some(slot) = slots.get(key) {
            return slot.clone();
        }
        slots.entry(key.clone()).or_default().clone()
    }

    /// Whoever gives out certificates may have to ask for one first; an application does not wait
    /// for that longer than for a handshake.
    async fn certificate(&self, source: &Identity) -> Result<Arc<WorkloadCert>, TunnelError> {
        let fetched = tokio::time::timeout(self.inner.config.handshake_timeout, self.inner.certs.fetch(source)).await;
        let late = |_| Err(CertError::Unavailable(Arc::new(io::Error::from(io::ErrorKind::TimedOut))));
        fetched.unwrap_or_else(late).map_err(TunnelError::Certificate)
    }

    async fn dial(&self, key: &PoolKey, headers: &ConnectHeaders, cert: Arc<WorkloadCert>) -> Result<Dialed, TunnelError> {
        let config = &self.inner.config;
        match &key.via {
            Via::Direct(address) => {
                let options = ConnectOptions { local: config.source_address, ..ConnectOptions::new(config.handshake_timeout) };
                let dial = async {
                    let io = self.inner.sockets.connect(*address, options).await.map_err(TunnelError::Connect)?;
                    self.secure(io, key, cert, Standing::default()).await
                };
                tokio::time::timeout(config.handshake_timeout, dial).await.map_err(|_| TunnelError::Timeout(*address))?
            }
            Via::Through { gateway, authority } => {
                // The gateway is in our network; only the far side needs to know where the stream comes from.
                let outer = ConnectHeaders { network: None, ..headers.clone() };
                let Opened { io, tunnel, .. } = self.connect_boxed(gateway, authority, &outer).await?;
                let late = |_| TunnelError::Tls(TlsError::Handshake(io::ErrorKind::TimedOut.into()));
                let secured = self.secure(io, key, cert, tunnel.standing().clone());
                tokio::time::timeout(config.handshake_timeout, secured).await.map_err(late)?
            }
        }
    }

    /// [`connect`](Self::connect), which may need another tunnel in order to open one.
    fn connect_boxed<'a>(&'a self, key: &'a PoolKey, authority: &'a str, headers: &'a ConnectHeaders) -> Connecting<'a> {
        Box::pin(self.connect(key, authority, headers))
    }

    async fn secure<IO>(&self, io: IO, key: &PoolKey, cert: Arc<WorkloadCert>, outer: Standing) -> Result<Dialed, TunnelError>
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let config = &self.inner.config;
        let secured = tls::connect(io, &cert, &key.destinations, config.revocation.as_ref()).await;
        let (io, peer, standing) = secured.map_err(TunnelError::Tls)?;
        let (certs, used) = (self.inner.certs.clone(), cert.clone());
        let replaced = async move { certs.replaced(&used).await };
        let client = Client::handshake(io, config, replaced, standing.within(outer)).await.map_err(TunnelError::Handshake)?;
        Ok(Dialed { client, peer, cert })
    }
}

type Connecting<'a> = Pin<Box<dyn Future<Output = Result<Opened, TunnelError>> + Send + 'a>>;

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
