//! Messages in, resources of the model or reasons out.
