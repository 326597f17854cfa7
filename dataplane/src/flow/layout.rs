//! Where everything lies in the table's mapping, and the header that says so.
//!
//! Header, index, entries, due octets, workers' lines: each is found by its offset, so a process
//! that maps the same memory elsewhere finds the same table. The header carries what such a
//! process must know before it may touch anything: magic, layout version, sizes, hash kind and
//! key, ticks per second.

use std::sync::atomic::{AtomicU64 as Constant, Ordering::Relaxed};

use super::{
    bucket::{Bucket, CELLS},
    cpu::DUE_BLOCK,
    entry::Entry,
    hash::{HashKey, HashKind},
    index::Index,
    mapping::Pages,
    reclaim::Line,
    sync::{AtomicU8, AtomicU64},
};
use crate::clock::TICKS_PER_SECOND;

/// "xvsflow" and a zero, little-endian.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"xvsflow\0");

/// Changes with every change of what lies where, in the header or behind it, and of the hash.
pub(super) const VERSION: u64 = 3;

/// Slots beyond the capacity for each worker: those in its magazine and in limbo are of no use to
/// the others meanwhile.
const SLACK_PER_WORKER: usize = if cfg!(loom) { 0 } else { 256 };

/// Index words per flow: one per direction.
const WORDS_PER_FLOW: usize = 2;

/// Index cells per word at capacity: the index is half full then.
const CELLS_PER_WORD: usize = 2;

/// Sizes, and offsets in octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Flows promised.
    pub(super) capacity: usize,
    /// Workers that can take part.
    pub(super) workers: usize,
    /// Entries that may be given out: 1 to this; entry 0 never is.
    pub(super) slots: usize,
    buckets: usize,
    due_blocks: usize,
    index_at: usize,
    entries_at: usize,
    due_at: usize,
    lines_at: usize,
    octets: usize,
}

impl Plan {
    pub(super) const fn new(capacity: usize, workers: usize) -> Self {
        let slots = capacity + workers * SLACK_PER_WORKER;
        let due_blocks = (slots + 1).div_ceil(DUE_BLOCK);
        let cells = capacity * WORDS_PER_FLOW * CELLS_PER_WORD;
        let buckets = if cells <= 2 * CELLS { 2 } else { cells.div_ceil(CELLS) };
        let index_at = size_of::<Header>();
        let entries_at = index_at + buckets * size_of::<Bucket>();
        let due_at = entries_at + due_blocks * DUE_BLOCK * size_of::<Entry>();
        let lines_at = (due_at + due_blocks * DUE_BLOCK).next_multiple_of(align_of::<Line>());
        let octets = lines_at + workers * size_of::<Line>();
        Self {
            capacity,
            workers,
            slots,
            buckets,
            due_blocks,
            index_at,
            entries_at,
            due_at,
            lines_at,
            octets,
        }
    }

    /// Octets in all.
    pub(super) const fn octets(&self) -> usize {
        self.octets
    }
}

/// A shared word on a line of its own.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(super) struct Alone(pub(super) AtomicU64);

/// The start of the mapping.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(super) struct Header {
    magic: Constant,
    version: Constant,
    capacity: Constant,
    workers: Constant,
    ticks_per_second: Constant,
    hash_kind: Constant,
    hash_key: [Constant; 10],
    /// Free slots that no worker holds, see [`super::slots`].
    pub(super) depot: Alone,
    /// Slots given out at least once: 1 to this.
    pub(super) used: Alone,
    /// How far the sweep has come, see [`super::due`].
    pub(super) pass: Alone,
}

impl Header {
    /// Describes a new table.
    fn describe(&self, plan: &Plan, key: &HashKey, kind: HashKind) {
        let set = |place: &Constant, value: usize| place.store(value as u64, Relaxed);
        set(&self.capacity, plan.capacity);
        set(&self.workers, plan.workers);
        set(&self.hash_kind, kind as usize);
        self.ticks_per_second.store(u64::from(TICKS_PER_SECOND), Relaxed);
        for (place, word) in self.hash_key.iter().zip(key.0) {
            place.store(word, Relaxed);
        }
        self.version.store(VERSION, Relaxed);
        self.magic.store(MAGIC, Relaxed);
    }

    /// What the header says of sizes and key, if it is one of this version.
    #[cfg(all(test, not(loom)))]
    #[expect(clippy::cast_possible_truncation, reason = "sizes written as usize")]
    fn read(&self) -> Option<(usize, usize, HashKey)> {
        let get = |place: &Constant| place.load(Relaxed);
        let known = get(&self.magic) == MAGIC
            && get(&self.version) == VERSION
            && get(&self.ticks_per_second) == u64::from(TICKS_PER_SECOND);
        let key = HashKey(std::array::from_fn(|i| get(&self.hash_key[i])));
        known.then(|| (get(&self.capacity) as usize, get(&self.workers) as usize, key))
    }
}

