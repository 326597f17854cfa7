//! Firewall marks: many addresses and ports behind one service. Frames are built and judged by
//! etherparse.

use std::time::Duration;

use etherparse::PacketBuilder;
use xvs_dataplane::{
    addr::Family,
    clock::Tick,
    director::spec::{MarkRule, RealSpec, ServiceKey, ServiceSpec, TunnelSpec},
    endpoint::Method,
    selector::Selector,
    verdict::DropReason,
};

use crate::support::{
    lab::{Lab, read, tcp},
    network::{BACKEND, CLIENT, OWN, ROUTER, addr, real_mac},
};

fn mark(mark: u32) -> ServiceKey {
    ServiceKey::Mark { mark, family: Family::V4 }
}

fn rule(mark: u32, protocol: Option<u8>, to: &str, ports: &str) -> MarkRule {
    let (to, ports) = (to.parse().unwrap(), ports.parse().unwrap());
    MarkRule { mark, selector: Selector { protocol, to, ports, from: None } }
}

fn service(key: ServiceKey) -> ServiceSpec {
    ServiceSpec::new(key, "rr")
}

fn real(at: &str, port: u16, method: Method) -> RealSpec {
    RealSpec {
        tunnel: TunnelSpec { port: 6080, ..TunnelSpec::default() },
        ..RealSpec::new(addr(at), port, method)
    }
}

/// A lab with one mark service over 10.3.0.0/16 and these real servers.
fn lab(spec: &ServiceSpec, reals: &[RealSpec]) -> Lab {
    let mut it = Lab::new();
    it.director.set_mark_rules(vec![rule(5, None, "10.3.0.0/16", "any")]).unwrap();
    it.director.add_service(spec).unwrap();
    for real in reals {
        it.director.add_real(&spec.key, real).unwrap();
    }
    it.publish();
    it
}

/// Where a SYN to this address and port comes out, or `None`.
fn syn(it: &mut Lab, from: (&str, u16), to: (&str, u16)) -> Option<String> {
    let out = it.pass(CLIENT, &tcp(from, to, "S", b""));
    out.first().filter(|(device, _)| *device == BACKEND).map(|(_, frame)| read(frame).1)
}

#[test]
fn every_address_and_port_of_a_mark_is_translated_there_and_back() {
    for (port, there) in [(0, None), (8080, Some(8080))] {
        let mut it = lab(&service(mark(5)), &[real("10.2.0.11", port, Method::Nat)]);
        for (vip, vport) in [("10.3.0.1", 80), ("10.3.0.1", 443), ("10.3.255.9", 81)] {
            let client = ("10.9.0.7", 1000 + vport);
            let at = there.unwrap_or(vport);
            assert_eq!(syn(&mut it, client, (vip, vport)), Some(format!("10.2.0.11 {at}")));
        }
        let reply = tcp(("10.2.0.11", there.unwrap_or(443)), ("10.9.0.7", 1443), "SA", b"");
        let out = it.pass(BACKEND, &reply);
        let (source, destination, mac, _) = read(&out[0].1);
        assert_eq!((out[0].0, mac), (CLIENT, ROUTER));
        assert_eq!((source.as_str(), destination.as_str()), ("10.3.0.1 443", "10.9.0.7 1443"));
    }
}

#[test]
fn a_mark_works_by_every_method_and_family_of_real_servers() {
    for (method, at, grown) in [
        (Method::Dr, "10.2.0.11", 0),
        (Method::Ipip, "10.2.0.11", 20),
        (Method::Gue, "10.2.0.11", 32),
        (Method::Gre, "10.2.0.11", 24),
        (Method::Ipip, "fd02::11", 40),
    ] {
        let mut it = lab(&service(mark(5)), &[real(at, 0, method)]);
        let frame = tcp(("10.9.0.7", 1025), ("10.3.7.7", 80), "S", b"");
        let out = it.pass(CLIENT, &frame);
        assert_eq!((out.len(), out[0].0), (1, BACKEND), "{method:?}");
        assert_eq!(out[0].1.len(), frame.len() + grown, "{method:?}");
        assert_eq!(out[0].1[..6], real_mac(11));
        assert!(out[0].1.ends_with(&frame[34..]), "the segment is untouched: {method:?}");
    }
}

