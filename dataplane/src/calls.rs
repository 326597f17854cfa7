//! What a persistence engine keeps: which template a call belongs to.
//!
//! A template of the flow table has room for addresses, not for a Call-ID of up to 255 octets. So a
//! call has a record here, and its template stands in the flow table under the record's name in
//! place of the client's address: an address out of a block that no packet may come from
//! ([`Calls::is_name`]).
//!
//! Fixed storage: 8 records to a bucket, two buckets to choose from, none ever moves; where both are
//! full a call is refused. Readers never lock and never wait: a record is believed if its tag
//! still is what it was after it was read. Writers lock the call's first bucket, so a call has one
//! record. A record's owner is whoever ends its template, and nobody else gives it back.
//! Source: Linux `net/netfilter/ipvs/ip_vs_pe_sip.c`; RFC 6666 for the block.

use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
    fence,
};

use crate::{addr::Addr, endpoint::EndpointId, flow::FlowId, wire::sip::CALL_ID_MAX};

/// Records of a bucket.
const BUCKET: usize = 8;
/// Words that hold a Call-ID.
const WORDS: usize = CALL_ID_MAX.div_ceil(8);
/// The discard-only block 100::/64: no packet that is forwarded comes from there.
const NAMES: u128 = 0x0100 << 112;

/// State of a free record.
const FREE: u32 = 0;
/// State of a record that is being written.
const CLAIMED: u32 = 1;
/// Set in the state of every live record: its tag.
const LIVE: u32 = 1 << 31;

/// What names a call.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The client's address, masked as its service has it.
    pub client: Addr,
    /// The service's endpoint.
    pub virt: EndpointId,
    /// The Call-ID, at most [`CALL_ID_MAX`] octets.
    pub id: &'a [u8],
    /// A keyed hash of all that.
    pub hash: u64,
}

/// One call.
#[derive(Debug, Default)]
struct Record {
    /// [`FREE`], [`CLAIMED`], or the tag.
    state: AtomicU32,
    virt: AtomicU32,
    /// High and low half.
    client: [AtomicU64; 2],
    /// Slot and generation of its template.
    template: AtomicU64,
    length: AtomicU32,
    id: [AtomicU64; WORDS],
}

/// Records that are looked through together.
#[derive(Debug, Default)]
struct Bucket {
    /// 1 while a writer has it.
    lock: AtomicU32,
    records: [Record; BUCKET],
}

/// All calls.
#[derive(Debug)]
pub struct Calls(Box<[Bucket]>);

/// Why a call has no template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError<E> {
    /// Both buckets are full.
    #[error("no room for another call")]
    Full,
    /// Its template could not be made.
    #[error("{0}")]
    Template(E),
}

impl Calls {
    /// Room for `capacity` calls; how many fit depends on how they spread, at
    /// least three quarters.
    pub fn new(capacity: usize) -> Self {
        let buckets = capacity.div_ceil(BUCKET).next_power_of_two();
        Self((0..buckets).map(|_| Bucket::default()).collect())
    }

    /// Whether an address is a record's name.
    pub const fn is_name(addr: Addr) -> bool {
        addr.bits() >> 64 == NAMES >> 64
    }

    /// The template of a call.
    pub fn find(&self, call: &Call<'_>) -> Option<FlowId> {
        self.places(call.hash)
            .into_iter()
            .find_map(|bucket| self.0[bucket].records.iter().find_map(|record| record.read(call)))
    }

