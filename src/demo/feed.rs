//! Where the proxies of the demo learn of the mesh and have their certificates from: files, or a control
//! plane that reads the files.

use super::{
    city::{CLUSTER_DOMAIN, DAY, ROOT_NAMESPACE, TRUST_DOMAIN, source},
    control_plane::{ControlPlane, Options},
};
use crate::{
    app::{AppError, CertificatesFrom, MeshSource, OpenedMesh, OwnCertificate, WaypointMesh},
    cert::{CaConfig, DevCa, IstioCa, Keeper, MultiCertSource},
    control::{
        manifest::ManifestSource,
        xds::{self, Node, Types},
    },
    model::{Mesh, Name, Workload},
    runtime::{DrainWatch, Readiness},
    state::{NodeCompiler, NodeSnapshot, Own},
    transport::{
        CertSource,
        grpc::{Credentials, Roots, Server, Token},
    },
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::task::AbortOnDropHandle;

/// How often manifests are looked at when nothing tells that they change.
const POLL: Duration = Duration::from_millis(250);

/// Who tells and signs.
#[derive(Debug)]
pub(super) enum Feed {
    /// Everyone reads the manifests; certificates are in this directory.
    Files { manifests: PathBuf, certs: PathBuf },
    /// The control plane reads them, and proxies ask it.
    ControlPlane(Box<Istiod>),
}

/// A control plane that follows manifests.
#[derive(Debug)]
pub(super) struct Istiod {
    manifests: PathBuf,
    server: Server,
    plane: Arc<ControlPlane>,
    _following: AbortOnDropHandle<()>,
}

impl Feed {
    /// Files, with certificates for everyone in the mesh.
    pub(super) fn files(mesh: &Mesh, manifests: &Path, scratch: &Path) -> Result<Self, AppError> {
        let mut identities: Vec<_> = mesh.workloads.values().map(|w| w.identity.clone()).collect();
        identities.sort();
        identities.dedup();
        let certs = scratch.join("certs");
        DevCa::write_directory(&certs, TRUST_DOMAIN, &identities, DAY).map_err(|e| AppError::Run(e.into()))?;
        Ok(Self::Files { manifests: manifests.to_owned(), certs })
    }

    /// A control plane on a free port.
    pub(super) async fn control_plane(manifests: &Path) -> Result<Self, AppError> {
        let token = format!("{:032x}", fastrand::u128(..));
        let options = Options::new(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0), &token);
        let plane = ControlPlane::start(options).await.map_err(|e| AppError::Run(e.into()))?;
        let address = format!("https://{}", plane.address()).parse().map_err(|e| AppError::Run(anyhow::Error::new(e)))?;
        let credentials = Credentials { token: Some(Token::Literal(token)), cluster: "Kubernetes".to_owned(), headers: Vec::new() };
        let roots = Roots::Pem(plane.server_roots().to_owned());
        let server = Server { address, roots, alternative_name: None, credentials };
        let plane = Arc::new(plane);
        let mut files = ManifestSource::new(source(manifests));
        if let Some(first) = files.poll() {
            plane.apply(first.changes);
        }
        let told = plane.clone();
        let following = tokio::spawn(async move {
            let (send, mut batches) = mpsc::channel(4);
            let feeding = AbortOnDropHandle::new(tokio::spawn(files.run(send, POLL, std::future::pending())));
            while let Some(batch) = batches.recv().await {
                told.apply(batch.changes);
            }
            drop(feeding);
        });
        let following = AbortOnDropHandle::new(following);
        Ok(Self::ControlPlane(Box::new(Istiod { manifests: manifests.to_owned(), server, plane, _following: following })))
    }

    /// Where the control plane listens, if there is one.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Files { .. } => None,
            Self::ControlPlane(istiod) => Some(istiod.plane.address()),
        }
    }

    /// What the waypoint is told, and signed.
    pub(super) fn waypoint(&self, pod: &Workload) -> (WaypointMesh, OwnCertificate) {
        match self {
            Self::Files { manifests, certs } => {
                let directory = certs.join(pod.identity.namespace()).join(pod.identity.service_account());
                (source(manifests).into(), OwnCertificate::directory(directory))
            }
            Self::ControlPlane(istiod) => {
                let mesh = WaypointMesh {
                    manifests: Some(source(&istiod.manifests)),
                    control_plane: Some(istiod.asked_by("waypoint", &pod.name, &pod.namespace, false)),
                    instance_ip: pod.addresses.first().copied(),
                    gateway_class: None,
                    root_namespace: ROOT_NAMESPACE.to_owned(),
                    cluster_domain: CLUSTER_DOMAIN.to_owned(),
                };
                let from = CertificatesFrom::Ca(Box::new(istiod.server.clone()));
                (mesh, OwnCertificate { from, identity: Some(pod.identity.clone()), ttl: DAY })
            }
        }
    }

    /// The certificates of a node's workloads.
    pub(super) fn certificates(&self) -> Result<Arc<dyn CertSource>, AppError> {
        match self {
            Self::Files { certs, .. } => Ok(Arc::new(MultiCertSource::from_dir_tree(certs).map_err(|e| AppError::Run(e.into()))?)),
            Self::ControlPlane(istiod) => {
                let ca = IstioCa::new(CaConfig { server: istiod.server.clone(), ttl: DAY, impersonate: true });
                Ok(Arc::new(Keeper::new(Arc::new(ca), Handle::current())))
            }
        }
    }

    /// What the proxies of a node know of the mesh, once there is something to know.
    pub(super) async fn node(&self, name: &Name, own: Own, drain: &DrainWatch) -> Result<OpenedMesh<NodeSnapshot>, AppError> {
        let (mesh, root_namespace) = match self {
            Self::Files { manifests, .. } => (MeshSource::open(source(manifests))?, ROOT_NAMESPACE),
            // Its policies say themselves where they hold.
            Self::ControlPlane(istiod) => (MeshSource::control_plane(istiod.asked_by("ztunnel", name, ROOT_NAMESPACE, true)), ""),
        };
        let opened = mesh.follow(NodeCompiler::new(own, root_namespace), drain, Readiness::new());
        if let Some(status) = &opened.status {
            status.synced().await;
        }
        Ok(opened)
    }
}

impl Istiod {
    fn asked_by(&self, kind: &str, name: &str, namespace: &str, authorization: bool) -> xds::Config {
        let id = format!("{kind}~127.0.0.1~{name}.{namespace}~{namespace}.svc.{CLUSTER_DOMAIN}");
        xds::Config {
            server: self.server.clone(),
            node: Node { id, metadata: prost_types::Struct::default() },
            types: Types { authorization, on_demand: false },
            decode: xds::decode::Config { network: "".into(), cluster_domain: CLUSTER_DOMAIN.into() },
        }
    }
}
