//! What every scheduler must hold to; a new one is covered by being registered. And a bench on
//! which the tests of the single schedulers stand.

use super::*;
use crate::wire::protocol;

/// Real servers 10.2.0.11 and up with these weights and ids from 1.
pub(super) fn candidates(weights: &[u32]) -> Vec<Candidate> {
    (1..).zip(weights).map(|(id, &weight)| candidate(id, weight)).collect()
}

fn candidate(id: u32, weight: u32) -> Candidate {
    Candidate { id: EndpointId(id), addr: Addr::v4(0x0a02_000a + id), port: 80, weight }
}

/// A service with one scheduler, edited as control edits it.
pub(super) struct Bench {
    name: &'static str,
    flags: SchedFlags,
    reals: Vec<Candidate>,
    endpoints: Endpoints,
    pub(super) scheduler: Scheduler,
    pub(super) state: SchedState,
    next_id: u32,
}

impl Bench {
    /// `weights` in list order; the last is added first.
    pub(super) fn new(name: &'static str, weights: &[u32]) -> Self {
        Self::with_flags(name, weights, SchedFlags::default())
    }

    pub(super) fn with_flags(name: &'static str, weights: &[u32], flags: SchedFlags) -> Self {
        let mut bench = Self {
            name,
            flags,
            reals: Vec::new(),
            endpoints: Endpoints::new(64),
            scheduler: Scheduler::by_name(name, &[], flags, None).unwrap(),
            state: SchedState::default(),
            next_id: 1,
        };
        weights.iter().rev().for_each(|&weight| bench.add(weight));
        bench
    }

    pub(super) fn add(&mut self, weight: u32) {
        self.reals.insert(0, candidate(self.next_id, weight));
        self.rebuild(Change::Added(EndpointId(self.next_id)));
        self.next_id += 1;
    }

    pub(super) fn remove(&mut self, index: usize) {
        let id = self.reals.remove(index).id;
        let before = index.checked_sub(1).map(|before| self.reals[before].id);
        self.rebuild(Change::Removed { id, before });
    }

    pub(super) fn weigh(&mut self, index: usize, weight: u32) {
        self.reals[index].weight = weight;
        self.rebuild(Change::Edited(self.reals[index].id));
    }

    fn rebuild(&mut self, change: Change) {
        let next =
            Scheduler::by_name(self.name, &self.reals, self.flags, Some(&self.scheduler)).unwrap();
        next.changed(&self.reals, &self.state, change);
        self.scheduler = next;
    }

    fn load_of(&self, index: usize) -> &Load {
        &self.endpoints.get(self.reals[index].id).load
    }

    pub(super) fn overload(&mut self, index: usize) {
        self.load_of(index).overloaded.store(1, Relaxed);
    }

    pub(super) fn load(&mut self, index: usize, active: u32, inactive: u32) {
        self.load_of(index).active.store(active, Relaxed);
        self.load_of(index).inactive.store(inactive, Relaxed);
    }

    pub(super) fn flow(&mut self, index: usize) {
        self.load_of(index).active.fetch_add(1, Relaxed);
    }

    pub(super) fn active(&self, index: usize) -> u32 {
        self.load_of(index).active.load(Relaxed)
    }

    /// A pick for a client that does not matter.
    pub(super) fn pick(&self) -> Pick<'_> {
        self.pick_of(0, 0, Tick(0))
    }

    pub(super) fn pick_of(&self, client: u32, destination: u32, now: Tick) -> Pick<'_> {
        Pick {
            reals: &self.reals,
            endpoints: &self.endpoints,
            client: Addr::v4(0x0a09_0000 + client),
            client_port: 41000,
            destination: Addr::v4(0x0a00_0001 + destination),
            destination_port: 80,
            protocol: protocol::TCP,
            now,
        }
    }

    pub(super) fn pick_for(&mut self, client: u32) -> Option<usize> {
        self.scheduler.pick(&self.pick_of(client, 0, Tick(0)), &self.state, &mut Rng::from_seed(1))
    }

    pub(super) fn pick_to(&mut self, destination: u32, now: Tick) -> Option<usize> {
        let pick = self.pick_of(0, destination, now);
        self.scheduler.pick(&pick, &self.state, &mut Rng::from_seed(1))
    }

    /// Picks for ever new clients.
    pub(super) fn picks(&mut self, count: u32) -> Vec<usize> {
        (0..count).map(|client| self.pick_for(client).unwrap()).collect()
    }
}

/// Schedulers that refuse a client although another real server would take it.
const REFUSE: [&str; 4] = ["dh", "sh", "mh", "ovf"];
/// Schedulers that send a known destination to an overloaded real server, as the kernel does.
const IGNORE_OVERLOAD: [&str; 1] = ["lblc"];

