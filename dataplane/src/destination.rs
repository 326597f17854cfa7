//! Places for destinations: which address and port of a service with many addresses a flow is for.
//!
//! A flow names what its client sees by the id of an endpoint. A service of one address and port has
//! one such endpoint; a firewall mark, a prefix or a range of ports has as many as clients use. They
//! are given out here, to the worker that opens a flow, and live as long as a flow names them.
//!
//! Rules: a place is found and taken without a lock, in a window of 64 places that the keyed
//! hash of the destination names; if all are taken, the flow is refused. Who holds a count on a place
//! may read what stands there. Only control takes places back: it retires one that no flow
//! names, and frees it 5 s later, when no worker can still be in the burst in which it
//! met the place by a stale index word.
//! Two workers that meet a new destination at the same time may give it two places; both are right.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use crate::clock::{TICKS_PER_SECOND, Tick};

/// Places looked at: 64 of eight octets are eight cache lines. At two thirds in use fewer than one
/// new destination in a million finds none free.
const WINDOW: usize = 64;

/// How long a retired place is kept: 5 s. A burst takes microseconds; a worker that is 2 s late
/// is reported as stuck.
const GRACE_TICKS: u32 = 5 * TICKS_PER_SECOND;

/// What a place is, in the low two bits of its word.
const KIND: u64 = 3;
/// Nobody's.
const FREE: u64 = 0;
/// Being described by the worker that took it.
const BUSY: u64 = 1;
/// In use, or idle and good to be used again.
const LIVE: u64 = 2;
/// Waits for its grace to be over; for control alone.
const RETIRED: u64 = 3;
/// One count of a live place, in the 30 bits above the kind. The upper 32 are the tag.
const ONE: u64 = 4;
/// All bits of the count.
const COUNT: u64 = 0xffff_fffc;

/// The places.
#[derive(Debug)]
pub struct Destinations {
    /// tag 32, count 30, kind 2.
    words: Box<[AtomicU64]>,
}

/// What control remembers from one [`Destinations::reclaim`] to the next.
#[derive(Debug, Default)]
pub struct Retired {
    /// Places that wait, and since when.
    waiting: Vec<(usize, Tick)>,
}

