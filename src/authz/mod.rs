//! May this connection or request pass? Pure.
