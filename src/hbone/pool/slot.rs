//! The tunnels of one key.

use super::{Opened, Pool, PoolKey, TunnelError, lock};
use crate::{
    hbone::{Client, Config, ConnectError, ConnectHeaders, client::Reserved},
    model::Identity,
    transport::WorkloadCert,
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::MutexGuard, time::Instant};

/// The tunnels of one key.
#[derive(Debug, Default)]
pub(super) struct Slot {
    tunnels: Mutex<Vec<Tunnel>>,
    // Held by the one that opens a tunnel, so that a burst of requests opens one and not one each.
    opening: tokio::sync::Mutex<()>,
    // How the last attempt failed, and when: those who waited for it fail with it, instead of trying one after the other.
    failed: Mutex<Option<(Instant, TunnelError)>>,
}

/// A tunnel that has just been opened.
#[derive(Debug)]
pub(super) struct Dialed {
    pub(super) client: Client,
    /// Which of the expected identities the peer has proved.
    pub(super) peer: Identity,
    /// What we have proved ours with.
    pub(super) cert: Arc<WorkloadCert>,
}

#[derive(Debug)]
struct Tunnel {
    dialed: Dialed,
    used: Instant,
    // From then on it takes no new streams.
    retires: Option<Instant>,
}

/// A place on a tunnel.
pub(super) struct Place {
    reserved: Reserved,
    peer: Identity,
}

impl Tunnel {
    fn new(dialed: Dialed, config: &Config) -> Self {
        let now = Instant::now();
        Self { dialed, used: now, retires: own_age(config.max_tunnel_age).and_then(|age| now.checked_add(age)) }
    }

    fn place(&mut self, now: Instant) -> Place {
        self.used = now;
        Place { reserved: self.dialed.client.reserve(), peer: self.dialed.peer.clone() }
    }

    /// Whether it takes new streams.
    fn is_fit(&self, now: Instant) -> bool {
        !self.dialed.client.is_closed() && !self.dialed.client.is_retired() && self.retires.is_none_or(|at| now < at)
    }

    fn streams(&self) -> usize {
        self.dialed.client.open_streams()
    }

    fn has(&self, cert: &Arc<WorkloadCert>) -> bool {
        Arc::ptr_eq(&self.dialed.cert, cert)
    }
}

/// How long a tunnel takes new streams: drawn anew for each, between four and six fifths of `age`,
/// so that tunnels opened together are not replaced together. `None` for ever, when `age` is zero.
fn own_age(age: Duration) -> Option<Duration> {
    (!age.is_zero()).then(|| age.mul_f64(0.8 + 0.4 * fastrand::f64()))
}

/// Keeps only some; the rest take no new streams, and whoever holds one can tell.
fn retire_unless(tunnels: &mut Vec<Tunnel>, keep: impl Fn(&Tunnel) -> bool) {
    tunnels.retain(|tunnel| {
        let stays = keep(tunnel);
        if !stays {
            tunnel.dialed.client.retire();
        }
        stays
    });
}

impl Place {
    pub(super) fn client(&self) -> Client {
        self.reserved.client()
    }

    pub(super) async fn connect(self, authority: &str, headers: &ConnectHeaders, config: &Config) -> Result<Opened, ConnectError> {
        let tunnel = self.reserved.client();
        let (io, headers) = self.reserved.connect(authority, headers, config).await?;
        Ok(Opened { io, headers, peer: self.peer, tunnel })
    }
}

impl Slot {
    /// A place on the least loaded tunnel that was made with `cert`; `None` when another tunnel is
    /// called for: all are full, or, unless somebody opens one already, the load should be shared.
    pub(super) fn pick(&self, config: &Config, cert: &Arc<WorkloadCert>) -> Option<Place> {
        // While one request opens another tunnel, the rest go on with what there is.
        self.place(config, cert, self.opening.try_lock().is_ok())
    }

