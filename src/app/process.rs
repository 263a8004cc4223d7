//! What every long-running mode has in common: certificates, admin listeners, drain, exit status.

use crate::{
    admin,
    runtime::{BlockReady, DrainTrigger, DrainWatch, Readiness, drain, signal},
    settings::{AdminListeners, ListenAddress, ProcessArgs},
    telemetry::{self, AccessLog, log::LogHandle},
    transport::listener::{self, ListenOptions},
};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::{collections::BTreeMap, io, net::SocketAddr, path::Path, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
};

/// How long the last lines of the access log may take.
const FLUSH: Duration = Duration::from_secs(1);

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The manifests are invalid; each finding has been logged.
    #[error("{0} errors in the manifests (--lenient starts without what is invalid)")]
    Manifests(usize),
    /// The local mesh is invalid; each finding has been logged.
    #[error("{0} errors in the local mesh, which counts as a whole or not at all")]
    LocalMesh(usize),
    /// The configuration is wrong.
    #[error("{0:#}")]
    Config(anyhow::Error),
    /// It failed while running.
    #[error("{0:#}")]
    Run(anyhow::Error),
}

impl AppError {
    pub(super) fn config(error: impl Into<anyhow::Error>) -> Self {
        Self::Config(error.into())
    }

    pub(super) fn run(error: impl Into<anyhow::Error>) -> Self {
        Self::Run(error.into())
    }

    /// 1: it failed while running; 2: wrong usage or configuration.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Manifests(_) | Self::LocalMesh(_) | Self::Config(_) => 2,
            Self::Run(_) => 1,
        }
    }
}

/// The addresses that are listened on, by the listener's name.
#[derive(Debug, Clone, Default)]
pub struct Bound {
    addresses: BTreeMap<&'static str, SocketAddr>,
}

impl Bound {
    /// The address of a listener: `hbone`, `plaintext`, `outbound`, `socks5`, `metrics`,
    /// `readiness` or `admin`.
    pub fn get(&self, name: &str) -> Option<SocketAddr> {
        self.addresses.get(name).copied()
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let json = serde_json::to_vec(&self.addresses)?;
        let partial = path.with_extension("partial");
        std::fs::write(&partial, json)?;
        std::fs::rename(partial, path)
    }
}

/// A process that is being put together.
#[derive(Debug)]
pub struct Process {
    args: ProcessArgs,
    bound: Bound,
    readiness: Readiness,
    starting: BlockReady,
    trigger: DrainTrigger,
    quit: Arc<Notify>,
    // Outlives the drain of traffic: readiness is still asked about while requests finish.
    end: tokio::sync::watch::Sender<bool>,
    failed: mpsc::Sender<anyhow::Error>,
    failure: mpsc::Receiver<anyhow::Error>,
    /// The access log.
    pub log: AccessLog,
}

/// A process that runs.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub bound: Bound,
    /// What it still waits for.
    pub readiness: Readiness,
    trigger: DrainTrigger,
    quit: Arc<Notify>,
    end: tokio::sync::watch::Sender<bool>,
    log: AccessLog,
    deadline: Duration,
    failure: mpsc::Receiver<anyhow::Error>,
}

impl Process {
    /// A process that does nothing yet.
    pub fn new(args: ProcessArgs, log: AccessLog) -> Self {
        let (trigger, _) = drain::new();
        let (failed, failure) = mpsc::channel(1);
        let readiness = Readiness::new();
        let starting = readiness.register("starting");
        let end = tokio::sync::watch::Sender::new(false);
        let quit = Arc::default();
        Self { args, bound: Bound::default(), readiness, starting, trigger, quit, end, failed, failure, log }
    }

    /// By which a part that cannot go on ends the process.
    pub fn failed(&self) -> mpsc::Sender<anyhow::Error> {
        self.failed.clone()
    }

    /// Follows the drain.
    pub fn drain(&self) -> DrainWatch {
        self.trigger.watch()
    }

