//! Many random lives: whatever probes find, what follows holds to the rules, and one seed gives one run.

use std::{collections::BTreeMap, time::Duration};

use dataplane::rng::Rng;
use xvs_control::health::{
    board::{Probe, What},
    policy::{Check, OnDown, Policy},
};

use super::world::{World, addr, bad, check, fine, real};

/// The checks of a life.
fn drawn(rng: &mut Rng) -> Policy {
    let mut policy = Policy {
        on_down: if rng.below(2) == 0 { OnDown::Inhibit } else { OnDown::Remove },
        slow_start: Duration::from_secs(rng.below(2) * 10),
        quorum: 1 + u32::try_from(rng.below(4)).unwrap(),
        start_down: rng.below(2) == 0,
        ..Policy::default()
    };
    for _ in 0..=rng.below(2) {
        policy.checks.push(Check {
            rise: 1 + u32::try_from(rng.below(4)).unwrap(),
            fall: 1 + u32::try_from(rng.below(4)).unwrap(),
            jitter_percent: u32::try_from(rng.below(51)).unwrap(),
            interval: Duration::from_millis(200 + rng.below(2000)),
            ..check()
        });
    }
    match rng.below(3) {
        0 => policy.sorry = Some(real(99, 1)),
        1 => policy.panic_percent = 50,
        _ => {}
    }
    policy
}

/// Passes or not, by chance that depends on the seed, the server and the minute.
fn chance(seed: u64) -> impl Fn(&Probe, Duration) -> (Duration, Result<(), String>) {
    move |probe, now| {
        let minute = now.as_secs() / 20;
        let server = u64::from(probe.real.addr.to_string().as_bytes()[8]);
        let mut mood = Rng::from_seed(seed ^ minute << 8 ^ server << 32);
        let sick = mood.below(3);
        let nanos = u64::try_from(now.as_nanos()).unwrap();
        let mut rng = Rng::from_seed(seed ^ nanos ^ server << 56);
        match (sick, rng.below(10)) {
            (0, 0..9) | (1, 0..5) => bad("down"),
            (_, 9) => (Duration::from_secs(3), Ok(())),
            _ => fine(),
        }
    }
}

fn live(seed: u64) -> World {
    let mut rng = Rng::from_seed(seed);
    let policy = drawn(&mut rng);
    let reals = [(11, 1), (12, 2), (13, 1), (14, 0)];
    let mut world = World::new(seed, policy, &reals, chance(seed));
    for _ in 0..100 {
        world.pass(0.1 + f64::from(u32::try_from(rng.below(5000)).unwrap()) / 1000.0);
        hold(&world, seed);
    }
    world
}

/// What is so at any time.
fn hold(world: &World, seed: u64) {
    let (_, group) = world.board.groups().first_key_value().unwrap();
    let service = world.director.get_service(&world.key).unwrap();
    let standing = service.reals.iter().filter(|real| real.standby).count();
    assert_eq!(standing, usize::from(group.sorry), "seed {seed}");
    assert_eq!(group.sorry, !group.quorum && world.policy.sorry.is_some(), "seed {seed}");
    for real in service.reals.iter().filter(|real| !real.standby) {
        let name = xvs_control::words::RealName { addr: real.spec.addr, port: real.spec.port };
        let member = &group.members[&name];
        assert_eq!(real.share, member.told, "seed {seed}");
        assert_eq!(member.up, member.judges.iter().all(|judge| judge.up), "seed {seed}");
        let used = (member.up || group.panic) && !group.sorry;
        assert_eq!(real.share.percent > 0, used, "seed {seed}");
        let gone = !used && !group.sorry && world.policy.on_down == OnDown::Remove;
        assert_eq!(real.share.present, !gone, "seed {seed}");
    }
}

#[test]
fn whatever_probes_find_the_rules_hold() {
    for seed in 0..200 {
        let world = live(seed);
        // No check of a real server is asked before its interval has passed, less the jitter.
        let mut last = BTreeMap::new();
        for (at, real, place) in &world.begun {
            let check = &world.policy.checks[*place];
            if let Some(before) = last.insert((*real, *place), *at) {
                let least = check.interval - check.interval * check.jitter_percent / 100;
                assert!(*at - before >= least, "seed {seed}: {:?}", *at - before);
            }
        }
        assert!(
            last.len() == 4 * world.policy.checks.len(),
            "seed {seed}: somebody was never asked"
        );
        // Up and down take turns.
        for last in 11..15 {
            let of = world
                .findings
                .iter()
                .filter(|(_, found)| found.real.is_some_and(|real| real.addr == addr(last)));
            let turns: Vec<_> = of.map(|(_, found)| found.what).collect();
            let first = if world.policy.start_down { What::Up } else { What::Down };
            assert!(turns.first().is_none_or(|what| *what == first), "seed {seed}");
            assert!(turns.windows(2).all(|pair| pair[0] != pair[1]), "seed {seed}: {turns:?}");
        }
    }
}

#[test]
fn one_seed_gives_one_run() {
    let (one, other) = (live(42), live(42));
    assert_eq!((&one.begun, &one.findings), (&other.begun, &other.findings));
    assert_ne!(one.begun, live(43).begun);
}
