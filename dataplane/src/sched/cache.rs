//! What lblc and lblcr remember about destinations, in a table of fixed size.
//!
//! Buckets of slots by the kernel's hash of the address. All workers share it without a lock; it
//! outlives snapshots. `Relaxed` throughout: whoever reads a slot while another worker gives it
//! to another destination may see the real servers of the one under the address of the other.
//! They are checked against the service's list like any, so that costs one flow its locality and
//! nothing else. Bounds are the kernel's: up to [`ENTRIES_MAX`] destinations are remembered, more
//! are scheduled each time; those not asked for are forgotten after a day, or after six minutes
//! while there are more than [`ENTRIES_COMFORTABLE`].
//! Source: Linux `net/netfilter/ipvs/ip_vs_lblc.c` (`ip_vs_lblc_check_expire`) and its twin in
//! `ip_vs_lblcr.c`.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::{
    Pick,
    hash::{fold, hash_32},
};
use crate::{
    addr::Addr,
    clock::{TICKS_PER_SECOND, Tick},
};

/// log2 of the number of buckets.
const BUCKET_BITS: u32 = 10;
/// Buckets.
const BUCKETS: usize = 1 << BUCKET_BITS;
/// Slots in a bucket; the kernel's chains have no bound, but hold 24 on average when it stops.
/// With all of them taken the destination is not remembered.
const WAYS: usize = 40;
/// Above this entries are given up after [`IDLE_TICKS`].
const ENTRIES_COMFORTABLE: u32 = 16 * 1024;
/// At this no entry is added.
const ENTRIES_MAX: u32 = ENTRIES_COMFORTABLE * 3 / 2;
/// Between two looks at the entries.
const CHECK_TICKS: u32 = 60 * TICKS_PER_SECOND;
/// Every so many looks without pressure all entries are looked at.
const CHECKS_TO_FULL: u32 = 30;
/// Under pressure an entry is given up after this long without use.
const IDLE_TICKS: u32 = 6 * 60 * TICKS_PER_SECOND;
/// Without pressure after this long; also when lblcr sheds a server. The kernel's default of
/// `lblc_expiration` and `lblcr_expiration`.
pub(super) const EXPIRATION_TICKS: u32 = 24 * 60 * 60 * TICKS_PER_SECOND;

/// A mark's bit for a slot in use; below it the tick of its last use.
const LIVE: u64 = 1 << 32;
/// Mark of a slot that is being filled.
const CLAIMED: u64 = 1 << 33;

/// One destination.
#[derive(Debug, Default)]
struct Slot<V> {
    /// 0 if free.
    mark: AtomicU64,
    high: AtomicU64,
    low: AtomicU64,
    value: V,
}

/// The table; `V` is what is remembered and brings its own atomics.
#[derive(Debug)]
pub(super) struct Cache<V> {
    slots: Box<[Slot<V>]>,
    /// By bucket, how many of its slots were ever taken: a search ends there.
    used: Box<[AtomicU32]>,
    entries: AtomicU32,
    /// When to look at the entries next, with [`LIVE`]; 0 before the first pick.
    due: AtomicU64,
    /// Looks since the last full one.
    checks: AtomicU32,
    /// Where the last look under pressure ended.
    rover: AtomicU32,
}

impl<V: Default> Cache<V> {
    /// An empty table: 40,960 slots of 24 octets and a value each. Allocates.
    pub(super) fn new() -> Self {
        Self {
            slots: (0..BUCKETS * WAYS).map(|_| Slot::default()).collect(),
            used: (0..BUCKETS).map(|_| AtomicU32::new(0)).collect(),
            entries: AtomicU32::new(0),
            due: AtomicU64::new(0),
            checks: AtomicU32::new(1),
            rover: AtomicU32::new(0),
        }
    }

    /// A copy; `copy` copies a value from the first into the second.
    pub(super) fn isolated(&self, copy: impl Fn(&V, &V)) -> Self {
        let other = Self::new();
        for (from, to) in self.slots.iter().zip(&other.slots) {
            let mark = from.mark.load(Relaxed);
            if mark & LIVE != 0 {
                to.high.store(from.high.load(Relaxed), Relaxed);
                to.low.store(from.low.load(Relaxed), Relaxed);
                copy(&from.value, &to.value);
                to.mark.store(mark, Relaxed);
            }
        }
        for (from, to) in self.used.iter().zip(&other.used) {
            to.store(from.load(Relaxed), Relaxed);
        }
        other.entries.store(self.entries.load(Relaxed), Relaxed);
        other.due.store(self.due.load(Relaxed), Relaxed);
        other.checks.store(self.checks.load(Relaxed), Relaxed);
        other.rover.store(self.rover.load(Relaxed), Relaxed);
        other
    }

