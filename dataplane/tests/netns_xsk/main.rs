//! AF_XDP and steering against the real kernel, in network namespaces of their own.
//!
//! Needs root; without it every test prints so and passes. Nothing here asserts how long
//! something takes: deadlines only end what hangs.

#![cfg(feature = "xsk")]
#![expect(clippy::unwrap_used, reason = "a failed call of a rig is a failed test")]
#![expect(clippy::print_stdout, reason = "why a test was skipped, and what it saw")]
#![expect(clippy::disallowed_methods, reason = "these tests wait for the real kernel")]

mod encapsulate;
mod forward;
mod forwarder;
mod life;
mod overload;
mod rig;
mod shield;
