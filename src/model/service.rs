//! Services: names and virtual addresses for groups of workloads.

use super::{Labels, Name, ResourceId, ResourceName, ServiceKey, ServiceL4, WaypointBinding};
use std::net::IpAddr;

/// A Kubernetes Service, or one host of a ServiceEntry.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Namespace and host name.
    pub key: ServiceKey,
    /// The resource that declares it.
    pub source: ResourceId,
    /// Its virtual addresses on the proxy's own network; empty when headless.
    pub vips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Labels of the workloads that serve it, when no EndpointSlice lists them.
    pub selector: Option<Labels>,
    /// The waypoint that its own `istio.io/use-waypoint` label names.
    pub waypoint: WaypointBinding,
    /// Endpoints count although they are not ready (`publishNotReadyAddresses`).
    pub publish_not_ready: bool,
    /// A ServiceEntry with location MESH_EXTERNAL.
    pub external: bool,
    /// Further identities its servers may present (ServiceEntry `subjectAltNames`).
    pub subject_alt_names: Vec<Name>,
    /// What only an L4 proxy asks about.
    pub l4: ServiceL4,
}

impl Service {
    /// What a reference to a ServiceEntry names to mean this service. There are such references only
    /// beside a control plane (those in manifests alone are resolved to hosts when they are read), and a
    /// control plane does not say what declares a service: the kind of its source is a guess by the host
    /// name. So the kind does not count, and a Service of the same name is meant as well. A policy may
    /// govern more then than was asked for, never less.
    pub fn entry(&self) -> &ResourceName {
        &self.source.name
    }

    /// The declared port with this number.
    pub fn port(&self, port: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.port == port)
    }
}

/// One declared port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty when unnamed.
    pub name: Name,
    /// The number clients use.
    pub port: u16,
    /// Where it leads on the workload.
    pub target: TargetPort,
    /// What is spoken on it.
    pub protocol: AppProtocol,
}

/// The port of a workload that a service port leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// The name of a container port; each workload may give it another number.
    Name(Name),
    /// What each endpoint says; without a word of it, it does not serve the port.
    Endpoint,
}

/// What a port speaks: `appProtocol` first, then the prefix of the port's name (Istio, "Protocol
/// Selection").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// HTTP; HTTP/1.1 towards the workload.
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC over HTTP/2 with prior knowledge.
    Grpc,
    /// Opaque bytes.
    Tcp,
    /// Opaque TLS.
    Tls,
    /// Not declared: found out from the first bytes.
    Unspecified,
}

impl AppProtocol {
    /// Whether the port is declared as HTTP of some kind.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }
}

/// The endpoints that one EndpointSlice (or ServiceEntry) lists for a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoints {
    /// The resource that lists them. A ServiceEntry with several hosts yields one group per host,
    /// told apart by `NAME/HOST` as name.
    pub source: ResourceId,
    /// The service they belong to.
    pub service: ServiceKey,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// One address of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// The uid of the workload, when the source names it; otherwise found by address.
    pub workload: Option<Name>,
    /// Ready to serve.
    pub ready: bool,
    /// Port numbers by the service port's name; a single unnamed port has the empty name. Empty
    /// map: the service's own target ports hold.
    pub ports: Vec<(Name, u16)>,
}
