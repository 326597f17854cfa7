//! A line of the index, and the words in it.
//!
//! | bucket, 64 octets | |
//! | --- | --- |
//! | 7 cells | tag 32, entry slot 31, direction 1; 0 if free |
//! | meta | lock 1, how many words of this bucket live in their alternates 31 |

use super::{
    Direction,
    hash::FlowHash,
    sync::{
        AtomicU64,
        Ordering::{Relaxed, Release},
    },
};

/// Words in a bucket. The model checker gets two, so that it meets full buckets.
pub(super) const CELLS: usize = if cfg!(loom) { 2 } else { 7 };

/// The lock in a bucket's meta word.
pub(super) const LOCKED: u64 = 1;

/// One word elsewhere, in a bucket's meta word. The upper half stays 0: no tag is.
pub(super) const ELSEWHERE: u64 = 2;

/// Set in every tag, so that no word is 0 and no meta word looks like one.
pub(super) const TAG: u32 = 1 << 31;

/// Set in the tag of a word that lies in its primary.
pub(super) const AT_HOME: u32 = 1;

/// One line of the index.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Bucket(pub(super) [AtomicU64; CELLS + 1]);

impl Bucket {
    pub(super) fn cells(&self) -> &[AtomicU64] {
        &self.0[..CELLS]
    }

    pub(super) fn meta(&self) -> &AtomicU64 {
        &self.0[CELLS]
    }

    /// [`cpu::tags_equal`] for every CPU.
    #[cfg(any(test, loom, not(target_arch = "x86_64")))]
    pub(super) fn tags_equal(&self, tag: u32) -> u32 {
        self.cells().iter().rev().fold(0, |hits, cell| {
            hits << 1 | u32::from(Word(cell.load(super::sync::Ordering::Acquire)).tag() == tag)
        })
    }

    /// Writes `word` into a free cell; whether there was one.
    pub(super) fn claim(&self, word: Word) -> bool {
        self.cells().iter().any(|cell| {
            cell.load(Relaxed) == 0 && cell.compare_exchange(0, word.0, Release, Relaxed).is_ok()
        })
    }

    /// The cell that holds `word`.
    pub(super) fn cell_of(&self, word: Word) -> Option<&AtomicU64> {
        self.cells().iter().find(|cell| cell.load(Relaxed) == word.0)
    }
}

/// What a cell holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(pub(super) u64);

#[expect(clippy::cast_possible_truncation, reason = "fields are packed into a word on purpose")]
impl Word {
    /// The word of `hash` in its primary.
    #[inline]
    pub(super) const fn new(hash: FlowHash, slot: u32, direction: Direction) -> Self {
        Self((home_tag(hash) as u64) << 32 | (slot as u64) << 1 | direction as u64)
    }

    #[inline]
    pub(super) const fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The entry it names.
    #[inline]
    pub(super) const fn slot(self) -> u32 {
        self.0 as u32 >> 1
    }

    /// The direction it names it for.
    #[inline]
    pub(super) const fn direction(self) -> Direction {
        if self.0 & 1 == 0 { Direction::ToReal } else { Direction::ToClient }
    }

    /// The lower half: slot and direction.
    #[inline]
    pub(super) const fn low(self) -> u32 {
        self.0 as u32
    }

    /// A word known by its lower half only.
    #[inline]
    pub(super) const fn from_low(low: u32) -> Self {
        Self(low as u64)
    }

    /// The same in its alternate.
    pub(super) const fn away(self) -> Self {
        Self(self.0 & !((AT_HOME as u64) << 32))
    }

    pub(super) const fn is_at_home(self) -> bool {
        self.tag() & AT_HOME != 0
    }
}

/// The tag of a word of `hash` in its primary.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the lower half is the tag")]
pub(super) const fn home_tag(hash: FlowHash) -> u32 {
    hash.0 as u32 | TAG | AT_HOME
}
