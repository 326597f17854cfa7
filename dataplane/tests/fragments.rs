//! Fragments through a worker over simulated links: in any order, by every method, within bounds.
#![expect(clippy::unwrap_used, reason = "a failed step ends the test")]

mod support {
    pub(crate) mod lab;
    pub(crate) mod network;
}

use std::net::IpAddr;

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, PacketBuilder};
use proptest::prelude::*;
use support::{
    lab::{Lab, read, tcp},
    network::{BACKEND, CLIENT, OWN, ROUTER, addr, real_mac},
};
use xvs_dataplane::{
    clock::Clock as _, director::spec::LocalPool, endpoint::Method, verdict::DropReason,
};

/// VIP, real server and client.
const FAMILIES: [[&str; 3]; 2] =
    [["10.0.0.1", "10.2.0.11", "10.9.0.7"], ["fd00::1", "fd02::11", "2001:db8:9::7"]];

const METHODS: [Method; 6] =
    [Method::Nat, Method::Dr, Method::Ipip, Method::Gue, Method::Gre, Method::FullNat];

/// A segment of TCP that opens a flow, as an IP payload with a right checksum.
fn segment(from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    let frame = tcp((from, 1025), (to, 80), "S", payload);
    let header = if addr(from).is_v4() { 34 } else { 54 };
    frame[header..].to_vec()
}

/// One piece of it: offset and octets, whether more follow.
fn piece(from: &str, to: &str, data: &[u8], (at, length, more): (usize, usize, bool)) -> Vec<u8> {
    let octets = &data[at..at + length];
    let mut frame = [&OWN[0][..], &ROUTER].concat();
    let offset = u16::try_from(at / 8).unwrap();
    match (addr(from).to_ip(), addr(to).to_ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = u16::try_from(length).unwrap();
            let mut header =
                Ipv4Header::new(length, 64, IpNumber::TCP, from.octets(), to.octets()).unwrap();
            header.identification = 7;
            header.more_fragments = more;
            header.fragment_offset = offset.try_into().unwrap();
            header.header_checksum = header.calc_header_checksum();
            frame.extend_from_slice(&[8, 0]);
            header.write(&mut frame).unwrap();
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            // Hop-by-hop options, then destination options, then the fragment header; only the first
            // fragment's next header counts (RFC 8200, section 4.5).
            let next = if at == 0 { 6 } else { 59 };
            let field = offset << 3 | u16::from(more);
            let chain = [
                &[60, 0, 1, 4, 0, 0, 0, 0, 44, 0, 1, 4, 0, 0, 0, 0, next, 0][..],
                &field.to_be_bytes(),
                &[0, 0, 0, 7],
            ]
            .concat();
            let header = Ipv6Header {
                payload_length: u16::try_from(chain.len() + length).unwrap(),
                next_header: IpNumber::IPV6_HEADER_HOP_BY_HOP,
                hop_limit: 64,
                source: from.octets(),
                destination: to.octets(),
                ..Ipv6Header::default()
            };
            frame.extend_from_slice(&[0x86, 0xdd]);
            header.write(&mut frame).unwrap();
            frame.extend_from_slice(&chain);
        }
        _ => unreachable!("one family"),
    }
    frame.extend_from_slice(octets);
    frame
}

/// Cuts `length` octets into pieces of `size`.
fn cuts(length: usize, size: usize) -> Vec<(usize, usize, bool)> {
    let piece = |at: usize| (at, size.min(length - at), at + size < length);
    (0..length).step_by(size).map(piece).collect()
}

fn lab(method: Method, vip: &str, real: &str) -> Lab {
    let mut it = Lab::with(method, vip, &[real], 80);
    let addrs = vec![addr("10.2.0.200"), addr("fd02::200")];
    it.director.set_locals(&LocalPool { addrs, ports: (5000, 5000) }).unwrap();
    it.publish();
    it
}

