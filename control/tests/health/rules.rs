//! What follows from what probes find, by a manual clock.

use std::time::Duration;

use dataplane::endpoint::Method;
use xvs_control::health::{
    board::What,
    member::Advice,
    policy::{Check, Kind, OnDown, Passive, Policy},
};

use super::world::{World, addr, bad, check, fine, real};

fn policy(checks: Vec<Check>) -> Policy {
    Policy { checks, ..Policy::default() }
}

#[test]
fn one_that_answers_500_is_taken_out_and_comes_back_as_the_settings_say() {
    let sick = |now: Duration| (10.0..20.0).contains(&now.as_secs_f64());
    let behaviour = move |probe: &xvs_control::health::board::Probe, now| {
        if probe.real.addr == addr(12) && sick(now) { bad("HTTP 500") } else { fine() }
    };
    let mut world = World::new(1, policy(vec![check()]), &[(11, 1), (12, 1)], behaviour);
    world.pass(60.0);
    // Three probes in a row, a second apart: the third is at most three seconds after the first failed one.
    let down = world.when(What::Down, 0.0);
    assert!((12.0..=13.1).contains(&down), "down at {down}");
    let up = world.when(What::Up, 0.0);
    assert!((21.0..=22.1).contains(&up), "up at {up}");
    assert_eq!(
        world.story(),
        [(What::Down, "tcp: HTTP 500".to_owned()), (What::Up, "tcp: fine".to_owned())]
    );
    assert_eq!(world.weights(), [(11, 1), (12, 1)]);
}

#[test]
fn one_that_hangs_is_asked_once_at_a_time_and_taken_out() {
    let slow = Check { timeout: Duration::from_secs(5), ..check() };
    let mut world = World::new(2, policy(vec![slow]), &[(11, 3), (12, 1)], |probe, _| {
        if probe.real.addr == addr(12) { (Duration::from_secs(9), Ok(())) } else { fine() }
    });
    world.pass(30.0);
    let begun: Vec<_> = world.begun.iter().filter(|(_, real, _)| *real == addr(12)).collect();
    for pair in begun.windows(2) {
        assert!(pair[1].0 - pair[0].0 >= Duration::from_secs(5), "{pair:?}");
    }
    assert_eq!(world.story(), [(What::Down, "tcp: no answer".to_owned())]);
    assert_eq!(world.weights(), [(11, 3), (12, 0)]);
}

#[test]
fn one_whose_decapsulation_is_missing_is_down_although_it_answers() {
    let through = Check { through: true, ..check() };
    let decapsulates = |now: Duration| now.as_secs() >= 20;
    let policy = policy(vec![check(), through]);
    let mut world = World::new(3, policy, &[(11, 1), (12, 1)], move |probe, now| {
        let deaf = probe.check.through && probe.real.addr == addr(12) && !decapsulates(now);
        if deaf { (Duration::from_secs(1), Ok(())) } else { fine() }
    });
    world.pass(15.0);
    assert_eq!(world.weights(), [(11, 1), (12, 0)]);
    assert_eq!(world.story(), [(What::Down, "tcp: no answer".to_owned())]);
    world.pass(10.0);
    assert_eq!(world.weights(), [(11, 1), (12, 1)]);
}

#[test]
fn one_that_flaps_faster_than_it_may_fall_stays_and_a_slower_one_follows() {
    let flapping = |period: u64| {
        move |probe: &xvs_control::health::board::Probe, now: Duration| {
            let down = now.as_secs() / period % 2 == 1;
            if probe.real.addr == addr(12) && down { bad("flap") } else { fine() }
        }
    };
    let mut world = World::new(4, policy(vec![check()]), &[(11, 1), (12, 1)], flapping(2));
    world.pass(100.0);
    assert_eq!(world.story(), [], "two bad ones in a row are not three");
    let mut world = World::new(4, policy(vec![check()]), &[(11, 1), (12, 1)], flapping(5));
    world.pass(100.0);
    let story = world.story();
    assert_eq!(story.len(), 19, "{story:?}");
    assert!(story.iter().step_by(2).all(|(what, _)| *what == What::Down));
}

