//! Weighted least connection: IPVS `wlc`, and what IPVS takes if nothing is said.
//!
//! The real server whose flows cost it least per weight, an active one counting as 256 inactive
//! ones; of several the first.
//! Source: Linux `net/netfilter/ipvs/ip_vs_wlc.c`.

use super::{Candidate, Pick, SchedFlags, SchedState, Schedule, least};
use crate::rng::Rng;

/// Has no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct WeightedLeastConnection;

impl Schedule for WeightedLeastConnection {
    fn new(_: &[Candidate], _: SchedFlags, _: Option<&Self>) -> Self {
        Self
    }

    fn pick(&self, pick: &Pick<'_>, _: &SchedState, _: &mut Rng) -> Option<usize> {
        least::per_weight(pick, |i| pick.overhead(i))
    }
}

#[cfg(test)]
mod tests {
    use crate::sched::tests::Bench;

    #[test]
    fn twice_the_weight_carries_twice_the_flows() {
        let mut bench = Bench::new("wlc", &[1, 2]);
        for _ in 0..300 {
            let index = bench.picks(1)[0];
            bench.flow(index);
        }
        assert_eq!((bench.active(0), bench.active(1)), (100, 200));
    }
}
