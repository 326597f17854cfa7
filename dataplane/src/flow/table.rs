//! The flow table all workers share: lookups, which never lock and never wait.
//!
//! A lookup comes in stages, so that a burst's cache misses overlap instead of adding up (four to
//! five times, measured: worth more than any choice of table):
//!
//! 1. [`FlowTable::hash`], [`FlowTable::prefetch`] for every packet;
//! 2. [`FlowTable::probe`], then [`FlowTable::probe_again`] where the probe says so;
//! 3. [`FlowTable::find`].
//!
//! A flow found is only good until the worker that found it is next quiescent
//! ([`super::TableWorker::quiesce`]); beyond that, [`FlowId`] names it safely.
//! Sizes are fixed at start and nothing ever moves: no pause, no rehash, and a full table refuses.

use std::{ops::Deref, sync::Arc};

use super::{
    Direction, FlowHash, FlowKey, HashKey, HashKind, Pages, Probe, TableWorker,
    bucket::Word,
    control::Control,
    cpu,
    due::DueMap,
    entry::Entry,
    hash::FlowHasher,
    index::Index,
    layout::{Plan, Storage},
    slots::Depot,
    sync::Ordering::{Acquire, Relaxed},
    view::FlowView,
};
use crate::endpoint::Endpoints;

/// Flows a table can hold at most: slot numbers have 31 bits, and workers need some spare.
pub const CAPACITY_MAX: usize = 1 << 30;

/// Workers at most: each reclaim reads a line of every worker.
pub const WORKERS_MAX: usize = 256;

/// How a table is made.
#[derive(Clone, Debug)]
pub struct TableConfig {
    /// Flows it holds at least, 1 to [`CAPACITY_MAX`].
    pub capacity: usize,
    /// Workers that take part, 1 to [`WORKERS_MAX`]. Control has a place beside them.
    pub workers: usize,
    /// Half-open flows it keeps, shared out evenly among workers; the oldest beyond are given up.
    pub half_open: usize,
    /// The secret of the hash.
    pub hash_key: HashKey,
    /// The pages to ask for.
    pub pages: Pages,
}

impl TableConfig {
    /// A table for `capacity` flows of which an eighth may be half-open.
    #[must_use]
    pub const fn new(capacity: usize, workers: usize, hash_key: HashKey) -> Self {
        let half_open = capacity.div_ceil(8);
        Self { capacity, workers, half_open, hash_key, pages: Pages::Reserved }
    }
}

/// Why there is no table, or no worker of it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TableError {
    /// The capacity is out of range.
    #[error("a flow table holds 1 to {CAPACITY_MAX} flows, not {0}")]
    Capacity(usize),
    /// The number of workers is out of range.
    #[error("a flow table has 1 to {WORKERS_MAX} workers, not {0}")]
    Workers(usize),
    /// There is no such worker.
    #[error("the flow table has no worker {0}")]
    NoSuchWorker(usize),
    /// The worker's place is taken.
    #[error("worker {0} of the flow table is in use")]
    WorkerTaken(usize),
    /// There is not enough memory.
    #[error("cannot map {octets} octets for the flow table")]
    Map {
        /// What was asked for.
        octets: usize,
        /// What mmap said.
        source: rustix::io::Errno,
    },
}

/// What a table costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memory {
    /// Octets in all, mapped and touched at start.
    pub octets: usize,
    /// The pages the mapping is in.
    pub pages: Pages,
    /// Octets for each flow at capacity.
    pub per_flow: f64,
}

/// Names one life of a slot: stays safe to use after the flow is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId {
    /// Which entry.
    pub slot: u32,
    /// Which life of it.
    pub generation: u32,
}

/// A flow that was found, good until the worker that found it is next quiescent.
#[derive(Clone, Copy, Debug)]
pub struct FlowRef<'t> {
    pub(super) entry: &'t Entry,
    pub(super) id: FlowId,
}

impl FlowRef<'_> {
    /// Its name.
    #[inline]
    #[must_use]
    pub const fn id(self) -> FlowId {
        self.id
    }

    /// Whether it still lives.
    #[inline]
    #[must_use]
    pub fn is_live(self) -> bool {
        let control = self.entry.control();
        control.is_live() && control.generation() == self.id.generation
    }
}

