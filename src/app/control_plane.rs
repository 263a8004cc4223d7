//! What the command line says of the control plane, in the words of the rooms that ask it.

use super::{AppError, CertificatesFrom, Process};
use crate::{
    control::xds,
    hbone,
    model::Name,
    settings::{ControlPlane, NameArgs, PodArgs, ProcessArgs, TlsSettings, XdsSettings},
    transport::{Revocation, tls},
};

/// How the mesh is followed: `authorization` policies as well, or only what they govern.
pub(super) fn mesh(xds: XdsSettings, names: &NameArgs, pod: &PodArgs, authorization: bool) -> xds::Config {
    xds::Config {
        server: xds.server,
        node: xds::Node { id: xds.node.id, metadata: xds.node.metadata },
        types: xds::Types { authorization, on_demand: xds.on_demand },
        decode: xds::decode::Config { network: pod.network.as_str().into(), cluster_domain: Name::from(names.cluster_domain.as_str()) },
    }
}

/// Where certificates come from.
pub(super) fn certificates(process: &ProcessArgs, control: &ControlPlane) -> Result<CertificatesFrom, AppError> {
    match (&process.identity_dir, &control.spiffe, &control.ca) {
        (Some(directory), _, _) => Ok(CertificatesFrom::Directory(directory.clone())),
        (None, Some(socket), _) => Ok(CertificatesFrom::Spiffe(socket.clone())),
        (None, None, Some(ca)) => Ok(CertificatesFrom::Ca(Box::new(ca.server.clone()))),
        (None, None, None) => Err(AppError::config(anyhow::anyhow!("no certificates: give --identity-dir"))),
    }
}

/// Settles how the process speaks TLS, before anything does.
///
/// # Errors
/// When that cannot be.
pub(super) fn settle_tls(tls: TlsSettings) -> Result<(), AppError> {
    tls::install(tls::Policy { tls12: tls.tls12, pqc: tls.pqc }).map_err(AppError::config)
}

/// Has revocation lists followed for as long as there may be tunnels.
pub(super) fn follow_revocation(config: &hbone::Config, process: &Process) {
    if let Some(revocation) = &config.revocation {
        tokio::spawn(revocation.clone().watch(process.drain()));
    }
}

/// The revocation lists, if there are any to be heeded.
///
/// # Errors
/// When they cannot be read.
pub(super) fn revocation(control: &ControlPlane) -> Result<Option<std::sync::Arc<Revocation>>, AppError> {
    control.crl.as_ref().map(Revocation::open).transpose().map_err(AppError::config)
}