#[test]
fn a_weight_grows_in_steps_after_a_failure_and_not_at_the_start() {
    let policy = Policy { slow_start: Duration::from_secs(20), ..policy(vec![check()]) };
    let mut world = World::new(5, policy, &[(11, 100)], |_, now| {
        if (5..10).contains(&now.as_secs()) { bad("down") } else { fine() }
    });
    world.pass(1.0);
    assert_eq!(world.weights(), [(11, 100)], "at the start it is whole");
    world.pass(11.0);
    let up = world.when(What::Up, 0.0);
    let mut before = 0;
    while world.now.as_secs_f64() < up + 21.0 {
        let weight = world.weights()[0].1;
        let elapsed = world.now.as_secs_f64() - up;
        assert!(weight >= before, "{weight} after {before}");
        let whole = (elapsed * 5.0).clamp(5.0, 100.0);
        assert!((f64::from(weight) - whole).abs() <= 5.1, "{weight} after {elapsed} s");
        before = weight;
        world.pass(0.25);
    }
    assert_eq!(world.weights(), [(11, 100)]);
}

#[test]
fn an_agent_sets_the_share_and_drains() {
    let agent = Check { rise: 1, fall: 1, ..Check { kind: Kind::Agent, ..check() } };
    let mut world = World::new(6, policy(vec![agent]), &[(11, 10)], |_, _| fine());
    world.advice = Advice { percent: Some(25), drain: None };
    world.pass(2.0);
    assert_eq!(world.weights(), [(11, 3)]);
    world.advice = Advice { percent: None, drain: Some(true) };
    world.pass(2.0);
    assert_eq!(world.weights(), [(11, 0)]);
    world.advice = Advice { percent: None, drain: Some(false) };
    world.pass(2.0);
    assert_eq!(world.weights(), [(11, 3)], "what it does not mention stays");
    assert_eq!(world.story(), [], "it was up all the time");
}

#[test]
fn the_sorry_server_answers_while_the_quorum_is_lost_with_hysteresis() {
    let policy =
        Policy { quorum: 3, hysteresis: 1, sorry: Some(real(99, 1)), ..policy(vec![check()]) };
    // From 10 s on one more each 10 s is down, from 50 s on one more each 10 s is up again.
    let down = |now: u64| match now {
        0..50 => now / 10,
        50..90 => 8u64.saturating_sub(now / 10),
        _ => 0,
    };
    let mut world =
        World::new(7, policy, &[(11, 1), (12, 1), (13, 1), (14, 1)], move |probe, now| {
            let number = (11..15).position(|last| probe.real.addr == addr(last)).unwrap() as u64;
            if number < down(now.as_secs()) { bad("down") } else { fine() }
        });
    world.pass(15.0);
    assert_eq!(world.weights(), [(11, 0), (12, 1), (13, 1), (14, 1)]);
    world.pass(10.0);
    assert_eq!(world.weights(), [(11, 0), (12, 0), (13, 1), (14, 1)], "2 is not below 3 - 1");
    world.pass(10.0);
    assert_eq!(world.weights(), [(11, 0), (12, 0), (13, 0), (14, 0), (99, 1)]);
    assert!((33.0..34.0).contains(&world.when(What::QuorumLost, 0.0)) || world.now.as_secs() < 36);
    // All are up again at about 80 s; 3 are not enough, 4 are.
    world.pass(60.0);
    assert_eq!(world.weights(), [(11, 1), (12, 1), (13, 1), (14, 1)]);
    let story: Vec<_> = world
        .story()
        .into_iter()
        .filter(|(what, _)| matches!(what, What::QuorumLost | What::QuorumReached))
        .collect();
    let told = |what, note: &str| (what, note.to_owned());
    assert_eq!(
        story,
        [told(What::QuorumLost, "weight 1 of 3"), told(What::QuorumReached, "weight 4 of 3")]
    );
}

#[test]
fn with_too_few_up_the_checks_are_not_believed() {
    let policy = Policy { panic_percent: 40, on_down: OnDown::Remove, ..policy(vec![check()]) };
    let reals = [(11, 1), (12, 2), (13, 1), (14, 0)];
    let mut world = World::new(8, policy, &reals, |probe, now| {
        let sick = match now.as_secs() {
            0..10 => 0,
            10..20 => 12,
            20..40 => 14,
            _ => 0,
        };
        let number = (11..15).find(|last| probe.real.addr == addr(*last)).unwrap();
        if number <= sick { bad("down") } else { fine() }
    });
    world.pass(18.0);
    // One of three: 33 % of those with a weight.
    assert_eq!(world.weights(), [(11, 1), (12, 2), (13, 1), (14, 0)]);
    assert_eq!(world.story().last().unwrap().0, What::PanicBegan);
    world.pass(15.0);
    assert_eq!(world.weights(), [(11, 1), (12, 2), (13, 1), (14, 0)], "and with none");
    world.pass(20.0);
    assert_eq!(world.when(What::PanicEnded, 0.0), world.when(What::PanicEnded, 40.0));
    assert_eq!(world.weights(), [(11, 1), (12, 2), (13, 1), (14, 0)]);
}