    fn place(&self, config: &Config, cert: &Arc<WorkloadCert>, may_spread: bool) -> Option<Place> {
        let now = Instant::now();
        let mut tunnels = lock(&self.tunnels);
        retire_unless(&mut tunnels, |t| t.is_fit(now));
        let count = tunnels.iter().filter(|t| t.has(cert)).count();
        let best = tunnels.iter_mut().filter(|t| t.has(cert)).min_by_key(|t| t.streams())?;
        let open = best.streams();
        let is_full = open >= config.max_streams_per_tunnel.min(best.dialed.client.stream_limit());
        let wants_another = if is_full {
            // Beyond the last tunnel streams wait for a place, as long as an answer may take.
            count < config.max_tunnels
        } else {
            may_spread && open >= config.spread_threshold && count < config.spread_tunnels
        };
        (!wants_another).then(|| best.place(now))
    }

    /// Opens a tunnel, one at a time for each key: the others wait and share what was opened, or why
    /// it was not.
    pub(super) async fn open(&self, pool: &Pool, key: &PoolKey, headers: &ConnectHeaders) -> Result<Place, TunnelError> {
        let since = Instant::now();
        let opening = self.opening.lock().await;
        let config = &pool.inner.config;
        // Only now: who waited may hold a certificate that has been replaced meanwhile.
        let cert = pool.certificate(&key.source).await?;
        if let Some(place) = self.place(config, &cert, true) {
            return Ok(place);
        }
        if let Some((_, error)) = lock(&self.failed).as_ref().filter(|(at, _)| *at > since) {
            return self.place(config, &cert, false).ok_or_else(|| error.again());
        }
        match self.dial(pool, key, headers, cert.clone(), opening).await {
            Ok(place) => {
                *lock(&self.failed) = None;
                Ok(place)
            }
            Err(error) => {
                *lock(&self.failed) = Some((Instant::now(), error.again()));
                // Spreading is a wish: when it fails, what is open still serves.
                self.place(config, &cert, false).ok_or(error)
            }
        }
    }

    /// Opens a tunnel whatever there is: the place on it is nobody else's.
    pub(super) async fn open_own(&self, pool: &Pool, key: &PoolKey, headers: &ConnectHeaders) -> Result<Place, TunnelError> {
        let opening = self.opening.lock().await;
        let cert = pool.certificate(&key.source).await?;
        self.dial(pool, key, headers, cert, opening).await
    }

    async fn dial(
        &self,
        pool: &Pool,
        key: &PoolKey,
        headers: &ConnectHeaders,
        cert: Arc<WorkloadCert>,
        _opening: MutexGuard<'_, ()>,
    ) -> Result<Place, TunnelError> {
        let mut tunnel = Tunnel::new(pool.dial(key, headers, cert).await?, &pool.inner.config);
        let place = tunnel.place(Instant::now());
        let mut tunnels = lock(&self.tunnels);
        // Those of a replaced certificate take no new streams: they close with their last one.
        retire_unless(&mut tunnels, |t| t.has(&tunnel.dialed.cert));
        tunnels.push(tunnel);
        Ok(place)
    }

    pub(super) fn remove(&self, client: &Client) {
        lock(&self.tunnels).retain(|t| !t.dialed.client.is_same(client));
    }

    /// Forgets all tunnels: they take no new streams and close with their last one.
    pub(super) fn clear(&self) {
        retire_unless(&mut lock(&self.tunnels), |_| false);
    }

    /// Forgets tunnels that are of no more use; whether there are others.
    pub(super) fn sweep(&self, config: &Config) -> bool {
        let now = Instant::now();
        let mut tunnels = lock(&self.tunnels);
        retire_unless(&mut tunnels, |t| t.is_fit(now));
        // These are as good as any, only not worth keeping for nobody: whoever uses one still may go on.
        tunnels.retain(|t| now.duration_since(t.used) < config.idle_timeout);
        !tunnels.is_empty()
    }

    /// Tunnels now open.
    pub(super) fn tunnels(&self) -> usize {
        lock(&self.tunnels).iter().filter(|t| !t.dialed.client.is_closed()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tunnel_draws_its_own_age() {
        const AGE: Duration = Duration::from_secs(1000);
        let drawn: Vec<_> = (0..100).map(|_| own_age(AGE).unwrap()).collect();
        assert!(drawn.iter().all(|age| (AGE * 8 / 10..=AGE * 12 / 10).contains(age)));
        assert!(drawn.iter().max().unwrap().saturating_sub(*drawn.iter().min().unwrap()) > AGE / 10);
        assert_eq!(own_age(Duration::ZERO), None, "for ever");
    }
}