/// Octets of the client's segment that came out, over all frames, whatever is around them.
fn delivered(out: &[(xvs_dataplane::verdict::DeviceId, Vec<u8>)], marker: &[u8]) -> usize {
    out.iter().map(|(_, frame)| frame.windows(marker.len()).filter(|w| *w == marker).count()).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn pieces_in_any_order_reach_one_real_server_by_every_method(
        order in Just((0..6_usize).collect::<Vec<_>>()).prop_shuffle(),
        family in 0..2_usize,
        method in 0..6_usize,
    ) {
        let ([vip, real, client], method) = (FAMILIES[family], METHODS[method]);
        let mut it = lab(method, vip, real);
        // A word that stands eight times at eight-octet offsets: no cut goes through it.
        let payload: Vec<u8> = (0..140_u8).flat_map(|n| if n % 17 == 4 { *b"here it " } else { [n; 8] }).collect();
        let words = payload.chunks(8).filter(|c| *c == b"here it ").count();
        let data = segment(client, vip, &payload);
        let cuts = cuts(data.len(), 192);
        prop_assert_eq!(cuts.len(), 6);
        let mut out = Vec::new();
        for (place, at) in order.iter().enumerate() {
            let frame = piece(client, vip, &data, cuts[*at]);
            let came = it.pass(CLIENT, &frame);
            prop_assert!(came.is_empty() || place == 5, "nothing leaves before the last piece");
            out.extend(came);
        }
        prop_assert!(!out.is_empty());
        for (device, frame) in &out {
            prop_assert_eq!(*device, BACKEND);
            prop_assert_eq!(&frame[..6], &real_mac(11));
        }
        // A segment's header of 20 octets shifts the words by four: they are looked for as they are.
        let mut whole = 0;
        for (_, frame) in &out {
            whole += frame.windows(8).filter(|w| *w == b"here it ").count();
        }
        let cut_through = cuts.iter().skip(1).filter(|(at, ..)| {
            let inside = at - 20;
            let (from, word) = (inside % 8, inside / 8);
            from != 0 && word % 17 == 4
        });
        // Whatever left in pieces again is cut where it was, at most.
        prop_assert!(whole + cut_through.count() >= words && whole <= words, "{whole} of {words}");
        let listed = it.director.services();
        prop_assert_eq!(listed[0].reals[0].counters.conns, 1);
        prop_assert_eq!(listed[0].reals[0].counters.in_packets, 1);
    }
}

#[test]
fn overlapping_pieces_discard_the_datagram_with_a_reason() {
    for [vip, real, client] in FAMILIES {
        for overlap in [(176, 32, true), (96, 8, true), (0, 200, true), (184, 1024, false)] {
            let mut it = lab(Method::Nat, vip, real);
            let data = segment(client, vip, &[7; 1188]);
            let first = piece(client, vip, &data, (0, 192, true));
            assert!(it.pass(CLIENT, &first).is_empty());
            assert!(it.pass(CLIENT, &piece(client, vip, &data, overlap)).is_empty());
            assert_eq!(it.dropped(DropReason::BadFragment), 1, "{vip} {overlap:?}");
            let rest = piece(client, vip, &data, (192, data.len() - 192, false));
            assert!(
                it.pass(CLIENT, &rest).is_empty(),
                "{vip} {overlap:?}: what is left is no datagram"
            );
        }
        let mut it = lab(Method::Nat, vip, real);
        let data = segment(client, vip, &[7; 1188]);
        let first = piece(client, vip, &data, (0, 192, true));
        it.pass(CLIENT, &first);
        assert!(it.pass(CLIENT, &first).is_empty(), "a copy is no overlap");
        let rest = piece(client, vip, &data, (192, data.len() - 192, false));
        assert!(!it.pass(CLIENT, &rest).is_empty(), "{vip}");
    }
}

#[test]
fn ends_that_contradict_and_odd_lengths_are_refused() {
    let [vip, real, client] = FAMILIES[0];
    let data = segment(client, vip, &[7; 1188]);
    for (first, second) in [
        ((800, 408, false), (1000, 8, true)),
        ((800, 8, true), (192, 8, false)),
        ((0, 192, true), (192, 7, true)),
        ((0, 192, true), (192, 0, true)),
    ] {
        let mut it = lab(Method::Nat, vip, real);
        it.pass(CLIENT, &piece(client, vip, &data, first));
        it.pass(CLIENT, &piece(client, vip, &data, second));
        assert_eq!(it.dropped(DropReason::BadFragment), 1, "{first:?} {second:?}");
    }
}

