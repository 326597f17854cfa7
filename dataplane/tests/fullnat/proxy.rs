//! Full NAT with the PROXY protocol: a client and a real server that read and write segments
//! by hand, so that each can be lost, sent again or overtaken. Frames are built and judged by etherparse.

use std::{collections::BTreeMap, net::IpAddr, slice::from_ref};

use crate::support::{
    lab::{Lab, read},
    network::{BACKEND, CLIENT, OWN, ROUTER, addr},
};
use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TcpHeader, TransportHeader};
use xvs_dataplane::{
    director::spec::{ClientAddress, LocalPool},
    endpoint::Method,
    rng::Rng,
    verdict::DeviceId,
};

/// VIP, real server, client and local address of both families, and a header's octets.
const FAMILIES: [([&str; 4], u32); 2] = [
    (["10.0.0.1", "10.2.0.11", "10.9.0.7", "10.2.0.200"], 28),
    (["fd00::1", "fd02::11", "2001:db8:9::7", "fd02::200"], 52),
];

/// The client's initial sequence number, so that numbers wrap early, and the real server's.
const ISN: u32 = u32::MAX - 10;
const REAL_ISN: u32 = 7_000;

/// What a segment says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    sequence: u32,
    acknowledged: Option<u32>,
    /// Of S, F, R.
    flags: &'static str,
    data: Vec<u8>,
}

fn segment(sequence: u32, acknowledged: Option<u32>, flags: &'static str, data: &[u8]) -> Segment {
    Segment { sequence, acknowledged, flags, data: data.to_vec() }
}

/// A box with one full NAT real server that is told by the PROXY protocol.
struct Box_ {
    lab: Lab,
    names: [&'static str; 4],
}

impl Box_ {
    fn new(names: [&'static str; 4]) -> Self {
        let [vip, real, _, local] = names;
        let mut lab = Lab::with(Method::FullNat, vip, &[real], 8080);
        let pool = LocalPool { addrs: vec![addr(local)], ports: (5000, 5000) };
        lab.director.set_locals(&pool).unwrap();
        let mut spec = lab.director.services()[0].spec.clone();
        spec.client_address = ClientAddress::Proxy;
        lab.director.edit_service(&spec).unwrap();
        lab.publish();
        Self { lab, names }
    }

    /// A segment of the client; what reaches the real server.
    fn ask(&mut self, it: &Segment) -> Vec<Segment> {
        let [vip, _, client, _] = self.names;
        let frame = frame((client, 1025), (vip, 80), it);
        self.pass(CLIENT, &frame, BACKEND)
    }

    /// A segment of the real server; what reaches the client.
    fn answer(&mut self, it: &Segment) -> Vec<Segment> {
        let [_, real, _, local] = self.names;
        let frame = frame((real, 8080), (local, 5000), it);
        self.pass(BACKEND, &frame, CLIENT)
    }

    fn pass(&mut self, from: DeviceId, frame: &[u8], to: DeviceId) -> Vec<Segment> {
        let out = self.lab.pass(from, frame);
        out.iter()
            .map(|(device, frame)| {
                assert_eq!(*device, to);
                read(frame);
                parse(frame)
            })
            .collect()
    }

    /// The header for this client, as the specification writes it.
    fn header(&self) -> Vec<u8> {
        let [vip, _, client, _] = self.names;
        let mut out = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21".to_vec();
        match (addr(client).to_ip(), addr(vip).to_ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                out.extend([0x11, 0, 12]);
                out.extend(from.octets());
                out.extend(to.octets());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                out.extend([0x21, 0, 36]);
                out.extend(from.octets());
                out.extend(to.octets());
            }
            _ => unreachable!("one family"),
        }
        out.extend(1025_u16.to_be_bytes());
        out.extend(80_u16.to_be_bytes());
        out
    }
}

fn frame(from: (&str, u16), to: (&str, u16), it: &Segment) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(ROUTER, OWN[0]);
    let builder = match (addr(from.0).to_ip(), addr(to.0).to_ip()) {
        (IpAddr::V4(s), IpAddr::V4(d)) => builder.ipv4(s.octets(), d.octets(), 64),
        (IpAddr::V6(s), IpAddr::V6(d)) => builder.ipv6(s.octets(), d.octets(), 64),
        _ => unreachable!("one family"),
    };
    let mut header = TcpHeader::new(from.1, to.1, it.sequence, 64_240);
    header.ack = it.acknowledged.is_some();
    header.acknowledgment_number = it.acknowledged.unwrap_or(0);
    header.syn = it.flags.contains('S');
    header.fin = it.flags.contains('F');
    header.rst = it.flags.contains('R');
    // Time stamps, as on nearly every segment there is.
    header.set_options_raw(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]).unwrap();
    let mut frame = Vec::new();
    builder.tcp_header(header).write(&mut frame, &it.data).unwrap();
    frame
}

