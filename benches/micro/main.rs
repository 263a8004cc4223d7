//! What single parts cost, in memory, with the allocations they make.
//!
//! ```text
//! cargo bench --bench micro                    # everything, within about a minute
//! cargo bench --bench micro -- route           # what has `route` in its path
//! cargo bench --bench micro -- mesh::update --sample-count 10
//! ```
//!
//! Times include the counting of allocations: a few nanoseconds for each.

#![allow(unreachable_pub, missing_docs, clippy::unwrap_used, reason = "a program of its own, whose output is its result")]

mod authorization;
mod mesh;
mod request;
mod resources;
mod route;
mod tunnel;

/// The one of the binary, counted.
#[global_allocator]
static ALLOCATOR: divan::AllocProfiler<mimalloc::MiMalloc> = divan::AllocProfiler::new(mimalloc::MiMalloc);

fn main() {
    divan::main();
}
