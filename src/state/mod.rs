//! From changes to one consistent, compiled snapshot.
//!
//! `Change`s of all sources meet in the [`Store`], the only writer. It keeps the desired
//! [`Mesh`](crate::model::Mesh), compiles it into a snapshot with everything expensive done, and
//! publishes it whole. Readers never lock and never see half a change.

mod change;
mod counted;
mod delta;
mod directory;
mod endpoints;
mod node;
mod plan;
mod relation;
mod shared;
mod store;
#[cfg(test)]
mod tests;
mod waypoint;

pub use change::Change;
pub use delta::{Changed, Delta};
pub use directory::{Barred, Bound, Directory, Reach, selects};
pub use endpoints::{EndpointSet, Hop, InFlight, Upstream, UpstreamEndpoint, Upstreams};
pub use node::{NodeCompiler, NodeService, NodeSnapshot, NodeWorkload, Own, WaypointRoute};
pub use plan::{BackendPlan, Backends, CompiledRules, Destination, DestinationKind, RetryPlan, RulePlan};
pub use store::{Compile, Published, SnapshotHandle, Store};
pub use waypoint::{Admission, ControlPlaneView, WaypointCompiler, WaypointSnapshot};
