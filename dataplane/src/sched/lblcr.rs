//! Locality-based least connection with replication: IPVS `lblcr`.
//!
//! Like lblc, but a destination may have several real servers: when the least busy of them is
//! strained the least busy of all joins them, and when nobody has joined or left for a day the
//! busiest leaves.
//! Source: Linux `net/netfilter/ipvs/ip_vs_lblcr.c`.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use super::{
    Candidate, Pick, SchedFlags, SchedState, Schedule,
    cache::{Cache, EXPIRATION_TICKS},
    lblc::is_strained,
    least,
};
use crate::{clock::Tick, endpoint::EndpointId, rng::Rng};

/// Real servers remembered for one destination. The kernel has no bound; here one more is not
/// remembered and so is found anew by each flow that needs it.
const MEMBERS_MAX: usize = 16;

/// What is remembered: real servers' ids for each destination.
#[derive(Clone, Debug)]
pub struct ReplicatedLocality {
    cache: Arc<Cache<Set>>,
}

impl Schedule for ReplicatedLocality {
    fn new(_: &[Candidate], _: SchedFlags, previous: Option<&Self>) -> Self {
        let cache = previous.map(|previous| Arc::clone(&previous.cache));
        Self { cache: cache.unwrap_or_else(|| Arc::new(Cache::new())) }
    }

    fn isolated(&self) -> Self {
        let copy = |from: &Set, to: &Set| {
            to.busy.store(from.busy.load(Relaxed), Relaxed);
            to.changed.store(from.changed.load(Relaxed), Relaxed);
            for (from, to) in from.members.iter().zip(&to.members) {
                to.store(from.load(Relaxed), Relaxed);
            }
        };
        Self { cache: Arc::new(self.cache.isolated(copy)) }
    }

    fn pick(&self, pick: &Pick<'_>, _: &SchedState, _: &mut Rng) -> Option<usize> {
        let set = self.cache.find(pick);
        if let Some(set) = set {
            let least = least::among(pick, set.indices(pick), |i| pick.overhead(i));
            set.shed(pick);
            if let Some(index) = least.filter(|&index| !is_strained(pick, index)) {
                return Some(index);
            }
        }
        let index = least::per_weight(pick, |i| pick.overhead(i))?;
        let id = pick.reals[index].id;
        match set {
            Some(set) => set.join(id, pick.now),
            None => self.cache.insert(pick, |set| set.begin(id, pick.now)),
        }
        Some(index)
    }
}

/// The real servers of one destination, the last to join first.
#[derive(Debug, Default)]
struct Set {
    /// 1 while a worker changes the set. Another one that wants to change it meanwhile does not
    /// wait: its change is not remembered.
    busy: AtomicU32,
    /// Tick of the last change.
    changed: AtomicU32,
    /// Ids; 0 from the first free place on.
    members: [AtomicU32; MEMBERS_MAX],
}

impl Set {
    /// The ids.
    fn ids(&self) -> impl Iterator<Item = EndpointId> {
        self.members
            .iter()
            .map(|member| EndpointId(member.load(Relaxed)))
            .take_while(|id| id.0 != 0)
    }

    /// The indices of those that still belong to the service.
    fn indices(&self, pick: &Pick<'_>) -> impl Iterator<Item = usize> {
        self.ids().filter_map(|id| pick.locate(id, usize::MAX))
    }

    /// Makes it a set of one.
    fn begin(&self, id: EndpointId, now: Tick) {
        self.write(std::iter::once(id), now);
    }

    /// Adds a real server, unless it is in or the set is full.
    fn join(&self, id: EndpointId, now: Tick) {
        self.change(|| {
            if self.ids().all(|member| member != id) && self.ids().count() < MEMBERS_MAX {
                let members = self.snapshot();
                self.write(std::iter::once(id).chain(members), now);
            }
        });
    }

    /// Lets the busiest go if there are several and nothing has changed for a day. One that was
    /// removed from the service goes before any other (the kernel keeps it in mind).
    fn shed(&self, pick: &Pick<'_>) {
        let unchanged = pick.now.since(Tick(self.changed.load(Relaxed)));
        if unchanged <= EXPIRATION_TICKS || self.ids().nth(1).is_none() {
            return;
        }
        self.change(|| {
            let gone = self.ids().find(|&id| pick.locate(id, usize::MAX).is_none());
            let busiest = || self.busiest(pick).map(|index| pick.reals[index].id);
            if let Some(leaves) = gone.or_else(busiest) {
                let members = self.snapshot();
                self.write(members.filter(|&id| id != leaves), pick.now);
            }
        });
    }

