//! The sampling allocator, in a process that has it.

use cairn::telemetry::pprof::{ProfileError, heap};
use std::{alloc::System, hint::black_box};

#[global_allocator]
static ALLOCATOR: heap::Sampling<System> = heap::Sampling(System);

#[inline(never)]
fn hold_a_lot_of_memory() -> Vec<Vec<u8>> {
    (0..16).map(|_| black_box(vec![1_u8; 4 << 20])).collect()
}

/// Whether the function is among the names in a profile.
fn shows(profile: &[u8]) -> bool {
    profile.windows(20).any(|w| w == b"hold_a_lot_of_memory")
}

#[test]
fn memory_is_shown_from_its_allocation_until_it_is_freed() {
    let before = hold_a_lot_of_memory();
    assert!(matches!(heap::profile(), Err(ProfileError::Inactive)));
    heap::activate(true).unwrap();
    assert!(!shows(&heap::profile().unwrap()), "what came before is not known");
    drop(before);
    let held = hold_a_lot_of_memory();
    assert!(shows(&heap::profile().unwrap()));
    // Freed by another thread than the one that allocated it.
    std::thread::spawn(move || drop(held)).join().unwrap();
    assert!(!shows(&heap::profile().unwrap()));
    heap::activate(false).unwrap();
    assert!(!heap::is_active() && heap::profile().is_err());
}
