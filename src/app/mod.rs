//! Wiring: rooms into running processes. Everything started here is owned by a [`Running`].

mod certificates;
mod certs;
mod check;
mod config_dump;
mod control_plane;
mod mesh;
mod node_dump;
mod options;
mod process;
mod waypoint;
mod ztunnel;

pub use certificates::{CertificatesFrom, OwnCertificate};
pub use certs::certs;
pub use check::check;
pub use mesh::{MeshSource, OpenedMesh};
pub use options::{DnsOptions, MeshFrom, Mode, NodeOptions, OwnPod, Shared, ZtunnelOptions};
pub use process::{AppError, Bound, Process, Running, raise_descriptor_limit};
pub use waypoint::{WaypointMesh, WaypointOptions, start_waypoint, waypoint};
pub use ztunnel::{start_ztunnel, ztunnel};
