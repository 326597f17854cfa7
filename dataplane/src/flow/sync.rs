//! The atomics of the flow table: the standard library's, or loom's when its model checker runs
//! the same code (`RUSTFLAGS="--cfg loom"`).

#[cfg(loom)]
pub(super) use loom::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

/// Turns of a spin loop before the core is offered to others: the holder of a bucket's lock is
/// done after some 100 ns, unless it was put off its core.
#[cfg(not(loom))]
const SPINS_MAX: u32 = 64;

/// Waits a moment; `turn` counts the moments of one wait.
#[cfg(not(loom))]
pub(super) fn pause(turn: u32) {
    if turn < SPINS_MAX {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

/// Lets the model run another thread.
#[cfg(loom)]
pub(super) fn pause(_turn: u32) {
    loom::thread::yield_now();
}
