//! Free slots: each worker keeps a magazine of them; what it has too many of goes to a depot that
//! all share.
//!
//! The depot is a stack of bundles. A bundle is a free entry that keeps the numbers of
//! [`HELD`] more and of the next bundle, so free slots cost no memory beside their own, and a
//! worker goes to the shared line once in nine slots at most. The stack's head carries a count that
//! changes with every push, so that a pop which read a bundle that was gone meanwhile fails.
//! Slots never used yet are not in any bundle: a counter says where they begin.
//! Source: Treiber, "Systems programming: coping with parallelism", 1986; Bonwick, Adams,
//! "Magazines and vmem", USENIX 2001.

use super::{
    cpu,
    entry::{Entry, HELD},
    layout::Header,
    sync::Ordering::{AcqRel, Acquire, Relaxed},
};

/// Slots a magazine holds at most.
const MAGAZINE: usize = if cfg!(loom) { 10 } else { 128 };

/// Slots taken at once of those never used.
const FRESH: u32 = if cfg!(loom) { 1 } else { 32 };

/// The memory that free slots are found in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Depot<'t> {
    pub(super) header: &'t Header,
    pub(super) entries: &'t [Entry],
    /// Greatest slot number.
    pub(super) slots: usize,
}

#[expect(clippy::cast_possible_truncation, reason = "slot numbers have 31 bits")]
impl Depot<'_> {
    /// Adds the bundle `slot` that keeps `others`.
    fn push(self, slot: u32, others: [u32; HELD]) {
        let head = &self.header.depot.0;
        let mut seen = head.load(Relaxed);
        loop {
            self.entries[slot as usize].hold(seen as u32, others);
            let new = ((seen >> 32) + 1) << 32 | u64::from(slot);
            match head.compare_exchange(seen, new, AcqRel, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Takes a bundle.
    fn pop(self) -> Option<(u32, [u32; HELD])> {
        let head = &self.header.depot.0;
        let mut seen = head.load(Acquire);
        loop {
            let slot = seen as u32;
            if slot == 0 {
                return None;
            }
            // If another worker takes this bundle now, what is read here is garbage, but then the
            // head's count has changed.
            let (next, others) = self.entries[slot as usize].held();
            let new = ((seen >> 32) + 1) << 32 | u64::from(next);
            match head.compare_exchange(seen, new, AcqRel, Acquire) {
                Ok(_) => return Some((slot, others)),
                Err(now) => seen = now,
            }
        }
    }

    /// Takes slots never used: the first and how many.
    fn fresh(self) -> Option<std::ops::Range<u32>> {
        let used = &self.header.used.0;
        let mut seen = used.load(Relaxed);
        while seen < self.slots as u64 {
            let new = (seen + u64::from(FRESH)).min(self.slots as u64);
            match used.compare_exchange(seen, new, AcqRel, Relaxed) {
                Ok(_) => return Some(seen as u32 + 1..new as u32 + 1),
                Err(now) => seen = now,
            }
        }
        None
    }
}

/// One worker's free slots; the last in is the first out, while it is still in the cache.
#[derive(Debug)]
pub(super) struct Magazine(Vec<u32>);

impl Magazine {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(MAGAZINE))
    }

    /// A free slot, or `None` if neither this worker nor the depot has one.
    pub(super) fn take(&mut self, depot: Depot<'_>) -> Option<u32> {
        if self.0.is_empty() {
            self.refill(depot);
        }
        self.0.pop()
    }

    /// Adds a slot that nobody uses.
    pub(super) fn put(&mut self, slot: u32, depot: Depot<'_>) {
        if self.0.len() == MAGAZINE {
            // Half, so that a worker whose flows come and go in turn stays away from the depot.
            while self.0.len() > MAGAZINE / 2 {
                self.unload(depot);
            }
        }
        self.0.push(slot);
    }

    /// Makes `count` slots ready and fetches their entries, to be written, and what `more` does.
    pub(super) fn prefetch(&mut self, count: usize, depot: Depot<'_>, more: impl Fn(u32)) {
        while self.0.len() < count.min(MAGAZINE / 2) && self.refill(depot) {}
        for &slot in self.0.iter().rev().take(count) {
            cpu::prefetch_write(&depot.entries[slot as usize]);
            more(slot);
        }
    }

    /// Gives everything to the depot.
    pub(super) fn empty(&mut self, depot: Depot<'_>) {
        while !self.0.is_empty() {
            self.unload(depot);
        }
    }

    /// Takes a bundle or some slots never used; whether there were any.
    #[cold]
    fn refill(&mut self, depot: Depot<'_>) -> bool {
        if let Some((slot, others)) = depot.pop() {
            self.0.extend(others.into_iter().filter(|&slot| slot != 0));
            self.0.push(slot);
        } else if let Some(fresh) = depot.fresh() {
            self.0.extend(fresh.rev());
        } else {
            return false;
        }
        true
    }

    /// Moves the coldest slots to the depot as one bundle.
    #[cold]
    fn unload(&mut self, depot: Depot<'_>) {
        let count = self.0.len().min(HELD + 1);
        let mut slots = self.0.drain(..count);
        let Some(bundle) = slots.next() else { return };
        let mut others = [0; HELD];
        for (place, slot) in others.iter_mut().zip(slots) {
            *place = slot;
        }
        depot.push(bundle, others);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_given_out_once_and_comes_back_through_the_depot() {
        let header = Header::default();
        let entries: Vec<Entry> = (0..=1000).map(|_| Entry::default()).collect();
        let depot = Depot { header: &header, entries: &entries, slots: 1000 };
        let (mut a, mut b) = (Magazine::new(), Magazine::new());
        for round in 0..5 {
            let mut taken = Vec::new();
            for turn in 0.. {
                let from = if turn % 3 == 0 { &mut b } else { &mut a };
                match from.take(depot) {
                    Some(slot) => taken.push(slot),
                    None if a.0.is_empty() && b.0.is_empty() => break,
                    None => {}
                }
            }
            taken.sort_unstable();
            assert!(taken.iter().copied().eq(1..=1000), "round {round}");
            for slot in taken {
                let to = if slot % 2 == 0 { &mut b } else { &mut a };
                to.put(slot, depot);
                assert!(to.0.len() <= MAGAZINE);
            }
            if round == 3 {
                a.empty(depot);
                b.empty(depot);
            }
        }
    }
}
