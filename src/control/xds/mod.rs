//! A control plane as the source (contract, 3): Istio's workload API over incremental ADS.

pub mod decode;