    /// What is remembered about the flow's destination, which counts as used now.
    pub(super) fn find(&self, pick: &Pick<'_>) -> Option<&V> {
        self.check_expiry(pick.now);
        let slot = self
            .bucket(bucket_of(pick.destination))
            .iter()
            .find(|slot| slot.mark.load(Relaxed) & LIVE != 0 && slot.is_for(pick.destination))?;
        let mark = slot.mark.load(Relaxed);
        if mark & LIVE != 0 {
            // An error means that another worker used or freed it at this moment.
            _ = slot.mark.compare_exchange(mark, live(pick.now), Relaxed, Relaxed);
        }
        Some(&slot.value)
    }

    /// Remembers the flow's destination, unless there is no room; `write` fills the value, which
    /// holds what the slot's last user left.
    pub(super) fn insert(&self, pick: &Pick<'_>, write: impl FnOnce(&V)) {
        if self.entries.load(Relaxed) >= ENTRIES_MAX {
            return;
        }
        let bucket = bucket_of(pick.destination);
        let slots = &self.slots[bucket * WAYS..][..WAYS];
        let free =
            |slot: &Slot<V>| slot.mark.compare_exchange(0, CLAIMED, Relaxed, Relaxed).is_ok();
        let Some((way, slot)) = (1..).zip(slots).find(|(_, slot)| free(slot)) else { return };
        let bits = pick.destination.bits();
        slot.high.store(high(bits), Relaxed);
        slot.low.store(low(bits), Relaxed);
        write(&slot.value);
        self.used[bucket].fetch_max(way, Relaxed);
        self.entries.fetch_add(1, Relaxed);
        slot.mark.store(live(pick.now), Relaxed);
    }

    /// The slots of a bucket that may be in use.
    fn bucket(&self, bucket: usize) -> &[Slot<V>] {
        let used = self.used[bucket].load(Relaxed) as usize;
        &self.slots[bucket * WAYS..][..used.min(WAYS)]
    }

    /// Looks at the entries if a minute has passed, as the kernel's timer does: every thirtieth
    /// look at all of them, the others only under pressure. The worker that moves `due` on does
    /// it; a full look reads at most 40,960 marks, mostly far fewer.
    fn check_expiry(&self, now: Tick) {
        let first = now.plus(CHECK_TICKS);
        // After a long silence only the last looks matter; whole rounds of thirty are left out.
        for _ in 0..2 * CHECKS_TO_FULL {
            let due = self.due.load(Relaxed);
            if due == 0 {
                _ = self.due.compare_exchange(0, live(first), Relaxed, Relaxed);
                return;
            }
            let at = tick(due);
            if !now.reached(at) {
                return;
            }
            let rounds = now.since(at) / CHECK_TICKS / CHECKS_TO_FULL;
            let skipped = rounds.saturating_sub(1) * CHECKS_TO_FULL * CHECK_TICKS;
            let at = at.plus(skipped);
            let next = live(at.plus(CHECK_TICKS));
            if self.due.compare_exchange(due, next, Relaxed, Relaxed).is_err() {
                return;
            }
            self.look(at);
        }
    }

    /// One look at the entries, as of `at`.
    fn look(&self, at: Tick) {
        let checks = self.checks.load(Relaxed);
        let entries = self.entries.load(Relaxed);
        if checks.is_multiple_of(CHECKS_TO_FULL) {
            (0..BUCKETS).for_each(|bucket| _ = self.forget(bucket, at, EXPIRATION_TICKS));
            self.checks.store(1, Relaxed);
        } else if entries <= ENTRIES_COMFORTABLE {
            self.checks.store(checks + 1, Relaxed);
        } else {
            self.relieve(at, (entries - ENTRIES_COMFORTABLE) * 4 / 3);
        }
    }

    /// Gives up idle entries, about `goal` of them, from where the last time ended.
    fn relieve(&self, at: Tick, goal: u32) {
        let goal = goal.min(ENTRIES_COMFORTABLE / 2);
        let mut freed = 0;
        let mut bucket = self.rover.load(Relaxed) as usize;
        for _ in 0..BUCKETS {
            bucket = (bucket + 1) % BUCKETS;
            freed += self.forget(bucket, at, IDLE_TICKS);
            if freed >= goal {
                break;
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "below BUCKETS")]
        self.rover.store(bucket as u32, Relaxed);
    }

    /// Frees the slots of a bucket that were not used for `idle` ticks; gives their number.
    fn forget(&self, bucket: usize, at: Tick, idle: u32) -> u32 {
        let mut freed = 0;
        for slot in self.bucket(bucket) {
            let mark = slot.mark.load(Relaxed);
            let is_idle = mark & LIVE != 0 && at.since(tick(mark)) >= idle;
            if is_idle && slot.mark.compare_exchange(mark, 0, Relaxed, Relaxed).is_ok() {
                self.entries.fetch_sub(1, Relaxed);
                freed += 1;
            }
        }
        freed
    }
}

impl<V> Slot<V> {
    fn is_for(&self, addr: Addr) -> bool {
        self.high.load(Relaxed) == high(addr.bits()) && self.low.load(Relaxed) == low(addr.bits())
    }
}

