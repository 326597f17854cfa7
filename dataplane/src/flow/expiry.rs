//! Ending flows whose time has come, and half-open ones when room is short: in bounded slices.
//!
//! A sweep never ends a flow early: it asks for the deadline, which follows from when the flow was
//! last seen and from its state, and only then ends it. It ends a flow at most one second and
//! one round of the sweep late. Dead flows are taken out in batches, so that their cache misses
//! overlap.

use arrayvec::ArrayVec;

use super::{FlowRef, TableWorker, control::flag, entry::Entry, half_open::Begun, worker::Doomed};
use crate::{clock::Tick, endpoint::Endpoints};

/// Flows looked at in one slice: some 5 microseconds if all of them have to go.
const BATCH: usize = 32;

/// Slots that one [`TableWorker::shed`] looks at, at most.
pub const SHED_MAX: usize = BATCH;

/// Decides when flows expire, and hears of those that did.
pub trait Expiry {
    /// The tick from which on the flow is over. May write nothing.
    fn deadline(&mut self, flow: &Entry) -> Tick;

    /// The flow was ended by this worker, and by nobody else: settle what counts it. Its entry still
    /// reads as it was, but for [`super::flag::LIVE`].
    fn expired(&mut self, flow: &Entry);
}

/// What a slice of the sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Slots passed.
    pub slots: usize,
    /// Flows looked at.
    pub due: usize,
    /// Flows ended.
    pub expired: usize,
    /// Nothing is left to do before the next second.
    pub complete: bool,
}

impl TableWorker {
    /// Ends flows that are over: passes at most `budget` slots and looks at no more than
    /// some tens of flows. Each slot is passed once a second, by whichever worker comes first.
    pub fn sweep(
        &self,
        now: Tick,
        budget: usize,
        endpoints: &Endpoints,
        expiry: &mut impl Expiry,
    ) -> Swept {
        let mut due = ArrayVec::new();
        let mut swept = self.collect(now, budget, &mut due);
        let mut doomed: ArrayVec<(&Entry, Doomed), BATCH> = ArrayVec::new();
        for &slot in &due {
            if let Some(flow) = self.look(slot, now, expiry) {
                doomed.push((flow.entry, self.doom(flow, endpoints)));
            }
        }
        (swept.due, swept.expired) = (due.len(), doomed.len());
        self.local.borrow_mut().counters.expired += doomed.len() as u64;
        for (entry, doomed) in doomed {
            self.unlink(doomed);
            expiry.expired(entry);
        }
        swept
    }

    /// Scans the due map: the slots to look at, fetched.
    fn collect(&self, now: Tick, budget: usize, due: &mut ArrayVec<u32, BATCH>) -> Swept {
        let map = self.table.due();
        let mut local = self.local.borrow_mut();
        local.now = now;
        let mut swept = Swept::default();
        while swept.slots < budget && !due.is_full() {
            let Some(mut claim) = local.claim.take().or_else(|| map.claim(now)) else {
                swept.complete = true;
                break;
            };
            swept.slots += map.scan(&mut claim, now, budget - swept.slots, |slot| {
                super::cpu::prefetch_write(self.table.entry(slot));
                due.push(slot);
                !due.is_full()
            });
            local.claim = Some(claim).filter(|claim| !claim.is_done());
        }
        swept
    }

