//! Configuration from files: plain Kubernetes manifests, watched.
//!
//! `files` finds, `watch` tells when to look again, `file` reads what is new, `documents` parses to `yaml`'s tree, `decode` (with one file per group of
//! kinds) turns each object into resources of the model, `locate` finds the places of what is found out later, `validate` holds references against the whole mesh, and
//! `reconcile` decides what serves: a broken change never replaces what was good before, and an
//! authorization policy that never was good denies its scope.

mod core;
mod decode;
mod file;
mod files;
mod filters;
mod gateway;
mod istio;
mod ledger;
mod locate;
mod matches;
mod pod;
mod policy;
mod policy_rules;
mod publish;
mod reconcile;
mod report;
mod route;
mod service_entry;
mod source;
mod spread;
mod text;
mod validate;
mod watch;
mod workload_entry;

#[cfg(test)]
mod tests;

use super::{documents, yaml};
pub use super::{documents::parse_document, located::Located};
pub use route::parse_duration;
pub use source::{Batch, Config, Loaded, ManifestSource, Owns, load};
