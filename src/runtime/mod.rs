//! How a process starts and ends: readiness, drain, signals.
