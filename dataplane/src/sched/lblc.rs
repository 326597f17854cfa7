//! Locality-based least connection: IPVS `lblc`.
//!
//! A destination address stays with the real server it was first scheduled to, by least cost per
//! weight, so that the server's cache is warm for it. It moves when that server is gone or
//! drained, or when it has more active flows than its weight and another one has less than half.
//! An overloaded server keeps the destinations it has, as in the kernel.
//! Source: Linux `net/netfilter/ipvs/ip_vs_lblc.c`.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use super::{Candidate, Pick, SchedFlags, SchedState, Schedule, cache::Cache, least};
use crate::{endpoint::EndpointId, rng::Rng};

/// What is remembered: a real server's id for each destination.
#[derive(Clone, Debug)]
pub struct LocalityLeastConnection {
    cache: Arc<Cache<AtomicU32>>,
}

impl Schedule for LocalityLeastConnection {
    fn new(_: &[Candidate], _: SchedFlags, previous: Option<&Self>) -> Self {
        let cache = previous.map(|previous| Arc::clone(&previous.cache));
        Self { cache: cache.unwrap_or_else(|| Arc::new(Cache::new())) }
    }

    fn isolated(&self) -> Self {
        let copy = |from: &AtomicU32, to: &AtomicU32| to.store(from.load(Relaxed), Relaxed);
        Self { cache: Arc::new(self.cache.isolated(copy)) }
    }

    fn pick(&self, pick: &Pick<'_>, _: &SchedState, _: &mut Rng) -> Option<usize> {
        let known = self.cache.find(pick);
        if let Some(real) = known {
            let index = pick.locate(EndpointId(real.load(Relaxed)), usize::MAX);
            let stays = |&index: &usize| pick.reals[index].weight > 0 && !is_strained(pick, index);
            if let Some(index) = index.filter(stays) {
                return Some(index);
            }
        }
        let index = least::per_weight(pick, |i| pick.overhead(i))?;
        let id = pick.reals[index].id.0;
        match known {
            Some(real) => real.store(id, Relaxed),
            None => self.cache.insert(pick, |real| real.store(id, Relaxed)),
        }
        Some(index)
    }
}

/// Whether a real server has more active flows than its weight while another has less than half.
pub(super) fn is_strained(pick: &Pick<'_>, index: usize) -> bool {
    let active = |i| u64::from(pick.active(i));
    let weight = |i: usize| u64::from(pick.reals[i].weight);
    active(index) > weight(index) && (0..pick.reals.len()).any(|i| active(i) * 2 < weight(i))
}

#[cfg(test)]
mod tests {
    use crate::{clock::Tick, sched::tests::Bench};

    #[test]
    fn a_destination_stays_until_its_server_is_strained_and_another_is_not() {
        let mut bench = Bench::new("lblc", &[4, 4]);
        let now = Tick(0);
        assert_eq!(bench.pick_to(1, now), Some(0));
        bench.load(0, 4, 900);
        assert_eq!(bench.pick_to(1, now), Some(0), "not strained");
        assert_eq!(bench.pick_to(2, now), Some(1), "another destination");
        bench.load(0, 5, 0);
        bench.load(1, 2, 0);
        assert_eq!(bench.pick_to(1, now), Some(0), "nobody is idle enough");
        bench.load(1, 1, 0);
        assert_eq!(bench.pick_to(1, now), Some(1));
        bench.load(1, 0, 0);
        bench.load(0, 0, 0);
        assert_eq!(bench.pick_to(1, now), Some(1), "remembered anew");
    }

    #[test]
    fn an_overloaded_server_keeps_its_destinations_but_gets_no_new_ones() {
        let mut bench = Bench::new("lblc", &[4, 4]);
        assert_eq!(bench.pick_to(1, Tick(0)), Some(0));
        bench.overload(0);
        assert_eq!(bench.pick_to(1, Tick(0)), Some(0));
        assert_eq!(bench.pick_to(2, Tick(0)), Some(1));
    }

    #[test]
    fn what_is_remembered_survives_edits() {
        let mut bench = Bench::new("lblc", &[4, 4]);
        assert_eq!(bench.pick_to(1, Tick(0)), Some(0));
        bench.load(0, 3, 0);
        bench.add(9);
        bench.weigh(2, 5);
        assert_eq!(bench.pick_to(1, Tick(0)), Some(1), "the same server, one further down");
        bench.remove(1);
        assert_eq!(bench.pick_to(1, Tick(0)), Some(0), "removed: the least loaded one");
    }
}
