//! Bytes: sockets, TLS with SPIFFE identities, copying.
