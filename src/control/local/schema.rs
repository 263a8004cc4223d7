//! The types of a local file, as the reference ztunnel spells them.

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::Value;
use std::{collections::BTreeMap, fmt, marker::PhantomData, ops::Deref};

/// The tags of string matches.
pub(super) const TAGS: &[&str] = &["!Exact", "!Prefix", "!Suffix", "!Presence"];

/// Ports by ports. The keys are numbers, but JSON, by which types are read, knows text alone.
pub(super) type Ports = BTreeMap<String, u16>;

/// A type that is written as a mapping. By itself serde would also take a list for it, and go by the
/// order of the fields.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Mapping<T>(T);

impl<T> Deref for Mapping<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Mapping<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OnlyMap<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OnlyMap<T> {
            type Value = Mapping<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Mapping<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Mapping)
            }
        }

        deserializer.deserialize_map(OnlyMap(PhantomData))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct File {
    pub(super) workloads: Vec<Mapping<Workload>>,
    pub(super) services: Vec<Mapping<Service>>,
    pub(super) policies: Vec<Mapping<Policy>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Workload {
    pub(super) uid: String,
    #[serde(default)]
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) service_account: String,
    pub(super) trust_domain: String,
    pub(super) workload_ips: Vec<String>,
    #[serde(default)]
    pub(super) hostname: String,
    #[serde(default)]
    pub(super) protocol: Protocol,
    #[serde(default)]
    pub(super) network: String,
    #[serde(default)]
    pub(super) network_gateway: Option<Mapping<Gateway>>,
    #[serde(default)]
    pub(super) network_mode: NetworkMode,
    #[serde(default)]
    pub(super) node: String,
    #[serde(default)]
    pub(super) workload_name: String,
    #[serde(default)]
    pub(super) workload_type: WorkloadType,
    #[serde(default)]
    pub(super) canonical_name: String,
    #[serde(default)]
    pub(super) canonical_revision: String,
    #[serde(default)]
    pub(super) cluster_id: String,
    #[serde(default)]
    pub(super) locality: Mapping<Locality>,
    #[serde(default)]
    pub(super) status: Status,
    #[serde(default)]
    pub(super) capacity: Option<u32>,
    #[serde(default)]
    pub(super) waypoint: Option<Mapping<Gateway>>,
    #[serde(default)]
    pub(super) application_tunnel: Option<Mapping<ApplicationTunnel>>,
    #[serde(default)]
    pub(super) authorization_policies: Vec<String>,
    pub(super) services: BTreeMap<String, Ports>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
pub(super) enum Protocol {
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "HBONE")]
    Hbone,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum NetworkMode {
    #[default]
    Standard,
    HostNetwork,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum WorkloadType {
    #[default]
    Deployment,
    CronJob,
    Pod,
    Job,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
pub(super) enum Status {
    #[default]
    Healthy,
    Unhealthy,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Locality {
    pub(super) region: String,
    pub(super) zone: String,
    pub(super) subzone: String,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct ApplicationTunnel {
    pub(super) protocol: TunnelProtocol,
    #[serde(default)]
    pub(super) port: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum TunnelProtocol {
    None,
    Proxy,
}

/// A waypoint, or the gateway of a network.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Gateway {
    pub(super) destination: String,
    pub(super) hbone_mtls_port: u16,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WeightedWaypoint {
    pub(super) destination: Mapping<Gateway>,
    pub(super) weight: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) hostname: String,
    pub(super) vips: Vec<String>,
    pub(super) ports: Ports,
    #[serde(default)]
    pub(super) subject_alt_names: Vec<String>,
    #[serde(default)]
    pub(super) waypoint: Option<Mapping<Gateway>>,
    #[serde(default)]
    pub(super) weighted_waypoints: Vec<Mapping<WeightedWaypoint>>,
    #[serde(default)]
    pub(super) load_balancer: Mapping<LoadBalancer>,
    #[serde(default)]
    pub(super) ip_families: Option<IpFamilies>,
    #[serde(default)]
    pub(super) canonical: bool,
    #[serde(default)]
    pub(super) visibility: Visibility,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LoadBalancer {
    pub(super) routing_preferences: Vec<Scope>,
    pub(super) mode: Mode,
    pub(super) health_policy: HealthPolicy,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) enum Scope {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
pub(super) enum Mode {
    #[default]
    Standard,
    Strict,
    Failover,
    Passthrough,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum HealthPolicy {
    #[default]
    OnlyHealthy,
    AllowAll,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[allow(clippy::enum_variant_names, reason = "spelled as in the file")]
pub(super) enum IpFamilies {
    Dual,
    IPv4,
    IPv6,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
pub(super) enum Visibility {
    #[default]
    Public,
    Namespace,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) scope: PolicyScope,
    pub(super) action: Action,
    #[serde(default)]
    pub(super) dry_run: bool,
    /// Rules, their clauses, and the matches of those.
    pub(super) rules: Vec<Vec<Vec<Mapping<Match>>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum PolicyScope {
    Global,
    Namespace,
    WorkloadSelector,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) enum Action {
    Allow,
    Deny,
}

/// String matches are read by hand, for the sake of what is said about those without a tag.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Match {
    pub(super) namespaces: Option<Vec<Value>>,
    pub(super) not_namespaces: Option<Vec<Value>>,
    pub(super) principals: Option<Vec<Value>>,
    pub(super) not_principals: Option<Vec<Value>>,
    pub(super) service_accounts: Option<Vec<Mapping<ServiceAccount>>>,
    pub(super) not_service_accounts: Option<Vec<Mapping<ServiceAccount>>>,
    pub(super) source_ips: Option<Vec<String>>,
    pub(super) not_source_ips: Option<Vec<String>>,
    pub(super) destination_ips: Option<Vec<String>>,
    pub(super) not_destination_ips: Option<Vec<String>>,
    pub(super) destination_ports: Option<Vec<u16>>,
    pub(super) not_destination_ports: Option<Vec<u16>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceAccount {
    pub(super) namespace: String,
    pub(super) service_account: String,
}
