//! The series of a proxy: each looked up once.

use crate::{
    model::{Name, Workload},
    telemetry::{DnsLabels, DnsMetrics, DnsProtocol},
};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// Those that have been counted in so far: few, since the types have few names and the proxy has one
/// workload.
#[derive(Debug, Default)]
pub(super) struct Series(Mutex<HashMap<Key, DnsMetrics>>);

type Key = (&'static str, DnsProtocol, Option<(Name, Name)>);

impl Series {
    /// The series of a question; `source` is the workload that asks, if known.
    pub(super) fn of(&self, query_type: &'static str, protocol: DnsProtocol, source: Option<&Workload>) -> DnsMetrics {
        let source = source.map(|source| (source.canonical_name.clone(), source.canonical_revision.clone()));
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let metrics = known.entry((query_type, protocol, source)).or_insert_with_key(|(_, _, source)| {
            let (canonical_service, canonical_revision) = source.as_ref().map_or(("", ""), |(service, revision)| (service, revision));
            DnsMetrics::resolve(&DnsLabels { query_type, protocol, canonical_service, canonical_revision })
        });
        metrics.clone()
    }
}
