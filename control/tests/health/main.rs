//! Health checks: what follows from what probes find, by a manual clock; what probes find, on the wire;
//! and both together in a daemon.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod rules;
mod seeds;
mod wire;
mod world;
