//! Who holds memory: an allocator that, when asked to, remembers about one allocation in 512 KiB with
//! the stack that made it, until it is freed.
//!
//! While it is not asked to, it costs one relaxed load and a branch that is never taken.

#![allow(unsafe_code, reason = "an allocator cannot be written without")]

use super::{Builder, Frame, ProfileError, Symbol};
use std::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

/// Bytes from one sample to the next, on the average: what jemalloc and Go take.
const INTERVAL: usize = 512 * 1024;
/// Frames kept of a stack.
const DEPTH: usize = 64;
/// A power of two, far above the number of samples that share a place by chance.
const MARKS: usize = 4096;

static ACTIVE: AtomicBool = AtomicBool::new(false);
static LIVE: Mutex<BTreeMap<usize, Remembered>> = Mutex::new(BTreeMap::new());
/// How many of the remembered addresses share a place: where there are none, a free needs no lock.
/// Changed under the lock of `LIVE` only; who frees an address has learnt it from who allocated it.
static MARKED: [AtomicU32; MARKS] = [const { AtomicU32::new(0) }; MARKS];

thread_local! {
    /// Set while this file itself allocates and frees.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// Bytes until the next sample. Neither has a destructor, so both outlive those of the thread.
    static LEFT: Cell<usize> = const { Cell::new(INTERVAL) };
}

/// An allocator that can be asked who holds memory.
#[derive(Debug)]
pub struct Sampling<A>(pub A);

#[derive(Debug)]
struct Remembered {
    size: usize,
    stack: Box<[usize]>,
}

// SAFETY: every call is passed on as it came, with the same pointer and layout, and what `A` returns
// is returned; beside that only the address is looked at, never what it points to. Whatever is
// remembered allocates through this allocator too, and `INSIDE` keeps that from recursing. Nothing
// here unwinds: the table's lock ignores poison, and a thread-local without destructor can always be
// reached.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Sampling<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that `A` asks for.
        let pointer = unsafe { self.0.alloc(layout) };
        if ACTIVE.load(Ordering::Relaxed) {
            allocated(pointer, layout.size());
        }
        pointer
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let pointer = unsafe { self.0.alloc_zeroed(layout) };
        if ACTIVE.load(Ordering::Relaxed) {
            allocated(pointer, layout.size());
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // First: once it is free, another thread may get it and have it remembered.
        if ACTIVE.load(Ordering::Relaxed) {
            freed(pointer);
        }
        // SAFETY: as above.
        unsafe { self.0.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let active = ACTIVE.load(Ordering::Relaxed);
        if active {
            freed(pointer);
        }
        // SAFETY: as above.
        let moved = unsafe { self.0.realloc(pointer, layout, new_size) };
        if active {
            allocated(moved, new_size);
        }
        moved
    }
}

#[cold]
fn allocated(pointer: *mut u8, size: usize) {
    if pointer.is_null() || INSIDE.get() {
        return;
    }
    let left = LEFT.get();
    if size < left {
        return LEFT.set(left - size);
    }
    // Anywhere up to twice the interval, so that no pattern of the program falls in step with it.
    let entropy = (pointer as usize ^ left).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    LEFT.set(1 + (entropy >> 20) % (2 * INTERVAL));
    INSIDE.set(true);
    remember(pointer as usize, size);
    INSIDE.set(false);
}

fn remember(address: usize, size: usize) {
    let (mut stack, mut depth) = ([0_usize; DEPTH], 0);
    backtrace::trace(|frame| {
        stack[depth] = frame.ip() as usize;
        depth += 1;
        depth < DEPTH
    });
    let remembered = Remembered { size, stack: stack[..depth].into() };
    let mut live = live();
    // What was freed while nobody looked has its mark already.
    if live.insert(address, remembered).is_none() {
        mark(address).fetch_add(1, Ordering::Relaxed);
    }
}

#[cold]
fn freed(pointer: *mut u8) {
    let address = pointer as usize;
    if INSIDE.get() || mark(address).load(Ordering::Relaxed) == 0 {
        return;
    }
    INSIDE.set(true);
    let mut live = live();
    if live.remove(&address).is_some() {
        mark(address).fetch_sub(1, Ordering::Relaxed);
    }
    drop(live);
    INSIDE.set(false);
}

fn mark(address: usize) -> &'static AtomicU32 {
    &MARKED[(address >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52 & (MARKS - 1)]
}

fn live() -> MutexGuard<'static, BTreeMap<usize, Remembered>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` without this thread's own allocations being looked at.
fn unseen<T>(work: impl FnOnce() -> T) -> T {
    let before = INSIDE.replace(true);
    let done = work();
    INSIDE.set(before);
    done
}

/// Whether allocations are sampled.
pub fn is_active() -> bool {
    ACTIVE.load(Ordering::Relaxed)
}

/// Starts sampling, from nothing, or ends it and forgets what there was.
///
/// # Errors
/// When [`Sampling`] is not this process's allocator.
pub fn activate(active: bool) -> Result<(), ProfileError> {
    if active == is_active() {
        return Ok(());
    }
    ACTIVE.store(active, Ordering::Relaxed);
    unseen(|| {
        let mut live = live();
        live.clear();
        MARKED.iter().for_each(|mark| mark.store(0, Ordering::Relaxed));
    });
    if !active {
        return Ok(());
    }
    // So much is always sampled.
    LEFT.set(1);
    let probe = std::hint::black_box(vec![0_u8; 64]);
    let seen = unseen(|| live().contains_key(&(probe.as_ptr() as usize)));
    if seen {
        Ok(())
    } else {
        ACTIVE.store(false, Ordering::Relaxed);
        Err(ProfileError::NotSampling)
    }
}

/// What is in use now, by the stack that allocated it. Looks names up: takes its time, and blocks.
///
/// # Errors
/// When sampling is not active.
pub fn profile() -> Result<Vec<u8>, ProfileError> {
    if !is_active() {
        return Err(ProfileError::Inactive);
    }
    let held: Vec<(usize, Box<[usize]>)> = unseen(|| live().values().map(|r| (r.size, r.stack.clone())).collect());
    let mut names = BTreeMap::new();
    let mut builder = Builder::new(&[("inuse_objects", "count"), ("inuse_space", "bytes")], INTERVAL as i64);
    for (size, stack) in &held {
        let frames = stack.iter().map(|ip| {
            let symbols = names.entry(*ip).or_insert_with(|| resolve(*ip));
            Frame { address: *ip as u64, symbols: symbols.iter().map(Symbol::copy).collect() }
        });
        // A large allocation is seen nearly always, a small one seldom: each stands for as many as were missed.
        let chance = 1. - (-(*size as f64) / INTERVAL as f64).exp();
        let values = vec![(1. / chance).round() as i64, (*size as f64 / chance).round() as i64];
        builder.sample(frames, values, &[]);
    }
    unseen(|| drop(held));
    Ok(builder.finish(0))
}

fn resolve(ip: usize) -> Vec<Symbol> {
    let mut symbols = Vec::new();
    backtrace::resolve(ip as *mut _, |symbol| {
        symbols.push(Symbol {
            name: symbol.name().map(|name| name.to_string()).unwrap_or_default(),
            file: symbol.filename().map(|file| file.display().to_string()).unwrap_or_default(),
            line: symbol.lineno().map_or(0, i64::from),
        });
    });
    symbols
}

impl Symbol {
    fn copy(&self) -> Self {
        Self { name: self.name.clone(), file: self.file.clone(), line: self.line }
    }
}
