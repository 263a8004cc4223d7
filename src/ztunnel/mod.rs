//! The per-node L4 proxy.
