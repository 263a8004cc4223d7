//! Headers of a CONNECT: who opened it and for what. They inform; no decision rests on them.

use crate::model::Workload;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::{fmt::Write as _, net::SocketAddr, sync::Arc};

/// `forwarded`
pub const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const NETWORK: HeaderName = HeaderName::from_static("x-forwarded-network");

/// What baggage says of a workload; empty fields are unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the fields are the keys of the header")]
pub struct Baggage {
    pub cluster: Arc<str>,
    pub namespace: Arc<str>,
    pub workload: Arc<str>,
    pub workload_type: Arc<str>,
    pub service_name: Arc<str>,
    pub revision: Arc<str>,
    pub region: Arc<str>,
    pub zone: Arc<str>,
}

impl Baggage {
    /// The header value for a workload: fixed order, empty fields omitted, no spaces. `None` when
    /// there is nothing to say, or it cannot be said in a header.
    pub fn of(workload: &Workload) -> Option<HeaderValue> {
        let baggage = Self {
            cluster: workload.cluster.clone(),
            namespace: workload.namespace.clone(),
            workload: workload.workload_name.clone(),
            workload_type: workload.workload_type.as_str().into(),
            service_name: workload.canonical_name.clone(),
            revision: workload.canonical_revision.clone(),
            region: workload.locality.region.clone(),
            zone: workload.locality.zone.clone(),
        };
        baggage.value()
    }

    fn value(&self) -> Option<HeaderValue> {
        let mut text = String::new();
        let kind = format!("k8s.{}.name", self.workload_type);
        for (key, value) in [
            ("k8s.cluster.name", &self.cluster),
            ("k8s.namespace.name", &self.namespace),
            (kind.as_str(), &self.workload),
            ("service.name", &self.service_name),
            ("service.version", &self.revision),
            ("cloud.region", &self.region),
            ("cloud.availability_zone", &self.zone),
        ] {
            if !value.is_empty() {
                let _ = write!(text, "{}{key}={value}", if text.is_empty() { "" } else { "," });
            }
        }
        (!text.is_empty()).then(|| HeaderValue::from_str(&text).ok())?
    }

    /// Reads all `baggage` lines; unknown keys are ignored, a line that is not ASCII voids all.
    pub fn read(headers: &HeaderMap) -> Self {
        let mut baggage = Self::default();
        for line in headers.get_all(BAGGAGE) {
            let Ok(line) = line.to_str() else { return Self::default() };
            for member in line.split(',') {
                let mut parts = member.splitn(3, '=');
                let (Some(key), Some(value)) = (parts.next(), parts.next()) else { continue };
                baggage.put(key, value);
            }
        }
        baggage
    }

    fn put(&mut self, key: &str, value: &str) {
        let slot = match key {
            "k8s.cluster.name" => &mut self.cluster,
            "k8s.namespace.name" => &mut self.namespace,
            "service.name" => &mut self.service_name,
            "service.version" => &mut self.revision,
            "cloud.region" => &mut self.region,
            "cloud.availability_zone" => &mut self.zone,
            _ => match key.strip_prefix("k8s.").and_then(|k| k.strip_suffix(".name")) {
                Some(kind @ ("deployment" | "cronjob" | "pod" | "job")) => {
                    self.workload_type = kind.into();
                    &mut self.workload
                }
                _ => return,
            },
        };
        *slot = value.into();
    }
}

/// The `host` of a `forwarded` header: the service that a client addressed.
pub fn forwarded_host(headers: &HeaderMap) -> Option<&str> {
    let line = headers.get(FORWARDED)?.to_str().ok()?;
    line.split(';').find_map(|pair| pair.trim().strip_prefix("host=")).map(|host| host.trim_matches('"')).filter(|host| !host.is_empty())
}

/// The network from which a stream comes, if it says so: it came through a gateway.
pub fn forwarded_network(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-forwarded-network")?.to_str().ok()
}

/// The headers of an outgoing CONNECT.
#[derive(Debug, Clone, Default)]
pub struct ConnectHeaders {
    /// [`Baggage::of`] the source workload.
    pub baggage: Option<HeaderValue>,
    /// The application's socket.
    pub source: Option<SocketAddr>,
    /// The host name of the service that the application addressed.
    pub service: Option<Arc<str>>,
    /// Our network, for a peer in another one. A gateway on the way there is not told.
    pub network: Option<Arc<str>>,
}

