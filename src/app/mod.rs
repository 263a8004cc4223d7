//! Wiring: rooms into running processes.
