//! Weighted round robin, interleaved: IPVS `wrr`.
//!
//! Laps run over the real servers while a level sinks from the greatest weight to 1, by the
//! greatest common divisor of all weights; a real server takes a flow on each lap whose level its
//! weight reaches. Every edit takes divisor and greatest weight anew, restarts the lap and keeps
//! the level: that is why servers added 3, 2, 1 begin with a lap at level 1.
//! Source: Linux `net/netfilter/ipvs/ip_vs_wrr.c`.

use std::sync::atomic::Ordering::Relaxed;

use super::{Candidate, Change, Pick, RACES_MAX, SchedFlags, SchedState, Schedule};
use crate::rng::Rng;

/// What the weights make of a lap. The place in it is in [`SchedState::level`].
#[derive(Clone, Copy, Debug)]
pub struct WeightedRoundRobin {
    /// How far the level sinks per lap: the greatest common divisor of all weights, at least 1.
    step: u32,
    /// Where the level restarts: the greatest weight less `step` - 1, so that the lowest is 1.
    /// 0 if all are drained.
    top: u32,
}

/// A place in the laps: the index picked last (`None` for the head of the list) and the level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    last: Option<usize>,
    level: u32,
}

impl Schedule for WeightedRoundRobin {
    fn new(reals: &[Candidate], _: SchedFlags, _: Option<&Self>) -> Self {
        let weights = || reals.iter().map(|real| real.weight);
        let step = weights().fold(0, gcd).max(1);
        let top = weights().max().unwrap_or(0);
        Self { step, top: top.saturating_sub(step - 1) }
    }

    fn changed(&self, _: &[Candidate], state: &SchedState, change: Change) {
        if change == Change::Service {
            return;
        }
        let word = state.level.load(Relaxed);
        let (_, level) = unpack(word);
        let level = match level {
            0 => self.top,
            _ if level > self.top => self.top,
            _ if self.step > 1 => level / self.step * self.step + 1,
            _ => level,
        };
        // A worker's pick that comes between is lost: its server begins the new lap again.
        state.level.store(pack(0, level), Relaxed);
    }

    fn pick(&self, pick: &Pick<'_>, state: &SchedState, _: &mut Rng) -> Option<usize> {
        if self.top == 0 {
            return None;
        }
        let mut word = state.level.load(Relaxed);
        let mut found = None;
        for _ in 0..RACES_MAX {
            let (id, level) = unpack(word);
            #[expect(clippy::cast_possible_truncation, reason = "an index was stored")]
            let hint = state.position.load(Relaxed) as usize;
            let last = pick.locate(crate::endpoint::EndpointId(id), hint);
            let next;
            (found, next) = self.advance(pick, Place { last, level });
            let id = next.last.map_or(0, |index| pick.reals[index].id.0);
            match state.level.compare_exchange(word, pack(id, next.level), Relaxed, Relaxed) {
                Ok(_) => {
                    state.position.store(next.last.unwrap_or(0) as u64, Relaxed);
                    break;
                }
                Err(moved) => word = moved,
            }
        }
        found
    }
}

impl WeightedRoundRobin {
    /// Goes on from `place` to the next real server that takes a flow.
    ///
    /// At most three passes over the list, however far apart the weights are: levels that no
    /// available server reaches are skipped at once.
    fn advance(&self, pick: &Pick<'_>, place: Place) -> (Option<usize>, Place) {
        let mut level = if place.level == 0 { self.top } else { place.level };
        let count = pick.reals.len();
        let reaches =
            |i: usize, level: u32| pick.reals[i].weight >= level && !pick.is_overloaded(i);
        // The rest of this lap.
        let after = place.last.map_or(0, |last| last + 1);
        if let Some(index) = (after..count).find(|&i| reaches(i, level)) {
            return (Some(index), Place { last: Some(index), level });
        }
        let greatest = (0..count).filter(|&i| pick.takes(i)).map(|i| pick.reals[i].weight).max();
        let Some(greatest) = greatest else {
            return (None, self.exhausted(place.last, level));
        };
        // The first level further down that somebody reaches; a lap there finds who.
        level = if level > self.step { level - self.step } else { self.top };
        if level > greatest {
            level -= (level - greatest).div_ceil(self.step) * self.step;
        }
        // The one that reached it may have become overloaded since: then anybody.
        let index =
            (0..count).find(|&i| reaches(i, level)).or_else(|| (0..count).find(|&i| pick.takes(i)));
        (index, Place { last: index, level })
    }

