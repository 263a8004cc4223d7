//! A small control plane: the workload API by delta ADS and the certificate service of Istio, over TLS
//! on one port, with a mesh that may change at any time. The demo runs it instead of files; tests also
//! tell it to do wrong.
//!
//! `encode` makes messages of the mesh, `table` keeps them by name, `ads` talks to one client, `ca` and
//! `authority` sign, `server` listens; `faults` is the script, `observed` the record.

mod ads;
mod authority;
mod ca;
pub mod encode;
mod faults;
mod observed;
mod server;
mod shared;
mod table;

#[cfg(test)]
mod tests;

pub use authority::SignError;
pub use faults::{Certificates, Faults};
pub use observed::{CertificateRequest, Observed, Request};
pub use server::StartError;
pub use table::Kind;

use crate::{
    cert::IssuedCert,
    model::{Identity, Mesh, Name, Resource},
    proto::discovery::DeltaDiscoveryResponse,
    state::Change,
};
use authority::Authority;
use bytes::Bytes;
use encode::Encoder;
use rustls::ServerConfig;
use server::{Listening, Switch, tls_config};
use shared::Shared;
use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tonic::Status;

/// What a control plane is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it listens.
    pub address: SocketAddr,
    /// DNS names and addresses in its certificate.
    pub names: Vec<String>,
    /// The trust domain that its CA signs for.
    pub trust_domain: String,
    /// What it knows besides the resources.
    pub encode: encode::Config,
    /// The tokens it accepts; without any, nobody gets in.
    pub tokens: Vec<Token>,
    /// Signs with an intermediate certificate, not with the root itself.
    pub intermediate: bool,
    /// The longest life of a certificate.
    pub max_ttl: Duration,
    /// The longest request, bytes; 4 MiB is istiod's limit.
    pub max_request: usize,
}

impl Options {
    /// A control plane for `cluster.local` at this address, which takes `token` for everything.
    pub fn new(address: SocketAddr, token: &str) -> Self {
        Self {
            address,
            names: vec!["istiod.istio-system.svc".to_owned(), address.ip().to_string()],
            trust_domain: "cluster.local".to_owned(),
            encode: encode::Config::default(),
            tokens: vec![Token { text: token.to_owned(), may_impersonate: true }],
            intermediate: false,
            max_ttl: Duration::from_secs(24 * 3600),
            max_request: 4 << 20,
        }
    }
}

/// A bearer token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The token itself.
    pub text: String,
    /// Whether it is good for certificates of others.
    pub may_impersonate: bool,
}

impl fmt::Debug for Token {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("may_impersonate", &self.may_impersonate).finish_non_exhaustive()
    }
}

