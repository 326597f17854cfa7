//! Which half-open flows a worker began, oldest first: what is given up when there are too many.
//!
//! Under a flood of new flows most of them never get an answer. Their number is bounded by a
//! quota, beyond which the oldest go first, so that established flows keep their room. A flow that
//! was answered, or ended, stays in the ring until it is among the oldest, where it is recognised
//! and dropped. So the ring counts some that are half-open no more, and the quota is kept on the
//! safe side: flows may be given up when two thirds of it are really half-open.

/// Flows beyond the quota that the ring has room for: those of some bursts, until the worker
/// finds the time to give up as many.
const SLACK: usize = if cfg!(loom) { 2 } else { 256 };

/// A slot and the life of it that was begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// The ring.
#[derive(Debug)]
pub(super) struct HalfOpen {
    ring: Box<[Begun]>,
    /// Oldest; counts up, its place is the remainder.
    first: usize,
    /// Behind the newest.
    end: usize,
    quota: usize,
}

impl HalfOpen {
    pub(super) fn new(quota: usize) -> Self {
        let ring = vec![Begun::default(); quota + SLACK].into();
        Self { ring, first: 0, end: 0, quota }
    }

    const fn len(&self) -> usize {
        self.end - self.first
    }

    pub(super) const fn is_full(&self) -> bool {
        self.len() == self.ring.len()
    }

    /// How many are too many.
    pub(super) const fn excess(&self) -> usize {
        self.len().saturating_sub(self.quota)
    }

    /// How many are too many if `more` are added.
    pub(super) const fn excess_with(&self, more: usize) -> usize {
        (self.len() + more).saturating_sub(self.quota)
    }

    /// Adds the newest; the caller saw that there is room.
    pub(super) fn push(&mut self, begun: Begun) {
        if !self.is_full() {
            let place = self.end % self.ring.len();
            self.ring[place] = begun;
            self.end += 1;
        }
    }

    /// Takes the oldest.
    pub(super) fn pop(&mut self) -> Option<Begun> {
        if self.first == self.end {
            return None;
        }
        let oldest = self.ring[self.first % self.ring.len()];
        self.first += 1;
        Some(oldest)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_leave_first_and_the_excess_is_over_the_quota() {
        let mut ring = HalfOpen::new(2);
        for slot in 0..5 {
            ring.push(Begun { slot, generation: 1 });
        }
        assert_eq!(ring.excess(), 3);
        assert_eq!(ring.pop().map(|begun| begun.slot), Some(0));
        while !ring.is_full() {
            ring.push(Begun::default());
        }
        assert_eq!(ring.excess(), SLACK);
        assert_eq!(ring.pop().map(|begun| begun.slot), Some(1));
    }
}
