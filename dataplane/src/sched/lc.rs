//! Least connection: IPVS `lc`.
//!
//! The real server whose flows cost it least, an active one counting as 256 inactive ones; of
//! several the first. Weights only tell the drained.
//! Source: Linux `net/netfilter/ipvs/ip_vs_lc.c`.

use super::{Candidate, Pick, SchedFlags, SchedState, Schedule};
use crate::rng::Rng;

/// Has no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeastConnection;

impl Schedule for LeastConnection {
    fn new(_: &[Candidate], _: SchedFlags, _: Option<&Self>) -> Self {
        Self
    }

    fn pick(&self, pick: &Pick<'_>, _: &SchedState, _: &mut Rng) -> Option<usize> {
        (0..pick.reals.len()).filter(|&i| pick.takes(i)).min_by_key(|&i| pick.overhead(i))
    }
}

#[cfg(test)]
mod tests {
    use crate::sched::tests::Bench;

    #[test]
    fn an_active_flow_outweighs_255_inactive_ones() {
        let mut bench = Bench::new("lc", &[1, 9]);
        bench.load(0, 1, 0);
        bench.load(1, 0, 255);
        assert_eq!(bench.picks(1), [1]);
        bench.load(1, 0, 256);
        assert_eq!(bench.picks(1), [0]);
    }
}