/// A control plane that runs. It ends with this value, and with it all its connections.
#[derive(Debug)]
pub struct ControlPlane {
    address: SocketAddr,
    names: Vec<String>,
    server_roots: String,
    tls: watch::Sender<Arc<ServerConfig>>,
    shared: Arc<Shared>,
    wanted: watch::Sender<bool>,
    listening: watch::Receiver<bool>,
    cut: watch::Sender<u64>,
    accepting: JoinHandle<()>,
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl ControlPlane {
    /// Listens from now on, with an empty mesh.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let unusable = |error| StartError::Listen(options.address, error);
        let listener = TcpListener::bind(options.address).await.map_err(unusable)?;
        let address = listener.local_addr().map_err(unusable)?;
        let authority = Authority::new(&options.trust_domain, options.intermediate, options.max_ttl)?;
        let (chain, key, server_roots) = authority::server(options.names.clone())?;
        let shared = Arc::new(Shared::new(Encoder::new(options.encode), authority, options.tokens));
        let (wanted, want) = watch::channel(true);
        let (listen, listening) = watch::channel(true);
        let (cut, cutting) = watch::channel(0);
        let (tls, accept_by) = watch::channel(tls_config(&chain, &key)?);
        let serving = Listening { shared: shared.clone(), tls: accept_by, address, max_request: options.max_request };
        let accepting = tokio::spawn(serving.run(listener, Switch { wanted: want, listening: listen, cut: cutting }));
        Ok(Self { address, names: options.names, server_roots, tls, shared, wanted, listening, cut, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The root of its own certificate, PEM.
    pub fn server_roots(&self) -> &str {
        &self.server_roots
    }

    /// Another certificate for the server itself, by another root, from the next connection on.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn renew_server(&mut self) -> Result<(), StartError> {
        let (chain, key, roots) = authority::server(self.names.clone())?;
        self.tls.send_replace(tls_config(&chain, &key)?);
        self.server_roots = roots;
        Ok(())
    }

    /// The roots of the mesh, PEM.
    pub fn mesh_roots(&self) -> String {
        self.shared.authority().roots_pem()
    }

    /// A certificate of the mesh with a new key, for somebody who does not ask by gRPC.
    ///
    /// # Errors
    /// See [`SignError`].
    pub fn issue(&self, identity: &Identity, ttl: Duration) -> Result<IssuedCert, SignError> {
        self.shared.authority().issue(identity, ttl)
    }

    /// The next of three steps to a new root of the mesh: certificates come with both roots; they are
    /// signed by the new one; they come with the new one alone.
    ///
    /// # Errors
    /// See [`SignError`].
    pub fn rotate(&self) -> Result<(), SignError> {
        self.shared.authority().rotate()
    }

    /// A revocation list of the authority that signs now, PEM, with these serial numbers (big-endian).
    ///
    /// # Errors
    /// See [`SignError`].
    pub fn revocation_list(&self, serials: &[Vec<u8>]) -> Result<String, SignError> {
        self.shared.authority().revocation_list(serials)
    }

    /// Changes the mesh, as one change-set; how many resources look different because of it.
    pub fn apply(&self, changes: impl IntoIterator<Item = Change>) -> usize {
        self.shared.apply(changes.into_iter().collect())
    }

    /// Adds all of a mesh, which need not be there already.
    pub fn load(&self, mesh: &Mesh) -> usize {
        let services = mesh.services.values().cloned().map(Resource::Service);
        let resources = (mesh.namespaces.values().cloned().map(Resource::Namespace))
            .chain(services)
            .chain(mesh.endpoints.values().cloned().map(Resource::Endpoints))
            .chain(mesh.workloads.values().cloned().map(Resource::Workload))
            .chain(mesh.waypoints.values().cloned().map(Resource::Waypoint))
            .chain(mesh.policies.values().cloned().map(Resource::Policy));
        self.apply(resources.map(Change::Upsert))
    }

    /// Serves these bytes under a name, whatever they are, or nothing any more; how many of them are
    /// new.
    pub fn put(&self, kind: Kind, entries: impl IntoIterator<Item = (Name, Option<Bytes>)>) -> usize {
        self.shared.put(kind, entries.into_iter().collect())
    }

    /// The bytes that are served under a name.
    pub fn served(&self, kind: Kind, name: &str) -> Option<Bytes> {
        self.shared.tables().of(kind).get(name).map(|entry| entry.value.clone())
    }

    /// All names of a type.
    pub fn names(&self, kind: Kind) -> Vec<Name> {
        self.shared.tables().of(kind).names().cloned().collect()
    }

    /// Sends this on every stream, with a nonce of its own.
    pub fn say(&self, response: &DeltaDiscoveryResponse) {
        self.shared.tell(|stream| stream.say(response));
    }

    /// The tokens it accepts from now on. Streams that are open stay so.
    pub fn set_tokens(&self, tokens: Vec<Token>) {
        self.shared.set_tokens(tokens);
    }

    /// Ends every stream with a status; their connections stay.
    pub fn end_streams(&self, status: &Status) {
        self.shared.tell(|stream| stream.end(status));
    }

    /// Ends every connection without a word.
    pub fn drop_connections(&self) {
        self.cut.send_modify(|count| *count += 1);
    }

    /// Listens no longer, and ends every connection. Resolves when that is so.
    pub async fn stop(&self) {
        self.switch(false).await;
        self.drop_connections();
    }

    /// Listens again at the same address. Resolves when that is so.
    pub async fn resume(&self) {
        self.switch(true).await;
    }

    async fn switch(&self, on: bool) {
        self.wanted.send_replace(on);
        // The task lives as long as this.
        let _ = self.listening.clone().wait_for(|listening| *listening == on).await;
    }

    /// The script of what it does wrong.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// What it has seen.
    pub fn observed(&self) -> Observed {
        self.shared.observed.borrow().clone()
    }

    /// Waits until what it has seen passes a check; without a time limit. Cancel safe.
    pub async fn until(&self, check: impl FnMut(&Observed) -> bool) {
        // The sender lives as long as this.
        let _ = self.shared.observed.subscribe().wait_for(check).await;
    }

    /// The same; what it has seen then.
    pub async fn wait_for(&self, check: impl FnMut(&Observed) -> bool) -> Observed {
        let mut observed = self.shared.observed.subscribe();
        match observed.wait_for(check).await {
            Ok(observed) => observed.clone(),
            Err(_) => self.observed(),
        }
    }
}
