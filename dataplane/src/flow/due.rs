//! The due map: one octet per slot that says in which second the flow must be looked at.
//!
//! A packet never writes here: a flow that is kept alive is looked at in the second it was once
//! due, found to have been seen since, and given a later second. A state change to a shorter
//! time-out lowers the octet. So an octet may be early, never late; early costs a look.
//! Octets count seconds modulo 255 (0: not due at all), up to [`HORIZON`] ahead; a later deadline
//! takes several looks. A sweep takes what is due now or was within the last [`WINDOW`] seconds, so
//! a worker that dies in the middle of its share costs a delay and not a flow; a sweep that lagged
//! more looks at everything.
//! The sweep is cut into chunks which workers claim one by one, so that no worker has flows of its
//! own to expire, and an idle or dead one leaves nothing behind.
//! Why not a timing wheel (Varghese, Lauck, SOSP 1987): a look costs 30 to 50 ns here and 70 to 110
//! there, lists of pointers do not survive a restart, and scanning a million octets takes 0.1 ms.

use super::{
    cpu::{self, DUE_BLOCK, DueSet},
    sync::{
        AtomicU8, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed},
    },
};
use crate::clock::{TICKS_PER_SECOND, Tick};

/// Values an octet takes beside 0.
const CODES: u32 = 255;

/// Seconds a look may be overdue and still be told from one in the future.
const WINDOW: u32 = 64;

/// Seconds an octet reaches into the future.
const HORIZON: u32 = CODES - WINDOW - 1;

/// Slots in a chunk: some 300 ns of scanning if none is due.
const CHUNK: usize = 4096;

/// In the pass word: this pass looks at everything.
const ALL: u64 = 1 << 31;

/// The due octets of a table and how far their sweep has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct DueMap<'t> {
    pub(super) map: &'t [[AtomicU8; DUE_BLOCK]],
    /// Tick the pass began 32, all 1, chunks claimed 31. All zero: no pass yet.
    pub(super) pass: &'t AtomicU64,
}

/// A part of a pass that one worker does, and how far it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    next: u32,
    end: u32,
    begun: Tick,
    all: bool,
}

/// Whole seconds, and where they stand among the codes.
const fn second(now: Tick) -> u32 {
    now.0 / TICKS_PER_SECOND
}

/// The code of the second in which `deadline` has passed, at most [`HORIZON`] ahead.
#[expect(clippy::cast_possible_truncation, reason = "bounded by CODES")]
fn code(deadline: Tick, now: Tick) -> u8 {
    let end = u64::from(now.0) + u64::from(deadline.since(now));
    let ahead = end.div_ceil(u64::from(TICKS_PER_SECOND)) - u64::from(second(now));
    let ahead = ahead.min(u64::from(HORIZON)) as u32;
    ((second(now) % CODES + ahead) % CODES + 1) as u8
}

/// Seconds from now until `code`; 0 if it has passed, the most there is if there is none.
fn ahead(code: u8, now: Tick) -> u32 {
    match code {
        0 => u32::MAX,
        code => match (u32::from(code) - 1 + CODES - second(now) % CODES) % CODES {
            ahead @ 0..=HORIZON => ahead,
            _ => 0,
        },
    }
}