impl Deref for FlowRef<'_> {
    type Target = Entry;

    #[inline]
    fn deref(&self) -> &Entry {
        self.entry
    }
}

/// The flow table.
#[derive(Debug)]
pub struct FlowTable {
    pub(super) storage: Storage,
    pub(super) plan: Plan,
    pub(super) hasher: FlowHasher,
    /// Half-open flows of one worker.
    pub(super) half_open: usize,
}

impl FlowTable {
    /// Makes an empty table and touches all its memory.
    ///
    /// # Errors
    ///
    /// If a size is out of range or the memory cannot be had.
    pub fn new(config: &TableConfig) -> Result<Self, TableError> {
        let &TableConfig { capacity, workers, half_open, hash_key, pages } = config;
        if !(1..=CAPACITY_MAX).contains(&capacity) {
            return Err(TableError::Capacity(capacity));
        }
        if !(1..=WORKERS_MAX).contains(&workers) {
            return Err(TableError::Workers(workers));
        }
        let plan = Plan::new(capacity, workers + 1);
        let hasher = FlowHasher::new(&hash_key);
        let storage = Storage::new(plan, pages, &hash_key, hasher.kind())
            .map_err(|source| TableError::Map { octets: plan.octets(), source })?;
        Ok(Self { storage, plan, hasher, half_open: half_open.div_ceil(workers) })
    }

    /// Takes the place of worker `id`, online.
    ///
    /// # Errors
    ///
    /// If there is no such place or another has it.
    pub fn worker(self: &Arc<Self>, id: usize) -> Result<TableWorker, TableError> {
        if id >= self.workers() {
            return Err(TableError::NoSuchWorker(id));
        }
        TableWorker::new(Arc::clone(self), id, self.half_open)
    }

    /// Takes the place of control, online: to end flows, or to move some. It begins no half-open
    /// ones.
    ///
    /// # Errors
    ///
    /// If another has it.
    pub fn control(self: &Arc<Self>) -> Result<TableWorker, TableError> {
        TableWorker::new(Arc::clone(self), self.workers(), 0)
    }

