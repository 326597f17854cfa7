//! The dataplane of xvs: received frame in, verdict out.
//!
//! The core does no I/O, reads no clock, takes no lock and allocates nothing per packet: time,
//! randomness and packets are arguments, so that one seed replays one run bit for bit. Devices
//! ([`io`]) stand behind features.
//!
//! Layers, lowest first; a module uses only what stands before it (`tests/tidy.rs` holds this):
//! addr clock rng verdict < key network packet outbox destination < wire < route < capture selector
//! < endpoint fragment < flow < calls < forward sched < spec < service stats < pipeline < steering
//! < io < worker director < ipvsadm.

pub mod addr;
pub mod calls;
pub mod capture;
pub mod clock;
pub mod destination;
pub mod endpoint;
pub mod flow;
pub mod forward;
pub mod fragment;
pub mod key;
pub mod network;
pub mod outbox;
pub mod packet;
pub mod pipeline;
pub mod rng;
pub mod route;
pub mod sched;
pub mod selector;
pub mod service;
pub mod spec;
pub mod stats;
pub mod verdict;
pub mod wire;

pub mod io;
pub mod steering;

pub mod worker;

pub mod director;
pub mod ipvsadm;
