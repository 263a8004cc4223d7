//! Whole meshes over real TCP and TLS, on loopback addresses of their own.
//!
//! One binary for all of them: link time is the tax on small machines. Tests run in parallel; each
//! takes a network of its own in 127.0.0.0/8, because HBONE peers always listen on port 15008.

#![allow(unreachable_pub, reason = "a test binary is its own crate")]
#![allow(clippy::unwrap_used, reason = "the builders are tests as well; clippy sees that only inside of test functions")]

mod support;

mod admission;
mod authorization;
mod bad_input;
mod command;
mod drain;
mod examples;
mod istiod;
mod netns;
mod protocols;
mod reload;
mod retry;
mod rotation;
mod routing;
mod through;
