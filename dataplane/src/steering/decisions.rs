//! Tests of the decision itself: the kernel runs both programs over literal frames.
//!
//! Needs the right to load programs (root); skipped with a printed reason otherwise.

use std::net::{Ipv4Addr, Ipv6Addr};

use aya::{TestRunOptions, programs::TestRun as _};
use etherparse::{IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, PacketBuilder, UdpHeader};

use super::{
    program::{Limits, Programs as _, Steering, SteeringError},
    rules::{SteeringRules, Target},
};
use crate::{
    addr::Addr,
    selector::{Ports, Selector},
};

const CLIENT: [u8; 4] = [10, 1, 0, 2];
const VIP: [u8; 4] = [10, 1, 0, 100];
const REAL: [u8; 4] = [10, 2, 0, 11];
const LOCAL: [u8; 4] = [10, 2, 0, 200];
const OWN: [u8; 4] = [10, 2, 0, 1];
const TUNNELLED: [u8; 4] = [10, 2, 0, 12];
const CLIENT6: [u8; 16] = [0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const VIP6: [u8; 16] = [0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const REAL6: [u8; 16] = [0xfd, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];

const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

fn addr(octets: [u8; 4]) -> Addr {
    Ipv4Addr::from(octets).into()
}

fn addr6(octets: [u8; 16]) -> Addr {
    Ipv6Addr::from(octets).into()
}

fn target(protocol: u8, addr: Addr, port: u16) -> Target {
    Target { protocol, addr, port }
}

fn selector(protocol: Option<u8>, to: &str, ports: Ports) -> Selector {
    Selector { protocol, to: to.parse().unwrap(), ports, from: None }
}

fn rules() -> SteeringRules {
    SteeringRules {
        services: [
            target(17, addr(VIP), 53),
            target(6, addr(VIP), 80),
            target(132, addr(VIP), 0),
            target(17, addr6(VIP6), 53),
        ]
        .into(),
        vips: [addr(VIP), addr6(VIP6)].into(),
        selectors: [
            selector(None, "10.3.0.0/16", Ports { first: 80, last: 90 }),
            selector(Some(17), "10.3.1.0/24", Ports::one(53)),
            selector(None, "fd03::/64", Ports::ANY),
        ]
        .into(),
        nat_reals: [target(17, addr(REAL), 5353), target(17, addr6(REAL6), 5353)].into(),
        local_addrs: [addr(LOCAL)].into(),
        local_ports: (1024, 2048),
        hosted: [target(6, addr(OWN), 8080)].into(),
        watched: [target(6, addr(OWN), 80)].into(),
        tunnel_reals: [
            target(4, addr(TUNNELLED), 0),
            target(47, addr(TUNNELLED), 0),
            target(17, addr(TUNNELLED), 6080),
        ]
        .into(),
        own_addrs: [addr(OWN), addr([10, 3, 0, 9])].into(),
    }
}

/// A program with [`rules`], or `None` with the reason printed.
fn steering() -> Option<Steering> {
    match Steering::load(Limits { addrs: 16, endpoints: 16, prefixes: 4 }) {
        Ok(mut steering) => {
            steering.follow(&rules()).unwrap();
            Some(steering)
        }
        Err(error) if !rustix::process::geteuid().is_root() => {
            println!("skipped, needs root: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Whether the frame is taken; both programs must say the same.
fn taken(steering: &mut Steering, frame: &[u8]) -> bool {
    let by_xdp = taken_by_xdp(steering, frame);
    let verdict = steering.bpf.shield().test_run(run(frame)).unwrap().return_value;
    match verdict.cast_signed() {
        2 => assert!(by_xdp, "only the shield takes {frame:x?}"),
        -1 => assert!(!by_xdp, "only XDP takes {frame:x?}"),
        other => panic!("the shield answers {other}"),
    }
    by_xdp
}

fn taken_by_xdp(steering: &mut Steering, frame: &[u8]) -> bool {
    let before = steering.counters().unwrap();
    let action = steering.bpf.steer().test_run(run(frame)).unwrap().return_value;
    assert_eq!(action, 2, "no socket is registered: XDP_PASS");
    let after = steering.counters().unwrap();
    let taken = after.unserved - before.unserved == 1;
    assert_eq!(after.seen - before.seen, 1);
    assert_eq!(after.passed - before.passed, u64::from(!taken));
    taken
}

const fn run(frame: &[u8]) -> TestRunOptions<'_> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options
}

fn udp(source: ([u8; 4], u16), destination: ([u8; 4], u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(MACS.0, MACS.1)
        .ipv4(source.0, destination.0, 64)
        .udp(source.1, destination.1)
        .write(&mut frame, b"payload")
        .unwrap();
    frame
}

fn udp6(source: ([u8; 16], u16), destination: ([u8; 16], u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(MACS.0, MACS.1)
        .ipv6(source.0, destination.0, 64)
        .udp(source.1, destination.1)
        .write(&mut frame, b"payload")
        .unwrap();
    frame
}

/// An IPv4 packet of any protocol, from its Ethernet header on.
fn ip(protocol: u8, source: [u8; 4], destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let header = Ipv4Header::new(length, 64, IpNumber(protocol), source, destination).unwrap();
    framed(&header, payload)
}

fn framed(header: &Ipv4Header, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&MACS.1[..], &MACS.0, &[8, 0]].concat();
    header.write(&mut frame).unwrap();
    frame.extend_from_slice(payload);
    frame
}

/// An IPv6 packet whose headers behind the first are `payload`.
fn ip6(next: u8, source: [u8; 16], destination: [u8; 16], payload: &[u8]) -> Vec<u8> {
    let header = Ipv6Header {
        payload_length: u16::try_from(payload.len()).unwrap(),
        next_header: IpNumber(next),
        hop_limit: 64,
        source,
        destination,
        ..Ipv6Header::default()
    };
    let mut frame = [&MACS.1[..], &MACS.0, &[0x86, 0xdd]].concat();
    header.write(&mut frame).unwrap();
    frame.extend_from_slice(payload);
    frame
}

/// An ICMP or ICMPv6 message: type, then what it quotes.
fn icmp(kind: u8, quoted: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 0, 0], quoted].concat()
}

#[test]
fn packets_of_a_service_are_taken_and_others_are_not() {
    let Some(mut steering) = steering() else { return };
    let mut to = |protocol, vip, port: u16| {
        let ports = [&[0x12, 0x34][..], &port.to_be_bytes(), &[0; 16]].concat();
        taken(&mut steering, &ip(protocol, CLIENT, vip, &ports))
    };
    assert!(to(17, VIP, 53));
    assert!(to(6, VIP, 80));
    assert!(to(132, VIP, 7), "port 0 takes every port of its protocol");
    assert!(!to(6, VIP, 53), "another protocol");
    assert!(!to(6, VIP, 22), "ssh to the VIP");
    assert!(!to(17, [10, 1, 0, 101], 53), "another address");
    assert!(!to(47, VIP, 80), "GRE has no ports");
    for (port, ours) in [(1023, false), (1024, true), (2048, true), (2049, false)] {
        assert_eq!(to(6, LOCAL, port), ours, "port {port} of a local address");
    }
    for port in [80, 85, 90] {
        assert!(to(6, [10, 3, 99, 1], port), "port {port} of a VIP prefix");
        assert!(to(132, [10, 3, 1, 1], port), "the shorter prefix holds in the longer one");
    }
    assert!(!to(6, [10, 3, 99, 1], 79) && !to(6, [10, 3, 99, 1], 91), "outside the range");
    assert!(!to(6, [10, 4, 0, 1], 80), "outside the prefix");
    assert!(to(17, [10, 3, 1, 1], 53));
    assert!(!to(6, [10, 3, 1, 1], 53) && !to(17, [10, 3, 2, 1], 53));
    assert!(!to(6, [10, 3, 0, 9], 80), "the box's own address in a VIP prefix");
    let mut in6 = VIP6;
    in6[..8].copy_from_slice(&[0xfd, 3, 0, 0, 0, 0, 0, 0]);
    assert!(taken(&mut steering, &udp6((CLIENT6, 1000), (in6, 7))), "every port");
    in6[7] = 1;
    assert!(!taken(&mut steering, &udp6((CLIENT6, 1000), (in6, 7))), "outside the prefix");
    assert!(taken(&mut steering, &udp6((CLIENT6, 1000), (VIP6, 53))));
    assert!(!taken(&mut steering, &udp6((CLIENT6, 1000), (VIP6, 54))));
}

#[test]
fn replies_of_nat_reals_are_taken_unless_they_answer_the_box() {
    let Some(mut steering) = steering() else { return };
    assert!(taken(&mut steering, &udp((REAL, 5353), (CLIENT, 1000))));
    assert!(taken(&mut steering, &udp6((REAL6, 5353), (CLIENT6, 1000))));
    assert!(!taken(&mut steering, &udp((REAL, 5354), (CLIENT, 1000))), "another port");
    assert!(!taken(&mut steering, &udp((REAL, 5353), (OWN, 1000))), "a health check");
    assert!(!taken(&mut steering, &udp((TUNNELLED, 5353), (CLIENT, 1000))), "not nat");
}

#[test]
fn tags_options_and_extension_headers_are_read_over() {
    let Some(mut steering) = steering() else { return };
    let frame = udp((CLIENT, 1000), (VIP, 53));
    let tagged = [&frame[..12], &[0x81, 0, 0, 7], &frame[12..]].concat();
    assert!(taken(&mut steering, &tagged));
    let twice = [&frame[..12], &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8], &frame[12..]].concat();
    assert!(taken(&mut steering, &twice));
    let thrice = [&twice[..12], &[0x81, 0, 0, 9], &twice[12..]].concat();
    assert!(!taken(&mut steering, &thrice), "two tags are read at most");

    let mut header = Ipv4Header::new(12, 64, IpNumber::UDP, CLIENT, VIP).unwrap();
    header.options = [1; 40].into();
    assert!(taken(&mut steering, &framed(&header, &frame[34..])));

    let transport = UdpHeader { source_port: 1, destination_port: 53, length: 8, checksum: 0 };
    let chain = |extensions: &[u8]| {
        let mut payload = Vec::new();
        for (i, _) in extensions.iter().enumerate() {
            let next = extensions.get(i + 1).copied().unwrap_or(17);
            payload.extend_from_slice(&[next, 1]);
            payload.extend_from_slice(&[0; 14]);
        }
        payload.extend_from_slice(&transport.to_bytes());
        ip6(extensions.first().copied().unwrap_or(17), CLIENT6, VIP6, &payload)
    };
    assert!(taken(&mut steering, &chain(&[])));
    assert!(taken(&mut steering, &chain(&[0, 60, 43])));
    assert!(taken(&mut steering, &chain(&[60; 6])));
    assert!(!taken(&mut steering, &chain(&[60; 7])), "six are read at most");
}

#[test]
fn fragments_to_a_vip_and_from_a_real_are_taken() {
    let Some(mut steering) = steering() else { return };
    let fragment = |source, destination, more, offset: u16| {
        let mut header = Ipv4Header::new(16, 64, IpNumber::UDP, source, destination).unwrap();
        header.more_fragments = more;
        header.fragment_offset = offset.try_into().unwrap();
        framed(&header, &[0; 16])
    };
    assert!(taken(&mut steering, &fragment(CLIENT, VIP, true, 0)));
    assert!(taken(&mut steering, &fragment(CLIENT, VIP, false, 185)));
    assert!(taken(&mut steering, &fragment(REAL, CLIENT, false, 185)));
    assert!(taken(&mut steering, &fragment(CLIENT, LOCAL, true, 0)));
    assert!(taken(&mut steering, &fragment(CLIENT, [10, 3, 5, 5], false, 185)), "a VIP prefix");
    assert!(!taken(&mut steering, &fragment(CLIENT, [10, 4, 5, 5], false, 185)));
    assert!(!taken(&mut steering, &fragment(REAL, OWN, true, 0)));
    assert!(!taken(&mut steering, &fragment(CLIENT, OWN, true, 0)));

    let fragment6 = |source, destination| {
        let fragment = Ipv6FragmentHeader::new(IpNumber::UDP, 185.try_into().unwrap(), true, 7);
        let payload = [&fragment.to_bytes()[..], &[0; 16]].concat();
        ip6(44, source, destination, &payload)
    };
    assert!(taken(&mut steering, &fragment6(CLIENT6, VIP6)));
    assert!(taken(&mut steering, &fragment6(REAL6, CLIENT6)));
    assert!(!taken(&mut steering, &fragment6(CLIENT6, REAL6)));
}

#[test]
fn icmp_to_a_vip_is_taken_if_it_is_an_echo_request_or_an_error() {
    let Some(mut steering) = steering() else { return };
    for kind in 0..=u8::MAX {
        let message = icmp(kind, &[0; 28]);
        let ours = [3, 4, 8, 11, 12].contains(&kind);
        assert_eq!(taken(&mut steering, &ip(1, CLIENT, VIP, &message)), ours, "type {kind}");
        let in_prefix = ip(1, CLIENT, [10, 3, 5, 5], &message);
        assert_eq!(taken(&mut steering, &in_prefix), ours, "type {kind} to a VIP prefix");
        assert!(!taken(&mut steering, &ip(1, CLIENT, OWN, &message)), "type {kind} to the box");
        let local = [3, 4, 11, 12].contains(&kind);
        for (port, ours) in [(1024, local), (1023, false)] {
            let message = icmp(kind, &udp((LOCAL, port), (REAL, 53))[14..]);
            assert_eq!(taken(&mut steering, &ip(1, CLIENT, LOCAL, &message)), ours, "type {kind}");
        }
        let ours = [1, 2, 3, 4, 128].contains(&kind);
        assert_eq!(taken(&mut steering, &ip6(58, CLIENT6, VIP6, &message)), ours, "type {kind}");
        assert!(!taken(&mut steering, &ip6(58, CLIENT6, CLIENT6, &message)), "type {kind}");
    }
}

#[test]
fn icmp_errors_from_behind_are_taken_by_what_they_quote() {
    let Some(mut steering) = steering() else { return };
    let router = [10, 2, 0, 254];
    let mut error = |to, quoted: &[u8]| {
        let frame = ip(1, router, to, &icmp(3, quoted));
        taken(&mut steering, &frame)
    };
    let to_real = udp((CLIENT, 1000), (REAL, 5353));
    assert!(error(CLIENT, &to_real[14..]));
    assert!(error(CLIENT, &to_real[14..42]), "eight octets of the transport header do");
    assert!(!error(CLIENT, &to_real[14..36]), "without ports it cannot be told");
    assert!(!error(CLIENT, &udp((CLIENT, 1000), (REAL, 53))[14..]), "another port");
    assert!(!error(OWN, &udp((OWN, 1000), (REAL, 5353))[14..]), "about a health check");

    for (protocol, ours) in [(4, true), (41, false), (47, true)] {
        let quoted = ip(protocol, OWN, TUNNELLED, &[0; 8]);
        assert_eq!(error(OWN, &quoted[14..]), ours, "protocol {protocol}");
    }
    assert!(error(OWN, &udp((OWN, 40000), (TUNNELLED, 6080))[14..]));
    assert!(!error(OWN, &udp((OWN, 40000), (TUNNELLED, 6081))[14..]), "not gue's port");
    assert!(!error(CLIENT, &ip(4, OWN, TUNNELLED, &[0; 8])[14..]), "we did not send that");

    let quoted = udp6((CLIENT6, 1000), (REAL6, 5353));
    let frame = ip6(58, REAL6, CLIENT6, &icmp(1, &quoted[14..]));
    assert!(taken(&mut steering, &frame));
}

#[test]
fn what_is_cut_short_or_not_for_one_host_stays_in_the_kernel() {
    let Some(mut steering) = steering() else { return };
    let frame = udp((CLIENT, 1000), (VIP, 53));
    for length in 14..38 {
        assert!(!taken_by_xdp(&mut steering, &frame[..length]), "{length} octets");
    }
    assert!(taken(&mut steering, &frame[..38]), "the ports are there");
    let mut broadcast = frame.clone();
    broadcast[..6].fill(0xff);
    assert!(!taken(&mut steering, &broadcast));
    let mut arp = frame.clone();
    arp[12..14].copy_from_slice(&[8, 6]);
    assert!(!taken(&mut steering, &arp));
    let mut header = frame;
    header[14] = 0x44;
    assert!(!taken(&mut steering, &header), "a header length of 16");
}

#[test]
fn what_real_servers_on_the_box_send_is_redirected_or_shown() {
    let Some(mut steering) = steering() else { return };
    // The loopback device stands for the one that workers read.
    steering.hand_over("lo", &[]).unwrap();
    let mut verdict = |frame: &[u8]| {
        steering.bpf.hosted().test_run(run(frame)).unwrap().return_value.cast_signed()
    };
    let (redirect, unspec) = (7, -1);
    let tcp = |port: u16| {
        let ports = [&port.to_be_bytes()[..], &[0x12, 0x34], &[0; 16]].concat();
        ip(6, OWN, CLIENT, &ports)
    };
    assert_eq!(verdict(&tcp(8080)), redirect);
    assert_eq!(verdict(&tcp(80)), unspec, "shown, and let go");
    assert_eq!(verdict(&tcp(22)), unspec);
    assert_eq!(verdict(&udp((OWN, 8080), (CLIENT, 1000))), unspec, "another protocol");
    let to = |port: u16| {
        let ports = [&[0x12, 0x34][..], &port.to_be_bytes(), &[0; 16]].concat();
        ip(6, CLIENT, OWN, &ports)
    };
    let error = |port| ip(1, OWN, CLIENT, &icmp(3, &to(port)[14..]));
    assert_eq!(verdict(&error(8080)), redirect, "an error about a packet to it");
    assert_eq!(verdict(&error(80)), unspec);
    let mut fragment = Ipv4Header::new(16, 64, IpNumber::TCP, OWN, CLIENT).unwrap();
    fragment.more_fragments = true;
    assert_eq!(verdict(&framed(&fragment, &[0; 16])), redirect);
}

#[test]
fn rules_that_do_not_fit_change_nothing() {
    let Some(mut steering) = steering() else { return };
    let many = (0..17).map(|port| target(6, addr(VIP), port)).collect();
    let refused = SteeringRules { services: many, ..SteeringRules::default() };
    let error = steering.follow(&refused).unwrap_err();
    assert_eq!(error.to_string(), "17 endpoints to steer, at most 16 fit");
    assert!(matches!(error, SteeringError::Full { .. }));
    assert!(taken(&mut steering, &udp((CLIENT, 1000), (VIP, 53))));

    let fits = (0..16).map(|port| target(6, addr(VIP), port)).collect();
    steering.follow(&SteeringRules { services: fits, ..SteeringRules::default() }).unwrap();
    assert!(!taken(&mut steering, &udp((CLIENT, 1000), (VIP, 53))));
    steering.follow(&SteeringRules::default()).unwrap();
    assert!(!taken(&mut steering, &ip(1, CLIENT, VIP, &icmp(8, &[]))));
}
