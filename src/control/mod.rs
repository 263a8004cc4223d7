//! Sources of configuration; each decodes to the model and stops.

pub mod manifest;
pub mod zds;
