//! The index: from a flow's hash to the entries it may be in.
//!
//! Each direction of a flow has one word, in its primary bucket (chosen by the upper half of the
//! hash) or in its alternate (primary plus an offset derived from the tag). The tag's lowest bit
//! says which, so that a word found in a bucket tells by itself where else it may go.
//!
//! Rules:
//! - Readers never lock. They look at the primary, then at the meta word, then, if any word of the
//!   primary lives elsewhere, at the alternate. A word on the move is counted, then copied, then
//!   overwritten, so a reader that no longer sees it in the primary sees the count and the copy.
//! - A word is written and removed under the lock of its primary, wherever it lies. A free cell is
//!   claimed by compare-and-swap, because holders of different locks meet in alternates.
//! - If both buckets are full, one word is moved from its primary to its alternate; one level deep.
//!   At load 0.5 no insert fails that way (without it 0.24 % do), at 0.8 some 3 in 100 000.
//! - At most two locks are held at once, the second only if it is free at once: no deadlock.
//!
//! Source: Fan, Andersen, Kaminsky, "MemC3", NSDI 2013 (tags and partial-key alternates);
//! Mitzenmacher, "The power of two choices in randomized load balancing", 1996.

use super::{
    Direction,
    bucket::{AT_HOME, Bucket, CELLS, ELSEWHERE, LOCKED, TAG, Word, home_tag},
    cpu,
    hash::FlowHash,
    sync::{
        Ordering::{Acquire, Relaxed, Release},
        pause,
    },
};

/// What the first look at the index found: the work between two stages of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probe(u64);

impl Probe {
    /// Nothing carries the tag: the flow was in neither bucket.
    pub(super) const MISS: Self = Self(0);
    const ALTERNATE: Self = Self(1 << 62);
    const HIT: u64 = 1 << 63;

    /// Whether the alternate bucket must be looked at.
    #[inline]
    #[must_use]
    pub const fn needs_alternate(self) -> bool {
        self.0 & Self::ALTERNATE.0 != 0
    }

    /// Whether the flow was certainly not there.
    #[inline]
    #[must_use]
    pub const fn is_miss(self) -> bool {
        self.0 == 0
    }

    /// Whether a word carries the tag.
    #[inline]
    #[must_use]
    pub const fn is_hit(self) -> bool {
        self.0 & Self::HIT != 0
    }

    /// The direction that the word with the tag names its entry for.
    #[inline]
    #[must_use]
    pub const fn direction(self) -> Direction {
        if self.0 & 1 == 0 { Direction::ToReal } else { Direction::ToClient }
    }

    /// The word that carries the tag; only its lower half is known.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is the word's")]
    pub(super) const fn word(self) -> Option<Word> {
        if self.0 & Self::HIT != 0 { Some(Word::from_low(self.0 as u32)) } else { None }
    }
}

/// No room for a word, even after moving another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

/// Where a word went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    /// Into its primary.
    Home,
    /// Into its alternate.
    Away,
    /// Into the cell of a word that made room.
    Displaced,
}

/// The index: all its buckets, at least two.
#[derive(Clone, Copy, Debug)]
pub(super) struct Index<'t>(pub(super) &'t [Bucket]);

impl<'t> Index<'t> {
    #[inline]
    pub(super) fn primary(self, hash: FlowHash) -> usize {
        scale(hash.0 >> 32, self.0.len())
    }

    #[inline]
    fn alternate(self, primary: usize, tag: u32) -> usize {
        alternate(primary, tag, self.0.len())
    }