    /// The template of a call that had none: made by `make` under the name it is given, unless
    /// another worker was faster.
    ///
    /// # Errors
    ///
    /// There is no room, or `make` failed.
    pub fn place<E>(
        &self,
        call: &Call<'_>,
        make: impl FnOnce(Addr) -> Result<FlowId, E>,
    ) -> Result<FlowId, CallError<E>> {
        let places = self.places(call.hash);
        let _locked = Locked::new(&self.0[places[0]].lock);
        if let Some(template) = self.find(call) {
            return Ok(template);
        }
        let free = |bucket: usize| {
            let records = &self.0[bucket].records;
            records.iter().filter(|record| record.state.load(Relaxed) == FREE).count()
        };
        let order = if free(places[0]) >= free(places[1]) { [0, 1] } else { [1, 0] };
        let claimed = order.iter().find_map(|&which| {
            let bucket = places[which];
            let at = self.0[bucket].records.iter().position(Record::claim)?;
            Some((bucket, at))
        });
        let (bucket, at) = claimed.ok_or(CallError::Full)?;
        let claim = Claim(&self.0[bucket].records[at]);
        let template = make(name(bucket * BUCKET + at)).map_err(CallError::Template)?;
        claim.write(call, template);
        Ok(template)
    }

    /// Gives back the record of this name: for who ended its template.
    pub fn release(&self, name: Addr) {
        if let Some(record) = self.named(name) {
            record.state.store(FREE, Release);
        }
    }

    /// The client and the Call-ID of the record of this name, for listings; `None` if it was given
    /// back meanwhile.
    pub fn describe(&self, name: Addr) -> Option<(Addr, Vec<u8>)> {
        let record = self.named(name)?;
        let seen = record.state.load(Acquire);
        let length = (record.length.load(Relaxed) as usize).min(CALL_ID_MAX);
        let id: Vec<_> = record
            .id
            .iter()
            .flat_map(|word| word.load(Relaxed).to_le_bytes())
            .take(length)
            .collect();
        let client = record.client();
        fence(Acquire);
        (seen & LIVE != 0 && record.state.load(Relaxed) == seen).then_some((client, id))
    }

    /// The record of this name.
    fn named(&self, name: Addr) -> Option<&Record> {
        let number = name.low32() as usize;
        let bucket = self.0.get(number / BUCKET).filter(|_| Self::is_name(name))?;
        bucket.records.get(number % BUCKET)
    }

    /// The two buckets of a hash; the first is the one to lock.
    #[expect(clippy::cast_possible_truncation, reason = "the bits that count")]
    fn places(&self, hash: u64) -> [usize; 2] {
        let mask = self.0.len() - 1;
        [hash as usize & mask, (hash >> 32) as usize & mask]
    }
}

/// The name of a record.
const fn name(number: usize) -> Addr {
    Addr::v6(NAMES | number as u128)
}

/// What tells most records of a bucket apart at once.
#[expect(clippy::cast_possible_truncation, reason = "the bits that count")]
const fn tag(hash: u64) -> u32 {
    (hash >> 20) as u32 | LIVE
}

impl Record {
    /// The template, if this is the call.
    fn read(&self, call: &Call<'_>) -> Option<FlowId> {
        let tag = tag(call.hash);
        if self.state.load(Acquire) != tag
            || self.virt.load(Relaxed) != call.virt.0
            || self.client() != call.client
            || self.length.load(Relaxed) as usize != call.id.len()
            || !words(call.id).zip(&self.id).all(|(word, stored)| stored.load(Relaxed) == word)
        {
            return None;
        }
        let template = self.template.load(Relaxed);
        fence(Acquire);
        (self.state.load(Relaxed) == tag).then(|| unpack(template))
    }

    fn client(&self) -> Addr {
        let [high, low] =
            [&self.client[0], &self.client[1]].map(|half| u128::from(half.load(Relaxed)));
        Addr::v6(high << 64 | low)
    }

    /// Takes a free record; whether this call did so.
    fn claim(&self) -> bool {
        self.state.compare_exchange(FREE, CLAIMED, AcqRel, Relaxed).is_ok()
    }
}

/// A record that is being written; free again if that fails.
struct Claim<'a>(&'a Record);

impl Claim<'_> {
    #[expect(clippy::cast_possible_truncation, reason = "halves; at most 255")]
    fn write(self, call: &Call<'_>, template: FlowId) {
        let record = self.0;
        // A reader that sees a word of this call sees that the last one is over.
        fence(Release);
        let client = call.client.bits();
        record.client[0].store((client >> 64) as u64, Relaxed);
        record.client[1].store(client as u64, Relaxed);
        record.virt.store(call.virt.0, Relaxed);
        record.length.store(call.id.len() as u32, Relaxed);
        for (word, place) in words(call.id).zip(&record.id) {
            place.store(word, Relaxed);
        }
        let packed = u64::from(template.slot) << 32 | u64::from(template.generation);
        record.template.store(packed, Relaxed);
        record.state.store(tag(call.hash), Release);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.state.compare_exchange(CLAIMED, FREE, AcqRel, Relaxed).ok();
    }
}

