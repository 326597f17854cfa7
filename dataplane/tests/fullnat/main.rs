//! Full NAT, hairpin and real servers on the box, through a worker over simulated links. Frames are
//! built and judged by etherparse.
#![expect(clippy::unwrap_used, reason = "a failed step ends the test")]

mod proxy;
#[path = "../support"]
mod support {
    pub(crate) mod lab;
    pub(crate) mod network;
}

use std::{collections::BTreeSet, net::IpAddr};

use etherparse::PacketBuilder;
use support::{
    lab::{Lab, read, tcp},
    network::{BACKEND, CLIENT, OWN, ROUTER, addr, real_mac},
};
use xvs_dataplane::{
    clock::Clock as _,
    director::spec::{ClientAddress, LocalPool},
    endpoint::Method,
    verdict::{DeviceId, DropReason},
};

/// VIP, real server, client and local address of both families.
const FAMILIES: [[&str; 4]; 2] = [
    ["10.0.0.1", "10.2.0.11", "10.9.0.7", "10.2.0.200"],
    ["fd00::1", "fd02::11", "2001:db8:9::7", "fd02::200"],
];

fn pool(addrs: &[&str], ports: (u16, u16)) -> LocalPool {
    LocalPool { addrs: addrs.iter().map(|text| addr(text)).collect(), ports }
}

fn fullnat(vip: &str, reals: &[&str], addrs: &[&str], ports: (u16, u16)) -> Lab {
    let mut it = Lab::with(Method::FullNat, vip, reals, 8080);
    it.director.set_locals(&pool(addrs, ports)).unwrap();
    it.publish();
    it
}

/// Lets seconds pass, with the sweeps that belong to them.
fn wait(it: &mut Lab, seconds: u64) {
    for _ in 0..seconds * 4 {
        it.worker.clock().advance_nanos(250_000_000);
        it.worker.turn().unwrap();
    }
}

/// Address and port of what [`read`] says.
fn end(text: &str) -> (String, u16) {
    let (addr, port) = text.split_once(' ').unwrap();
    (addr.to_owned(), port.parse().unwrap())
}

#[test]
fn both_ends_are_rewritten_there_and_back() {
    for [vip, real, client, local] in FAMILIES {
        let mut it = fullnat(vip, &[real], &[local], (5000, 5999));
        for flags in ["S", "A", "FA"] {
            let out = it.pass(CLIENT, &tcp((client, 1025), (vip, 80), flags, b""));
            let [(device, frame)] = &out[..] else { panic!("{vip} {flags}: {out:?}") };
            let (source, destination, mac, ttl) = read(frame);
            let (from, port) = end(&source);
            assert_eq!((*device, from.as_str(), mac, ttl), (BACKEND, local, real_mac(11), 63));
            assert!((5000..6000).contains(&port));
            assert_eq!(destination, format!("{real} 8080"));
            let back = tcp((real, 8080), (local, port), "A", b"data");
            let out = it.pass(BACKEND, &back);
            assert_eq!(out[0].0, CLIENT, "{vip}");
            let (source, destination, mac, _) = read(&out[0].1);
            assert_eq!((source, destination), (format!("{vip} 80"), format!("{client} 1025")));
            assert_eq!(mac, ROUTER);
        }
        let listed = it.director.services();
        assert_eq!(listed[0].counters.conns, 1);
        assert_eq!((listed[0].counters.in_packets, listed[0].counters.out_packets), (3, 3));
        assert!(it.wanted.is_empty(), "all link addresses are known");
    }
}