impl<'t> DueMap<'t> {
    fn octet(self, slot: u32) -> &'t AtomicU8 {
        &self.map[slot as usize / DUE_BLOCK][slot as usize % DUE_BLOCK]
    }

    /// Fetches the slot's octet, to be written.
    pub(super) fn prefetch(self, slot: u32) {
        cpu::prefetch_write(self.octet(slot));
    }

    /// Sets the first look of a flow that nobody else knows yet.
    pub(super) fn arm(self, slot: u32, deadline: Tick, now: Tick) {
        self.octet(slot).store(code(deadline, now), Relaxed);
    }

    /// Makes sure that the slot is looked at when `deadline` has passed.
    ///
    /// Always a read-modify-write, even where nothing changes: it orders the caller's earlier
    /// change of state before the look of a sweep that re-arms the slot meanwhile.
    pub(super) fn lower(self, slot: u32, deadline: Tick, now: Tick) {
        let new = code(deadline, now);
        let octet = self.octet(slot);
        let mut old = octet.load(Relaxed);
        loop {
            let lower = if ahead(new, now) < ahead(old, now) { new } else { old };
            match octet.compare_exchange(old, lower, AcqRel, Relaxed) {
                Ok(_) => return,
                Err(changed) => old = changed,
            }
        }
    }

    /// Sets the slot's next look. The caller looks at the flow's state again afterwards.
    pub(super) fn rearm(self, slot: u32, deadline: Tick, now: Tick) {
        self.octet(slot).swap(code(deadline, now), AcqRel);
    }

    /// The slot needs no look: its flow is over.
    pub(super) fn clear(self, slot: u32) {
        self.octet(slot).store(0, Relaxed);
    }

    /// Claims the next part of this second's pass; `None` once all of it is claimed.
    #[expect(clippy::cast_possible_truncation, reason = "fields of a word; slots have 31 bits")]
    pub(super) fn claim(self, now: Tick) -> Option<Claim> {
        let slots = self.map.len() * DUE_BLOCK;
        let chunks = slots.div_ceil(CHUNK) as u64;
        let mut seen = self.pass.load(Acquire);
        loop {
            let (begun, claimed) = (Tick((seen >> 32) as u32), seen & (ALL - 1));
            let new = if (1..chunks).contains(&claimed) {
                seen + 1
            } else {
                if claimed != 0 && (second(begun) == second(now) || !now.reached(begun)) {
                    return None;
                }
                // Seconds that went backwards have wrapped, and the codes are out of step.
                let lag = second(now).checked_sub(second(begun));
                let in_step = claimed != 0 && lag.is_some_and(|lag| lag < WINDOW / 2);
                u64::from(now.0) << 32 | if in_step { 0 } else { ALL } | 1
            };
            match self.pass.compare_exchange(seen, new, AcqRel, Acquire) {
                Ok(_) => {
                    let begun = Tick((new >> 32) as u32);
                    let start = ((new & (ALL - 1)) as usize - 1) * CHUNK;
                    let (next, end) = (start as u32, slots.min(start + CHUNK) as u32);
                    return Some(Claim { next, end, begun, all: new & ALL != 0 });
                }
                Err(now) => seen = now,
            }
        }
    }

    /// Goes on with `claim` over at most `budget` slots and gives `take` each slot to look at, until
    /// it answers that it has enough. Returns how many slots were passed.
    #[expect(clippy::cast_possible_truncation, reason = "slots have 31 bits")]
    pub(super) fn scan(
        self,
        claim: &mut Claim,
        now: Tick,
        budget: usize,
        mut take: impl FnMut(u32) -> bool,
    ) -> usize {
        let set = claim.set(now);
        let start = claim.next;
        let end = claim.end.min(start.saturating_add(budget as u32));
        while claim.next < end {
            let first = claim.next as usize / DUE_BLOCK;
            let last = (end as usize).div_ceil(DUE_BLOCK);
            let Some((skipped, mut hits)) = cpu::next_due(&self.map[first..last], set) else {
                claim.next = end;
                break;
            };
            let block = ((first + skipped) * DUE_BLOCK) as u32;
            while hits != 0 {
                let slot = block + hits.trailing_zeros();
                hits &= hits - 1;
                // A block that was begun, or ends, in the middle.
                if slot < claim.next || slot >= end {
                    continue;
                }
                claim.next = slot + 1;
                if !take(slot) {
                    return (claim.next - start) as usize;
                }
            }
            claim.next = end.min(block + DUE_BLOCK as u32);
        }
        (claim.next - start) as usize
    }
}

impl Claim {
    pub(super) const fn is_done(&self) -> bool {
        self.next >= self.end
    }

