//! Flows: how one is named, where it is kept, what state it is in and how long it lives.

pub mod sctp;
pub mod state;
pub mod tcp;
pub mod timeout;
pub mod udp;

mod audit;
mod bucket;
mod control;
pub(crate) mod cpu;
mod due;
mod entry;
mod expiry;
mod half_open;
mod hash;
mod index;
mod layout;
mod look;
#[cfg(all(test, loom))]
mod loom;
mod mapping;
mod reclaim;
mod slots;
mod steady;
mod sync;
mod table;
mod telling;
mod view;
mod worker;

pub use audit::Audit;
pub use control::{Control, flag};
pub(crate) use cpu::{Wide, prefetch_head};
pub use entry::{ClientPath, Entry, NewFlow};
pub use expiry::{Expiry, SHED_MAX, Swept};
pub use hash::{FlowHash, HashKey, HashKind};
pub use index::Probe;
pub use look::{Look, Primary};
pub use mapping::{Pages, Region};
pub use steady::Steady;
pub use table::{
    CAPACITY_MAX, FlowId, FlowRef, FlowTable, Memory, TableConfig, TableError, WORKERS_MAX,
};
pub use telling::Telling;
pub use view::FlowView;
pub use worker::{InsertError, Inserted, Prepared, TableCounters, TableWorker};

pub use crate::key::FlowKey;

/// Which way a packet of a flow travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// From the client: IPVS's INPUT.
    ToReal = 0,
    /// From the real server: IPVS's OUTPUT. Never seen with dr and tunnels.
    ToClient = 1,
}

/// Which rules of a state machine a packet falls under: its direction, and whether the other
/// one is ever seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Way {
    /// From the client: IPVS's INPUT.
    ToReal = 0,
    /// From the real server: IPVS's OUTPUT.
    ToClient = 1,
    /// From the client, whose real server answers past us: IPVS's INPUT_ONLY.
    ToRealOnly = 2,
}