    /// The bucket a lookup reads first.
    #[inline]
    pub(super) fn bucket(self, hash: FlowHash) -> &'t Bucket {
        &self.0[self.primary(hash)]
    }

    /// Fetches it.
    #[inline]
    pub(super) fn prefetch(self, hash: FlowHash) -> &'t Bucket {
        let bucket = self.bucket(hash);
        cpu::prefetch(bucket);
        bucket
    }

    /// Fetches the bucket an insert or a removal locks.
    #[inline]
    pub(super) fn prefetch_write(self, hash: FlowHash) {
        cpu::prefetch_write(&self.0[self.primary(hash)]);
    }

    /// Looks at the primary, which is `bucket`.
    #[inline]
    pub(super) fn probe(self, hash: FlowHash, bucket: &Bucket) -> Probe {
        let tag = home_tag(hash);
        let hits = cpu::tags_equal(bucket, tag);
        if hits != 0 {
            return hit(bucket, hits);
        }
        if bucket.meta().load(Acquire) < ELSEWHERE {
            return Probe::MISS;
        }
        cpu::prefetch(&self.0[self.alternate(self.primary(hash), tag)]);
        Probe::ALTERNATE
    }

    /// Looks at the alternate.
    #[inline]
    pub(super) fn probe_again(self, hash: FlowHash) -> Probe {
        let tag = home_tag(hash);
        let bucket = &self.0[self.alternate(self.primary(hash), tag)];
        let hits = cpu::tags_equal(bucket, tag & !AT_HOME);
        if hits != 0 { hit(bucket, hits) } else { Probe::MISS }
    }

    /// The first answer of `check` for a word of `hash`, wherever it lies.
    pub(super) fn find<R>(
        self,
        hash: FlowHash,
        mut check: impl FnMut(Word) -> Option<R>,
    ) -> Option<R> {
        let primary = self.primary(hash);
        let tag = home_tag(hash);
        let mut scan = |bucket: &Bucket, tag| {
            let mut hits = cpu::tags_equal(bucket, tag);
            while hits != 0 {
                let word = Word(bucket.0[hits.trailing_zeros() as usize].load(Acquire));
                if let Some(answer) = check(word) {
                    return Some(answer);
                }
                hits &= hits - 1;
            }
            None
        };
        let bucket = &self.0[primary];
        scan(bucket, tag).or_else(|| {
            let elsewhere = bucket.meta().load(Acquire) >= ELSEWHERE;
            let alternate = || &self.0[self.alternate(primary, tag)];
            elsewhere.then(alternate).and_then(|bucket| scan(bucket, tag & !AT_HOME))
        })
    }

    /// Locks the primary of `hash`: the only way to words of it.
    pub(super) fn lock(self, hash: FlowHash) -> Locked<'t> {
        let primary = self.primary(hash);
        let mut turn = 0;
        loop {
            if let Some(locked) = self.try_lock(primary) {
                return locked;
            }
            pause(turn);
            turn += 1;
        }
    }

    fn try_lock(self, primary: usize) -> Option<Locked<'t>> {
        let meta = self.0[primary].meta();
        let seen = meta.load(Relaxed);
        let free = seen & LOCKED == 0
            && meta.compare_exchange(seen, seen | LOCKED, Acquire, Relaxed).is_ok();
        // Not `then_some`: a guard made in vain would unlock what another holds.
        free.then(|| Locked { index: self, primary, meta: seen | LOCKED })
    }

    /// The primary of a word that lies in bucket `place`.
    pub(super) fn home(self, place: usize, word: Word) -> usize {
        // The alternate is the primary plus an offset that only the tag decides.
        let offset = alternate(0, word.tag(), self.0.len());
        if word.is_at_home() { place } else { (place + self.0.len() - offset) % self.0.len() }
    }

    /// Every word there is, for checks of a table at rest: bucket and word.
    pub(super) fn words(self) -> impl Iterator<Item = (usize, Word)> {
        self.0.iter().enumerate().flat_map(|(place, bucket)| {
            let words = bucket.cells().iter().map(|cell| Word(cell.load(Relaxed)));
            words.filter(|word| word.0 != 0).map(move |word| (place, word))
        })
    }
}

#[inline]
fn hit(bucket: &Bucket, hits: u32) -> Probe {
    let word = Word(bucket.0[hits.trailing_zeros() as usize].load(Acquire));
    Probe(Probe::HIT | u64::from(word.low()))
}