const fn bucket_of(addr: Addr) -> usize {
    hash_32(fold(addr), BUCKET_BITS) as usize
}

const fn live(tick: Tick) -> u64 {
    LIVE | tick.0 as u64
}

#[expect(clippy::cast_possible_truncation, reason = "the tick is the low half")]
const fn tick(mark: u64) -> Tick {
    Tick(mark as u32)
}

const fn high(bits: u128) -> u64 {
    (bits >> 64) as u64
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half")]
const fn low(bits: u128) -> u64 {
    bits as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::tests::Bench;

    type Numbers = Cache<AtomicU32>;
    const MINUTE: u32 = CHECK_TICKS;

    fn get(cache: &Numbers, bench: &Bench, to: u32, now: u32) -> Option<u32> {
        cache.find(&bench.pick_of(0, to, Tick(now))).map(|value| value.load(Relaxed))
    }

    fn put(cache: &Numbers, bench: &Bench, to: u32, now: u32) {
        cache.insert(&bench.pick_of(0, to, Tick(now)), |value| value.store(to, Relaxed));
    }

    fn live_slots(cache: &Numbers) -> usize {
        cache.slots.iter().filter(|slot| slot.mark.load(Relaxed) & LIVE != 0).count()
    }

    #[test]
    fn a_destination_is_forgotten_at_the_first_full_look_after_a_day_without_use() {
        let (cache, bench) = (Numbers::new(), Bench::new("rr", &[1]));
        assert_eq!(get(&cache, &bench, 1, 0), None);
        put(&cache, &bench, 1, 0);
        put(&cache, &bench, 2, 0);
        // Looks begin a minute after the first flow; every thirtieth, so each half hour, is full.
        assert_eq!(get(&cache, &bench, 1, 24 * 60 * MINUTE - 1), Some(1));
        assert_eq!(get(&cache, &bench, 2, 24 * 60 * MINUTE), None);
        assert_eq!(get(&cache, &bench, 1, 48 * 60 * MINUTE - 2), Some(1));
        assert_eq!(get(&cache, &bench, 1, 200 * 60 * MINUTE), None, "after a long silence");
        assert_eq!(cache.entries.load(Relaxed), 0);
    }

    #[test]
    fn a_full_table_takes_no_more_until_idle_entries_go() {
        let (cache, bench) = (Numbers::new(), Bench::new("rr", &[1]));
        assert_eq!(get(&cache, &bench, 0, 0), None);
        (0..30_000).for_each(|to| put(&cache, &bench, to, 0));
        assert_eq!(cache.entries.load(Relaxed), ENTRIES_MAX);
        assert_eq!(get(&cache, &bench, 29_999, 5 * MINUTE), None);
        assert_eq!(cache.entries.load(Relaxed), ENTRIES_MAX);
        // One look at six minutes wants rid of four thirds of the excess, at most 8192.
        assert_eq!(get(&cache, &bench, 29_999, 6 * MINUTE), None);
        let left = cache.entries.load(Relaxed);
        assert!((ENTRIES_COMFORTABLE - 40..=ENTRIES_COMFORTABLE).contains(&left), "{left}");
        put(&cache, &bench, 29_999, 6 * MINUTE);
        assert_eq!(get(&cache, &bench, 29_999, 6 * MINUTE), Some(29_999));
        assert_eq!(live_slots(&cache), cache.entries.load(Relaxed) as usize);
    }

    #[test]
    fn addresses_of_one_bucket_keep_apart_and_overfill_it_harmlessly() {
        let (cache, bench) = (Numbers::new(), Bench::new("rr", &[1]));
        let bucket = bucket_of(bench.pick_of(0, 0, Tick(0)).destination);
        let same = (0..u32::MAX)
            .filter(|&to| bucket_of(bench.pick_of(0, to, Tick(0)).destination) == bucket)
            .take(WAYS + 3);
        let same: Vec<u32> = same.collect();
        same.iter().for_each(|&to| put(&cache, &bench, to, 0));
        for (i, &to) in same.iter().enumerate() {
            assert_eq!(get(&cache, &bench, to, 0), (i < WAYS).then_some(to));
        }
    }

    #[test]
    fn workers_that_race_leave_the_count_right() {
        let (cache, bench) = (Numbers::new(), Bench::new("rr", &[1]));
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let (cache, bench) = (&cache, &bench);
                scope.spawn(move || {
                    for n in 0..200_000 {
                        let (to, now) = ((n * 7 + worker) % 5000, n * 64);
                        if get(cache, bench, to, now).is_none() {
                            put(cache, bench, to, now);
                        }
                    }
                });
            }
        });
        assert_eq!(live_slots(&cache), cache.entries.load(Relaxed) as usize);
        assert!(cache.slots.iter().all(|slot| slot.mark.load(Relaxed) != CLAIMED));
    }
}
