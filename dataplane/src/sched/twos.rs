//! The power of two random choices: IPVS `twos`.
//!
//! Two real servers are drawn, each with a chance that grows with its weight; the one whose
//! flows cost it less per weight takes the flow. Nearly as even as `wlc` without sending every
//! flow of a moment to one server.
//! Source: Linux `net/netfilter/ipvs/ip_vs_twos.c`; Mitzenmacher, Richa, Sitaraman, "The power
//! of two random choices: a survey of techniques and results", 2001.

use super::{Candidate, Pick, SchedFlags, SchedState, Schedule, least};
use crate::rng::Rng;

/// Has no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct PowerOfTwo;

impl Schedule for PowerOfTwo {
    fn new(_: &[Candidate], _: SchedFlags, _: Option<&Self>) -> Self {
        Self
    }

    fn pick(&self, pick: &Pick<'_>, _: &SchedState, rng: &mut Rng) -> Option<usize> {
        let candidates = || (0..pick.reals.len()).filter(|&i| pick.takes(i));
        let total: u64 = candidates().map(|i| u64::from(pick.reals[i].weight)).sum();
        // Up to and with the total, as the kernel draws: the first server has one part more.
        let mut draws = [rng.below(total + 1), rng.below(total + 1)];
        let mut drawn = [None; 2];
        for index in candidates() {
            let weight = u64::from(pick.reals[index].weight);
            for (left, drawn) in draws.iter_mut().zip(&mut drawn) {
                if *left <= weight {
                    drawn.get_or_insert(index);
                }
                *left = left.saturating_sub(weight);
            }
        }
        // A draw misses only if a server became overloaded meanwhile.
        let first = drawn[0].or_else(|| candidates().next_back())?;
        let second = drawn[1].unwrap_or(first);
        let costlier = least::exceeds(
            pick.overhead(first),
            pick.reals[first].weight,
            pick.overhead(second),
            pick.reals[second].weight,
        );
        Some(if costlier { second } else { first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::tests::Bench;

    fn counts(bench: &Bench, picks: u64) -> Vec<u64> {
        let mut counts = vec![0; bench.pick().reals.len()];
        let mut rng = Rng::from_seed(3);
        for _ in 0..picks {
            let index = PowerOfTwo.pick(&bench.pick(), &SchedState::default(), &mut rng).unwrap();
            counts[index] += 1;
        }
        counts
    }

    #[test]
    fn with_equal_loads_chances_follow_the_weights() {
        let bench = Bench::new("twos", &[300, 100]);
        let counts = counts(&bench, 10_000);
        assert!((7300..7700).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn of_two_drawn_the_less_busy_wins() {
        let mut bench = Bench::new("twos", &[100, 100]);
        bench.load(0, 5, 0);
        let counts = counts(&bench, 10_000);
        // The busy one is taken only if it is drawn twice.
        assert!((2300..2700).contains(&counts[0]), "{counts:?}");
    }
}
