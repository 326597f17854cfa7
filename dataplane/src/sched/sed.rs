//! Shortest expected delay: IPVS `sed`.
//!
//! The real server with the least active flows per weight, the new one counted in; of several
//! the first. Inactive flows do not count, so UDP, whose flows never are active, all goes to the
//! heaviest.
//! Source: Linux `net/netfilter/ipvs/ip_vs_sed.c`; Weinrib, Shenker, "Greed is not enough",
//! INFOCOM 1988.

use super::{Candidate, Pick, SchedFlags, SchedState, Schedule, least};
use crate::rng::Rng;

/// Has no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShortestExpectedDelay;

impl Schedule for ShortestExpectedDelay {
    fn new(_: &[Candidate], _: SchedFlags, _: Option<&Self>) -> Self {
        Self
    }

    fn pick(&self, pick: &Pick<'_>, _: &SchedState, _: &mut Rng) -> Option<usize> {
        least::per_weight(pick, |i| u64::from(pick.active(i)) + 1)
    }
}

#[cfg(test)]
mod tests {
    use crate::sched::tests::Bench;

    #[test]
    fn an_idle_slow_server_waits_while_the_fast_one_is_sooner_done() {
        let mut bench = Bench::new("sed", &[1, 3]);
        let order: Vec<_> = (0..4)
            .map(|_| {
                let index = bench.picks(1)[0];
                bench.flow(index);
                index
            })
            .collect();
        assert_eq!(order, [1, 1, 0, 1]);
    }
}
