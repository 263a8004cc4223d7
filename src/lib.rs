//! cairn: an ambient service-mesh data plane, waypoint and ztunnel in one binary.
//!
//! The modules are stacked in floors; a module imports only from lower floors, and
//! `tests/architecture.rs` holds it to that.

// Floor 0: nouns.
pub mod model;
pub mod proto;
// Floor 1: judgement.
pub mod authz;
pub mod balance;
pub mod route;
pub mod runtime;
pub mod telemetry;
// Floor 2: bytes and state.
pub mod state;
pub mod transport;
// Floor 3: protocols and sources.
pub mod cert;
pub mod control;
pub mod dns;
pub mod hbone;
// Floor 4: layers.
pub mod middleware;
// Floor 5: modes.
pub mod admin;
pub mod check;
pub mod waypoint;
pub mod ztunnel;
// Floor 6.
pub mod settings;
// Floor 7.
pub mod app;
// Floor 8.
pub mod demo;
