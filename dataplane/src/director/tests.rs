//! The director's rules, on small states.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::*;
use crate::{
    clock::Tick,
    director::spec::RealInfo,
    endpoint::{AVAILABLE, Bound, Method, SHUNNED},
    steering::rules::Target,
};

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

fn key(port: u16) -> ServiceKey {
    ServiceKey::Address { protocol: 6, addr: addr("10.0.0.1"), port }
}

fn service(port: u16, scheduler: &str) -> ServiceSpec {
    ServiceSpec::new(key(port), scheduler)
}

fn real(last: u8, weight: u32) -> RealSpec {
    RealSpec { weight, ..RealSpec::new(addr(&format!("10.2.0.{last}")), 8080, Method::Nat) }
}

fn director() -> Director {
    Director::new(Arc::new(Endpoints::new(64)), Stats::new(1, 64))
}

#[test]
fn the_last_real_server_added_stands_first() {
    let mut director = director();
    director.add_service(&service(80, "rr")).unwrap();
    for last in [11, 12, 13] {
        director.add_real(&key(80), &real(last, 1)).unwrap();
    }
    let listed = director.services();
    let order: Vec<_> = listed[0].reals.iter().map(|r| r.spec.addr.to_string()).collect();
    assert_eq!(order, ["10.2.0.13", "10.2.0.12", "10.2.0.11"]);
}

#[test]
fn a_refused_change_changes_nothing() {
    let mut director = director();
    director.add_service(&service(80, "rr")).unwrap();
    director.add_real(&key(80), &real(11, 1)).unwrap();
    let before = (director.services(), director.generation());
    let refused = [
        director.add_service(&service(80, "wlc")),
        director.add_service(&service(81, "nosuch")),
        director.add_service(&service(0, "rr")),
        director.edit_service(&service(99, "rr")),
        director.delete_service(&key(99)),
        director.add_real(&key(80), &real(11, 2)),
        director.add_real(&key(99), &real(12, 2)),
        director.add_real(&key(80), &real(12, 1 << 31)),
        director.add_real(&key(80), &RealSpec { upper: 1 << 31, ..real(12, 1) }),
        director.add_real(&key(80), &RealSpec { lower: 5, ..real(12, 1) }),
        director.add_real(&key(80), &RealSpec { addr: addr("224.0.0.1"), ..real(12, 1) }),
        director.add_real(&key(80), &RealSpec { method: Method::Dr, ..real(12, 1) }),
        director.add_real(&key(80), &RealSpec { addr: addr("fd02::11"), ..real(12, 1) }),
        director.edit_real(&key(80), &real(12, 1)),
        director.delete_real(&key(80), addr("10.2.0.12"), 8080),
        director.set_setting("conn_reuse_mode", 9),
        director.set_setting("no_such_sysctl", 1),
    ];
    assert!(refused.iter().all(Result::is_err), "{refused:?}");
    assert_eq!((director.services(), director.generation()), before);
}

#[test]
fn a_removed_real_server_comes_back_with_its_flows_and_counters() {
    let mut director = director();
    director.add_service(&service(80, "wlc")).unwrap();
    director.add_real(&key(80), &real(11, 1)).unwrap();
    let id = director.service(&key(80)).unwrap().reals[0].id;
    director.endpoints.get(id).bind(Bound::Active);
    director.stats.worker(0).endpoint(id).conns.add(5);
    director.delete_real(&key(80), addr("10.2.0.11"), 8080).unwrap();
    assert_eq!(director.endpoints.get(id).flags(), 0);
    assert_eq!(director.services()[0].counters.conns, 5);
    director.add_real(&key(80), &real(11, 3)).unwrap();
    let listed = director.services();
    assert_eq!(director.service(&key(80)).unwrap().reals[0].id, id);
    assert_eq!((listed[0].reals[0].active, listed[0].reals[0].counters.conns), (1, 5));
    assert_eq!(listed[0].counters.conns, 5, "nothing is counted twice");
}

