//! The director: what should be, with IPVS's rules of changing it, compiled into snapshots.
//!
//! Pure: no I/O, no clock. `xvsd` drives it from gRPC, `conform` and `replay` from rule texts.

pub mod network;
pub mod spec;