    /// Looks at a slot that is due: ends the flow if it is over, or says when to look again.
    fn look(&self, slot: u32, now: Tick, expiry: &mut impl Expiry) -> Option<FlowRef<'_>> {
        let entry = self.table.entry(slot);
        let control = entry.control();
        if !control.is_announced() {
            // Nobody's, or about to be armed by who inserts it. Unless it was left to us:
            if entry.unpark(control) {
                self.bury(slot);
            }
            return None;
        }
        let deadline = expiry.deadline(entry);
        if now.reached(deadline) {
            let flow = self.table.flow(slot, control);
            return entry.end(control.generation()).map(|_| flow);
        }
        let due = self.table.due();
        due.rearm(slot, deadline, now);
        if entry.control() != control {
            // The state changed meanwhile; what it asked for may have been overwritten.
            due.lower(slot, expiry.deadline(entry), now);
        }
        None
    }

    /// Gives up half-open flows, oldest first, at most `budget`: those beyond the quota, or as
    /// many as it may if an insert found the table full since. Returns how many. To be called
    /// once a burst; it costs two comparisons when there is nothing to do.
    pub fn give_up_half_open(
        &self,
        budget: usize,
        endpoints: &Endpoints,
        expiry: &mut impl Expiry,
    ) -> usize {
        let full = std::mem::take(&mut self.local.borrow_mut().found_full);
        let mut given_up = 0;
        // Half of the flows at most may turn out answered or over; what is missed then is for the
        // next call.
        for _ in 0..(2 * budget).div_ceil(BATCH) {
            let excess = self.local.borrow().half_open.excess();
            let allowed = budget.saturating_sub(given_up);
            let wanted = if full { allowed } else { excess.min(allowed) };
            if wanted == 0 {
                break;
            }
            let mut oldest = self.oldest_half_open();
            if oldest.is_empty() {
                break;
            }
            oldest.retain(|begun| self.is_half_open(*begun));
            let excess = self.local.borrow().half_open.excess_with(oldest.len());
            let too_many = if full { wanted } else { excess.min(wanted) }.min(oldest.len());
            given_up += self.give_up(oldest.drain(..too_many), endpoints, expiry);
            // Their turn comes again: the quota is kept without them.
            for begun in oldest {
                self.local.borrow_mut().half_open.push(begun);
            }
        }
        given_up
    }

    /// Ends those flows in `slots` that `judge` condemns, whatever their time-outs. Looks at the
    /// first [`SHED_MAX`] of `slots` only. Returns how many flows it ended.
    pub fn shed(
        &self,
        slots: impl Iterator<Item = u32>,
        endpoints: &Endpoints,
        mut judge: impl FnMut(&Entry) -> bool,
        expiry: &mut impl Expiry,
    ) -> usize {
        let slots: ArrayVec<u32, BATCH> = slots.take(BATCH).collect();
        for &slot in &slots {
            super::cpu::prefetch_write(self.table.entry(slot));
        }
        let mut doomed: ArrayVec<(&Entry, Doomed), BATCH> = ArrayVec::new();
        for slot in slots {
            let Some(flow) = self.table.at(slot) else { continue };
            if judge(flow.entry) && flow.entry.end(flow.id().generation).is_some() {
                doomed.push((flow.entry, self.doom(flow, endpoints)));
            }
        }
        let ended = doomed.len();
        self.local.borrow_mut().counters.shed += ended as u64;
        for (entry, doomed) in doomed {
            self.unlink(doomed);
            expiry.expired(entry);
        }
        ended
    }

    /// Takes the oldest from the ring and fetches their entries.
    fn oldest_half_open(&self) -> ArrayVec<Begun, BATCH> {
        let mut local = self.local.borrow_mut();
        let oldest: ArrayVec<_, BATCH> =
            std::iter::from_fn(|| local.half_open.pop()).take(BATCH).collect();
        for begun in &oldest {
            super::cpu::prefetch_write(self.table.entry(begun.slot));
        }
        oldest
    }

    fn is_half_open(&self, begun: Begun) -> bool {
        let control = self.table.entry(begun.slot).control();
        control.is_announced()
            && control.generation() == begun.generation
            && control.has(flag::HALF_OPEN)
    }

    /// Ends these flows, in stages as a sweep does; how many it ended.
    fn give_up(
        &self,
        oldest: impl Iterator<Item = Begun>,
        endpoints: &Endpoints,
        expiry: &mut impl Expiry,
    ) -> usize {
        let mut doomed: ArrayVec<(&Entry, Doomed), BATCH> = ArrayVec::new();
        for begun in oldest {
            let entry = self.table.entry(begun.slot);
            if let Some(last) = entry.end(begun.generation) {
                doomed.push((entry, self.doom(self.table.flow(begun.slot, last), endpoints)));
            }
        }
        let ended = doomed.len();
        self.local.borrow_mut().counters.given_up += ended as u64;
        for (entry, doomed) in doomed {
            self.unlink(doomed);
            expiry.expired(entry);
        }
        ended
    }
}
