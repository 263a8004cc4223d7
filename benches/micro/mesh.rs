//! From a mesh to a snapshot: from nothing, and after one change.

use super::resources::{mesh, policy, route, store, workload};
use cairn::{model::Resource, state::Change};
use divan::Bencher;
use std::time::Duration;

/// Small when the benches are only tried, as `cargo test --all-targets` does.
fn services() -> &'static [usize] {
    if std::env::args().any(|arg| arg == "--bench") { &[1_000, 10_000] } else { &[10] }
}

#[divan::bench(args = services(), sample_count = 10, max_time = Duration::from_secs(4))]
fn from_nothing(bencher: Bencher<'_, '_>, services: usize) {
    let changes = mesh(services);
    bencher.with_inputs(|| changes.clone()).bench_local_values(|changes| {
        let mut store = store();
        store.apply(changes);
        // Given back: its end is not part of the time.
        store
    });
}

/// One resource in the middle, back and forth.
fn update(bencher: Bencher<'_, '_>, services: usize, change: impl Fn(usize, bool) -> Resource) {
    let mut store = store();
    store.apply(mesh(services));
    let handle = store.handle();
    let mut even = false;
    let next = || {
        even = !even;
        Change::Upsert(change(services / 2, even))
    };
    bencher.with_inputs(next).bench_local_values(|change| store.apply([change]));
    assert!(handle.load().bound);
}

#[divan::bench(args = services(), sample_count = 50, max_time = Duration::from_secs(2))]
fn update_route(bencher: Bencher<'_, '_>, services: usize) {
    update(bencher, services, |number, even| Resource::from(route(number, if even { 80 } else { 90 })));
}

#[divan::bench(args = services(), sample_count = 50, max_time = Duration::from_secs(2))]
fn update_policy(bencher: Bencher<'_, '_>, services: usize) {
    update(bencher, services, |number, even| Resource::from(policy(number, if even { "PUT" } else { "POST" })));
}

#[divan::bench(args = services(), sample_count = 50, max_time = Duration::from_secs(2))]
fn update_workload(bencher: Bencher<'_, '_>, services: usize) {
    update(bencher, services, |number, even| Resource::from(workload(number, if even { 2 } else { 1 })));
}