#[test]
fn no_two_living_flows_to_a_real_server_share_a_port_and_too_many_are_dropped() {
    let mut it = fullnat("10.0.0.1", &["10.2.0.11"], &["10.2.0.200", "10.2.0.201"], (5000, 5009));
    let mut seen = BTreeSet::new();
    for client_port in 1001..=1020 {
        let out = it.pass(CLIENT, &tcp(("10.9.0.7", client_port), ("10.0.0.1", 80), "S", b""));
        assert!(seen.insert(read(&out[0].1).0), "a port was given twice");
    }
    let one_more = tcp(("10.9.0.7", 1021), ("10.0.0.1", 80), "S", b"");
    assert!(it.pass(CLIENT, &one_more).is_empty());
    assert_eq!(it.dropped(DropReason::LocalPorts), 1);
    // Another real server is another destination: all ports are free for it.
    let key = it.director.services()[0].spec.key;
    let mut spec = it.director.services()[0].reals[0].spec;
    spec.addr = addr("10.2.0.12");
    it.director.add_real(&key, &spec).unwrap();
    it.publish();
    let placed = (1021..1061).filter(|&port| {
        !it.pass(CLIENT, &tcp(("10.9.0.7", port), ("10.0.0.1", 80), "S", b"")).is_empty()
    });
    assert_eq!(placed.count(), 20);
}

#[test]
fn a_port_comes_again_only_once_its_flow_has_left_the_table_and_the_oldest_first() {
    let mut it = fullnat("10.0.0.1", &["10.2.0.11"], &["10.2.0.200"], (5000, 5003));
    let ask = |it: &mut Lab, port| {
        let out = it.pass(CLIENT, &tcp(("10.9.0.7", port), ("10.0.0.1", 80), "S", b""));
        out.first().map(|(_, frame)| end(&read(frame).0).1)
    };
    let order: Vec<_> = (1..=4).map(|port| ask(&mut it, port).unwrap()).collect();
    assert_eq!(ask(&mut it, 5), None);
    // The real server refuses the second flow: CLOSE, 10 s.
    it.pass(BACKEND, &tcp(("10.2.0.11", 8080), ("10.2.0.200", order[1]), "RA", b""));
    wait(&mut it, 9);
    assert_eq!(ask(&mut it, 6), None);
    wait(&mut it, 3);
    assert_eq!(ask(&mut it, 7), Some(order[1]));
    // The others' SYN_RECV ends after 60 s; then they come in the order in which they went.
    wait(&mut it, 62);
    let again: Vec<_> = (11..=14).map(|port| ask(&mut it, port).unwrap()).collect();
    assert_eq!(again, [order[2], order[3], order[0], order[1]]);
}

#[test]
fn flows_keep_a_local_address_that_was_taken_out() {
    let mut it = fullnat("10.0.0.1", &["10.2.0.11"], &["10.2.0.200"], (5000, 5999));
    let syn = tcp(("10.9.0.7", 1), ("10.0.0.1", 80), "S", b"");
    let (_, port) = end(&read(&it.pass(CLIENT, &syn)[0].1).0);
    it.director.set_locals(&pool(&["10.2.0.201"], (6000, 6999))).unwrap();
    it.publish();
    let reply = tcp(("10.2.0.11", 8080), ("10.2.0.200", port), "SA", b"");
    assert_eq!(it.pass(BACKEND, &reply).len(), 1);
    let rules = it.director.steering_rules();
    assert!(rules.local_addrs.contains(&addr("10.2.0.200")));
    assert_eq!(rules.local_ports, (5000, 6999));
    let new = tcp(("10.9.0.7", 2), ("10.0.0.1", 80), "S", b"");
    let (local, port) = end(&read(&it.pass(CLIENT, &new)[0].1).0);
    assert_eq!(local, "10.2.0.201");
    assert!((6000..7000).contains(&port));
    assert_eq!(it.flows.len(), 2);
    wait(&mut it, 130);
    assert!(it.flows.is_empty());
    let now = it.worker.clock().now();
    it.reap(now);
    let rules = it.director.steering_rules();
    assert!(!rules.local_addrs.contains(&addr("10.2.0.200")), "no flow has it any more");
    assert_eq!(rules.local_ports, (6000, 6999));
}

#[test]
fn without_a_local_address_a_flow_is_refused_with_its_reason() {
    let mut it = Lab::with(Method::FullNat, "10.0.0.1", &["10.2.0.11"], 8080);
    assert!(it.pass(CLIENT, &tcp(("10.9.0.7", 1), ("10.0.0.1", 80), "S", b"")).is_empty());
    assert_eq!(it.dropped(DropReason::LocalPorts), 1);
    assert_eq!(it.director.mute_reals(), [addr("10.2.0.11")]);
}

