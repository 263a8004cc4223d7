//! JSON lines.

use super::{Timestamp, detail, millis, protocol, text::level_and_message};
use crate::telemetry::{HttpRecord, Record, TcpEvent, TcpParty, TcpRecord};
use http::HeaderValue;
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::borrow::Cow;

/// Appends one line.
pub(crate) fn write_json(record: &Record, out: &mut Vec<u8>) {
    match record {
        Record::Http(r) => serde_json::to_writer(&mut *out, &Http(r)),
        Record::Tcp(r) => serde_json::to_writer(&mut *out, &Tcp(r)),
    }
    .expect("a Vec takes everything, and all keys are texts");
    out.push(b'\n');
}

/// Keys as in Istio's JSON encoding, then what a waypoint knows beyond Envoy.
struct Http<'a>(&'a HttpRecord);

impl Serialize for Http<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let r = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("start_time", &Shown(Timestamp { time: r.start, digits: 3 }))?;
        map.serialize_entry("method", r.method.as_str())?;
        map.serialize_entry("path", &r.path.as_ref().map(|p| p.as_str()))?;
        map.serialize_entry("protocol", protocol(r.protocol))?;
        map.serialize_entry("response_code", &r.status.map_or(0, |s| s.as_u16()))?;
        map.serialize_entry("response_flags", r.flag.as_str())?;
        map.serialize_entry("response_code_details", detail(r))?;
        map.serialize_entry("upstream_transport_failure_reason", &r.error)?;
        map.serialize_entry("bytes_received", &r.bytes_received)?;
        map.serialize_entry("bytes_sent", &r.bytes_sent)?;
        map.serialize_entry("duration", &millis(r.duration))?;
        map.serialize_entry("x_forwarded_for", &header(r.forwarded_for.as_ref()))?;
        map.serialize_entry("user_agent", &header(r.user_agent.as_ref()))?;
        map.serialize_entry("request_id", &header(r.request_id.as_ref()))?;
        map.serialize_entry("authority", &r.authority)?;
        map.serialize_entry("upstream_host", &r.upstream.map(Shown))?;
        map.serialize_entry("upstream_cluster", &r.backend)?;
        map.serialize_entry("downstream_local_address", &r.destination.map(Shown))?;
        map.serialize_entry("downstream_remote_address", &Shown(r.downstream))?;
        map.serialize_entry("route_name", &r.route)?;
        map.serialize_entry("source_principal", &r.source.as_ref().map(|i| i.as_str()))?;
        map.serialize_entry("source_workload", &r.source_workload)?;
        map.serialize_entry("destination_principal", &r.upstream_identity.as_ref().map(|i| i.as_str()))?;
        map.serialize_entry("destination_service", &r.destination_service)?;
        map.serialize_entry("policy", &r.policy)?;
        map.serialize_entry("grpc_status", &r.grpc_status)?;
        map.serialize_entry("attempts", &r.attempts)?;
        map.end()
    }
}

/// ztunnel's keys in ztunnel's order; what is unknown is left out.
struct Tcp<'a>(&'a TcpRecord);

impl Serialize for Tcp<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let r = self.0;
        let (level, message) = level_and_message(r);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("level", level)?;
        map.serialize_entry("time", &Shown(Timestamp { time: r.time, digits: 6 }))?;
        map.serialize_entry("scope", "access")?;
        map.serialize_entry("message", message)?;
        let whole = r.event != TcpEvent::Refused;
        map.serialize_entry("src.addr", &Shown(r.source.addr))?;
        if whole {
            party(&mut map, &r.source, ["src.workload", "src.namespace", "src.identity", "src.cluster"])?;
        }
        map.serialize_entry("dst.addr", &Shown(r.destination.addr))?;
        if whole {
            known(&mut map, "dst.hbone_addr", r.hbone_addr.as_deref())?;
            known(&mut map, "dst.service", r.destination_service.as_deref())?;
            party(&mut map, &r.destination, ["dst.workload", "dst.namespace", "dst.identity", "dst.cluster"])?;
        }
        map.serialize_entry("direction", r.direction.as_str())?;
        if r.event == TcpEvent::Complete {
            map.serialize_entry("bytes_sent", &r.bytes_sent)?;
            map.serialize_entry("bytes_recv", &r.bytes_recv)?;
            map.serialize_entry("duration", &format_args!("{}ms", millis(r.duration)))?;
        }
        known(&mut map, "error", r.error.as_deref())?;
        map.end()
    }
}

fn party<M: SerializeMap>(map: &mut M, p: &TcpParty, keys: [&'static str; 4]) -> Result<(), M::Error> {
    let [workload, namespace, identity, cluster] = keys;
    known(map, workload, p.workload.as_deref())?;
    known(map, namespace, p.namespace.as_deref())?;
    known(map, identity, p.identity.as_ref().map(|i| i.as_str()))?;
    known(map, cluster, p.cluster.as_deref())
}

fn known<M: SerializeMap>(map: &mut M, key: &'static str, value: Option<&str>) -> Result<(), M::Error> {
    match value {
        Some(value) => map.serialize_entry(key, value),
        None => Ok(()),
    }
}

/// Prints what has a `Display` without a detour through a `String`.
struct Shown<T>(T);

impl<T: std::fmt::Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Header values may hold any bytes; JSON may not.
fn header(value: Option<&HeaderValue>) -> Option<Cow<'_, str>> {
    value.map(|v| String::from_utf8_lossy(v.as_bytes()))
}
