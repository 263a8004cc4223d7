//! What a source says has changed.

use crate::model::{Resource, ResourceKey};

/// One change to the mesh. A batch of them is applied as one.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The resource is new or different.
    Upsert(Resource),
    /// The resource is gone.
    Remove(ResourceKey),
}