#[test]
fn drained_and_overloaded_servers_get_nothing() {
    for &name in Scheduler::NAMES {
        for weights in [&[][..], &[0], &[1], &[0, 3], &[5, 0, 1, 0], &[7; 9], &[u32::MAX >> 1; 3]] {
            for overloaded in [usize::MAX, 0, 1] {
                let mut bench = Bench::new(name, weights);
                if overloaded < weights.len() {
                    bench.overload(overloaded);
                }
                let takes = |i: usize| weights[i] > 0 && i != overloaded;
                for n in 0..200 {
                    match bench.pick_for(n) {
                        Some(index) => {
                            assert!(takes(index), "{name} {weights:?} picked {index}");
                            bench.flow(index);
                        }
                        None => assert!(
                            REFUSE.contains(&name) || !(0..weights.len()).any(takes),
                            "{name} {weights:?} picked none"
                        ),
                    }
                }
            }
        }
    }
}

#[test]
fn a_server_that_fills_up_or_drains_midway_gets_nothing_more() {
    for &name in Scheduler::NAMES {
        let mut bench = Bench::new(name, &[2, 2, 2]);
        (0..50).for_each(|n| assert!(bench.pick_for(n).is_some(), "{name}"));
        bench.weigh(1, 0);
        if !IGNORE_OVERLOAD.contains(&name) {
            bench.overload(2);
        }
        for n in 0..50 {
            let index = bench.pick_for(n);
            assert_ne!(index, Some(1), "{name}");
            if !IGNORE_OVERLOAD.contains(&name) {
                assert_ne!(index, Some(2), "{name}");
            }
        }
    }
}

#[test]
fn fallback_serves_every_client_while_one_server_is_left() {
    let flags = SchedFlags { fallback: true, port: true, flag3: true };
    for name in ["sh", "mh"] {
        let mut bench = Bench::with_flags(name, &[3, 2, 1], flags);
        bench.overload(0);
        bench.weigh(1, 0);
        assert!((0..500).all(|client| bench.pick_for(client) == Some(2)), "{name}");
    }
}

#[test]
fn edits_never_lead_to_a_server_that_is_not_there() {
    for &name in Scheduler::NAMES {
        let mut rng = Rng::from_seed(7);
        let mut bench = Bench::new(name, &[1, 2, 3]);
        for n in 0..500 {
            let count = bench.reals.len();
            let mut small = |bound: usize| usize::try_from(rng.below(bound as u64)).unwrap();
            let (what, at, weight) = (small(4), small(count), [0, 1, 2, 3][small(4)]);
            match what {
                0 if count < 12 => bench.add(weight),
                1 if count > 0 => bench.remove(at),
                2 if count > 0 => bench.weigh(at, weight),
                _ => {}
            }
            bench.next_id = bench.next_id % 60 + 1;
            if let Some(index) = bench.pick_to(n % 5, Tick(n * 16)) {
                assert!(bench.reals[index].weight > 0, "{name} picked a drained server");
            }
        }
    }
}

#[test]
fn a_list_shorter_than_the_one_before_is_no_trap_for_a_late_worker() {
    // A worker may still hold the old list while control has told the state of the new one.
    for &name in Scheduler::NAMES {
        let old = Bench::new(name, &[1, 1, 1]);
        let pick = || old.scheduler.pick(&old.pick(), &old.state, &mut Rng::from_seed(0));
        assert!((0..3).all(|_| pick().is_some()), "{name}");
        let short = candidates(&[1]);
        let new = Scheduler::by_name(name, &short, old.flags, Some(&old.scheduler)).unwrap();
        new.changed(&short, &old.state, Change::Removed { id: EndpointId(3), before: None });
        let late = Pick { reals: &short, ..old.pick() };
        assert_eq!(new.pick(&late, &old.state, &mut Rng::from_seed(0)), Some(0), "{name}");
        assert!(pick().is_some(), "{name}");
    }
}

#[test]
fn names_build_what_they_say() {
    for name in Scheduler::NAMES {
        let scheduler = Scheduler::by_name(name, &[], SchedFlags::default(), None).unwrap();
        assert_eq!(scheduler.name(), *name);
    }
    assert!(Scheduler::by_name("none", &[], SchedFlags::default(), None).is_none());
}

#[test]
fn workers_that_share_round_robin_leave_nobody_out() {
    for name in ["rr", "wrr"] {
        let bench = Bench::new(name, &[1, 1, 1, 1]);
        let counts: Vec<u32> = std::thread::scope(|scope| {
            let work = || {
                let mut counts = vec![0; 4];
                for _ in 0..4000 {
                    let pick = bench.pick();
                    let mut rng = Rng::from_seed(0);
                    counts[bench.scheduler.pick(&pick, &bench.state, &mut rng).unwrap()] += 1;
                }
                counts
            };
            let other = scope.spawn(work);
            let mine = work();
            mine.iter().zip(other.join().unwrap()).map(|(a, b)| a + b).collect()
        });
        assert!(counts.iter().all(|&count| count > 1600), "{name} {counts:?}");
    }
}
