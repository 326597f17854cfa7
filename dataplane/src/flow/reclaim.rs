//! When a dead flow's slot may be used again: after every worker has been quiescent.
//!
//! A worker may hold the slot number of a flow that another one ends: it read the index a moment
//! ago. So a freed slot waits in its worker's limbo until every worker either finished the burst
//! it was in or is offline; only then can nobody hold its number any more. Each worker says so by
//! one store to a line of its own per burst, followed by a full fence: without the fence the next
//! burst's first loads could overtake the store, and the worker would seem past a burst that in
//! truth had begun. Generations alone do not do: a worker that removes a flow it found before the
//! slot's next life damages the index (11 wrong words in 92 million packets, measured).
//! Source: McKenney, Slingwine, "Read-copy update", 1998; Hart et al., "Performance of memory
//! reclamation for lockless synchronization", 2007 (QSBR).

use super::sync::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
    fence,
};

/// Slots a limbo holds. At five million ended flows a second that is 13 ms of another worker
/// not getting on; beyond it a slot waits for the next sweep instead, see [`super::worker`].
const LIMBO: usize = if cfg!(loom) { 4 } else { 1 << 16 };

/// What one worker tells the others. Written by its worker alone, but for `taken`.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(super) struct Line {
    /// Grows with every burst; odd while online. Zero: never been online.
    ///
    /// Release: what the worker read in the burst it ends happened before. Acquire on the other
    /// side. The fences of [`Line::pass`] and [`Limbo::reclaim`] do the rest.
    epoch: AtomicU64,
    /// 1 while some [`super::TableWorker`] writes this line.
    taken: AtomicU32,
    /// Flows begun and ended here, ever.
    pub(super) begun: AtomicU64,
    pub(super) ended: AtomicU64,
}

impl Line {
    /// Takes the line for one worker; whether it was free.
    pub(super) fn take(&self) -> bool {
        self.taken.compare_exchange(0, 1, Acquire, Relaxed).is_ok()
    }

    /// Gives the line back.
    pub(super) fn give_back(&self) {
        self.offline();
        self.taken.store(0, Release);
    }

    /// Ends a burst; online stays online, offline stays offline.
    #[inline]
    pub(super) fn pass(&self) {
        self.advance(2);
    }

    /// Takes part again.
    pub(super) fn online(&self) {
        self.advance(1 + (self.epoch.load(Relaxed) & 1));
    }

    /// Says that no slot number is held until [`Line::online`].
    pub(super) fn offline(&self) {
        self.advance(1 + (!self.epoch.load(Relaxed) & 1));
    }

    #[inline]
    fn advance(&self, by: u64) {
        self.epoch.store(self.epoch.load(Relaxed) + by, Release);
        fence(SeqCst);
    }

    /// Adds one to a counter of this worker.
    #[inline]
    pub(super) fn add(counter: &AtomicU64) {
        counter.store(counter.load(Relaxed) + 1, Relaxed);
    }
}

/// Slots that wait, oldest first: those whose wait began with the snapshot, then those that came
/// later and begin theirs when the former are done.
#[derive(Debug)]
pub(super) struct Limbo {
    ring: Box<[u32]>,
    /// Oldest slot; counts up, its place is the remainder.
    first: usize,
    /// First slot that is not covered by the snapshot.
    open: usize,
    /// Behind the newest slot.
    end: usize,
    /// The epochs of all workers when the wait of `first..open` began.
    snapshot: Box<[u64]>,
}

impl Limbo {
    /// An empty limbo of one among `workers` workers.
    pub(super) fn new(workers: usize) -> Self {
        let (ring, snapshot) = (vec![0; LIMBO].into(), vec![0; workers].into());
        Self { ring, first: 0, open: 0, end: 0, snapshot }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.first == self.end
    }

    /// Takes a slot whose words are out of the index; gives it back if there is no room.
    pub(super) fn push(&mut self, slot: u32) -> Result<(), u32> {
        if self.end - self.first == LIMBO {
            return Err(slot);
        }
        self.ring[self.end % LIMBO] = slot;
        self.end += 1;
        Ok(())
    }

    /// Gives `free` the slots whose wait is over, then starts the wait of the others.
    ///
    /// To be called right behind [`Line::pass`], whose fence also orders the removals before the
    /// snapshot taken here.
    pub(super) fn reclaim(&mut self, lines: &[Line], mut free: impl FnMut(u32)) {
        if self.first != self.open {
            let waiting = lines.iter().zip(&self.snapshot).any(|(line, &then)| {
                // Offline then: it held nothing, and sees the removals when it comes back.
                then & 1 == 1 && line.epoch.load(Acquire) == then
            });
            if waiting {
                return;
            }
            while self.first != self.open {
                free(self.ring[self.first % LIMBO]);
                self.first += 1;
            }
        }
        if self.open != self.end {
            for (then, line) in self.snapshot.iter_mut().zip(lines) {
                *then = line.epoch.load(Acquire);
            }
            self.open = self.end;
        }
    }

    /// Takes out any one slot, wait or no wait: for who passes them on.
    pub(super) fn pop(&mut self) -> Option<u32> {
        if self.is_empty() {
            return None;
        }
        self.end -= 1;
        self.open = self.open.min(self.end);
        Some(self.ring[self.end % LIMBO])
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn freed(limbo: &mut Limbo, lines: &[Line]) -> Vec<u32> {
        let mut slots = Vec::new();
        limbo.reclaim(lines, |slot| slots.push(slot));
        slots
    }

    #[test]
    fn a_slot_waits_for_every_worker_that_is_online() {
        let lines = [Line::default(), Line::default(), Line::default()];
        lines[0].online();
        lines[1].online();
        let mut limbo = Limbo::new(3);
        limbo.push(7).unwrap();
        lines[0].pass();
        assert!(freed(&mut limbo, &lines).is_empty(), "the wait only begins");
        lines[0].pass();
        assert!(freed(&mut limbo, &lines).is_empty(), "worker 1 is still in its burst");
        limbo.push(8).unwrap();
        lines[1].pass();
        assert_eq!(freed(&mut limbo, &lines), [7]);
        lines[0].pass();
        assert!(freed(&mut limbo, &lines).is_empty(), "8 began its wait later");
        lines[1].offline();
        assert_eq!(freed(&mut limbo, &lines), [8], "a sleeping worker holds nothing");
        assert!(limbo.is_empty());
    }

    #[test]
    fn going_offline_and_online_counts_as_passing_and_neither_is_lost_by_repetition() {
        let line = Line::default();
        let epoch = || line.epoch.load(Relaxed);
        line.offline();
        assert_eq!(epoch() & 1, 0);
        line.online();
        let first = epoch();
        line.online();
        assert_eq!(epoch() & 1, 1);
        line.offline();
        line.offline();
        assert_eq!(epoch() & 1, 0);
        line.online();
        assert!(epoch() & 1 == 1 && epoch() > first);
    }

    #[test]
    fn a_full_limbo_hands_the_slot_back() {
        let mut limbo = Limbo::new(1);
        let slots = u32::try_from(LIMBO).unwrap();
        assert!((0..slots).all(|slot| limbo.push(slot).is_ok()));
        assert_eq!(limbo.push(slots), Err(slots));
        assert_eq!(limbo.pop(), Some(slots - 1));
        assert_eq!(limbo.push(slots), Ok(()));
    }
}