#[test]
fn an_endpoint_is_given_out_again_only_when_nothing_names_it() {
    let mut director = director();
    director.add_service(&service(80, "wlc")).unwrap();
    director.add_real(&key(80), &real(11, 1)).unwrap();
    let id = director.service(&key(80)).unwrap().reals[0].id;
    director.endpoints.get(id).bind(Bound::Active);
    director.endpoints.get(id).learned_mtu.store(1300, Relaxed);
    director.delete_real(&key(80), addr("10.2.0.11"), 8080).unwrap();
    let free = director.free.len();
    director.reap(Tick::from_secs(10), u64::MAX);
    director.reap(Tick::from_secs(500), u64::MAX);
    assert_eq!(director.free.len(), free, "a flow names it");
    director.endpoints.get(id).unbind(Bound::Active);
    director.reap(Tick::from_secs(500), director.generation() - 1);
    director.reap(Tick::from_secs(700), director.generation() - 1);
    assert_eq!(director.free.len(), free, "a worker may still pick it");
    director.reap(Tick::from_secs(700), u64::MAX);
    assert_eq!(director.endpoints.get(id).learned_mtu.load(Relaxed), 1300);
    director.reap(Tick::from_secs(821), u64::MAX);
    assert_eq!(director.free.len(), free + 1);
    assert_eq!(director.endpoints.get(id).learned_mtu.load(Relaxed), 0, "it may be a VIP next");
}

#[test]
fn apply_makes_the_state_what_is_asked_or_changes_nothing() {
    let mut director = director();
    let first = vec![
        (service(80, "rr"), vec![real(11, 1), real(12, 1)]),
        (service(81, "wlc"), vec![real(11, 1)]),
    ];
    let plan = director.plan(&first).unwrap();
    assert_eq!(plan, director.apply(&first).unwrap());
    assert!(director.plan(&first).unwrap().is_empty());
    let second =
        vec![(service(80, "wrr"), vec![real(11, 5), real(13, 1)]), (service(82, "sh"), vec![])];
    let applied = director.apply(&second).unwrap();
    assert_eq!(applied.services_added, [key(82)]);
    assert_eq!(applied.services_edited, [key(80)]);
    assert_eq!(applied.services_deleted, [key(81)]);
    assert_eq!(applied.reals_edited, [(key(80), addr("10.2.0.11"), 8080)]);
    assert_eq!(applied.reals_deleted, [(key(80), addr("10.2.0.12"), 8080)]);
    let state = director.services();
    let bad = vec![
        (service(80, "rr"), vec![]),
        (service(83, "rr"), vec![real(11, 1), RealSpec { lower: 9, upper: 3, ..real(12, 1) }]),
    ];
    let error = director.apply(&bad).unwrap_err();
    assert_eq!((error.service, error.real), (1, Some(1)));
    assert!(error.to_string().starts_with("services[1].reals[1]: lower: "), "{error}");
    assert_eq!(director.services(), state);
}

#[test]
fn zeroing_sets_counters_to_zero_and_keeps_loads() {
    let mut director = director();
    director.add_service(&service(80, "rr")).unwrap();
    director.add_real(&key(80), &real(11, 1)).unwrap();
    let id = director.service(&key(80)).unwrap().reals[0].id;
    director.endpoints.get(id).bind(Bound::Inactive);
    director.stats.worker(0).endpoint(id).count_in(100);
    director.zero(None).unwrap();
    let listed = director.services();
    assert_eq!(listed[0].counters, Counters::default());
    assert_eq!(listed[0].reals[0].counters, Counters::default());
    assert_eq!(listed[0].reals[0].inactive, 1);
    assert_eq!(director.zero(Some(&key(99))), Err(DirectorError::NoSuchService));
}

#[test]
fn steering_keeps_taking_replies_of_a_removed_nat_server() {
    let mut director = director();
    director.add_service(&service(80, "rr")).unwrap();
    director.add_real(&key(80), &real(11, 1)).unwrap();
    director.delete_real(&key(80), addr("10.2.0.11"), 8080).unwrap();
    let rules = director.steering_rules();
    assert!(rules.nat_reals.contains(&Target { protocol: 6, addr: addr("10.2.0.11"), port: 8080 }));
    assert!(rules.vips.contains(&addr("10.0.0.1")));
}

