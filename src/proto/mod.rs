//! What `build.rs` makes of the files below `proto/`: the messages of Istio's and Envoy's APIs, and
//! the two services that speak them. The rooms that use a message say what it means.

/// `proto/workload.proto`: services and workloads.
#[allow(missing_docs, clippy::all, rustdoc::all)]
pub mod workload {
    include!(concat!(env!("OUT_DIR"), "/istio.workload.rs"));
}

/// `proto/authorization.proto`: L4 policies.
#[allow(missing_docs, clippy::all, rustdoc::all)]
pub mod security {
    include!(concat!(env!("OUT_DIR"), "/istio.security.rs"));
}

/// `proto/discovery.proto`: delta ADS.
#[allow(missing_docs, missing_debug_implementations, clippy::all, clippy::wildcard_enum_match_arm, rustdoc::all)]
pub mod discovery {
    include!(concat!(env!("OUT_DIR"), "/envoy.service.discovery.v3.rs"));
}

/// `proto/ca.proto`: certificates for requests.
#[allow(missing_docs, missing_debug_implementations, clippy::all, clippy::wildcard_enum_match_arm, rustdoc::all)]
pub mod ca {
    include!(concat!(env!("OUT_DIR"), "/istio.v1.auth.rs"));
}