    /// What the readiness listener reports.
    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// Listens, unless the address is `off`.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn listen(&mut self, name: &'static str, address: ListenAddress) -> Result<Option<TcpListener>, AppError> {
        self.listen_with(name, address, ListenOptions::default())
    }

    /// Listens in another way.
    ///
    /// # Errors
    /// When the address cannot be bound, or an option is not permitted.
    pub fn listen_with(
        &mut self,
        name: &'static str,
        address: ListenAddress,
        options: ListenOptions,
    ) -> Result<Option<TcpListener>, AppError> {
        let ListenAddress::At(address) = address else { return Ok(None) };
        let failed = |error: io::Error| AppError::config(anyhow::anyhow!("cannot listen on {address} ({name}): {error}"));
        let bind = |address| listener::bind(address, options);
        let listener = match bind(address) {
            // A machine without IPv6 still has the wildcard of IPv4.
            Err(error) if address.ip() == std::net::Ipv6Addr::UNSPECIFIED && error.raw_os_error() == Some(NO_IPV6) => {
                bind(SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), address.port()))
            }
            other => other,
        };
        let listener = listener.map_err(failed)?;
        self.bound.addresses.insert(name, listener.local_addr().map_err(failed)?);
        Ok(Some(listener))
    }

    /// Starts the admin listeners.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub fn serve_admin(
        &mut self,
        listeners: &AdminListeners,
        log: LogHandle,
        config_dump: impl Fn() -> String + Send + Sync + 'static,
    ) -> Result<(), AppError> {
        if let Some(listener) = self.listen("metrics", listeners.metrics_address)? {
            self.spawn_admin(listener, admin::metrics(telemetry::install()));
        }
        if let Some(listener) = self.listen("readiness", listeners.readiness_address)? {
            self.spawn_admin(listener, admin::readiness(self.readiness.clone()));
        }
        if let Some(listener) = self.listen("admin", listeners.admin_address)? {
            let quit = self.quit.clone();
            self.spawn_admin(listener, admin::debug(config_dump, log, move || quit.notify_one()).with_index());
        }
        Ok(())
    }

    fn spawn_admin(&self, listener: TcpListener, routes: admin::Router) {
        let mut end = self.end.subscribe();
        tokio::spawn(admin::serve(listener, routes, async move {
            // An error means that the process is gone: also the end.
            let _ = end.wait_for(|ended| *ended).await;
        }));
    }

    /// Everything listens: reports the addresses and becomes ready.
    ///
    /// # Errors
    /// When the file for the addresses cannot be written.
    pub fn started(self) -> Result<Running, AppError> {
        for (name, address) in &self.bound.addresses {
            tracing::info!(%address, "listening: {name}");
        }
        if let Some(path) = &self.args.bound_addresses {
            let failed = |error| AppError::run(anyhow::anyhow!("cannot write {}: {error}", path.display()));
            self.bound.write(path).map_err(failed)?;
        }
        drop(self.starting);
        let Self { args, bound, readiness, trigger, quit, end, log, failure, .. } = self;
        Ok(Running { bound, readiness, trigger, quit, end, log, deadline: args.drain_deadline, failure })
    }
}

/// EAFNOSUPPORT of Linux: "address family not supported by protocol".
const NO_IPV6: i32 = 97;

impl Running {
    /// Runs until a signal or `/quitquitquit`, then drains. A second signal ends it at once.
    ///
    /// # Errors
    /// When the second signal came, or a part of the process could not go on.
    pub async fn until_signal(mut self) -> Result<(), AppError> {
        let quit = self.quit.clone();
        tokio::select! {
            name = signal::shutdown_requested() => tracing::info!(signal = name, "draining"),
            () = quit.notified() => tracing::info!("draining: told to quit"),
            Some(error) = self.failure.recv() => return Err(AppError::run(error)),
        }
        tokio::select! {
            () = self.shutdown() => Ok(()),
            name = signal::shutdown_requested() => Err(AppError::run(anyhow::anyhow!("{name} while draining: stopped at once"))),
        }
    }

    /// Fails readiness, stops accepting, says GOAWAY, and waits for what is in flight until the
    /// deadline; then cuts it off.
    pub async fn shutdown(self) {
        self.readiness.fail("draining");
        self.trigger.start();
        if tokio::time::timeout(self.deadline, self.trigger.drained()).await.is_err() {
            tracing::warn!(remaining = self.trigger.remaining(), "drain deadline passed, closing what is left");
            self.trigger.force();
            // What has not ended by now ends with the process.
            let _ = tokio::time::timeout(FLUSH, self.trigger.drained()).await;
        }
        self.end.send_replace(true);
        self.log.flush(FLUSH).await;
        tracing::info!("drained");
    }
}

/// Allows the process as many descriptors as it may allow itself: every connection takes two.
pub fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open descriptors cannot be raised");
    }
}