    /// The octets to look for.
    #[expect(clippy::cast_possible_truncation, reason = "bounded by CODES")]
    fn set(&self, now: Tick) -> DueSet {
        let late = second(now).wrapping_sub(second(self.begun)) >= WINDOW / 2;
        if self.all || (late && now.reached(self.begun)) {
            return DueSet { low: 1, width: (CODES - 1) as u8 };
        }
        let place = second(now) % CODES;
        let low = ((place + CODES - (WINDOW - 1)) % CODES + 1) as u8;
        DueSet { low, width: ((place + 1) as u8).wrapping_sub(low) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn map(slots: usize) -> Vec<[AtomicU8; DUE_BLOCK]> {
        (0..slots / DUE_BLOCK).map(|_| std::array::from_fn(|_| AtomicU8::new(0))).collect()
    }

    fn sweep(due: DueMap<'_>, now: Tick) -> Vec<u32> {
        let mut found = Vec::new();
        while let Some(mut claim) = due.claim(now) {
            while !claim.is_done() {
                due.scan(&mut claim, now, 1000, |slot| {
                    found.push(slot);
                    true
                });
            }
        }
        found
    }

    #[test]
    fn every_slot_is_found_within_a_second_after_its_deadline_and_not_before() {
        for origin in [0, 12_345, 254 * 16, u32::MAX - 100 * 16] {
            let (map, pass) = (map(8192), AtomicU64::new(0));
            let due = DueMap { map: &map, pass: &pass };
            let origin = Tick(origin);
            sweep(due, origin);
            for slot in 0..3000 {
                due.lower(slot, origin.plus(slot), origin);
            }
            let mut found = 0;
            for tick in 1..=3000 + 16 * 20 {
                let now = origin.plus(tick);
                // At the wrap of ticks codes are out of step: once in 8.5 years a look may be early,
                // which costs nothing, or some seconds late.
                let wrapped = now.0 < origin.0;
                for slot in sweep(due, now) {
                    if wrapped && tick < slot {
                        due.rearm(slot, origin.plus(slot), now);
                        continue;
                    }
                    assert!(tick >= slot, "slot {slot} found at {tick}");
                    assert!(wrapped || tick <= slot + 16, "slot {slot} found at {tick}");
                    due.clear(slot);
                    found += 1;
                }
            }
            assert_eq!(found, 3000, "from {origin:?}");
        }
    }

    #[test]
    fn a_deadline_beyond_the_horizon_is_looked_at_early() {
        let now = Tick::from_secs(1000);
        assert_eq!(ahead(code(now.plus(16 * 100_000), now), now), HORIZON);
        assert_eq!(ahead(code(now, now), now), 0);
        assert_eq!(ahead(code(now.plus(1), now), now), 1);
        assert_eq!(ahead(code(Tick::from_secs(900), now), now), 0, "the past is due now");
    }

    #[test]
    fn lowering_never_raises() {
        let (map, pass) = (map(64), AtomicU64::new(0));
        let due = DueMap { map: &map, pass: &pass };
        let now = Tick::from_secs(5000);
        due.lower(3, now.plus(160), now);
        due.lower(3, now.plus(1600), now);
        assert_eq!(ahead(map[0][3].load(Relaxed), now), 10);
        due.lower(3, now.plus(32), now);
        assert_eq!(ahead(map[0][3].load(Relaxed), now), 2);
        due.rearm(3, now.plus(1600), now);
        assert_eq!(ahead(map[0][3].load(Relaxed), now), 100);
    }

    #[test]
    fn a_sweep_that_lagged_looks_at_everything_once() {
        let (map, pass) = (map(8192), AtomicU64::new(0));
        let due = DueMap { map: &map, pass: &pass };
        let start = Tick::from_secs(100);
        assert!(sweep(due, start).is_empty());
        due.lower(5000, start.plus(16 * 20), start);
        due.lower(6000, start.plus(16 * 180), start);
        // Asleep for 150 s: longer than what is due can be told from what will be.
        let late = start.plus(16 * 150);
        assert_eq!(sweep(due, late), [5000, 6000]);
        assert!(sweep(due, late).is_empty(), "one pass a second");
    }

    #[test]
    fn a_claim_that_is_never_worked_off_is_made_up_for_by_the_next_pass() {
        let (map, pass) = (map(3 * CHUNK), AtomicU64::new(0));
        let due = DueMap { map: &map, pass: &pass };
        let start = Tick::from_secs(100);
        sweep(due, start);
        due.lower(7, start.plus(16), start);
        let dead_workers = due.claim(start.plus(16)).unwrap();
        assert_eq!(dead_workers.next, 0);
        assert!(sweep(due, start.plus(17)).is_empty());
        assert_eq!(sweep(due, start.plus(32)), [7]);
    }

    #[test]
    fn a_scan_stops_at_its_budget_and_when_the_taker_has_enough_and_goes_on_there() {
        let (map, pass) = (map(CHUNK), AtomicU64::new(0));
        let due = DueMap { map: &map, pass: &pass };
        let start = Tick::from_secs(100);
        sweep(due, start);
        for slot in 0..200 {
            due.lower(slot, start.plus(1), start);
        }
        let now = start.plus(16);
        let mut claim = due.claim(now).unwrap();
        let mut found = Vec::new();
        let mut steps = 0;
        while !claim.is_done() {
            let mut room = 7;
            let passed = due.scan(&mut claim, now, 100, |slot| {
                found.push(slot);
                room -= 1;
                room > 0
            });
            assert!(passed <= 100);
            steps += 1;
        }
        assert!(found.iter().copied().eq(0..200));
        assert!(steps >= 200 / 7 + (CHUNK - 200) / 100);
    }
}
