//! One worker's hand on the flow table: inserts and removals.
//!
//! Rules:
//! - The reply's word goes in before the request's, and both before the flow is announced: a
//!   request that finds the flow can be forwarded at once, its reply will be found.
//! - A request key is in the table once: the request's word is published under the lock of its
//!   bucket, after one more look. Reply keys of different flows may be equal (two virtual services
//!   in front of one real server, one client port): words are removed by slot and not by key.
//! - Whoever turns a flow's control word from live to dead, and nobody else, takes out its words and
//!   settles its counters. The slot waits in limbo until all workers have been quiescent.
//!
//! Methods take `&self`, so that a [`FlowRef`] can be held across them, but
//! [`TableWorker::quiesce`] and its kin take `&mut self`, so that none can be held across those.

use std::{cell::RefCell, sync::Arc};

use super::{
    Direction, FlowHash, FlowKey, FlowRef, FlowTable, NewFlow, TableError,
    bucket::Word,
    control::flag,
    due::Claim,
    half_open::{Begun, HalfOpen},
    index::{NoRoom, Placed},
    reclaim::{Limbo, Line},
    slots::Magazine,
};
use crate::{clock::Tick, endpoint::Endpoints};

/// A new flow's place in the index, looked up ahead: between the two stages of an insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared {
    to_real: FlowHash,
    to_client: Option<FlowHash>,
}

/// What an insert came to.
#[derive(Clone, Copy, Debug)]
pub enum Inserted<'t> {
    /// The flow is in the table.
    New(FlowRef<'t>),
    /// Another worker, or an earlier packet, was faster: this is the flow to use.
    Existing(FlowRef<'t>, Direction),
}

/// Why a flow was not inserted. The table is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InsertError {
    /// Every slot is in use.
    #[error("the flow table is full")]
    Full,
    /// Every slot that the flow's hash allows is in use. At capacity this happens if more than
    /// fourteen flows have one reply key, hardly otherwise.
    #[error("the flow's buckets are full")]
    NoRoom,
    /// Too many half-open flows in one burst, see [`TableWorker::give_up_half_open`].
    #[error("the quota of half-open flows is used up")]
    HalfOpen,
}

/// What a worker did to the table since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableCounters {
    /// Flows inserted.
    pub inserted: u64,
    /// Inserts that found the flow already there.
    pub existing: u64,
    /// Flows removed by [`TableWorker::remove`].
    pub removed: u64,
    /// Flows ended by [`TableWorker::sweep`].
    pub expired: u64,
    /// Half-open flows given up before their time.
    pub given_up: u64,
    /// Flows ended by [`TableWorker::shed`].
    pub shed: u64,
    /// Inserts refused: no slot.
    pub full: u64,
    /// Inserts refused: no room in the index.
    pub no_room: u64,
    /// Inserts refused: too many half-open flows.
    pub half_open: u64,
    /// Index words that went into their alternate bucket.
    pub away: u64,
    /// Index words that another word made room for.
    pub displaced: u64,
    /// Index words that were not where they belong: 0, or the table has been damaged.
    pub lost_words: u64,
}

/// One worker's hand on the table.
#[derive(Debug)]
pub struct TableWorker {
    pub(super) table: Arc<FlowTable>,
    id: usize,
    pub(super) local: RefCell<Local>,
}

/// What belongs to the worker alone. Borrowed for moments only, never across a caller's code.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) magazine: Magazine,
    pub(super) limbo: Limbo,
    pub(super) half_open: HalfOpen,
    pub(super) claim: Option<Claim>,
    /// The time last heard of.
    pub(super) now: Tick,
    /// An insert found no slot since half-open flows were last given up.
    pub(super) found_full: bool,
    pub(super) counters: TableCounters,
}

impl TableWorker {
    /// The hand that has this place, with room for so many half-open flows.
    pub(super) fn new(
        table: Arc<FlowTable>,
        id: usize,
        half_open: usize,
    ) -> Result<Self, TableError> {
        let line = table.storage.lines().get(id).ok_or(TableError::NoSuchWorker(id))?;
        if !line.take() {
            return Err(TableError::WorkerTaken(id));
        }
        line.online();
        let local = Local {
            magazine: Magazine::new(),
            limbo: Limbo::new(table.plan.workers),
            half_open: HalfOpen::new(half_open),
            claim: None,
            now: Tick(0),
            found_full: false,
            counters: TableCounters::default(),
        };
        Ok(Self { table, id, local: RefCell::new(local) })
    }

    /// Octets that grow with the table, beside the mapping.
    pub(super) const fn octets(half_open: usize) -> usize {
        half_open * size_of::<Begun>()
    }

    /// The table: for lookups.
    #[inline]
    #[must_use]
    pub fn table(&self) -> &FlowTable {
        &self.table
    }

    /// Which worker this is.
    #[must_use]
    pub const fn id(&self) -> usize {
        self.id
    }

    /// What it did so far.
    #[must_use]
    pub fn counters(&self) -> TableCounters {
        self.local.borrow().counters
    }