/// The table's memory by its parts.
#[cfg(not(loom))]
#[derive(Debug)]
pub(super) struct Storage {
    region: super::mapping::Region,
    plan: Plan,
}

#[cfg(not(loom))]
impl Storage {
    /// Maps and describes an empty table.
    pub(super) fn new(
        plan: Plan,
        pages: Pages,
        key: &HashKey,
        kind: HashKind,
    ) -> Result<Self, rustix::io::Errno> {
        let region = super::mapping::Region::new(plan.octets, pages)?;
        let storage = Self { region, plan };
        storage.header().describe(&plan, key, kind);
        Ok(storage)
    }

    /// Octets mapped, and in which pages.
    pub(super) const fn mapped(&self) -> (usize, Pages) {
        (self.region.octets(), self.region.pages())
    }

    #[inline]
    pub(super) fn header(&self) -> &Header {
        &self.region.view(0, 1)[0]
    }

    #[inline]
    pub(super) fn index(&self) -> Index<'_> {
        Index(self.region.view(self.plan.index_at, self.plan.buckets))
    }

    #[inline]
    pub(super) fn entries(&self) -> &[Entry] {
        self.region.view(self.plan.entries_at, self.plan.due_blocks * DUE_BLOCK)
    }

    #[inline]
    pub(super) fn due(&self) -> &[[AtomicU8; DUE_BLOCK]] {
        self.region.view(self.plan.due_at, self.plan.due_blocks)
    }

    #[inline]
    pub(super) fn lines(&self) -> &[Line] {
        self.region.view(self.plan.lines_at, self.plan.workers)
    }
}

/// The same for the model checker, whose atomics cannot lie in a mapping.
#[cfg(loom)]
#[derive(Debug)]
pub(super) struct Storage {
    header: Header,
    index: Vec<Bucket>,
    entries: Vec<Entry>,
    due: Vec<[AtomicU8; DUE_BLOCK]>,
    lines: Vec<Line>,
}

#[cfg(loom)]
impl Storage {
    pub(super) fn new(
        plan: Plan,
        _pages: Pages,
        key: &HashKey,
        kind: HashKind,
    ) -> Result<Self, rustix::io::Errno> {
        fn many<T: Default>(count: usize) -> Vec<T> {
            (0..count).map(|_| T::default()).collect()
        }
        let header = Header::default();
        header.describe(&plan, key, kind);
        Ok(Self {
            header,
            index: many(plan.buckets),
            entries: many(plan.due_blocks * DUE_BLOCK),
            due: many(plan.due_blocks),
            lines: many(plan.workers),
        })
    }

    pub(super) const fn mapped(&self) -> (usize, Pages) {
        (0, Pages::Small)
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    pub(super) fn index(&self) -> Index<'_> {
        Index(&self.index)
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn due(&self) -> &[[AtomicU8; DUE_BLOCK]] {
        &self.due
    }

    pub(super) fn lines(&self) -> &[Line] {
        &self.lines
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other_aligned_and_without_overlap() {
        for (capacity, workers) in [(1, 1), (7, 3), (1000, 2), (1_000_000, 64)] {
            let plan = Plan::new(capacity, workers);
            let ends = [
                size_of::<Header>(),
                plan.index_at + plan.buckets * 64,
                plan.entries_at + plan.due_blocks * DUE_BLOCK * 64,
                plan.due_at + plan.due_blocks * DUE_BLOCK,
                plan.lines_at + plan.workers * size_of::<Line>(),
            ];
            let starts = [plan.index_at, plan.entries_at, plan.due_at, plan.lines_at, plan.octets];
            for (end, start) in ends.iter().zip(starts) {
                assert!(*end <= start && start - end < 128, "{plan:?}");
            }
            assert!(plan.slots < plan.due_blocks * DUE_BLOCK);
            assert!(plan.buckets * CELLS >= capacity * 4);
            assert_eq!((size_of::<Bucket>(), size_of::<Entry>()), (64, 64));
        }
    }

    #[test]
    fn a_header_is_believed_only_if_it_is_one() {
        let key = HashKey::from_seed(9);
        let plan = Plan::new(100, 2);
        let header = Header::default();
        assert_eq!(header.read(), None);
        header.describe(&plan, &key, HashKind::Aes);
        assert_eq!(header.read(), Some((100, 2, key)));
        header.version.store(VERSION + 1, Relaxed);
        assert_eq!(header.read(), None);
    }
}