#[expect(clippy::cast_possible_truncation, reason = "halves")]
const fn unpack(template: u64) -> FlowId {
    FlowId { slot: (template >> 32) as u32, generation: template as u32 }
}

/// A Call-ID as words, the last one filled up with zeros.
fn words(id: &[u8]) -> impl Iterator<Item = u64> {
    id.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    })
}

/// A lock that is held; given back however its holder ends.
struct Locked<'a>(&'a AtomicU32);

impl<'a> Locked<'a> {
    /// Waits for the lock: its holder is done within some hundred nanoseconds.
    fn new(lock: &'a AtomicU32) -> Self {
        while lock.compare_exchange_weak(0, 1, Acquire, Relaxed).is_err() {
            std::hint::spin_loop();
        }
        Self(lock)
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.0.store(0, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    const CLIENT: Addr = Addr::v4(0x0a09_0007);

    fn call(id: &[u8], hash: u64) -> Call<'_> {
        Call { client: CLIENT, virt: EndpointId(1), id, hash }
    }

    fn flow(slot: u32) -> FlowId {
        FlowId { slot, generation: 1 }
    }

    #[test]
    fn a_call_is_found_by_all_that_names_it_until_its_record_is_given_back() {
        let calls = Calls::new(64);
        let here = call(b"abc@10.9.0.7", 7);
        let mut named = Addr::UNSPECIFIED;
        let made = calls.place(&here, |name| {
            named = name;
            Ok::<_, ()>(flow(5))
        });
        assert_eq!((made, calls.find(&here)), (Ok(flow(5)), Some(flow(5))));
        assert!(Calls::is_name(named) && !Calls::is_name(CLIENT));
        assert_eq!(calls.describe(named), Some((CLIENT, b"abc@10.9.0.7".to_vec())));
        let again = calls.place(&here, |_| Err::<FlowId, _>("not asked"));
        assert_eq!(again, Ok(flow(5)), "a call has one record");
        for other in [
            Call { client: Addr::v4(1), ..here },
            Call { virt: EndpointId(2), ..here },
            Call { id: b"abc@10.9.0.8", ..here },
            Call { id: b"abc@10.9.0", ..here },
        ] {
            assert_eq!(calls.find(&other), None);
        }
        calls.release(named);
        assert_eq!((calls.find(&here), calls.describe(named)), (None, None));
    }

    #[test]
    fn a_template_that_cannot_be_made_leaves_its_record_free() {
        let calls = Calls::new(8);
        for _ in 0..100 {
            let failed = calls.place(&call(b"x", 3), |_| Err::<FlowId, _>("full"));
            assert_eq!(failed, Err(CallError::Template("full")));
        }
        assert_eq!(calls.place(&call(b"x", 3), |_| Ok::<_, ()>(flow(1))), Ok(flow(1)));
    }

    #[test]
    fn three_quarters_fit_and_what_does_not_is_refused() {
        let calls = Calls::new(4096);
        let mut rng = Rng::from_seed(1);
        let mut refused = None;
        for slot in 1..=4096_u32 {
            let (id, hash) = (slot.to_le_bytes(), rng.next_u64());
            match calls.place(&call(&id, hash), |_| Ok::<_, ()>(flow(slot))) {
                Ok(made) => {
                    assert_eq!((made, calls.find(&call(&id, hash))), (flow(slot), Some(made)))
                }
                Err(error) => {
                    assert_eq!(error, CallError::Full);
                    refused = refused.or(Some(slot));
                }
            }
        }
        assert!(refused.is_some_and(|first| first > 4096 * 3 / 4), "{refused:?}");
    }
}
