//! Sources of configuration; each decodes to the model and stops.

mod documents;
pub mod local;
mod located;
pub mod manifest;
mod typed;
mod workload_api;
pub mod xds;
mod yaml;
pub mod zds;
