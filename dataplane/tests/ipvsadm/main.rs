//! ipvsadm's language against what ipvsadm 1.31 on Linux 6.1.176 printed, octet for octet.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

mod commands;
mod dialect;
mod director;
mod errors;
mod golden;
mod listings;
mod model;
mod roundtrip;