/// An ICMP error of `from` to `to` that quotes `about`.
fn error(from: &str, to: &str, about: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(ROUTER, OWN[0]);
    let mut frame = Vec::new();
    match (addr(from).to_ip(), addr(to).to_ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder
            .ipv4(from.octets(), to.octets(), 64)
            .icmpv4_raw(3, 1, [0; 4])
            .write(&mut frame, &about[14..]),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder
            .ipv6(from.octets(), to.octets(), 64)
            .icmpv6_raw(1, 3, [0; 4])
            .write(&mut frame, &about[14..]),
        _ => unreachable!("one family"),
    }
    .unwrap();
    frame
}

/// Source and destination of an ICMP error whose checksum must be right, and of what it quotes, in
/// one line.
fn read_error(frame: &[u8]) -> String {
    let v4 = frame[12..14] == [8, 0];
    let (header, at) = if v4 { (20, 12) } else { (40, 8) };
    let size = if v4 { 4 } else { 16 };
    let ip = |offset: usize| -> IpAddr {
        let octets = &frame[offset..offset + size];
        if v4 {
            <[u8; 4]>::try_from(octets).unwrap().into()
        } else {
            <[u8; 16]>::try_from(octets).unwrap().into()
        }
    };
    let port = |offset: usize| u16::from_be_bytes([frame[offset], frame[offset + 1]]);
    let quote = 14 + header + 8;
    let transport = quote + header;
    let sliced = etherparse::PacketHeaders::from_ethernet_slice(frame).unwrap();
    match sliced.transport.unwrap() {
        etherparse::TransportHeader::Icmpv4(icmp) => {
            assert_eq!(icmp.checksum, icmp.icmp_type.calc_checksum(sliced.payload.slice()));
        }
        etherparse::TransportHeader::Icmpv6(icmp) => {
            let octets = |at: usize| <[u8; 16]>::try_from(&frame[at..at + 16]).unwrap();
            let sum = icmp.icmp_type.calc_checksum(octets(22), octets(38), sliced.payload.slice());
            assert_eq!(icmp.checksum, sum.unwrap());
        }
        other => panic!("{other:?}"),
    }
    format!(
        "{}>{} {}:{}>{}:{}",
        ip(14 + at),
        ip(14 + at + size),
        ip(quote + at),
        port(transport),
        ip(quote + at + size),
        port(transport + 2)
    )
}

#[test]
fn icmp_errors_find_their_way_through_in_both_directions() {
    for [vip, real, client, local] in FAMILIES {
        let mut it = fullnat(vip, &[real], &[local], (5000, 5000));
        let syn = tcp((client, 1025), (vip, 80), "S", b"");
        let sent = it.pass(CLIENT, &syn)[0].1.clone();
        let out = it.pass(BACKEND, &error(real, local, &sent));
        assert_eq!(out[0].0, CLIENT);
        assert_eq!(read_error(&out[0].1), format!("{vip}>{client} {client}:1025>{vip}:80"));
        let reply = tcp((real, 8080), (local, 5000), "SA", b"");
        let replied = it.pass(BACKEND, &reply)[0].1.clone();
        let out = it.pass(CLIENT, &error(client, vip, &replied));
        assert_eq!(out[0].0, BACKEND);
        assert_eq!(read_error(&out[0].1), format!("{local}>{real} {real}:8080>{local}:5000"));
    }
}