    pub(super) fn line(&self) -> &Line {
        &self.table.storage.lines()[self.id]
    }

    /// First stage of a batch of inserts: makes `count` free slots ready and fetches them.
    pub fn prefetch_slots(&self, count: usize) {
        let due = self.table.due();
        let magazine = &mut self.local.borrow_mut().magazine;
        magazine.prefetch(count, self.table.depot(), |slot| due.prefetch(slot));
    }

    /// First stage of an insert: finds the flow's buckets and fetches them. `to_real` is the hash of the
    /// new flow's key, `reply` the key of its replies, if it has any.
    #[must_use]
    pub fn prepare(&self, to_real: FlowHash, reply: Option<&FlowKey>) -> Prepared {
        let index = self.table.index();
        index.prefetch_write(to_real);
        let to_client = reply.map(|key| {
            let hash = self.table.hash(key);
            index.prefetch_write(hash);
            hash
        });
        Prepared { to_real, to_client }
    }

    /// Both stages at once.
    ///
    /// # Errors
    ///
    /// See [`TableWorker::commit`].
    pub fn insert(
        &self,
        new: &NewFlow,
        endpoints: &Endpoints,
        now: Tick,
    ) -> Result<Inserted<'_>, InsertError> {
        let reply = new.reply_key(endpoints);
        let prepared = self.prepare(self.table.hash(&new.key), reply.as_ref());
        self.commit(new, prepared, endpoints, now)
    }

    /// Inserts the flow, seen at `now`, unless its request key is in the table already.
    ///
    /// # Errors
    ///
    /// If there is no room, or too much of it is taken by half-open flows.
    pub fn commit(
        &self,
        new: &NewFlow,
        prepared: Prepared,
        endpoints: &Endpoints,
        now: Tick,
    ) -> Result<Inserted<'_>, InsertError> {
        self.expect_found(new, prepared, endpoints);
        let slot = self.take_slot(new)?;
        let entry = self.table.entry(slot);
        let flags = new.all_flags_among(endpoints);
        let flow = self.table.flow(slot, entry.begin(new, flags, now));
        // A sweep that comes before the flow is announced leaves this alone and comes again.
        self.table.due().arm(slot, now.plus(new.timeout), now);
        if let Some(hash) = prepared.to_client {
            let placed =
                self.table.index().lock(hash).insert(Word::new(hash, slot, Direction::ToClient));
            if self.count_placed(placed).is_err() {
                entry.withdraw();
                self.table.due().clear(slot);
                self.local.borrow_mut().magazine.put(slot, self.table.depot());
                return Err(InsertError::NoRoom);
            }
        }
        match self.publish(new, flow, prepared.to_real, endpoints) {
            Ok(None) => {}
            Ok(Some((existing, direction))) => {
                self.abandon(flow, prepared);
                self.local.borrow_mut().counters.existing += 1;
                return Ok(Inserted::Existing(existing, direction));
            }
            Err(NoRoom) => {
                self.abandon(flow, prepared);
                return Err(InsertError::NoRoom);
            }
        }
        let mut local = self.local.borrow_mut();
        if new.flags & flag::HALF_OPEN != 0 {
            local.half_open.push(Begun { slot, generation: flow.id().generation });
        }
        local.now = now;
        local.counters.inserted += 1;
        Line::add(&self.line().begun);
        Ok(Inserted::New(flow))
    }

    /// In debug builds: panics if no packet would find this flow.
    fn expect_found(&self, new: &NewFlow, prepared: Prepared, endpoints: &Endpoints) {
        if cfg!(debug_assertions) {
            let service = endpoints.get(new.virt);
            let port = if service.port() == 0 { new.any_port } else { service.port() };
            let named = (new.key.destination, new.key.destination_port);
            assert_eq!((service.addr(), port), named, "another virtual endpoint: {new:?}");
            let to_client = new.reply_key(endpoints).map(|key| self.table.hash(&key));
            let hashes = Prepared { to_real: self.table.hash(&new.key), to_client };
            assert_eq!(prepared, hashes, "prepared for another flow: {new:?}");
        }
    }

    /// A free slot for `new`.
    fn take_slot(&self, new: &NewFlow) -> Result<u32, InsertError> {
        let mut local = self.local.borrow_mut();
        if new.flags & flag::HALF_OPEN != 0 && local.half_open.is_full() {
            local.counters.half_open += 1;
            return Err(InsertError::HalfOpen);
        }
        local.magazine.take(self.table.depot()).ok_or_else(|| {
            local.found_full = true;
            local.counters.full += 1;
            InsertError::Full
        })
    }

    /// Puts the request's word into the index and announces the flow, unless its key is there.
    #[inline]
    fn publish<'t>(
        &'t self,
        new: &NewFlow,
        flow: FlowRef<'t>,
        hash: FlowHash,
        endpoints: &Endpoints,
    ) -> Result<Option<(FlowRef<'t>, Direction)>, NoRoom> {
        let mut locked = self.table.index().lock(hash);
        if let Some(existing) = self.table.search(&new.key, hash, endpoints) {
            return Ok(Some(existing));
        }
        let placed = locked.insert(Word::new(hash, flow.id().slot, Direction::ToReal));
        self.count_placed(placed)?;
        flow.announce();
        Ok(None)
    }

    /// Takes back a flow that was not announced, but whose reply's word was seen by others.
    #[cold]
    fn abandon(&self, flow: FlowRef<'_>, prepared: Prepared) {
        flow.withdraw();
        if let Some(hash) = prepared.to_client {
            self.remove_word(hash, flow.id().slot, Direction::ToClient);
        }
        self.bury(flow.id().slot);
    }

    fn count_placed(&self, placed: Result<Placed, NoRoom>) -> Result<(), NoRoom> {
        if placed == Ok(Placed::Home) {
            return Ok(());
        }
        let counters = &mut self.local.borrow_mut().counters;
        match placed {
            Ok(Placed::Home) => {}
            Ok(Placed::Away) => counters.away += 1,
            Ok(Placed::Displaced) => counters.displaced += 1,
            Err(NoRoom) => counters.no_room += 1,
        }
        placed.map(drop)
    }

    /// Ends the flow; whether this call did so. Who did settles what counts it.
    pub fn remove(&self, flow: FlowRef<'_>, endpoints: &Endpoints) -> bool {
        if flow.end(flow.id().generation).is_none() {
            return false;
        }
        let doomed = self.doom(flow, endpoints);
        self.unlink(doomed);
        self.local.borrow_mut().counters.removed += 1;
        true
    }

    /// First stage of a removal, after the flow was ended: finds its words and fetches them.
    pub(super) fn doom(&self, flow: FlowRef<'_>, endpoints: &Endpoints) -> Doomed {
        let (to_real, to_client) = flow.keys(endpoints);
        let index = self.table.index();
        let fetched = |key| {
            let hash = self.table.hash(&key);
            index.prefetch_write(hash);
            hash
        };
        let (to_real, to_client) = (fetched(to_real), to_client.map(fetched));
        Doomed { slot: flow.id().slot, to_real, to_client }
    }

    /// Second stage: takes out the words; the slot goes into limbo.
    pub(super) fn unlink(&self, doomed: Doomed) {
        self.remove_word(doomed.to_real, doomed.slot, Direction::ToReal);
        if let Some(hash) = doomed.to_client {
            self.remove_word(hash, doomed.slot, Direction::ToClient);
        }
        Line::add(&self.line().ended);
        self.bury(doomed.slot);
    }

    fn remove_word(&self, hash: FlowHash, slot: u32, direction: Direction) {
        let removed = self.table.index().lock(hash).remove(Word::new(hash, slot, direction));
        if !removed {
            self.local.borrow_mut().counters.lost_words += 1;
        }
    }

    /// Puts the slot of a dead flow without words into limbo; if that is full, it is parked: a sweep
    /// finds it within some minutes and takes care of it.
    pub(super) fn bury(&self, slot: u32) {
        let due = self.table.due();
        due.clear(slot);
        let mut local = self.local.borrow_mut();
        if local.limbo.push(slot).is_err() {
            self.table.entry(slot).park();
            due.rearm(slot, local.now, local.now);
        }
    }

    /// The flow's state shortened its time-out: makes sure it is looked at when `timeout` ticks
    /// from `now` have passed. Call it after the change of state.
    pub fn expire_at(&self, flow: FlowRef<'_>, timeout: u32, now: Tick) {
        self.table.due().lower(flow.id().slot, now.plus(timeout), now);
    }

    /// Ends a burst: no flow found in it is used any more, and what others ended may be reused.
    #[inline]
    pub fn quiesce(&mut self) {
        self.line().pass();
        if !self.local.get_mut().limbo.is_empty() {
            self.reclaim();
        }
    }

    /// Says that this worker finds no flows until [`TableWorker::online`]: before it sleeps, so that
    /// the others need not wait for it.
    pub fn offline(&mut self) {
        self.line().offline();
        self.reclaim();
    }

    /// Takes part again.
    pub fn online(&mut self) {
        self.line().online();
    }

    fn reclaim(&mut self) {
        let Local { limbo, magazine, .. } = self.local.get_mut();
        let depot = self.table.depot();
        limbo.reclaim(self.table.storage.lines(), |slot| magazine.put(slot, depot));
    }
}

/// A dead flow whose words are still in the index.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doomed {
    slot: u32,
    to_real: FlowHash,
    to_client: Option<FlowHash>,
}

impl Drop for TableWorker {
    /// Leaves nothing behind: free slots go to the depot, those in limbo wait for another's sweep.
    fn drop(&mut self) {
        let local = self.local.get_mut();
        local.magazine.empty(self.table.depot());
        while let Some(slot) = local.limbo.pop() {
            self.table.entry(slot).park();
            self.table.due().rearm(slot, local.now, local.now);
        }
        self.table.storage.lines()[self.id].give_back();
    }
}