#[test]
fn a_mark_of_ipv6_packets_has_services_of_its_own() {
    let mut it = Lab::new();
    let key = ServiceKey::Mark { mark: 5, family: Family::V6 };
    it.director.set_mark_rules(vec![rule(5, Some(6), "fd03::/64", "80-90")]).unwrap();
    it.director.add_service(&service(key)).unwrap();
    it.director.add_real(&key, &real("fd02::11", 0, Method::Nat)).unwrap();
    it.publish();
    let client = ("2001:db8::7", 1025);
    assert_eq!(syn(&mut it, client, ("fd03::9", 85)), Some("fd02::11 85".to_owned()));
    assert_eq!(syn(&mut it, client, ("fd03::9", 91)), None);
    assert_eq!(syn(&mut it, client, ("fd03:0:0:1::9", 85)), None);
}

#[test]
fn the_last_rule_that_takes_a_packet_decides_and_a_mark_without_a_service_is_none() {
    let mut it = lab(&service(mark(5)), &[real("10.2.0.11", 0, Method::Nat)]);
    let exact = ServiceKey::Address { protocol: 6, addr: addr("10.3.0.1"), port: 80 };
    it.director.add_service(&service(exact)).unwrap();
    it.director.add_real(&exact, &real("10.2.0.12", 80, Method::Nat)).unwrap();
    it.publish();
    let to = |it: &mut Lab, port: u16| syn(it, ("10.9.0.7", port), ("10.3.0.1", 80));
    assert_eq!(to(&mut it, 1), Some("10.2.0.11 80".to_owned()), "a mark goes before an address");
    for (later, expected) in [
        (rule(0, Some(6), "10.3.0.1", "80"), "10.2.0.12 80"),
        (rule(9, None, "10.3.0.0/24", "any"), "10.2.0.12 80"),
        (rule(5, None, "0.0.0.0/0", "80"), "10.2.0.11 80"),
    ] {
        it.director.add_mark_rule(later).unwrap();
        it.publish();
        let client = 100 + u16::try_from(it.director.mark_rules().len()).unwrap();
        assert_eq!(to(&mut it, client), Some(expected.to_owned()), "{later:?}");
    }
    assert!(it.director.delete_mark_rule(&rule(7, None, "10.3.0.0/16", "any")).is_err());
    it.director.set_mark_rules(Vec::new()).unwrap();
    it.publish();
    assert_eq!(to(&mut it, 200), Some("10.2.0.12 80".to_owned()));
    assert_eq!(to(&mut it, 1), Some("10.2.0.11 80".to_owned()), "a flow stays where it is");
}

#[test]
fn templates_of_a_mark_pin_clients_over_all_its_addresses() {
    let spec = ServiceSpec { persistence_s: Some(300), ..service(mark(5)) };
    let reals = ["10.2.0.11", "10.2.0.12"].map(|at| real(at, 8080, Method::Nat));
    let mut it = lab(&spec, &reals);
    let first = syn(&mut it, ("10.9.0.7", 1), ("10.3.0.1", 80)).unwrap();
    assert_eq!(syn(&mut it, ("10.9.0.8", 1), ("10.3.0.1", 80)).unwrap(), "10.2.0.11 80");
    assert_eq!(first, "10.2.0.12 80", "a persistent service of every port maps none");
    assert_eq!(syn(&mut it, ("10.9.0.7", 2), ("10.3.9.9", 443)).unwrap(), "10.2.0.12 443");
    let mut listed = it.flows.flows(0).filter_map(|flow| it.director.flow_info(&flow, Tick(0)));
    let template = listed.find(|flow| flow.protocol == 0).unwrap();
    assert_eq!(template.virt, (addr("0.0.0.5"), 0));
    assert_eq!((template.client, template.real.1), ((addr("10.9.0.7"), 0), 0));
}