#[test]
fn a_real_server_that_calls_its_own_service_is_answered_through_the_box() {
    for [vip, real, client, local] in FAMILIES {
        let mut it = Lab::with(Method::Nat, vip, &[real], 8080);
        let syn = tcp((real, 1025), (vip, 80), "S", b"");
        let plain = it.pass(BACKEND, &syn);
        assert_eq!(read(&plain[0].1).0, format!("{real} 1025"), "no local address: as the kernel");
        it.director.set_locals(&pool(&[local], (5000, 5000))).unwrap();
        it.publish();
        let out = it.pass(BACKEND, &tcp((real, 1026), (vip, 80), "S", b""));
        let (source, destination, ..) = read(&out[0].1);
        assert_eq!((source, destination), (format!("{local} 5000"), format!("{real} 8080")));
        let out = it.pass(BACKEND, &tcp((real, 8080), (local, 5000), "SA", b""));
        let (source, destination, mac, _) = read(&out[0].1);
        assert_eq!((source, destination), (format!("{vip} 80"), format!("{real} 1026")));
        assert_eq!((out[0].0, mac), (BACKEND, real_mac(11)));
        let out = it.pass(CLIENT, &tcp((client, 1025), (vip, 80), "S", b""));
        assert_eq!(read(&out[0].1).0, format!("{client} 1025"), "others are as before");
        it.director.set_setting("hairpin", 0).unwrap();
        it.publish();
        let out = it.pass(BACKEND, &tcp((real, 1027), (vip, 80), "S", b""));
        assert_eq!(read(&out[0].1).0, format!("{real} 1027"));
    }
}

#[test]
fn clients_on_the_real_servers_link_are_answered_through_the_box_if_asked_for() {
    let mut it = Lab::with(Method::Nat, "10.0.0.1", &["10.2.0.11"], 8080);
    it.director.set_locals(&pool(&["10.2.0.200"], (5000, 5000))).unwrap();
    it.publish();
    let out = it.pass(BACKEND, &tcp(("10.2.0.13", 1), ("10.0.0.1", 80), "S", b""));
    assert_eq!(read(&out[0].1).0, "10.2.0.13 1");
    it.director.set_setting("hairpin", 2).unwrap();
    it.publish();
    let out = it.pass(BACKEND, &tcp(("10.2.0.13", 2), ("10.0.0.1", 80), "S", b""));
    assert_eq!(read(&out[0].1).0, "10.2.0.200 5000");
}

#[test]
fn nat_to_the_box_itself_is_translated_there_and_back_and_loopback_gets_nothing() {
    let mut it = Lab::with(Method::Nat, "10.0.0.1", &["10.2.0.1"], 8080);
    let syn = tcp(("10.9.0.7", 1025), ("10.0.0.1", 80), "S", b"");
    assert!(it.pass(CLIENT, &syn).is_empty());
    let (_, given) = it.worker.io_mut().take_host().unwrap();
    let (source, destination, _, ttl) = read(&given);
    assert_eq!((source.as_str(), destination.as_str()), ("10.9.0.7 1025", "10.2.0.1 8080"));
    assert_eq!(ttl, 64, "no hop is taken off");
    let out = it.pass(DeviceId::HOST, &tcp(("10.2.0.1", 8080), ("10.9.0.7", 1025), "SA", b""));
    let (source, destination, mac, ttl) = read(&out[0].1);
    assert_eq!((source.as_str(), destination.as_str()), ("10.0.0.1 80", "10.9.0.7 1025"));
    assert_eq!((mac, ttl), (ROUTER, 64));
    // What belongs to no flow goes on as it is.
    let stray = tcp(("10.2.0.1", 8080), ("10.9.0.7", 7), "A", b"");
    let out = it.pass(DeviceId::HOST, &stray);
    assert_eq!((out[0].0, &out[0].1[14..]), (CLIENT, &stray[14..]));

    let mut it = Lab::with(Method::Nat, "10.0.0.1", &["127.0.0.1"], 8080);
    assert!(it.pass(CLIENT, &syn).is_empty());
    assert_eq!(it.dropped(DropReason::MappedAddress), 1);
    assert!(it.worker.io_mut().take_host().is_none());
}

/// A SYN with these TCP options.
fn syn(from: (&str, u16), to: (&str, u16), options: &[u8], payload: &[u8]) -> Vec<u8> {
    let plain = tcp(from, to, "S", &[options, payload].concat());
    let v4 = plain[12..14] == [8, 0];
    let l4 = if v4 { 34 } else { 54 };
    let mut frame = plain;
    frame[l4 + 12] += u8::try_from(options.len() / 4).unwrap() << 4;
    frame[l4 + 16..l4 + 18].fill(0);
    let headers = etherparse::PacketHeaders::from_ethernet_slice(&frame).unwrap();
    let Some(etherparse::TransportHeader::Tcp(header)) = &headers.transport else { panic!() };
    let payload = headers.payload.slice();
    let checksum = match &headers.net {
        Some(etherparse::NetHeaders::Ipv4(ip, _)) => header.calc_checksum_ipv4(ip, payload),
        Some(etherparse::NetHeaders::Ipv6(ip, _)) => header.calc_checksum_ipv6(ip, payload),
        _ => panic!("no IP"),
    };
    frame[l4 + 16..l4 + 18].copy_from_slice(&checksum.unwrap().to_be_bytes());
    frame
}

