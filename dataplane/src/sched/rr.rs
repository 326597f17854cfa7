//! Round robin: IPVS `rr`.
//!
//! The next real server after the one picked last that takes new flows, in list order, round and
//! round. One that is added goes to the front, so it is seen on the next lap; when the one picked
//! last is removed, its predecessor takes its place.
//! Source: Linux `net/netfilter/ipvs/ip_vs_rr.c`.

use std::sync::atomic::Ordering::Relaxed;

use super::{Candidate, Change, Pick, RACES_MAX, SchedFlags, SchedState, Schedule};
use crate::{endpoint::EndpointId, rng::Rng};

/// No state of its own: the position is in [`SchedState::position`].
#[derive(Clone, Copy, Debug, Default)]
pub struct RoundRobin;

impl Schedule for RoundRobin {
    fn new(_: &[Candidate], _: SchedFlags, _: Option<&Self>) -> Self {
        Self
    }

    fn changed(&self, _: &[Candidate], state: &SchedState, change: Change) {
        let Change::Removed { id, before } = change else { return };
        let before = before.map_or(0, |before| u64::from(before.0));
        // An error means that the position was elsewhere, and there it stays.
        _ = state
            .position
            .fetch_update(Relaxed, Relaxed, |word| (unpack(word).0 == id).then_some(before));
    }

    fn pick(&self, pick: &Pick<'_>, state: &SchedState, _: &mut Rng) -> Option<usize> {
        let mut word = state.position.load(Relaxed);
        let mut found = None;
        for _ in 0..RACES_MAX {
            let (id, hint) = unpack(word);
            let after = pick.locate(id, hint).map_or(0, |last| last + 1);
            let index = (after..pick.reals.len()).chain(0..after).find(|&i| pick.takes(i))?;
            found = Some(index);
            let next = pack(pick.reals[index].id, index);
            match state.position.compare_exchange(word, next, Relaxed, Relaxed) {
                Ok(_) => break,
                Err(moved) => word = moved,
            }
        }
        found
    }
}

/// An endpoint and its index, to find it without a search.
const fn pack(id: EndpointId, index: usize) -> u64 {
    id.0 as u64 | (index as u64) << 32
}

/// The reverse.
#[expect(clippy::cast_possible_truncation, reason = "two halves of a word")]
const fn unpack(word: u64) -> (EndpointId, usize) {
    (EndpointId(word as u32), (word >> 32) as usize)
}

#[cfg(test)]
mod tests {
    use crate::sched::tests::Bench;

    #[test]
    fn drained_and_overloaded_servers_are_passed_over() {
        let mut bench = Bench::new("rr", &[1, 0, 1, 1]);
        bench.overload(2);
        assert_eq!(bench.picks(4), [0, 3, 0, 3]);
    }

    #[test]
    fn after_the_last_picked_is_removed_its_predecessor_counts_as_picked() {
        let mut bench = Bench::new("rr", &[1, 1, 1, 1]);
        assert_eq!(bench.picks(3), [0, 1, 2]);
        bench.remove(2);
        assert_eq!(bench.picks(3), [2, 0, 1]);
        bench.remove(0);
        assert_eq!(bench.picks(2), [1, 0]);
        bench.remove(0);
        assert_eq!(bench.picks(2), [0, 0]);
    }

    #[test]
    fn an_added_server_waits_for_the_next_lap() {
        let mut bench = Bench::new("rr", &[1, 1, 1]);
        assert_eq!(bench.picks(1), [0]);
        bench.add(1);
        assert_eq!(bench.picks(4), [2, 3, 0, 1]);
    }
}
