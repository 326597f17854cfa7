//! Weighted fail-over: IPVS `fo`.
//!
//! All flows go to the heaviest real server that takes any; of several to the first.
//! Source: Linux `net/netfilter/ipvs/ip_vs_fo.c`.

use super::{Candidate, Pick, SchedFlags, SchedState, Schedule};
use crate::rng::Rng;

/// Has no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct FailOver;

impl Schedule for FailOver {
    fn new(_: &[Candidate], _: SchedFlags, _: Option<&Self>) -> Self {
        Self
    }

    fn pick(&self, pick: &Pick<'_>, _: &SchedState, _: &mut Rng) -> Option<usize> {
        first_heaviest(pick, |i| pick.takes(i))
    }
}

/// The heaviest real server of those that are `eligible`; of several the first.
#[inline]
pub(super) fn first_heaviest(pick: &Pick<'_>, eligible: impl Fn(usize) -> bool) -> Option<usize> {
    // Of equals `max_by_key` takes the last: backwards that is the first.
    (0..pick.reals.len()).rev().filter(|&i| eligible(i)).max_by_key(|&i| pick.reals[i].weight)
}

#[cfg(test)]
mod tests {
    use crate::sched::tests::Bench;

    #[test]
    fn the_next_heaviest_stands_in_for_an_overloaded_server() {
        let mut bench = Bench::new("fo", &[1, 3, 2, 3]);
        assert_eq!(bench.picks(2), [1, 1]);
        bench.overload(1);
        assert_eq!(bench.picks(2), [3, 3]);
        bench.weigh(3, 0);
        assert_eq!(bench.picks(2), [2, 2]);
    }
}