#[test]
fn removed_or_inhibited_as_asked_for() {
    for (on_down, wanted) in
        [(OnDown::Inhibit, vec![(11, 1), (12, 0)]), (OnDown::Remove, vec![(11, 1)])]
    {
        let policy = Policy { on_down, ..policy(vec![check()]) };
        let asked = [(11, 1), (12, 1)];
        let mut world = World::new(9, policy, &asked, |probe, _| {
            if probe.real.addr == addr(12) { bad("down") } else { fine() }
        });
        let before = world.director.desired();
        world.pass(5.0);
        assert_eq!(world.weights(), wanted);
        assert_eq!(world.director.desired(), before, "what is asked for stays");
    }
}

#[test]
fn flows_take_a_real_server_out_for_longer_and_longer() {
    let passive = Passive { failures: 3, hold: Duration::from_secs(10) };
    let policy = Policy { passive: Some(passive), ..Policy::default() };
    let mut world = World::new(10, policy, &[(11, 1), (12, 1)], |_, _| fine());
    let mut failed = 0;
    let mut fail = |world: &mut World, count| {
        failed += count;
        world.tell_flows(12, 7, failed);
    };
    fail(&mut world, 100);
    assert_eq!(world.weights(), [(11, 1), (12, 1)], "what was before is not counted");
    fail(&mut world, 2);
    world.tell_flows(12, 8, 102);
    fail(&mut world, 0);
    world.tell_flows(12, 8, 104);
    assert_eq!(world.weights(), [(11, 1), (12, 1)], "one was accepted between");
    for hold in [10.0, 20.0, 40.0] {
        let total = world.flows[&addr(12)].failed;
        world.tell_flows(12, 8, total + 3);
        assert_eq!(world.weights(), [(11, 1), (12, 0)]);
        world.pass(hold - 0.1);
        assert_eq!(world.weights(), [(11, 1), (12, 0)]);
        world.pass(0.2);
        assert_eq!(world.weights(), [(11, 1), (12, 1)], "tried again after {hold} s");
    }
    world.pass(400.0);
    let total = world.flows[&addr(12)].failed;
    world.tell_flows(12, 8, total + 3);
    world.pass(10.1);
    assert_eq!(world.weights(), [(11, 1), (12, 1)], "it was forgiven");
}

#[test]
fn an_edit_keeps_what_is_known_and_a_new_real_server_begins_as_asked_for() {
    let policy = Policy { start_down: true, ..policy(vec![check()]) };
    let mut world = World::new(11, policy, &[(11, 1)], |_, _| fine());
    assert_eq!(world.weights(), [(11, 0)]);
    world.pass(5.0);
    assert_eq!(world.weights(), [(11, 1)]);
    let nat = dataplane::director::spec::RealSpec { method: Method::Dr, ..real(11, 9) };
    world.director.edit_real(&world.key.clone(), &nat).unwrap();
    world.director.add_real(&world.key.clone(), &real(12, 1)).unwrap();
    world.follow();
    assert_eq!(world.weights(), [(11, 9), (12, 0)]);
    world.pass(0.5);
    world.director.delete_real(&world.key.clone(), addr(12), 80).unwrap();
    world.director.add_real(&world.key.clone(), &real(12, 1)).unwrap();
    world.follow();
    assert_eq!(world.weights(), [(11, 9), (12, 0)], "it is not the one it was");
    world.pass(5.0);
    assert_eq!(world.weights(), [(11, 9), (12, 1)]);
    world.policy.checks[0].rise = 5;
    world.follow();
    assert_eq!(world.weights(), [(11, 9), (12, 1)], "a new check does not take down what is up");
    world.director.delete_service(&world.key.clone()).unwrap();
    world.follow();
    assert!(world.board.groups().is_empty() && world.board.next().is_none());
}