impl Destinations {
    /// This many places.
    pub fn new(places: usize) -> Self {
        Self { words: (0..places).map(|_| AtomicU64::new(FREE)).collect() }
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Places that are not free.
    pub fn used(&self) -> usize {
        self.words.iter().filter(|word| word.load(Relaxed) & KIND != FREE).count()
    }

    /// Takes a count on the place of a destination: on one for which `same` holds, else on a free
    /// one, once `describe` has written there what it is. `None` if the window is full.
    pub fn take(
        &self,
        hash: u64,
        same: impl Fn(usize) -> bool,
        describe: impl FnOnce(usize),
    ) -> Option<usize> {
        let tag = hash & !0xffff_ffff;
        let places = self.words.len();
        let first = usize::try_from(hash & 0xffff_ffff).ok()?.checked_rem(places)?;
        let window = || (0..WINDOW.min(places)).map(|step| (first + step) % places);
        for at in window() {
            if self.hold(at, tag) {
                if same(at) {
                    return Some(at);
                }
                self.release(at);
            }
        }
        let free = |at: &usize| {
            let word = &self.words[*at];
            word.compare_exchange(FREE, tag | BUSY, Acquire, Relaxed).is_ok()
        };
        let at = window().find(free)?;
        describe(at);
        self.words[at].store(tag | ONE | LIVE, Release);
        Some(at)
    }

    /// One count more on a live place with this tag; whether it is one.
    fn hold(&self, at: usize, tag: u64) -> bool {
        let more = |word: u64| {
            let ours = word & !COUNT == tag | LIVE && word & COUNT != COUNT;
            ours.then_some(word + ONE)
        };
        self.words[at].fetch_update(Acquire, Relaxed, more).is_ok()
    }

    /// Gives a count back.
    pub fn release(&self, at: usize) {
        if let Some(word) = self.words.get(at) {
            let before = word.fetch_sub(ONE, AcqRel);
            debug_assert!(before & KIND == LIVE && before & COUNT != 0, "released once too often");
        }
    }

    /// Takes back places that no flow names: frees those whose grace is over, and while more than
    /// half are in use retires the idle ones. For control, every few seconds.
    pub fn reclaim(&self, retired: &mut Retired, now: Tick) {
        retired.waiting.retain(|&(at, since)| {
            let keep = now.since(since) < GRACE_TICKS;
            if !keep {
                self.words[at].store(FREE, Release);
            }
            keep
        });
        if self.used() - retired.waiting.len() <= self.len() / 2 {
            return;
        }
        for (at, word) in self.words.iter().enumerate() {
            let seen = word.load(Relaxed);
            let idle = seen & KIND == LIVE && seen & COUNT == 0;
            if idle && word.compare_exchange(seen, RETIRED, AcqRel, Relaxed).is_ok() {
                retired.waiting.push((at, now));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// Places with what stands in them.
    struct Bench(Destinations, RefCell<Vec<u32>>);

    impl Bench {
        fn new(places: usize) -> Self {
            Self(Destinations::new(places), RefCell::new(vec![0; places]))
        }

        /// Takes the place of `what`, all of which have one hash.
        fn take(&self, what: u32) -> Option<usize> {
            let hash = 7 << 32 | 5;
            let same = |at: usize| self.1.borrow()[at] == what;
            self.0.take(hash, same, |at| self.1.borrow_mut()[at] = what)
        }
    }

    #[test]
    fn a_destination_has_one_place_while_somebody_names_it() {
        let bench = Bench::new(8);
        let place = bench.take(1).unwrap();
        assert_eq!(bench.take(1), Some(place));
        let other = bench.take(2).unwrap();
        assert_ne!(other, place);
        bench.0.release(place);
        bench.0.release(place);
        assert_eq!(bench.take(1), Some(place), "idle places are used again");
        assert_eq!(bench.0.used(), 2);
    }

    #[test]
    fn a_full_window_refuses_and_idle_places_come_back_after_their_grace() {
        let bench = Bench::new(4);
        let places: Vec<_> = (1..=4).map(|what| bench.take(what).unwrap()).collect();
        assert_eq!(bench.take(5), None);
        let mut retired = Retired::default();
        bench.0.release(places[2]);
        bench.0.reclaim(&mut retired, Tick(1000));
        assert_eq!(bench.take(3), None, "it is retired");
        bench.0.reclaim(&mut retired, Tick(1000 + GRACE_TICKS - 1));
        assert_eq!(bench.take(5), None, "its grace is not over");
        bench.0.reclaim(&mut retired, Tick(1000 + GRACE_TICKS));
        assert_eq!(bench.take(5), Some(places[2]));
    }

    #[test]
    fn idle_places_are_kept_while_there_is_room() {
        let bench = Bench::new(8);
        let place = bench.take(1).unwrap();
        bench.0.release(place);
        let mut retired = Retired::default();
        bench.0.reclaim(&mut retired, Tick(0));
        assert_eq!(bench.0.used(), 1);
        assert_eq!(bench.take(1), Some(place));
    }

    #[test]
    fn workers_that_take_and_release_at_once_lose_no_count() {
        let destinations = Destinations::new(64);
        let described: Vec<_> = (0..64).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for worker in 0..4_u64 {
                let (destinations, described) = (&destinations, &described);
                scope.spawn(move || {
                    for round in 0..20_000_u64 {
                        let what = 1 + (round * 7 + worker) % 16;
                        let at = destinations
                            .take(
                                what << 32 | what,
                                |at| described[at].load(Relaxed) == what,
                                |at| described[at].store(what, Relaxed),
                            )
                            .unwrap();
                        assert_eq!(described[at].load(Relaxed), what);
                        destinations.release(at);
                    }
                });
            }
        });
        let left = destinations.words.iter().map(|word| word.load(Relaxed) & COUNT);
        assert_eq!(left.sum::<u64>(), 0);
        assert!(destinations.used() <= 64);
    }
}
