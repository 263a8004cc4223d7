//! Metrics, readiness and introspection over HTTP.
