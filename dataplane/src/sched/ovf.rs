//! Overflow: IPVS `ovf`.
//!
//! All flows go to the heaviest real server that has not more active flows than its weight says;
//! when none is left, new clients are refused. Inactive flows do not count: UDP never overflows.
//! Source: Linux `net/netfilter/ipvs/ip_vs_ovf.c`.

use super::{Candidate, Pick, SchedFlags, SchedState, Schedule, fo};
use crate::rng::Rng;

/// Has no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overflow;

impl Schedule for Overflow {
    fn new(_: &[Candidate], _: SchedFlags, _: Option<&Self>) -> Self {
        Self
    }

    fn pick(&self, pick: &Pick<'_>, _: &SchedState, _: &mut Rng) -> Option<usize> {
        fo::first_heaviest(pick, |i| pick.takes(i) && pick.active(i) <= pick.reals[i].weight)
    }
}

#[cfg(test)]
mod tests {
    use crate::sched::tests::Bench;

    #[test]
    fn each_server_takes_one_flow_more_than_its_weight_and_then_nobody_does() {
        let mut bench = Bench::new("ovf", &[1, 2]);
        let order: Vec<_> = (0..6)
            .map(|client| {
                let index = bench.pick_for(client);
                index.into_iter().for_each(|index| bench.flow(index));
                index
            })
            .collect();
        assert_eq!(order, [Some(1), Some(1), Some(1), Some(0), Some(0), None]);
    }
}