fn parse(frame: &[u8]) -> Segment {
    let headers = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let Some(TransportHeader::Tcp(tcp)) = &headers.transport else { panic!("no TCP") };
    assert_eq!(tcp.options.as_slice(), [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    let length = match headers.net.as_ref().unwrap() {
        NetHeaders::Ipv4(ip, _) => usize::from(ip.total_len),
        NetHeaders::Ipv6(ip, _) => usize::from(ip.payload_length) + 40,
        NetHeaders::Arp(_) => panic!("no IP"),
    };
    assert_eq!(frame.len(), 14 + length, "the lengths agree");
    let flags = match (tcp.syn, tcp.fin, tcp.rst) {
        (true, ..) => "S",
        (_, true, _) => "F",
        (.., true) => "R",
        _ => "",
    };
    let acknowledged = tcp.ack.then_some(tcp.acknowledgment_number);
    segment(tcp.sequence_number, acknowledged, flags, headers.payload.slice())
}

/// The handshake up to the real server's answer.
fn begin(names: [&'static str; 4], size: u32) -> Box_ {
    let mut it = Box_::new(names);
    let out = it.ask(&segment(ISN, None, "S", b""));
    assert_eq!(out, [segment(ISN.wrapping_sub(size), None, "S", b"")]);
    let out = it.answer(&segment(REAL_ISN, Some((ISN + 1).wrapping_sub(size)), "S", b""));
    assert_eq!(
        out,
        [segment(REAL_ISN, Some(ISN + 1), "S", b"")],
        "the client sees its own numbers"
    );
    it
}

const FIRST: u32 = ISN + 1;
const REAL_FIRST: Option<u32> = Some(REAL_ISN + 1);

#[test]
fn a_header_goes_with_the_last_segment_of_the_handshake_and_then_never_again() {
    for (names, size) in FAMILIES {
        let mut it = begin(names, size);
        let out = it.ask(&segment(FIRST, REAL_FIRST, "", b""));
        let wanted = segment(FIRST.wrapping_sub(size), REAL_FIRST, "", &it.header());
        assert_eq!(out, [wanted], "{names:?}");
        let data = segment(FIRST, REAL_FIRST, "", b"GET /");
        assert_eq!(it.ask(&data), from_ref(&data), "the data behind it goes as it is");
        let end = FIRST.wrapping_add(5);
        let answer = segment(REAL_ISN + 1, Some(end), "", b"200");
        assert_eq!(it.answer(&answer), from_ref(&answer));
        // Even what is sent again is the client's own affair now.
        for more in [data, segment(end, Some(REAL_ISN + 4), "F", b"")] {
            assert_eq!(it.ask(&more), from_ref(&more));
        }
        let keepalive = segment(FIRST, REAL_FIRST, "", b"");
        assert_eq!(it.ask(&keepalive), from_ref(&keepalive));
    }
}

#[test]
fn a_client_whose_first_segment_has_data_tells_in_front_of_it() {
    for (names, size) in FAMILIES {
        let mut it = begin(names, size);
        for _ in 0..2 {
            // What is sent again has it again: the first may be lost.
            let out = it.ask(&segment(FIRST, REAL_FIRST, "", b"odd"));
            let data = [&it.header()[..], b"odd"].concat();
            assert_eq!(out, [segment(FIRST.wrapping_sub(size), REAL_FIRST, "", &data)]);
        }
    }
}

#[test]
fn a_lost_header_goes_again_with_what_the_client_sends_again() {
    for (names, size) in FAMILIES {
        let mut it = begin(names, size);
        let with_header = |it: &Box_, data: &[u8]| {
            let data = [&it.header()[..], data].concat();
            segment(FIRST.wrapping_sub(size), REAL_FIRST, "", &data)
        };
        // Lost on the way; then its SYN+ACK comes again, and with it the handshake's last segment.
        it.ask(&segment(FIRST, REAL_FIRST, "", b""));
        let again = segment(REAL_ISN, Some(FIRST.wrapping_sub(size)), "S", b"");
        assert_eq!(it.answer(&again), [segment(REAL_ISN, Some(FIRST), "S", b"")]);
        let out = it.ask(&segment(FIRST, REAL_FIRST, "", b""));
        assert_eq!(out, [with_header(&it, b"")]);
        // Lost too; the data after it arrives, and the real server misses what is before.
        let data = segment(FIRST, REAL_FIRST, "", b"GET /");
        assert_eq!(it.ask(&data), from_ref(&data));
        let missing = segment(REAL_ISN + 1, Some(FIRST.wrapping_sub(size)), "", b"");
        assert_eq!(it.answer(&missing), [segment(REAL_ISN + 1, Some(FIRST), "", b"")]);
        assert_eq!(it.ask(&data), [with_header(&it, b"GET /")]);
        // A later segment is never touched.
        let later = segment(FIRST.wrapping_add(5), REAL_FIRST, "", b"more");
        assert_eq!(it.ask(&later), from_ref(&later));
    }
}

#[test]
fn a_server_that_speaks_first_is_told_first() {
    for (names, size) in FAMILIES {
        let mut it = begin(names, size);
        it.ask(&segment(FIRST, REAL_FIRST, "", b""));
        let banner = segment(REAL_ISN + 1, Some(FIRST), "", b"220 ready");
        assert_eq!(it.answer(&banner), from_ref(&banner));
        let line = segment(FIRST, Some(REAL_ISN + 10), "", b"HELO");
        assert_eq!(it.ask(&line), from_ref(&line));
    }
}

#[test]
fn what_has_no_room_gets_a_segment_of_its_own_beside_it() {
    for (names, size) in FAMILIES {
        let mut it = begin(names, size);
        let full = vec![7; if size == 28 { 1448 } else { 1428 }];
        let data = segment(FIRST, REAL_FIRST, "", &full);
        let mut out = it.ask(&data);
        out.sort_by_key(|segment| segment.data.len());
        let header = segment(FIRST.wrapping_sub(size), REAL_FIRST, "", &it.header());
        assert_eq!(out, [header, data]);
    }
}

#[test]
fn data_in_a_syn_is_left_to_be_sent_again() {
    for (names, size) in FAMILIES {
        let mut it = Box_::new(names);
        let out = it.ask(&segment(ISN, None, "S", b"early"));
        assert_eq!(out, [segment(ISN.wrapping_sub(size), None, "S", b"")]);
        let out = it.answer(&segment(REAL_ISN, Some(FIRST.wrapping_sub(size)), "S", b""));
        assert_eq!(out[0].acknowledged, Some(FIRST), "none of it is acknowledged");
    }
}

#[test]
fn a_refusal_and_a_client_that_gives_up_at_once_are_understood() {
    for (names, size) in FAMILIES {
        let mut it = Box_::new(names);
        it.ask(&segment(ISN, None, "S", b""));
        let out = it.answer(&segment(0, Some(FIRST.wrapping_sub(size)), "R", b""));
        assert_eq!(out, [segment(0, Some(FIRST), "R", b"")]);

        let mut it = begin(names, size);
        let out = it.ask(&segment(FIRST, None, "R", b""));
        assert_eq!(out, [segment(FIRST.wrapping_sub(size), None, "R", b"")]);

        let mut it = begin(names, size);
        let out = it.ask(&segment(FIRST, REAL_FIRST, "F", b""));
        let wanted = segment(FIRST.wrapping_sub(size), REAL_FIRST, "F", &it.header());
        assert_eq!(out, [wanted], "a client without a word is told of too");
    }
}

#[test]
fn octets_of_a_flow_count_once_its_real_server_knows() {
    let (names, size) = FAMILIES[0];
    let mut it = begin(names, size);
    it.ask(&segment(FIRST, REAL_FIRST, "", b""));
    let octets = |it: &Box_| it.lab.flows.flows(0).next().unwrap().octets[0];
    assert_eq!(octets(&it), 0, "another number stands there");
    it.answer(&segment(REAL_ISN + 1, Some(FIRST), "", b""));
    it.ask(&segment(FIRST, REAL_FIRST, "", b"GET /"));
    assert_eq!(octets(&it), 20 + 32 + 5);
    assert_eq!(it.lab.director.services()[0].counters.in_bytes, 2 * 52 + 57);
}

/// A real server's receiving end: what it has, by place in the stream from its header on.
#[derive(Default)]
struct Receiver {
    have: BTreeMap<u32, u8>,
    next: u32,
}

impl Receiver {
    fn take(&mut self, start: u32, it: &Segment) {
        let at = it.sequence.wrapping_sub(start);
        for (place, octet) in (at..).zip(&it.data) {
            let old = self.have.entry(place).or_insert(*octet);
            assert_eq!(old, octet, "an octet came twice, and another one");
        }
        while self.have.contains_key(&self.next) {
            self.next += 1;
        }
    }
}

#[test]
fn the_stream_arrives_whole_behind_its_header_whatever_is_lost_or_sent_again() {
    for seed in 0..400 {
        let (names, size) = FAMILIES[(seed % 2) as usize];
        let mut rng = Rng::from_seed(seed);
        let mut chance = |percent: u64| rng.below(100) < percent;
        let mut it = begin(names, size);
        let stream: Vec<u8> = (0..=255).cycle().take(600).collect();
        let start = FIRST.wrapping_sub(size);
        let (mut real, mut acknowledged) = (Receiver::default(), 0_u32);
        let mut turns = 0;
        while acknowledged < 600 {
            turns += 1;
            assert!(turns < 3000, "seed {seed}: stuck at {acknowledged}");
            // From what is not acknowledged on, some segments, each perhaps lost on its way.
            let mut at = acknowledged;
            if chance(30) {
                at = at.saturating_sub(100);
            }
            for _ in 0..3 {
                let length = if at == 0 && chance(40) { 0 } else { 100.min(600 - at) };
                let data = &stream[at as usize..(at + length) as usize];
                let sent = segment(FIRST.wrapping_add(at), REAL_FIRST, "", data);
                for arrived in it.ask(&sent) {
                    if !chance(40) {
                        real.take(start, &arrived);
                    }
                }
                at += length;
            }
            let number = start.wrapping_add(real.next);
            let said = segment(REAL_ISN + 1, Some(number), "", b"");
            for arrived in it.answer(&said) {
                let number = arrived.acknowledged.unwrap().wrapping_sub(FIRST);
                assert!(
                    number <= 600,
                    "seed {seed}: a client sees what it did not send acknowledged"
                );
                if !chance(30) {
                    acknowledged = acknowledged.max(number);
                }
            }
        }
        let got: Vec<u8> = real.have.values().copied().collect();
        assert_eq!(got, [&it.header()[..], &stream].concat(), "seed {seed}");
    }
}