    /// The one with the greatest cost per weight; of several the last to join.
    fn busiest(&self, pick: &Pick<'_>) -> Option<usize> {
        let (cost, weight) = (|i| pick.overhead(i), |i: usize| pick.reals[i].weight);
        self.indices(pick).filter(|&i| weight(i) > 0).reduce(|most, i| {
            let more = least::exceeds(cost(i), weight(i), cost(most), weight(most));
            if more { i } else { most }
        })
    }

    /// The ids as they are now.
    fn snapshot(&self) -> impl Iterator<Item = EndpointId> + use<> {
        let members: [u32; MEMBERS_MAX] = std::array::from_fn(|i| self.members[i].load(Relaxed));
        members.into_iter().map(EndpointId).take_while(|id| id.0 != 0)
    }

    /// Runs `change` unless another worker is changing the set.
    fn change(&self, change: impl FnOnce()) {
        if self.busy.swap(1, Relaxed) == 0 {
            change();
            self.busy.store(0, Relaxed);
        }
    }

    /// Writes the members. Who reads meanwhile may miss one or see one twice.
    fn write(&self, ids: impl Iterator<Item = EndpointId>, now: Tick) {
        let ids = ids.chain(std::iter::repeat(EndpointId(0)));
        self.members.iter().zip(ids).for_each(|(member, id)| member.store(id.0, Relaxed));
        self.changed.store(now.0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::TICKS_PER_SECOND, sched::tests::Bench};

    const DAY: u32 = EXPIRATION_TICKS;
    const HOUR: u32 = 3600 * TICKS_PER_SECOND;

    /// A destination with both of two servers: the second joined because the first was strained.
    fn replicated() -> Bench {
        let mut bench = Bench::new("lblcr", &[2, 2]);
        assert_eq!(bench.pick_to(1, Tick(0)), Some(0));
        bench.load(0, 3, 0);
        assert_eq!(bench.pick_to(1, Tick(0)), Some(1));
        bench
    }

    #[test]
    fn a_strained_server_gets_company_and_the_least_busy_of_both_serves() {
        let mut bench = replicated();
        bench.load(0, 0, 0);
        bench.load(1, 1, 0);
        assert_eq!(bench.pick_to(1, Tick(0)), Some(0));
        bench.load(0, 2, 0);
        assert_eq!(bench.pick_to(1, Tick(0)), Some(1));
    }

    #[test]
    fn the_busiest_leaves_after_a_day_without_a_change() {
        let mut bench = replicated();
        bench.load(0, 1, 0);
        bench.load(1, 0, 0);
        // Used every hour, so that the destination itself is not forgotten.
        (1..=24).for_each(|hour| assert_eq!(bench.pick_to(1, Tick(hour * HOUR)), Some(1)));
        bench.load(0, 0, 0);
        bench.load(1, 1, 0);
        assert_eq!(bench.pick_to(1, Tick(DAY)), Some(0), "a day, but not more");
        bench.load(0, 2, 0);
        // This flow still sees both; then server 0 leaves as the busier one.
        assert_eq!(bench.pick_to(1, Tick(DAY + 1)), Some(1));
        bench.load(0, 0, 0);
        assert_eq!(bench.pick_to(1, Tick(DAY + 2)), Some(1), "only one is left");
    }

    #[test]
    fn a_removed_server_is_passed_over_and_leaves_first() {
        let mut bench = replicated();
        bench.load(0, 0, 0);
        bench.remove(0);
        bench.add(1);
        bench.load(1, 1, 0);
        assert_eq!(bench.pick_to(1, Tick(0)), Some(1), "the member that is left");
        (1..=24).for_each(|hour| assert_eq!(bench.pick_to(1, Tick(hour * HOUR)), Some(1)));
        assert_eq!(bench.pick_to(1, Tick(DAY + 1)), Some(1));
        assert_eq!(bench.pick_to(1, Tick(DAY + 2)), Some(1));
    }

    #[test]
    fn a_set_has_room_for_its_bound_and_no_more() {
        let set = Set::default();
        set.begin(EndpointId(1), Tick(0));
        for id in 1..40 {
            set.join(EndpointId(id), Tick(7));
        }
        let ids: Vec<u32> = set.ids().map(|id| id.0).collect();
        assert_eq!(ids, (1..=16).rev().collect::<Vec<_>>());
    }
}