impl ConnectHeaders {
    /// Writes `baggage`, `forwarded`, a fresh `traceparent` and `x-forwarded-network`, as far as
    /// they are known.
    pub fn write(&self, headers: &mut HeaderMap) {
        if let Some(baggage) = &self.baggage {
            headers.insert(BAGGAGE, baggage.clone());
        }
        if let Some(source) = self.source {
            let mut text = format!("for=\"{source}\"");
            if let Some(service) = &self.service {
                let _ = write!(text, ";host={service}");
            }
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(FORWARDED, value);
            }
        }
        let trace = format!("00-{:032x}-{:016x}-00", fastrand::u128(1..), fastrand::u64(1..));
        if let Ok(value) = HeaderValue::try_from(trace) {
            headers.insert(TRACEPARENT, value);
        }
        if let Some(Ok(network)) = self.network.as_deref().map(HeaderValue::from_str) {
            headers.insert(NETWORK, network);
        }
    }
}

/// Adds the baggage of the destination to the answer of a CONNECT.
pub(super) fn answer(headers: &mut HeaderMap, baggage: Option<&HeaderValue>) {
    if let Some(baggage) = baggage {
        headers.insert(BAGGAGE, baggage.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn baggage_reads_what_the_contract_shows() {
        let mut headers = HeaderMap::new();
        headers.append(BAGGAGE, "k8s.cluster.name=Kubernetes,k8s.namespace.name=demo,k8s.deployment.name=client".parse().unwrap());
        headers.append(
            BAGGAGE,
            "service.name=client,service.version=v1=x,unknown=1,cloud.region=r1,cloud.availability_zone=z1".parse().unwrap(),
        );
        let b = Baggage::read(&headers);
        assert_eq!((&*b.cluster, &*b.namespace, &*b.workload, &*b.workload_type), ("Kubernetes", "demo", "client", "deployment"));
        assert_eq!((&*b.service_name, &*b.revision, &*b.region, &*b.zone), ("client", "v1", "r1", "z1"));
        headers.append(BAGGAGE, HeaderValue::from_bytes(b"service.name=\xff").unwrap());
        assert_eq!(Baggage::read(&headers), Baggage::default(), "a line that is not ASCII voids all of it");
    }

    #[test]
    fn baggage_is_written_in_order_and_without_what_is_unknown() {
        let full = Baggage {
            cluster: "Kubernetes".into(),
            namespace: "demo".into(),
            workload: "client".into(),
            workload_type: "deployment".into(),
            service_name: "client".into(),
            revision: "v1".into(),
            region: "r1".into(),
            zone: "z1".into(),
        };
        let text = "k8s.cluster.name=Kubernetes,k8s.namespace.name=demo,k8s.deployment.name=client,service.name=client,\
                    service.version=v1,cloud.region=r1,cloud.availability_zone=z1";
        let part = Baggage { cluster: "".into(), workload: "".into(), region: "".into(), ..full.clone() };
        for (baggage, expected) in [
            (full, Some(text)),
            (part, Some("k8s.namespace.name=demo,service.name=client,service.version=v1,cloud.availability_zone=z1")),
            (Baggage { workload_type: "pod".into(), ..Baggage::default() }, None),
            (Baggage { zone: "a\nb".into(), ..Baggage::default() }, None),
        ] {
            assert_eq!(baggage.value().as_ref().map(|value| value.to_str().unwrap()), expected);
        }
    }

    #[test]
    fn forwarded_names_the_service() {
        for (line, want) in [
            ("for=\"127.0.0.1:51082\";host=a.b.svc.cluster.local", Some("a.b.svc.cluster.local")),
            ("for=x; host=\"a\"", Some("a")),
            ("for=x;Host=a", None),
            ("for=x;host=", None),
            ("for=x", None),
        ] {
            let headers = HeaderMap::from_iter([(FORWARDED, line.parse().unwrap())]);
            assert_eq!(forwarded_host(&headers), want, "{line}");
        }
        let mut headers = HeaderMap::new();
        let source = "127.0.0.1:51082".parse().unwrap();
        ConnectHeaders { source: Some(source), service: Some("a.b".into()), ..ConnectHeaders::default() }.write(&mut headers);
        assert_eq!(headers[FORWARDED], "for=\"127.0.0.1:51082\";host=a.b");
        assert_eq!(headers[TRACEPARENT].len(), 55);
    }
}