    /// Where the kernel's search ends when nobody takes a flow: at the head of the list and at the
    /// top if it still had a level below to try, else where it began, at the lowest level.
    const fn exhausted(self, last: Option<usize>, level: u32) -> Place {
        if last.is_none() || level > self.step {
            Place { last: None, level: self.top }
        } else {
            Place { last, level: 1 }
        }
    }
}

const fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// An endpoint's id and a level in one word.
const fn pack(id: u32, level: u32) -> u64 {
    (id as u64) << 32 | level as u64
}

/// The reverse.
#[expect(clippy::cast_possible_truncation, reason = "two halves of a word")]
const fn unpack(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

#[cfg(test)]
mod tests {
    use super::{Pick, Place, WeightedRoundRobin};
    use crate::sched::tests::Bench;

    #[test]
    fn heavy_server_is_interleaved() {
        let mut bench = Bench::new("wrr", &[4, 2, 2]);
        // Added one by one the level stands at 1 when the first flow comes.
        assert_eq!(bench.picks(3), [0, 1, 2]);
        assert_eq!(bench.picks(8), [0, 0, 1, 2, 0, 0, 1, 2]);
    }

    #[test]
    fn overloaded_heavy_server_leaves_the_others_their_shares() {
        let mut bench = Bench::new("wrr", &[2_000_000_000, 2, 1]);
        bench.overload(0);
        bench.picks(2);
        assert_eq!(bench.picks(6), [1, 1, 2, 1, 1, 2]);
    }

    /// The kernel's search as it is written, pass by pass.
    fn by_the_book(
        wrr: WeightedRoundRobin,
        pick: &Pick<'_>,
        place: Place,
    ) -> (Option<usize>, Place) {
        let at = |last, level: i64| Place { last, level: u32::try_from(level).unwrap() };
        let (mut level, mut last_pass, mut restarted) = (i64::from(place.level), false, false);
        let (mut from, mut stop) = (place.last.map_or(0, |last| last + 1), None);
        loop {
            for i in from..pick.reals.len() {
                if !pick.is_overloaded(i) && i64::from(pick.reals[i].weight) >= level {
                    return (Some(i), at(Some(i), level));
                }
                if stop == Some(i) {
                    return (None, at(Some(i), level));
                }
            }
            from = 0;
            level -= i64::from(wrr.step);
            if level <= 0 {
                level = i64::from(wrr.top);
                if last_pass || place.last.is_none() {
                    return (None, at(None, level));
                }
                restarted = true;
            }
            last_pass = level <= i64::from(wrr.step);
            if last_pass && restarted && place.last.is_some() {
                stop = place.last;
            }
        }
    }

    #[test]
    fn skipping_levels_ends_where_the_kernel_ends() {
        let mut seen = 0;
        for weights in
            [&[1u32][..], &[3, 2, 1], &[4, 0, 8], &[6, 6], &[0, 5, 9, 1], &[12, 8, 20, 4]]
        {
            for overloaded in 0..1u32 << weights.len() {
                let mut bench = Bench::new("wrr", weights);
                for i in (0..weights.len()).filter(|i| overloaded >> i & 1 != 0) {
                    bench.overload(i);
                }
                let pick = bench.pick();
                let wrr = <WeightedRoundRobin as crate::sched::Schedule>::new(
                    pick.reals,
                    Default::default(),
                    None,
                );
                for last in std::iter::once(None).chain((0..weights.len()).map(Some)) {
                    for level in (1..=wrr.top).step_by(wrr.step as usize) {
                        let place = Place { last, level };
                        assert_eq!(wrr.advance(&pick, place), by_the_book(wrr, &pick, place));
                        seen += 1;
                    }
                }
            }
        }
        assert!(seen > 300, "{seen}");
    }
}
