//! What a source of configuration tells: one changed resource of the mesh.

use crate::model::{Resource, ResourceKey};

/// One change of the desired mesh. Sources hand changes over in batches; a batch is applied as a
/// whole, so the order inside it carries no meaning.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "nearly all changes are upserts: a box would only add an allocation to each")]
pub enum Change {
    /// Insert or replace.
    Upsert(Resource),
    /// Forget; forgetting what is not there is no error.
    Remove(ResourceKey),
}
