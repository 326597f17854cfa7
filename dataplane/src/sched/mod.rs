//! Schedulers: which real server gets a new flow.
//!
//! A scheduler is one file, its `mod` line and its line in the registry. Picks are the kernel's,
//! pick for pick, in the kernel's list order: a real server that is added goes to the **front**
//! of the list. What must survive an edit and be shared by the workers (rr's position, wrr's
//! level) lives in [`SchedState`], outside of the immutable snapshot.

mod cache;
#[cfg(test)]
mod contract;
mod dh;
mod fo;
mod hash;
mod lblc;
mod lblcr;
mod lc;
mod least;
mod mh;
mod nq;
mod ovf;
mod rr;
mod sed;
mod sh;
#[cfg(test)]
mod tests;
mod twos;
mod wlc;
mod wrr;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{
    addr::Addr,
    clock::Tick,
    endpoint::{EndpointId, Endpoints, Load},
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
    /// The client's address as it stands in the packet: persistence masks it for its templates,
    /// never for a scheduler.
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

impl Pick<'_> {
    /// The load of the real server at `index`: every look at one passes here, so a test can count
    /// them.
    #[inline]
    fn load(&self, index: usize) -> &Load {
        #[cfg(test)]
        contract::LOOKS.with(|looks| looks.set(looks.get() + 1));
        &self.endpoints.get(self.reals[index].id).load
    }

    /// Whether the real server at `index` has reached its upper threshold.
    #[inline]
    fn is_overloaded(&self, index: usize) -> bool {
        self.load(index).overloaded.load(Relaxed) != 0
    }

    /// Whether the real server at `index` takes new flows: neither drained nor overloaded.
    #[inline]
    fn takes(&self, index: usize) -> bool {
        self.reals[index].weight > 0 && !self.is_overloaded(index)
    }

    /// Active flows of the real server at `index`.
    #[inline]
    fn active(&self, index: usize) -> u32 {
        self.load(index).active.load(Relaxed)
    }

    /// What its flows cost it: an active flow is held to cost as much as 256 inactive ones.
    #[inline]
    fn overhead(&self, index: usize) -> u64 {
        let load = self.load(index);
        u64::from(load.active.load(Relaxed)) * 256 + u64::from(load.inactive.load(Relaxed))
    }

    /// Where the real server with this id stands; `hint` is where it stood last time.
    #[inline]
    fn locate(&self, id: EndpointId, hint: usize) -> Option<usize> {
        match self.reals.get(hint) {
            Some(real) if real.id == id => Some(hint),
            _ => self.reals.iter().position(|real| real.id == id),
        }
    }
}

/// What outlives a snapshot: two words whose meaning is the scheduler's own, shared by all
/// workers. Zero at the start. Control makes a fresh one when a service gets another scheduler.
///
/// `Relaxed` throughout: each word stands for itself, and nothing is published through it.
#[derive(Debug, Default)]
pub struct SchedState {
    /// rr: the endpoint picked last, 0 for the head of the list, and where it stood. wrr: only
    /// the latter.
    pub position: AtomicU64,
    /// wrr: the endpoint picked last and the current weight, changed together.
    pub level: AtomicU64,
}

impl SchedState {
    /// A copy, to try a pick with.
    #[must_use]
    pub fn isolated(&self) -> Self {
        Self {
            position: AtomicU64::new(self.position.load(Relaxed)),
            level: AtomicU64::new(self.level.load(Relaxed)),
        }
    }
}

/// How often a worker that lost the race for a shared word tries again. After that its pick
/// stands without moving the word on: two workers then picked the same real server once.
const RACES_MAX: usize = 8;

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

/// Defines [`Scheduler`]: one variant for each scheduler, named as in IPVS.
macro_rules! registry {
    ($($name:literal => $variant:ident($kind:ty),)+) => {
        /// A scheduler of a service, one of those registered.
        #[derive(Debug)]
        pub enum Scheduler {
            $(#[doc = concat!("IPVS `", $name, "`.")] $variant($kind),)+
        }

        impl Scheduler {
            /// The names of all schedulers, as `ipvsadm -s` takes them.
            pub const NAMES: &[&str] = &[$($name),+];

            /// Builds the scheduler called `name`; `None` if there is none of that name.
            ///
            /// `previous` is the scheduler that this one replaces in the same service: what must
            /// survive an edit is taken over if it is of the same kind. Build one for every
            /// single change, in order, as mh's memory of weights goes from one to the next.
            /// Runs on the control thread; may allocate.
            pub fn by_name(
                name: &str,
                reals: &[Candidate],
                flags: SchedFlags,
                previous: Option<&Self>,
            ) -> Option<Self> {
                match name {
                    $($name => {
                        let previous = match previous {
                            Some(Self::$variant(previous)) => Some(previous),
                            _ => None,
                        };
                        Some(Self::$variant(<$kind>::new(reals, flags, previous)))
                    })+
                    _ => None,
                }
            }

            /// Its name.
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $name,)+
                }
            }

            /// The same, with a memory of its own: a pick by it changes nothing for others.
            #[must_use]
            pub fn isolated(&self) -> Self {
                match self {
                    $(Self::$variant(scheduler) => Self::$variant(scheduler.isolated()),)+
                }
            }

            /// [`Schedule::changed`].
            pub fn changed(&self, reals: &[Candidate], state: &SchedState, change: Change) {
                match self {
                    $(Self::$variant(scheduler) => scheduler.changed(reals, state, change),)+
                }
            }

            /// [`Schedule::pick`].
            #[inline]
            pub fn pick(
                &self,
                pick: &Pick<'_>,
                state: &SchedState,
                rng: &mut Rng,
            ) -> Option<usize> {
                match self {
                    $(Self::$variant(scheduler) => scheduler.pick(pick, state, rng),)+
                }
            }
        }
    };
}

registry! {
    "rr" => RoundRobin(rr::RoundRobin),
    "wrr" => WeightedRoundRobin(wrr::WeightedRoundRobin),
    "lc" => LeastConnection(lc::LeastConnection),
    "wlc" => WeightedLeastConnection(wlc::WeightedLeastConnection),
    "lblc" => LocalityLeastConnection(lblc::LocalityLeastConnection),
    "lblcr" => ReplicatedLocality(lblcr::ReplicatedLocality),
    "sh" => SourceHashing(sh::SourceHashing),
    "dh" => DestinationHashing(dh::DestinationHashing),
    "sed" => ShortestExpectedDelay(sed::ShortestExpectedDelay),
    "nq" => NeverQueue(nq::NeverQueue),
    "fo" => FailOver(fo::FailOver),
    "ovf" => Overflow(ovf::Overflow),
    "mh" => MaglevHashing(mh::MaglevHashing),
    "twos" => PowerOfTwo(twos::PowerOfTwo),
}

/// Picks a real server for a new flow.
pub trait Schedule: Clone + Sized {
    /// Builds the scheduler for `reals`. Runs on the control thread; may allocate. `previous` is
    /// the one it replaces in the same service, if that was of the same kind.
    fn new(reals: &[Candidate], flags: SchedFlags, previous: Option<&Self>) -> Self;

    /// A copy that shares no memory with this one, to try a pick with. May allocate.
    #[must_use]
    fn isolated(&self) -> Self {
        self.clone()
    }

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