#[test]
fn the_smallest_pieces_make_a_datagram_and_more_than_fit_are_refused() {
    for [vip, real, client] in FAMILIES {
        let mut it = lab(Method::Nat, vip, real);
        let data = segment(client, vip, b"tiny pieces");
        let mut out = Vec::new();
        for cut in cuts(data.len(), 8) {
            out.extend(it.pass(CLIENT, &piece(client, vip, &data, cut)));
        }
        assert_eq!(delivered(&out, b"tiny"), 1, "{vip}: {out:?}");
        let data = segment(client, vip, &[7; 1180]);
        let mut it = lab(Method::Nat, vip, real);
        let all = cuts(data.len(), 8);
        assert!(all.len() > xvs_dataplane::fragment::PIECES);
        for cut in all {
            assert!(it.pass(CLIENT, &piece(client, vip, &data, cut)).is_empty());
        }
        assert_eq!(it.dropped(DropReason::BadFragment), 1, "{vip}");
    }
}

#[test]
fn what_is_not_whole_in_time_is_given_up_and_a_flood_holds_nobody_up() {
    let [vip, real, client] = FAMILIES[0];
    let mut it = lab(Method::Nat, vip, real);
    let data = segment(client, vip, &[7; 400]);
    let (first, last) = ((0, 192, true), (192, data.len() - 192, false));
    it.pass(CLIENT, &piece(client, vip, &data, first));
    it.worker.clock().advance_nanos(31_000_000_000);
    assert!(it.pass(CLIENT, &piece(client, vip, &data, last)).is_empty());
    assert_eq!(it.stats.worker(0).work.datagrams_lost.get(), 1);
    // First halves of many datagrams, then a whole one.
    let mut it = lab(Method::Nat, vip, real);
    for host in 1..=200_u8 {
        let from = format!("10.9.1.{host}");
        let data = segment(&from, vip, &[7; 400]);
        it.pass(CLIENT, &piece(&from, vip, &data, first));
    }
    let lost = it.stats.worker(0).work.datagrams_lost.get();
    assert_eq!(lost, 200 - u64::try_from(xvs_dataplane::fragment::DATAGRAMS).unwrap());
    it.pass(CLIENT, &piece(client, vip, &data, last));
    let out = it.pass(CLIENT, &piece(client, vip, &data, first));
    assert_eq!(out.len(), 2, "as it came, in two pieces");
    assert_eq!(out[0].1[30..34], [10, 2, 0, 11]);
    assert!(it.flows.len() == 1 && it.wanted.is_empty());
    let now = it.worker.clock().now();
    it.reap(now);
}

#[test]
fn a_big_datagram_to_nobody_comes_to_the_host_whole() {
    let [vip, real, client] = FAMILIES[0];
    let mut it = lab(Method::Nat, vip, real);
    let mut frame = Vec::new();
    let (IpAddr::V4(from), IpAddr::V4(to)) = (addr(client).to_ip(), addr(vip).to_ip()) else {
        panic!()
    };
    PacketBuilder::ethernet2(ROUTER, OWN[0])
        .ipv4(from.octets(), to.octets(), 64)
        .tcp(1025, 81, 1, 1000)
        .write(&mut frame, &[7; 1000])
        .unwrap();
    let data = frame[34..].to_vec();
    for cut in cuts(data.len(), 512) {
        assert!(it.pass(CLIENT, &piece(client, vip, &data, cut)).is_empty());
    }
    let (_, given) = it.worker.io_mut().take_host().unwrap();
    assert!(given.ends_with(&data));
    assert_eq!(read(&given).1, "10.0.0.1 81");
    assert!(it.worker.io_mut().take_host().is_none());
}
