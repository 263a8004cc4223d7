//! From changes to one consistent, compiled snapshot.

pub mod change;

pub use change::Change;
