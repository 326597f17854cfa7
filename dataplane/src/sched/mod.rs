//! Schedulers: which real server gets a new flow.
//!
//! A scheduler is one file, its `mod` line and its line in the registry. Picks are the kernel's,
//! pick for pick, in the kernel's list order: a real server that is added goes to the **front**
//! of the list. What must survive an edit and be shared by the workers (rr's position, wrr's
//! level) lives in [`SchedState`], outside of the immutable snapshot.

use std::sync::atomic::AtomicU64;

use crate::{
    addr::Addr,
    clock::Tick,
    endpoint::{EndpointId, Endpoints},
    rng::Rng,
};

/// A real server as a scheduler sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its endpoint, where its load is found.
    pub id: EndpointId,
    /// Its address, for schedulers that hash it (mh).
    pub addr: Addr,
    /// Its port, likewise.
    pub port: u16,
    /// Its weight; 0 takes no new flows.
    pub weight: u32,
}

/// `-b` flags of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedFlags {
    /// flag-1: `sh-fallback` or `mh-fallback`.
    pub fallback: bool,
    /// flag-2: `sh-port` or `mh-port`.
    pub port: bool,
    /// flag-3: no scheduler uses it.
    pub flag3: bool,
}

/// What a pick may look at.
#[derive(Debug)]
pub struct Pick<'a> {
    /// The service's real servers in the kernel's list order.
    pub reals: &'a [Candidate],
    /// Where their loads are.
    pub endpoints: &'a Endpoints,
    /// The client's address, masked where persistence masks it.
    pub client: Addr,
    /// The client's port.
    pub client_port: u16,
    /// The address the client sent to.
    pub destination: Addr,
    /// The port the client sent to.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Now.
    pub now: Tick,
}

/// What outlives a snapshot: two words whose meaning is the scheduler's own, shared by all
/// workers. Zero at the start. Control makes a fresh one when a service gets another scheduler.
#[derive(Debug, Default)]
pub struct SchedState {
    /// rr, wrr: the endpoint picked last, 0 for the head of the list.
    pub position: AtomicU64,
    /// wrr: the current weight.
    pub level: AtomicU64,
}

/// What happened to a service's real servers, told to the scheduler by control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A real server was added (at the front).
    Added(EndpointId),
    /// A real server was removed; `before` stood before it in the list.
    Removed {
        /// The one that went.
        id: EndpointId,
        /// Its predecessor, `None` if it was the first.
        before: Option<EndpointId>,
    },
    /// Weight or thresholds of a real server were edited.
    Edited(EndpointId),
    /// The service itself was edited.
    Service,
}

/// Picks a real server for a new flow.
pub trait Schedule: Sized {
    /// Builds the scheduler for `reals`. Runs on the control thread; may allocate. `previous` is
    /// the one it replaces in the same service, if that was of the same kind.
    fn new(reals: &[Candidate], flags: SchedFlags, previous: Option<&Self>) -> Self;

    /// Brings the shared state in line with a change; `self` is already built for the new list.
    /// Runs on the control thread, while workers may still pick by the old snapshot.
    fn changed(&self, reals: &[Candidate], state: &SchedState, change: Change) {
        let _ = (reals, state, change);
    }

    /// Returns an index into `pick.reals`, or `None` if none of them takes the flow.
    ///
    /// Runs on the packet path: no allocation, no clock, work bounded by `pick.reals.len()`
    /// (sh and mh with fallback: by their table's size).
    fn pick(&self, pick: &Pick<'_>, state: &SchedState, rng: &mut Rng) -> Option<usize>;
}
