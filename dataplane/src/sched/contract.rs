//! What every registered scheduler promises, and keeps: shares by weight, work that is bounded,
//! the same pick from the same seed and, for those that hash, on every box. One that is registered and
//! has no promise here fails.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

use super::{tests::Bench, *};

thread_local! {
    /// Looks at a real server's load on this thread.
    pub(super) static LOOKS: Cell<usize> = const { Cell::new(0) };
}

/// Who gets how much of flows that all live on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shares {
    /// All the same.
    Equal,
    /// In proportion to the weights, within so many in a hundred.
    ByWeight(u32),
    /// The greatest weight takes all.
    Greatest,
    /// The greatest weight takes as many as it says, then the next.
    Fill,
    /// Every destination has one server while that is not too busy.
    ByDestination,
}

/// What a scheduler promises.
fn promise(name: &str) -> Shares {
    match name {
        "rr" | "lc" => Shares::Equal,
        "wrr" | "wlc" | "sed" | "nq" => Shares::ByWeight(1),
        // A client's hash, or a draw: as even as those are.
        "sh" | "mh" | "twos" => Shares::ByWeight(12),
        "fo" => Shares::Greatest,
        "ovf" => Shares::Fill,
        "dh" | "lblc" | "lblcr" => Shares::ByDestination,
        other => panic!("say what {other} promises"),
    }
}

const WEIGHTS: [u32; 4] = [4, 2, 1, 1];
const FLOWS: u32 = 8000;

/// Flows of ever new clients to one destination; how many each server has then.
fn fill(bench: &mut Bench) -> Vec<u32> {
    let mut rng = Rng::from_seed(3);
    for client in 0..FLOWS {
        let pick = bench.pick_of(client.wrapping_mul(2_654_435_761) >> 8, 0, Tick(0));
        let index = bench.scheduler.pick(&pick, &bench.state, &mut rng);
        if let Some(index) = index {
            bench.flow(index);
        }
    }
    (0..WEIGHTS.len()).map(|index| bench.active(index)).collect()
}

#[test]
fn weights_are_respected_as_promised() {
    for &name in Scheduler::NAMES {
        let got = fill(&mut Bench::new(name, &WEIGHTS));
        let near = |count: u32, wanted: u32, percent: u32| {
            count.abs_diff(wanted) <= wanted * percent / 100
        };
        let kept = match promise(name) {
            Shares::Equal => got.iter().all(|&count| count == FLOWS / 4),
            Shares::ByWeight(percent) => got
                .iter()
                .zip(WEIGHTS)
                .all(|(&count, weight)| near(count, FLOWS / 8 * weight, percent)),
            Shares::Greatest => got == [FLOWS, 0, 0, 0],
            // One more than the weight: the kernel compares before it adds.
            Shares::Fill => got == WEIGHTS.map(|weight| weight + 1),
            Shares::ByDestination => true,
        };
        assert!(kept, "{name} promised {:?} and gave {got:?}", promise(name));
    }
}

#[test]
fn a_destination_keeps_its_server_and_destinations_spread() {
    for &name in Scheduler::NAMES {
        if promise(name) != Shares::ByDestination {
            continue;
        }
        let mut bench = Bench::new(name, &[100; 4]);
        let mut servers = BTreeMap::new();
        for turn in 0..3 {
            for destination in 0..200 {
                let index = bench.pick_to(destination, Tick(turn)).unwrap();
                if turn == 0 {
                    bench.flow(index);
                }
                let known = *servers.entry(destination).or_insert(index);
                assert_eq!(index, known, "{name}: destination {destination} moved");
            }
        }
        let used: BTreeSet<_> = servers.values().collect();
        assert_eq!(used.len(), 4, "{name} leaves servers out");
    }
}

#[test]
fn the_work_of_a_pick_is_bounded_by_the_number_of_servers() {
    // What makes laps long: weights without a common divisor and far apart, all but one drained, all
    // overloaded.
    const REALS: usize = 50;
    let mut far = vec![1; REALS];
    far[REALS / 2] = i32::MAX.cast_unsigned();
    let mut last = vec![0; REALS];
    last[REALS - 1] = 1;
    for &name in Scheduler::NAMES {
        for flags in [SchedFlags::default(), SchedFlags { fallback: true, port: true, flag3: true }]
        {
            for weights in [&far, &last, &vec![7; REALS]] {
                for overloaded in [0, REALS / 2, REALS] {
                    let mut bench = Bench::with_flags(name, weights, flags);
                    (0..overloaded).for_each(|index| bench.overload(index));
                    let mut most = 0;
                    for client in 0..300 {
                        LOOKS.set(0);
                        if let Some(index) = bench.pick_for(client) {
                            bench.flow(index);
                        }
                        most = most.max(LOOKS.get());
                    }
                    // Two laps, with two looks at each server, and a few for the one that is known;
                    // sh falls back through its 256 buckets, as the kernel's does.
                    let bound = if flags.fallback && name == "sh" { 257 } else { 4 * REALS + 8 };
                    assert!(most <= bound, "{name} {flags:?}: {most} looks at {REALS} servers");
                }
            }
        }
    }
}

#[test]
fn one_seed_gives_one_run() {
    for &name in Scheduler::NAMES {
        let run = || fill(&mut Bench::new(name, &WEIGHTS));
        assert_eq!(run(), run(), "{name}");
    }
}

#[test]
fn hashing_schedulers_pick_alike_on_every_box_whatever_happened_there_before() {
    for name in ["sh", "dh", "mh"] {
        let mut fresh = Bench::new(name, &[3, 1, 2, 5]);
        // The same servers in the same order, after a history of their own.
        let mut used = Bench::new(name, &[3, 1, 2, 5]);
        for client in 0..500 {
            if let Some(index) = used.pick_for(client * 7) {
                used.flow(index);
            }
        }
        for client in 0..2000 {
            let picks = [&mut fresh, &mut used].map(|bench| {
                let pick = bench.pick_of(client, client, Tick(0));
                bench.scheduler.pick(&pick, &bench.state, &mut Rng::from_seed(client.into()))
            });
            assert_eq!(picks[0], picks[1], "{name}: client {client}");
        }
    }
}
