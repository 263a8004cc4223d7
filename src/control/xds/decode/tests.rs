//! Messages in, resources of the model or reasons out.

mod any_bytes;
mod messages;
mod policies;
mod same_as_local;
mod services;
mod sharing;
mod wire;
mod workloads;

use super::{Config, Decoder, Rejected};
use crate::{
    model::{
        AuthorizationPolicy, GatewayAddress, GatewayDestination, Hostname, NetworkAddress, Resource, ResourceName, Service, ServiceKey,
        Workload,
    },
    proto::{
        security,
        workload::{self as proto, address::Type, gateway_address::Destination},
    },
};
use bytes::Bytes;
use prost::Message;

fn config() -> Config {
    Config { network: "".into(), cluster_domain: "cluster.local".into() }
}

fn decoder() -> Decoder {
    Decoder::new(config())
}

fn bytes_of(of: Type) -> Bytes {
    proto::Address { r#type: Some(of) }.encode_to_vec().into()
}

/// A workload with nothing but what must be there.
fn workload() -> proto::Workload {
    proto::Workload { uid: "u".into(), namespace: "demo".into(), ..Default::default() }
}

fn service() -> proto::Service {
    proto::Service { name: "s".into(), namespace: "demo".into(), hostname: "s.demo.svc.cluster.local".into(), ..proto::Service::default() }
}

fn policy() -> security::Authorization {
    security::Authorization { name: "p".into(), namespace: "demo".into(), scope: 2, ..Default::default() }
}

fn decoded_workload(decoder: &mut Decoder, message: proto::Workload) -> Result<Workload, Rejected> {
    let Resource::Workload(workload) = decoder.address("", bytes_of(Type::Workload(message)))? else { panic!() };
    Ok(workload.as_ref().clone())
}

fn decoded_service(decoder: &mut Decoder, message: proto::Service) -> Result<Service, Rejected> {
    let Resource::Service(service) = decoder.address("", bytes_of(Type::Service(message)))? else { panic!() };
    Ok(service.as_ref().clone())
}

fn decoded_policy(name: &str, message: &security::Authorization) -> Result<AuthorizationPolicy, Rejected> {
    let Resource::Policy(policy) = decoder().authorization(name, message.encode_to_vec().into())? else { panic!() };
    Ok(policy.as_ref().clone())
}

/// A workload that is as `change` makes it.
fn one_workload(change: impl FnOnce(&mut proto::Workload)) -> Workload {
    let mut message = workload();
    change(&mut message);
    decoded_workload(&mut decoder(), message).unwrap()
}

fn one_service(change: impl FnOnce(&mut proto::Service)) -> Service {
    let mut message = service();
    change(&mut message);
    decoded_service(&mut decoder(), message).unwrap()
}

/// Why a workload is refused that is as `change` makes it.
fn refused_workload(change: impl FnOnce(&mut proto::Workload)) -> String {
    let mut message = workload();
    change(&mut message);
    refused(decoded_workload(&mut decoder(), message))
}

fn refused_service(change: impl FnOnce(&mut proto::Service)) -> String {
    let mut message = service();
    change(&mut message);
    refused(decoded_service(&mut decoder(), message))
}

fn refused<T: std::fmt::Debug>(result: Result<T, Rejected>) -> String {
    let rejected = result.unwrap_err();
    assert_eq!(rejected.denying, None);
    rejected.reason
}

fn key(namespace: &str, hostname: &str) -> ServiceKey {
    ServiceKey { namespace: namespace.into(), hostname: Hostname::new(hostname) }
}

fn at(network: Option<&str>, address: &str) -> NetworkAddress {
    NetworkAddress { network: network.map(Into::into), address: address.parse().unwrap() }
}

/// The bytes of an address.
fn raw(address: &str) -> Bytes {
    match address.parse().unwrap() {
        std::net::IpAddr::V4(address) => Bytes::copy_from_slice(&address.octets()),
        std::net::IpAddr::V6(address) => Bytes::copy_from_slice(&address.octets()),
    }
}

fn on_network(network: &str, address: &str, length: Option<u32>) -> proto::NetworkAddress {
    proto::NetworkAddress { network: network.into(), address: raw(address), length }
}

fn named(namespace: &str, hostname: &str, port: u32) -> proto::GatewayAddress {
    let hostname = proto::NamespacedHostname { namespace: namespace.into(), hostname: hostname.into() };
    proto::GatewayAddress { hbone_mtls_port: port, destination: Some(Destination::Hostname(hostname)) }
}

fn addressed(address: proto::NetworkAddress, port: u32) -> proto::GatewayAddress {
    proto::GatewayAddress { hbone_mtls_port: port, destination: Some(Destination::Address(address)) }
}

fn port(service_port: u32, target_port: u32, app_protocol: i32) -> proto::Port {
    proto::Port { service_port, target_port, app_protocol }
}
