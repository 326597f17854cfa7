//! Never queue: IPVS `nq`.
//!
//! The first real server without an active flow; if all have some, the one with the shortest
//! expected delay as in `sed`.
//! Source: Linux `net/netfilter/ipvs/ip_vs_nq.c`.

use super::{Candidate, Pick, SchedFlags, SchedState, Schedule, least};
use crate::rng::Rng;

/// Has no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct NeverQueue;

impl Schedule for NeverQueue {
    fn new(_: &[Candidate], _: SchedFlags, _: Option<&Self>) -> Self {
        Self
    }

    fn pick(&self, pick: &Pick<'_>, _: &SchedState, _: &mut Rng) -> Option<usize> {
        (0..pick.reals.len())
            .find(|&i| pick.takes(i) && pick.active(i) == 0)
            .or_else(|| least::per_weight(pick, |i| u64::from(pick.active(i)) + 1))
    }
}

#[cfg(test)]
mod tests {
    use crate::sched::tests::Bench;

    #[test]
    fn an_idle_server_goes_before_a_fast_one() {
        let mut bench = Bench::new("nq", &[9, 1]);
        bench.load(0, 1, 0);
        bench.load(1, 0, 50);
        assert_eq!(bench.picks(1), [1]);
        bench.load(1, 1, 0);
        assert_eq!(bench.picks(1), [0]);
    }
}