/// The TCP options of a frame whose checksums must be right.
fn options(frame: &[u8]) -> Vec<u8> {
    read(frame);
    let headers = etherparse::PacketHeaders::from_ethernet_slice(frame).unwrap();
    let Some(etherparse::TransportHeader::Tcp(header)) = headers.transport else { panic!() };
    header.options.as_slice().to_vec()
}

/// What TOA says of a client.
fn told(client: &str, port: u16) -> Vec<u8> {
    let addr = match addr(client).to_ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let length = u8::try_from(4 + addr.len()).unwrap();
    [&[254, length][..], &port.to_be_bytes(), &addr].concat()
}

fn telling([vip, real, _, local]: [&str; 4], way: ClientAddress) -> Lab {
    let mut it = fullnat(vip, &[real], &[local], (5000, 5000));
    let mut spec = it.director.services()[0].spec.clone();
    spec.client_address = way;
    it.director.edit_service(&spec).unwrap();
    it.publish();
    it
}

#[test]
fn real_servers_are_told_the_client_from_the_syn_to_the_first_data() {
    for [vip, real, client, local] in FAMILIES {
        let mut it = telling([vip, real, client, local], ClientAddress::Toa);
        let mss = [2, 4, 5, 0xb4];
        let out = it.pass(CLIENT, &syn((client, 1025), (vip, 80), &mss, b""));
        let wanted = [&told(client, 1025)[..], &mss].concat();
        assert_eq!(options(&out[0].1), wanted, "{vip}: in front of the client's own");
        let out =
            it.pass(BACKEND, &syn((real, 8080), (local, 5000), &[1, 2, 4, 5, 0xb4, 1, 1, 0], b""));
        let room = if addr(vip).is_v4() { 0xac } else { 0xa0 };
        assert_eq!(options(&out[0].1)[..5], [1, 2, 4, 5, room], "{vip}: room for the option");
        for payload in [&b""[..], b"GET /"] {
            let out = it.pass(CLIENT, &tcp((client, 1025), (vip, 80), "A", payload));
            assert_eq!(options(&out[0].1), told(client, 1025), "{vip}");
            assert!(out[0].1.ends_with(payload));
        }
        for _ in 0..3 {
            it.pass(BACKEND, &tcp((real, 8080), (local, 5000), "A", b"data"));
        }
        let out = it.pass(CLIENT, &tcp((client, 1025), (vip, 80), "A", b"more"));
        assert!(options(&out[0].1).is_empty(), "{vip}: the real server knows");
        assert_eq!(it.stats.worker(0).work.clients_untold.get(), 0);
    }
}

#[test]
fn what_has_no_room_for_the_client_goes_without_and_is_counted() {
    let [vip, real, client, local] = FAMILIES[0];
    let mut it = telling([vip, real, client, local], ClientAddress::Toa);
    let full = [1; 36];
    let out = it.pass(CLIENT, &syn((client, 1025), (vip, 80), &full, b""));
    assert_eq!(options(&out[0].1), full);
    let untold = |it: &Lab| it.stats.worker(0).work.clients_untold.get();
    assert_eq!(untold(&it), 1);
    let out = it.pass(CLIENT, &tcp((client, 1025), (vip, 80), "A", &[7; 1453]));
    assert_eq!((out[0].1.len(), untold(&it)), (14 + 40 + 1453, 2), "the path takes 1500");
    let out = it.pass(CLIENT, &tcp((client, 1025), (vip, 80), "A", &[7; 1452]));
    assert_eq!((options(&out[0].1), untold(&it)), (told(client, 1025), 2));
}