#[test]
fn what_health_checks_leave_of_a_real_server_is_no_part_of_what_is_asked_for() {
    let mut director = director();
    director.add_service(&service(80, "wrr")).unwrap();
    director.add_real(&key(80), &real(11, 10)).unwrap();
    director.add_real(&key(80), &real(12, 1)).unwrap();
    let asked = director.desired();
    let name = |last: u8| (addr(&format!("10.2.0.{last}")), 8080);
    let seen = |director: &Director| -> Vec<_> {
        let entry = director.service(&key(80)).unwrap();
        entry.candidates().iter().map(|real| (real.addr, real.weight)).collect()
    };
    let (first, second) = (name(11), name(12));
    for (percent, weight) in [(0, 0), (1, 1), (25, 3), (100, 10)] {
        let share = Share { percent, ..Share::default() };
        director.share_real(&key(80), first, share).unwrap();
        assert_eq!(seen(&director), [(second.0, 1), (first.0, weight)], "{percent} %");
        assert_eq!(director.services()[0].reals[1].weight(), weight);
    }
    let id = director.service(&key(80)).unwrap().reals[1].id;
    let gone = Share { percent: 0, templates: false, present: false };
    director.share_real(&key(80), first, gone).unwrap();
    assert_eq!(seen(&director), [(second.0, 1)]);
    let flags = director.endpoints.get(id).flags();
    assert_eq!(flags & (AVAILABLE | SHUNNED), SHUNNED);
    director.edit_real(&key(80), &real(11, 10)).unwrap();
    assert_eq!(director.endpoints.get(id).flags(), flags, "editing is no cure");
    director.hold_real(&key(80), first, Hold { weight: true, templates: false }).unwrap();
    director.share_real(&key(80), first, Share::default()).unwrap();
    assert_eq!(seen(&director), [(second.0, 1), (first.0, 0)], "and none for a drain");
    assert_eq!(director.desired(), asked);
    let nobody = director.share_real(&key(80), name(13), Share::default());
    assert_eq!(nobody, Err(DirectorError::NoSuchReal));
}

#[test]
fn who_stands_in_is_no_part_of_what_is_asked_for_until_it_is_added() {
    let mut director = director();
    director.add_service(&service(80, "rr")).unwrap();
    director.add_real(&key(80), &real(11, 1)).unwrap();
    let asked = director.desired();
    director.stand_in(&key(80), &real(99, 1)).unwrap();
    assert_eq!(director.stand_in(&key(80), &real(11, 1)), Err(DirectorError::RealExists));
    assert_eq!(director.desired(), asked);
    assert!(director.plan(&asked).unwrap().is_empty(), "an apply leaves it where it is");
    let standing = |director: &Director| -> Vec<_> {
        director.services()[0].reals.iter().map(|real| (real.spec.addr, real.standby)).collect()
    };
    assert_eq!(standing(&director), [(addr("10.2.0.99"), true), (addr("10.2.0.11"), false)]);
    let mut wanted = asked;
    wanted[0].1.push(real(99, 7));
    director.apply(&wanted).unwrap();
    assert_eq!(standing(&director), [(addr("10.2.0.99"), false), (addr("10.2.0.11"), false)]);
    assert_eq!(director.desired(), wanted);
    assert_eq!(director.add_real(&key(80), &real(99, 7)), Err(DirectorError::RealExists));
}

#[test]
fn counters_are_the_same_one_by_one_as_in_a_listing_and_the_total_keeps_what_is_gone() {
    let mut director = director();
    for port in [80, 81] {
        director.add_service(&service(port, "rr")).unwrap();
        for last in [11, 12] {
            director.add_real(&key(port), &real(last, 1)).unwrap();
        }
    }
    let ids: Vec<_> = director.real_endpoints().map(|(id, _)| id).collect();
    for (packets, &id) in (1u64..).zip(&ids) {
        let counted = director.stats.worker(0).endpoint(id);
        (0..packets).for_each(|_| counted.count_in(100));
    }
    director.zero(Some(&key(81))).unwrap();
    director.stats.worker(0).endpoint(ids[3]).count_out(50);
    let mut seen = Vec::new();
    director.each_counters(|&key, real, counters| {
        seen.push((key, real.map(|(addr, port, _)| (addr, port)), counters));
    });
    let listed: Vec<_> = director
        .services()
        .iter()
        .flat_map(|service| {
            let key = service.spec.key;
            let real = move |r: &RealInfo| (key, Some((r.spec.addr, r.spec.port)), r.counters);
            std::iter::once((key, None, service.counters)).chain(service.reals.iter().map(real))
        })
        .collect();
    assert_eq!(seen, listed);
    assert_eq!(seen.len(), 6);
    director.delete_service(&key(80)).unwrap();
    let total = director.counted_total();
    assert_eq!((total.in_packets, total.in_bytes, total.out_packets), (10, 1000, 1));
}