/// The alternate of a word with this tag and primary among `count` buckets; never the primary.
#[inline]
pub(super) const fn alternate(primary: usize, tag: u32, count: usize) -> usize {
    // The tag's fixed bits must not matter; the multiplier is 2^64 / golden ratio, odd.
    let spread = ((tag & !(TAG | AT_HOME)) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let place = primary + 1 + scale(spread, count - 1);
    if place >= count { place - count } else { place }
}

/// Maps 32 random bits onto `0..count`: Lemire, "Fast random integer generation", 2019.
#[inline]
const fn scale(bits: u64, count: usize) -> usize {
    ((bits * count as u64) >> 32) as usize
}

/// A bucket whose words may be written; unlocks when dropped.
#[derive(Debug)]
pub(super) struct Locked<'t> {
    index: Index<'t>,
    primary: usize,
    /// The meta word as it was last written or read: nobody else writes it.
    meta: u64,
}

impl Locked<'_> {
    fn bucket(&self) -> &Bucket {
        &self.index.0[self.primary]
    }

    fn alternate(&self, word: Word) -> &Bucket {
        &self.index.0[self.index.alternate(self.primary, word.tag())]
    }

    /// Changes the number of words elsewhere, before they go or after they went.
    fn count_elsewhere(&mut self, meta: u64) {
        self.meta = meta;
        self.bucket().meta().store(meta, Release);
    }

    /// Publishes `word`, which belongs here.
    pub(super) fn insert(&mut self, word: Word) -> Result<Placed, NoRoom> {
        if self.bucket().claim(word) {
            return Ok(Placed::Home);
        }
        self.insert_when_full(word)
    }

    #[cold]
    #[inline(never)]
    fn insert_when_full(&mut self, word: Word) -> Result<Placed, NoRoom> {
        if self.send_away(word) {
            return Ok(Placed::Away);
        }
        if self.displace(word) {
            return Ok(Placed::Displaced);
        }
        // The words at home in our alternate are the other ones that can make room.
        let alternate = self.index.alternate(self.primary, word.tag());
        self.count_elsewhere(self.meta + ELSEWHERE);
        let other = self.index.try_lock(alternate);
        if other.is_some_and(|mut other| other.displace(word.away())) {
            return Ok(Placed::Displaced);
        }
        self.count_elsewhere(self.meta - ELSEWHERE);
        Err(NoRoom)
    }

    /// Publishes a word that belongs here in its alternate; whether there was a free cell.
    fn send_away(&mut self, word: Word) -> bool {
        self.count_elsewhere(self.meta + ELSEWHERE);
        let sent = self.alternate(word).claim(word.away());
        if !sent {
            self.count_elsewhere(self.meta - ELSEWHERE);
        }
        sent
    }

    /// Moves one word that is at home here to its alternate and gives its cell to `word`.
    fn displace(&mut self, word: Word) -> bool {
        for cell in 0..CELLS {
            let victim = Word(self.bucket().0[cell].load(Relaxed));
            // A cell with another bucket's word may change under us; one with ours may not.
            if victim.is_at_home() && self.send_away(victim) {
                self.bucket().0[cell].store(word.0, Release);
                return true;
            }
        }
        false
    }

    /// Removes `word`, which belongs here; whether it was there.
    pub(super) fn remove(&mut self, word: Word) -> bool {
        if let Some(cell) = self.bucket().cell_of(word) {
            cell.store(0, Release);
            return true;
        }
        if self.meta < ELSEWHERE {
            return false;
        }
        let Some(cell) = self.alternate(word).cell_of(word.away()) else { return false };
        cell.store(0, Release);
        self.count_elsewhere(self.meta - ELSEWHERE);
        true
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.bucket().meta().store(self.meta & !LOCKED, Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{flow::Direction, rng::Rng};

    fn buckets(count: usize) -> Vec<Bucket> {
        (0..count).map(|_| Bucket::default()).collect()
    }

    /// A hash whose primary is `primary` of `count` buckets, with this tag.
    fn hash(primary: usize, count: usize, tag: u32) -> FlowHash {
        let high = ((primary as u64 * 2 + 1) << 31) / count as u64;
        let hash = FlowHash(high << 32 | u64::from(tag) << 1);
        assert_eq!(scale(hash.0 >> 32, count), primary);
        hash
    }

    #[test]
    fn meta_words_reading_as_locked_do_not_count_as_elsewhere() {
        const { assert!(LOCKED < ELSEWHERE) };
        let buckets = buckets(4);
        let index = Index(&buckets);
        let hash = hash(1, 4, 5);
        let _locked = index.lock(hash);
        assert_eq!(index.probe(hash, index.bucket(hash)), Probe::MISS);
    }

    #[test]
    fn a_full_bucket_sends_words_away_and_takes_them_back_when_asked_to_remove() {
        let buckets = buckets(8);
        let index = Index(&buckets);
        let words: Vec<_> = (0..9).map(|n| (hash(3, 8, 100 + n), n + 1)).collect();
        for &(hash, slot) in &words {
            let placed = index.lock(hash).insert(Word::new(hash, slot, Direction::ToReal));
            let expected = if slot <= 7 { Placed::Home } else { Placed::Away };
            assert_eq!(placed, Ok(expected));
        }
        for &(hash, slot) in &words {
            let mut probe = index.probe(hash, index.bucket(hash));
            assert_eq!(probe.needs_alternate(), slot > 7);
            if probe.needs_alternate() {
                probe = index.probe_again(hash);
            }
            assert_eq!(probe.word().unwrap().slot(), slot);
        }
        for &(hash, slot) in words.iter().rev() {
            let word = Word::new(hash, slot, Direction::ToReal);
            assert!(!index.lock(hash).remove(Word::new(hash, slot, Direction::ToClient)));
            assert!(index.lock(hash).remove(word));
            assert!(!index.lock(hash).remove(word));
            assert_eq!(index.find(hash, Some), None);
        }
        assert_eq!(index.words().count(), 0);
        assert!(buckets.iter().all(|bucket| bucket.meta().load(Relaxed) == 0));
    }

    #[test]
    fn displacement_makes_room_in_either_bucket_and_loses_nobody() {
        let mut displaced = 0;
        for seed in 0..50 {
            let count = 16;
            let buckets = buckets(count);
            let index = Index(&buckets);
            let mut rng = Rng::from_seed(seed);
            let mut inside = Vec::new();
            // Far beyond the load the table runs at: until the first word finds no room.
            for slot in 1.. {
                let hash = FlowHash(rng.next_u64());
                match index.lock(hash).insert(Word::new(hash, slot, Direction::ToReal)) {
                    Ok(placed) => displaced += u32::from(placed == Placed::Displaced),
                    Err(NoRoom) => break,
                }
                inside.push((hash, slot));
            }
            assert!(inside.len() > count * CELLS * 7 / 10, "only {} words", inside.len());
            for &(hash, slot) in &inside {
                let is_it = |word: Word| (word.slot() == slot).then_some(());
                assert_eq!(index.find(hash, is_it), Some(()));
            }
            for &(hash, slot) in &inside {
                assert!(index.lock(hash).remove(Word::new(hash, slot, Direction::ToReal)));
            }
            assert!(buckets.iter().all(|bucket| bucket.meta().load(Relaxed) == 0));
        }
        assert!(displaced > 100, "displacement happened {displaced} times only");
    }

    #[test]
    fn no_word_fails_at_half_load_under_steady_churn() {
        let count = 4096;
        let buckets = buckets(count);
        let index = Index(&buckets);
        let mut rng = Rng::from_seed(11);
        let load = count * CELLS / 2;
        let mut inside = std::collections::VecDeque::new();
        let mut displaced = 0;
        for slot in 1..=1_000_000 {
            if inside.len() == load {
                let (hash, slot) = inside.pop_front().unwrap();
                assert!(index.lock(hash).remove(Word::new(hash, slot, Direction::ToReal)));
            }
            let hash = FlowHash(rng.next_u64());
            let placed = index.lock(hash).insert(Word::new(hash, slot, Direction::ToReal));
            displaced += u32::from(placed.expect("no room") == Placed::Displaced);
            inside.push_back((hash, slot));
        }
        assert!(displaced > 0, "the test never needed displacement");
    }
}