    /// Flows it holds at least.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.plan.capacity
    }

    /// Workers it has places for.
    #[must_use]
    pub const fn workers(&self) -> usize {
        self.plan.workers - 1
    }

    /// The highest slot that was ever given out; slots begin with 1.
    #[must_use]
    pub fn highest_slot(&self) -> u32 {
        let used = self.storage.header().used.0.load(Acquire);
        u32::try_from(used).unwrap_or(u32::MAX)
    }

    /// Flows in it, exact while no worker inserts or removes.
    #[must_use]
    pub fn len(&self) -> usize {
        let lines = self.storage.lines();
        let ended: u64 = lines.iter().map(|line| line.ended.load(Relaxed)).sum();
        let begun: u64 = lines.iter().map(|line| line.begun.load(Relaxed)).sum();
        usize::try_from(begun.saturating_sub(ended)).unwrap_or(usize::MAX)
    }

    /// Whether it holds no flow.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it costs.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a report")]
    pub fn memory(&self) -> Memory {
        let (mapped, pages) = self.storage.mapped();
        let octets = mapped + self.workers() * TableWorker::octets(self.half_open);
        Memory { octets, pages, per_flow: octets as f64 / self.plan.capacity as f64 }
    }

    /// Which hash this CPU gave.
    #[must_use]
    pub const fn hash_kind(&self) -> HashKind {
        self.hasher.kind()
    }

    #[inline]
    pub(super) fn index(&self) -> Index<'_> {
        self.storage.index()
    }

    #[inline]
    pub(super) fn due(&self) -> DueMap<'_> {
        DueMap { map: self.storage.due(), pass: &self.storage.header().pass.0 }
    }

    pub(super) fn depot(&self) -> Depot<'_> {
        let slots = self.plan.slots;
        Depot { header: self.storage.header(), entries: self.storage.entries(), slots }
    }

    #[inline]
    pub(super) fn entry(&self, slot: u32) -> &Entry {
        &self.storage.entries()[slot as usize]
    }

    /// Stage 1: where a packet's flow belongs.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: &FlowKey) -> FlowHash {
        self.hasher.hash(key)
    }

    /// Stage 1: fetches the bucket.
    #[inline]
    pub fn prefetch(&self, hash: FlowHash) {
        let _fetched = self.index().prefetch(hash);
    }

    /// Fetches the bucket that an insert writes first.
    #[inline]
    pub fn prefetch_write(&self, hash: FlowHash) {
        self.index().prefetch_write(hash);
    }

    /// Stage 2: looks at the bucket and fetches the entry it names, or the other bucket.
    #[inline]
    #[must_use]
    pub fn probe(&self, hash: FlowHash) -> Probe {
        let index = self.index();
        self.prefetch_entry(index.probe(hash, index.bucket(hash)))
    }

    /// Stage 2, only where [`Probe::needs_alternate`]: looks at the other bucket.
    #[inline]
    #[must_use]
    pub fn probe_again(&self, hash: FlowHash) -> Probe {
        self.prefetch_entry(self.index().probe_again(hash))
    }

    #[inline]
    fn prefetch_entry(&self, probe: Probe) -> Probe {
        if let Some(word) = probe.word() {
            cpu::prefetch_write(self.entry(word.slot()));
        }
        probe
    }

    /// Stage 3: the flow a packet belongs to, if it is the one the probe found or was there then.
    ///
    /// `None` may be outdated: who inserts looks again with [`FlowTable::lookup`] first, because an
    /// earlier packet of the burst may have begun the flow.
    #[inline(always)]
    #[must_use]
    pub fn find(
        &self,
        key: &FlowKey,
        hash: FlowHash,
        probe: Probe,
        endpoints: &Endpoints,
    ) -> Option<(FlowRef<'_>, Direction)> {
        if probe.is_miss() {
            return None;
        }
        let found = probe.word().and_then(|word| self.verify(word, key, endpoints));
        // Another flow with this tag, or a flow that ended meanwhile.
        if found.is_some() { found } else { self.search(key, hash, endpoints) }
    }

    /// All stages at once: for cold paths.
    #[must_use]
    pub fn lookup(&self, key: &FlowKey, endpoints: &Endpoints) -> Option<(FlowRef<'_>, Direction)> {
        self.search(key, self.hash(key), endpoints)
    }

    /// Looks at every word with the right tag.
    #[inline(never)]
    pub(super) fn search(
        &self,
        key: &FlowKey,
        hash: FlowHash,
        endpoints: &Endpoints,
    ) -> Option<(FlowRef<'_>, Direction)> {
        self.index().find(hash, |word| self.verify(word, key, endpoints))
    }

    #[inline(always)]
    fn verify(
        &self,
        word: Word,
        key: &FlowKey,
        endpoints: &Endpoints,
    ) -> Option<(FlowRef<'_>, Direction)> {
        let (slot, direction) = (word.slot(), word.direction());
        let entry = self.entry(slot);
        let control = entry.matches(key, direction, endpoints)?;
        Some((self.flow(slot, control), direction))
    }

    #[inline]
    pub(super) fn flow(&self, slot: u32, control: Control) -> FlowRef<'_> {
        let id = FlowId { slot, generation: control.generation() };
        FlowRef { entry: self.entry(slot), id }
    }

    /// The flow that lives in this slot now, if one does.
    #[must_use]
    pub fn at(&self, slot: u32) -> Option<FlowRef<'_>> {
        let entry = self.storage.entries().get(slot as usize)?;
        let control = entry.control();
        control.is_announced().then(|| self.flow(slot, control))
    }

    /// The flow of this name, if it still lives.
    #[must_use]
    pub fn get(&self, id: FlowId) -> Option<FlowRef<'_>> {
        let entry = self.storage.entries().get(id.slot as usize)?;
        let control = entry.control();
        let lives = control.is_announced() && control.generation() == id.generation;
        lives.then_some(FlowRef { entry, id })
    }

    /// The flows whose slots are `from` or greater, in the order of slots, each as it was at one
    /// moment. For control, from any thread, in portions if it likes.
    pub fn flows(&self, from: u32) -> impl Iterator<Item = FlowView> {
        let end = self.highest_slot().saturating_add(1);
        (from.max(1)..end).filter_map(|slot| FlowView::of(self.entry(slot), slot))
    }
}
