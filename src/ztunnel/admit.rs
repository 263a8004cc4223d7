//! May a CONNECT come in at all, and to which port of the workload? Policy is judged later.

use super::own::OwnPorts;
use crate::{
    hbone::{Connect, ConnectTarget},
    model::{Hostname, Service, Workload},
    state::{NodeService, NodeSnapshot},
};
use http::StatusCode;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// Why a CONNECT is refused. The statuses are those of the reference ztunnel (contract, 1.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// Not a CONNECT.
    #[error("method is not CONNECT")]
    Method,
    /// The authority names no target.
    #[error("authority is not valid")]
    Authority,
    /// The authority names another address than the tunnel leads to.
    #[error("ip mismatch: the authority is not the address of the tunnel")]
    NotHere,
    /// The mesh does not know the workload that we serve.
    #[error("the local workload is not known")]
    UnknownWorkload,
    /// The mesh does not know the host name.
    #[error("unknown host name")]
    UnknownHost,
    /// The service does not lead to this workload by this port.
    #[error("the service does not lead here by this port")]
    NotAnEndpoint,
    /// A port of this proxy.
    #[error("the port is the proxy's own")]
    OwnPort,
}

impl Refusal {
    /// The status that answers the CONNECT.
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Method | Self::Authority | Self::NotHere => StatusCode::BAD_REQUEST,
            Self::UnknownWorkload | Self::UnknownHost | Self::NotAnEndpoint | Self::OwnPort => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// The workload as the end of a tunnel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Here<'a> {
    /// Who it is.
    pub(super) workload: &'a Workload,
    /// The address at which the tunnel came in: the only one that may be connected to.
    pub(super) address: IpAddr,
    /// The proxy's own sockets.
    pub(super) own: &'a OwnPorts,
}

/// Where a CONNECT goes.
#[derive(Debug)]
pub(super) struct Admitted {
    /// The workload's socket.
    pub(super) address: SocketAddr,
    /// The service, when it was addressed by name.
    pub(super) service: Option<Arc<Service>>,
}

/// What a CONNECT asks for.
pub(super) fn target(connect: &Connect) -> Result<ConnectTarget, Refusal> {
    connect.target().ok_or(Refusal::Method)?.map_err(|_| Refusal::Authority)
}

/// Judges a target.
pub(super) fn admit(snapshot: &NodeSnapshot, here: Here<'_>, target: &ConnectTarget) -> Result<Admitted, Refusal> {
    let (port, service) = match target {
        ConnectTarget::Address(address) if address.ip() == here.address => (address.port(), None),
        ConnectTarget::Address(_) => return Err(Refusal::NotHere),
        ConnectTarget::Host(host, port) => {
            let service = snapshot.host(host, &here.workload.namespace).ok_or(Refusal::UnknownHost)?;
            (target_port(service, here, *port).ok_or(Refusal::NotAnEndpoint)?, Some(service.service.clone()))
        }
    };
    // Always the address of the tunnel, never one that a peer or a service names.
    let address = SocketAddr::new(here.address, port);
    if here.own.serves(address) { Err(Refusal::OwnPort) } else { Ok(Admitted { address, service }) }
}

/// The service that a peer says it has addressed, if the workload serves it: for reports only.
pub(super) fn named_service(snapshot: &NodeSnapshot, here: Here<'_>, host: &str) -> Option<Arc<Service>> {
    let service = snapshot.host(&Hostname::new(host), &here.workload.namespace)?;
    service.ports.keys().any(|port| target_port(service, here, *port).is_some()).then(|| service.service.clone())
}

fn target_port(service: &NodeService, here: Here<'_>, port: u16) -> Option<u16> {
    let endpoints = service.ports.get(&port)?.endpoints();
    let is_here = |w: &Workload| w.uid == here.workload.uid;
    let own = endpoints.ready.iter().find(|e| e.address.ip() == here.address || e.workload.as_deref().is_some_and(is_here))?;
    Some(own.address.port())
}
