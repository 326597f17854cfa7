//! The table as a burst sees it: the stages of a lookup, for packets whose fields lie ready.
//!
//! The same stages as in [`super::table`], but without a key in between: the hash is made of the
//! packet's fields as they come, and the last stage hands out the entry that the probe found, for
//! the caller to compare. Where everything lies is looked up once, so that it stays in registers.

use super::{
    Entry, FlowHash, FlowKey, FlowTable, Probe, bucket::Bucket, cpu, hash::FlowHasher, index::Index,
};

/// A view of the table, good for one burst.
#[derive(Clone, Copy, Debug)]
pub struct Look<'t> {
    index: Index<'t>,
    entries: &'t [Entry],
    hasher: &'t FlowHasher,
}

/// The bucket that a lookup reads first.
#[derive(Clone, Copy, Debug)]
pub struct Primary<'t>(&'t Bucket);

impl FlowTable {
    /// The table as one burst sees it.
    #[inline]
    #[must_use]
    pub fn look(&self) -> Look<'_> {
        let (index, entries) = (self.index(), self.storage.entries());
        Look { index, entries, hasher: &self.hasher }
    }
}

impl<'t> Look<'t> {
    /// Stage 1: where the flow of an IPv4 packet belongs. Source and destination as their octets lie;
    /// ports likewise in the lower 32 bits of `tail`, the protocol above them.
    #[inline(always)]
    #[must_use]
    pub fn hash_v4(&self, addresses: u64, tail: u64) -> FlowHash {
        self.hasher.hash_v4(addresses, tail)
    }

    /// Stage 1: the same for an IPv6 packet.
    #[inline(always)]
    #[must_use]
    pub fn hash_v6(&self, addresses: (u128, u128), tail: u64) -> FlowHash {
        self.hasher.hash_v6(addresses, tail)
    }

    /// Stage 1: the same for a key.
    #[must_use]
    pub fn hash(&self, key: &FlowKey) -> FlowHash {
        self.hasher.hash(key)
    }

    /// Stage 1: fetches the bucket.
    #[inline(always)]
    pub fn prefetch(&self, hash: FlowHash) -> Primary<'t> {
        Primary(self.index.prefetch(hash))
    }

    /// Stage 2: looks at the bucket and fetches the entry it names, or the other bucket. Whether the entry
    /// is that of the packet's flow is for the caller to see: the pipeline does.
    #[inline(always)]
    #[must_use]
    pub fn probe(&self, hash: FlowHash, primary: Primary<'t>) -> (Probe, Option<&'t Entry>) {
        self.fetched(self.index.probe(hash, primary.0))
    }

    /// Stage 2, only where [`Probe::needs_alternate`]: looks at the other bucket.
    #[inline]
    #[must_use]
    pub fn probe_again(&self, hash: FlowHash) -> (Probe, Option<&'t Entry>) {
        self.fetched(self.index.probe_again(hash))
    }

    #[inline(always)]
    fn fetched(&self, probe: Probe) -> (Probe, Option<&'t Entry>) {
        let entry = probe.word().and_then(|word| self.entries.get(word.slot() as usize));
        if let Some(entry) = entry {
            cpu::prefetch_write(entry);
        }
        (probe, entry)
    }
}
