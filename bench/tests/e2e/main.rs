//! The whole of xvs on real kernels: xvsd on AF_XDP in network namespaces, real HTTP, real failures.
//!
//! Needs root and the packages of `make setup`; without them every test says so and passes. The
//! programs under test are those built beside this one, so they must be built with it:
//! `cargo test --workspace` does that.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

mod laboratory;

use xvs_bench::lab::{self, World};

/// Machines with web servers; `None`, with the reason printed, where there can be none.
fn world() -> Option<World> {
    if let Some(reason) = lab::missing() {
        eprintln!("skipped: {reason}");
        return None;
    }
    let mut world = World::new().unwrap();
    world.serve().unwrap();
    Some(world)
}