#[test]
fn one_packet_scheduling_over_many_addresses_keeps_nothing() {
    let spec = ServiceSpec { one_packet: true, ..service(mark(5)) };
    let mut it = lab(&spec, &[real("10.2.0.11", 5353, Method::Nat)]);
    for last in 1..=200 {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(ROUTER, OWN[0])
            .ipv4([10, 9, 0, 7], [10, 3, 0, last], 64)
            .udp(1025, 53)
            .write(&mut frame, b"query")
            .unwrap();
        let out = it.pass(CLIENT, &frame);
        assert_eq!(out[0].1[30..38], [10, 2, 0, 11, 4, 1, 0x14, 0xe9], "{last}");
        // Of the lab's 128 places never more than two thirds are in use, as their window demands.
        if last % 15 == 0 {
            it.reap(Tick::from_secs(10 * u32::from(last)));
        }
    }
    assert_eq!(it.flows.len(), 0);
    assert_eq!(it.dropped(DropReason::DestinationsFull), 0);
}

#[test]
fn destinations_are_bounded_and_come_back_when_their_flows_are_over() {
    let mut it = lab(&service(mark(5)), &[real("10.2.0.11", 0, Method::Nat)]);
    let sent = (0..=255_u16).filter(|last| {
        let vip = format!("10.3.0.{last}");
        syn(&mut it, ("10.9.0.7", 1025 + last), (&vip, 80)).is_some()
    });
    let sent = u64::try_from(sent.count()).unwrap();
    // The lab has room for 128 of them, and each looks at 64 places.
    assert!((96..=128).contains(&sent), "{sent}");
    assert_eq!(it.dropped(DropReason::DestinationsFull), 256 - sent);
    assert!(syn(&mut it, ("10.9.0.7", 999), ("10.3.0.0", 81)).is_some(), "a known one");
    // SYN_RECV lasts 60 s.
    for _ in 0..70 {
        it.worker.clock().advance_nanos(Duration::from_secs(1).as_nanos().try_into().unwrap());
        for _ in 0..8 {
            it.worker.turn().unwrap();
        }
    }
    assert_eq!(it.flows.len(), 0);
    it.reap(Tick::from_secs(70));
    it.reap(Tick::from_secs(76));
    assert!(syn(&mut it, ("10.9.0.7", 1025), ("10.3.9.9", 80)).is_some());
}

#[test]
fn an_icmp_error_about_a_flow_of_a_mark_reaches_its_real_server() {
    let mut it = lab(&service(mark(5)), &[real("10.2.0.11", 8080, Method::Nat)]);
    syn(&mut it, ("10.9.0.7", 1025), ("10.3.0.1", 80)).unwrap();
    let reply = tcp(("10.3.0.1", 80), ("10.9.0.7", 1025), "SA", b"");
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(ROUTER, OWN[0])
        .ipv4([10, 1, 0, 254], [10, 3, 0, 1], 64)
        .icmpv4(etherparse::Icmpv4Type::DestinationUnreachable(
            etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 },
        ))
        .write(&mut frame, &reply[14..42])
        .unwrap();
    let out = it.pass(CLIENT, &frame);
    assert_eq!((out.len(), out[0].0), (1, BACKEND));
    let inner = &out[0].1[42..];
    assert_eq!(inner[12..16], [10, 2, 0, 11], "the quoted source is the real server");
    assert_eq!(inner[20..22], 8080_u16.to_be_bytes());
}

#[test]
fn an_echo_to_a_marked_address_is_answered() {
    let mut it = lab(&service(mark(5)), &[real("10.2.0.11", 0, Method::Nat)]);
    let echo = |to: [u8; 4]| {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(ROUTER, OWN[0])
            .ipv4([10, 9, 0, 7], to, 64)
            .icmpv4_echo_request(1, 1)
            .write(&mut frame, b"ping")
            .unwrap();
        frame
    };
    let out = it.pass(CLIENT, &echo([10, 3, 4, 5]));
    assert_eq!((out[0].0, out[0].1[34]), (CLIENT, 0), "echo reply");
    assert!(it.pass(CLIENT, &echo([10, 4, 4, 5])).is_empty());
}
