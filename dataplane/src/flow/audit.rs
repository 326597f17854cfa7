//! A check of the whole table: does every word name a living flow, and every flow have its words?
//!
//! For tests, and for whoever doubts a table's memory. Not for the packet path: it allocates, and
//! means something only while no worker inserts or removes.

use super::{
    Direction, FlowTable,
    bucket::{ELSEWHERE, Word},
    sync::Ordering::Relaxed,
};
use crate::endpoint::Endpoints;

/// What a check found. A sound table has `flows` as [`FlowTable::len`] says, and no faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Living flows.
    pub flows: usize,
    /// Index words.
    pub words: usize,
    /// Words that name no living flow, or lie where that flow's hash does not lead.
    pub stray_words: usize,
    /// Words beyond one for each direction of a flow.
    pub double_words: usize,
    /// Directions of flows without a word.
    pub missing_words: usize,
    /// Buckets that are locked, or miscount their words elsewhere.
    pub faulty_buckets: usize,
    /// Flows whose request key belongs to an other flow as well.
    pub double_flows: usize,
}

impl Audit {
    /// Whether nothing is wrong.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.stray_words
            + self.double_words
            + self.missing_words
            + self.faulty_buckets
            + self.double_flows
            == 0
    }
}

impl FlowTable {
    /// Checks the whole table; takes some 100 ns for each flow of its capacity.
    #[must_use]
    pub fn audit(&self, endpoints: &Endpoints) -> Audit {
        let mut audit = Audit::default();
        // Words seen of each slot and direction, and words elsewhere of each bucket.
        let mut seen = vec![[0usize; 2]; self.storage.entries().len()];
        let mut elsewhere = vec![0u64; self.index().0.len()];
        for (place, word) in self.index().words() {
            audit.words += 1;
            let home = self.index().home(place, word);
            elsewhere[home] += u64::from(home != place);
            if self.is_stray(word, home, endpoints) {
                audit.stray_words += 1;
            } else {
                seen[word.slot() as usize][word.direction() as usize] += 1;
            }
        }
        for (bucket, count) in self.index().0.iter().zip(elsewhere) {
            let faulty = bucket.meta().load(Relaxed) != count * ELSEWHERE;
            audit.faulty_buckets += usize::from(faulty);
        }
        let mut keys = Vec::new();
        for view in self.flows(0) {
            audit.flows += 1;
            let (to_real, to_client) = self.entry(view.id.slot).keys(endpoints);
            let expected = [1, usize::from(to_client.is_some())];
            for (seen, expected) in seen[view.id.slot as usize].into_iter().zip(expected) {
                audit.double_words += seen.saturating_sub(expected);
                audit.missing_words += expected.saturating_sub(seen);
            }
            keys.push((self.hash(&to_real).0, view.id.slot, to_real));
        }
        keys.sort_unstable_by_key(|&(hash, slot, _)| (hash, slot));
        let double = keys.windows(2).filter(|pair| pair[0].2 == pair[1].2);
        audit.double_flows = double.count();
        audit
    }

    /// Whether the word is not one of a living flow's whose primary is `home`.
    fn is_stray(&self, word: Word, home: usize, endpoints: &Endpoints) -> bool {
        let entry = self.entry(word.slot());
        let (to_real, to_client) = entry.keys(endpoints);
        let key = match word.direction() {
            Direction::ToReal => Some(to_real),
            Direction::ToClient => to_client,
        };
        let hash = key.map(|key| self.hash(&key));
        let expected = hash.map(|hash| Word::new(hash, word.slot(), word.direction()));
        let leads_here = hash.is_some_and(|hash| self.index().primary(hash) == home);
        let is_it = expected.is_some_and(|expected| expected == word || expected.away() == word);
        !(entry.control().is_announced() && leads_here && is_it)
    }
}
