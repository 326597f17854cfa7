//! What was seen of the kernel beyond the recordings: thresholds without a lower one, port 0 beside an
//! exact port, templates of a server that was removed.

use xvs_dataplane::{
    clock::Clock as _,
    director::spec::{RealSpec, ServiceKey, ServiceSpec},
    endpoint::Method,
};

use crate::support::{
    lab::{Lab, read, tcp},
    network::{BACKEND, CLIENT, addr},
};

const VIP: &str = "10.0.0.1";
const REALS: [&str; 2] = ["10.2.0.11", "10.2.0.12"];

/// The real server that a client's SYN goes to.
fn ask(it: &mut Lab, port: u16, to: u16) -> Option<String> {
    let out = it.pass(CLIENT, &tcp(("10.9.0.7", port), (VIP, to), "S", b""));
    let (_, frame) = out.iter().find(|(device, _)| *device == BACKEND)?;
    Some(read(frame).1.split_once(' ').unwrap().0.to_owned())
}

fn wait(it: &mut Lab, seconds: u64) {
    for _ in 0..seconds * 16 {
        it.worker.clock().advance_nanos(1_000_000_000 / 16);
        for _ in 0..4 {
            it.worker.turn().unwrap();
        }
    }
}

/// A server refuses a client: the flow is in CLOSE and gone 10 s later.
fn refuse(it: &mut Lab, port: u16) {
    it.pass(BACKEND, &tcp((REALS[0], 80), ("10.9.0.7", port), "RA", b""));
    wait(it, 12);
}

fn with_threshold(upper: u32) -> (Lab, ServiceKey, RealSpec) {
    let mut it = Lab::with(Method::Nat, VIP, &REALS[..1], 80);
    let info = it.director.services().remove(0);
    let spec = RealSpec { upper, ..info.reals[0].spec };
    it.director.edit_real(&info.spec.key, &spec).unwrap();
    it.publish();
    (it, info.spec.key, spec)
}

#[test]
fn without_a_lower_threshold_a_full_server_takes_flows_again_below_three_quarters() {
    let (mut it, ..) = with_threshold(4);
    for port in 1001..=1004 {
        assert!(ask(&mut it, port, 80).is_some());
    }
    assert_eq!(ask(&mut it, 1005, 80), None, "four are as many as it takes");
    refuse(&mut it, 1001);
    assert_eq!(ask(&mut it, 1006, 80), None, "three are three quarters, not fewer");
    refuse(&mut it, 1002);
    assert!(ask(&mut it, 1007, 80).is_some(), "two are fewer");
}

#[test]
fn a_threshold_that_falls_below_the_load_counts_from_the_next_flow_on() {
    let (mut it, key, spec) = with_threshold(10);
    for port in 1001..=1003 {
        assert!(ask(&mut it, port, 80).is_some());
    }
    it.director.edit_real(&key, &RealSpec { upper: 2, ..spec }).unwrap();
    it.publish();
    assert!(ask(&mut it, 1004, 80).is_some(), "the one that is bound decides about the next");
    assert_eq!(ask(&mut it, 1005, 80), None);
}

/// Makes the lab's service persistent, and gives back what it was.
fn persist(it: &mut Lab) -> (ServiceSpec, Vec<RealSpec>) {
    let info = it.director.services().remove(0);
    let spec = ServiceSpec { persistence_s: Some(60), ..info.spec };
    it.director.edit_service(&spec).unwrap();
    it.publish();
    (spec, info.reals.iter().map(|real| real.spec).collect())
}

#[test]
fn an_exact_port_comes_before_port_0() {
    let mut it = Lab::with(Method::Nat, VIP, &REALS[..1], 80);
    let (spec, reals) = persist(&mut it);
    let key = ServiceKey::Address { protocol: 6, addr: addr(VIP), port: 0 };
    it.director.add_service(&ServiceSpec { key, ..spec }).unwrap();
    let other = RealSpec { addr: addr(REALS[1]), port: 0, ..reals[0] };
    it.director.add_real(&key, &other).unwrap();
    it.publish();
    for port in 1001..1004 {
        assert_eq!(ask(&mut it, port, 80).as_deref(), Some(REALS[0]));
        assert_eq!(ask(&mut it, port, 81).as_deref(), Some(REALS[1]));
    }
}

#[test]
fn the_template_of_a_removed_server_stays_listed_but_pins_nobody() {
    let mut it = Lab::with(Method::Nat, VIP, &REALS, 80);
    let (spec, _) = persist(&mut it);
    let first = ask(&mut it, 1001, 80).unwrap();
    assert_eq!(ask(&mut it, 1002, 80).as_ref(), Some(&first));
    it.director.delete_real(&spec.key, addr(&first), 80).unwrap();
    it.publish();
    let second = ask(&mut it, 1003, 80).unwrap();
    assert_ne!(first, second);
    let templates = |it: &mut Lab| {
        let now = it.worker.clock().now();
        let views: Vec<_> = it.flows.flows(1).collect();
        let shown = views.iter().filter_map(|view| it.director.flow_info(view, now));
        let mut ends: Vec<_> = shown
            .filter(|flow| flow.protocol == 0 || flow.client.1 == 0)
            .map(|flow| (flow.virt.1, flow.real.0.to_string(), flow.real.1))
            .collect();
        ends.sort();
        ends
    };
    assert_eq!(templates(&mut it), [(80, second.clone(), 80), (65535, first, 65535)]);
    wait(&mut it, 61);
    assert_eq!(templates(&mut it), [(80, second, 80)], "flows hang on that one still");
}
