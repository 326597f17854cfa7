//! Tests of the parser: literal frames, and what is read from them.

use super::*;
use proptest::prelude::*;
use std::net::IpAddr;

/// TCP SYN with options from 10.9.0.7:40001 to 10.0.0.1:80.
const SYN: &str = "020000000001 0200000000fe 0800 \
    4500003c 12344000 40061478 0a090007 0a000001 \
    9c41 0050 000003e8 00000000 a002 faf0 9884 0000 020405b4 0402080a 00000001 00000000 01030307";

/// Fragmentation needed from 10.8.0.1 about 10.0.0.1:80 to 10.9.0.7:40001, 24 octets of TCP quoted.
const FRAG_NEEDED: &str = "020000000001 0200000000fe 0800 \
    45000040 43210000 40012393 0a080001 0a000001 0304c3c6 00000514 \
    45000050 00774000 3f062721 0a000001 0a090007 \
    00509c41 00002329 00000456 50102000";

/// Fragmentation needed about an IPIP packet from 10.2.0.1 to 10.2.0.11, 8 octets of it quoted.
const TUNNEL_SHORT: &str = "020000000101 02000000020b 0800 \
    45000038 43210000 40012382 0a02001e 0a020001 03045fc3 00000578 \
    450000a0 00014000 4004264a 0a020001 0a02000b 4500008c 12344000";

/// Echo request to 10.0.0.1.
const ECHO: &str = "020000000001 0200000000fe 0800 \
    45000020 00070000 400166c6 0a090007 0a000001 080018cb 00630001 70696e67";

/// TCP behind destination options, IPv6.
const OPTIONS6: &str = "020000000001 0200000000fe 86dd \
    60000000 00223c40 20010db8000900000000000000000007 fd000000000000000000000000000001 \
    0600 0104 00000000 9c410050 00000456 00002329 5018faf0 7ca30000 6473746f7074";

/// [`OPTIONS6`] without the options.
const TCP6: &str = "020000000001 0200000000fe 86dd \
    60000000 001a0640 20010db8000900000000000000000007 fd000000000000000000000000000001 \
    9c410050 00000456 00002329 5018faf0 7ca30000 6473746f7074";

/// Echo request, IPv6.
const ECHO6: &str = "020000000001 0200000000fe 86dd \
    60000000 000c3a40 20010db8000900000000000000000007 fd000000000000000000000000000001 \
    800075b9 00630001 70696e67";

/// Packet too big from 2001:db8:8::1 about fd00::1:80 to 2001:db8:9::7:40001.
const TOO_BIG6: &str = "020000000001 0200000000fe 86dd \
    60000000 006c3a40 20010db8000800000000000000000001 fd000000000000000000000000000001 \
    02006748 00000514 \
    60000000 003c063f fd000000000000000000000000000001 20010db8000900000000000000000007 \
    00509c41 00002329 00000456 50102000 afe00000 \
    72727272727272727272727272727272727272727272727272727272727272727272727272727272";

fn octets(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
}

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

/// Makes the IPv4 header checksum right again.
fn mend(frame: &mut [u8]) {
    let length = usize::from(frame[14] & 15) * 4;
    if frame[12] != 8 {
        return;
    }
    frame[24..26].fill(0);
    let checksum = Sum::of(&frame[14..14 + length]).checksum();
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
}

/// Both ways give the same result where the hot one gives any.
fn both(frame: &[u8]) -> Result<Parsed, DropReason> {
    let result = general(frame);
    if let Some(hot) = shape::read(frame) {
        assert_eq!(Ok(hot), result);
    }
    result
}

/// `frame` with these octets changed and its IPv4 header checksum mended.
fn changed(hex: &str, at: usize, new: &[u8]) -> Result<Parsed, DropReason> {
    let mut frame = octets(hex);
    frame[at..at + new.len()].copy_from_slice(new);
    mend(&mut frame);
    both(&frame)
}

#[test]
fn a_tcp_segment_takes_the_hot_way() {
    let parsed = shape::read(&octets(SYN)).unwrap();
    assert_eq!(parsed.kind, Kind::Flow);
    assert_eq!((parsed.key.source, parsed.key.source_port), (addr("10.9.0.7"), 40001));
    assert_eq!((parsed.key.destination, parsed.key.destination_port), (addr("10.0.0.1"), 80));
    assert_eq!((parsed.flags, parsed.ttl, parsed.short), (0x02, 64, false));
    assert_eq!((parsed.l3, parsed.l4, parsed.end), (14, 34, 74));
    assert_eq!(both(&octets(SYN)), Ok(parsed));
}

#[test]
fn ipv6_has_a_hot_way_of_its_own() {
    let frame = octets(TCP6);
    let parsed = shape::read(&frame).unwrap();
    assert_eq!((parsed.l3, parsed.l4, parsed.end, parsed.flags), (14, 54, 80, 0x18));
    assert_eq!(both(&frame), Ok(parsed));
}

#[test]
fn ethernet_padding_lies_behind_the_end() {
    let mut frame = octets(SYN);
    frame.extend([0xaa; 20]);
    assert_eq!(both(&frame).unwrap().end, 74);
}

#[test]
fn every_prefix_of_a_packet_is_truncated() {
    for hex in [SYN, FRAG_NEEDED, ECHO, OPTIONS6, ECHO6, TOO_BIG6] {
        let frame = octets(hex);
        assert!(both(&frame).is_ok());
        for length in 0..frame.len() {
            assert_eq!(both(&frame[..length]), Err(DropReason::Truncated), "{length} of {hex}");
        }
    }
}

#[test]
fn up_to_two_vlan_tags_are_read_over() {
    let frame = octets(SYN);
    let tagged = |tags: &[[u8; 4]]| {
        let tags = tags.concat();
        both(&[&frame[..12], &tags, &frame[12..]].concat()).unwrap()
    };
    let one = tagged(&[[0x81, 0, 0, 7]]);
    assert_eq!((one.kind, one.l3, one.l4, one.end), (Kind::Flow, 18, 38, 78));
    let two = tagged(&[[0x88, 0xa8, 0, 7], [0x81, 0, 0, 8]]);
    assert_eq!((two.kind, two.l3, two.ethertype), (Kind::Flow, 22, 0x0800));
    let three = tagged(&[[0x88, 0xa8, 0, 7], [0x81, 0, 0, 8], [0x81, 0, 0, 9]]);
    assert_eq!((three.kind, three.ethertype), (Kind::NotIp, 0x8100));
}

#[test]
fn what_is_not_ip_is_no_error() {
    let parsed = both(&octets("ffffffffffff 0200000000fe 0806 0001")).unwrap();
    assert_eq!((parsed.kind, parsed.ethertype, parsed.end), (Kind::NotIp, 0x0806, 16));
    assert_eq!(parsed.key, FlowKey::default());
}

#[test]
fn broken_ipv4_headers_have_their_reason() {
    use DropReason::{BadHeaderChecksum, MalformedHeader, Truncated};
    assert_eq!(changed(SYN, 14, &[0x65]), Err(MalformedHeader), "version");
    assert_eq!(changed(SYN, 14, &[0x44]), Err(MalformedHeader), "header length under 20");
    assert_eq!(changed(SYN, 16, &[0, 19]), Err(MalformedHeader), "total under header length");
    assert_eq!(changed(SYN, 16, &[0, 61]), Err(Truncated), "total over what is there");
    let mut frame = octets(SYN);
    frame[25] ^= 1;
    assert_eq!(both(&frame), Err(BadHeaderChecksum));
}

#[test]
fn addresses_that_cannot_send_or_receive_are_refused() {
    let martian = Err(DropReason::MappedAddress);
    let from = |source: [u8; 4]| changed(SYN, 26, &source);
    for source in [[127, 0, 0, 1], [224, 0, 0, 1], [239, 1, 1, 1], [255; 4], [0; 4]] {
        assert_eq!(from(source), martian, "{source:?}");
    }
    for source in [[0, 0, 0, 1], [240, 0, 0, 1], [10, 0, 0, 255], [126, 0, 0, 1], [128, 0, 0, 1]] {
        assert_eq!(from(source).unwrap().kind, Kind::Flow, "{source:?}");
    }
    assert_eq!(changed(SYN, 30, &[127, 0, 0, 1]), martian);
    assert_eq!(changed(SYN, 30, &[0; 4]), martian);
    assert_eq!(changed(SYN, 30, &[224, 0, 0, 1]).unwrap().kind, Kind::Flow);
    assert!(changed(SYN, 26, &[0, 0, 0, 0, 255, 255, 255, 255]).is_ok(), "a DHCP client");
    assert!(changed(SYN, 26, &[0, 0, 0, 0, 224, 0, 0, 22]).is_ok(), "an IGMP report");
}

#[test]
fn ipv6_addresses_that_cannot_send_or_receive_are_refused() {
    let from_to = |source: &str, destination: &str| {
        let mut frame = octets(TCP6);
        frame[22..38].copy_from_slice(&source.parse::<std::net::Ipv6Addr>().unwrap().octets());
        frame[38..54].copy_from_slice(&destination.parse::<std::net::Ipv6Addr>().unwrap().octets());
        both(&frame).map(|parsed| parsed.kind)
    };
    let martian = Err(DropReason::MappedAddress);
    assert_eq!(from_to("fd00::1", "fd00::2"), Ok(Kind::Flow));
    assert_eq!(from_to("::ffff:10.0.0.1", "fd00::2"), martian);
    assert_eq!(from_to("fd00::1", "::ffff:10.0.0.1"), martian);
    assert_eq!(from_to("ff02::1", "fd00::2"), martian);
    assert_eq!(from_to("::1", "fd00::2"), martian);
    assert_eq!(from_to("fd00::1", "::1"), martian);
    assert_eq!(from_to("fd00::1", "::"), martian);
    assert_eq!(from_to("::", "fd00::2"), martian);
    assert_eq!(from_to("::", "ff02::1"), Ok(Kind::Flow), "looking for duplicates");
}

#[test]
fn options_move_the_transport_header() {
    let mut frame = octets(SYN);
    frame.splice(34..34, [7, 7, 4, 0, 0, 0, 0, 0]);
    frame[14] = 0x47;
    frame[17] += 8;
    mend(&mut frame);
    let parsed = both(&frame).unwrap();
    assert_eq!((parsed.l4, parsed.end, parsed.key.destination_port), (42, 82, 80));
    frame[14] = 0x4f;
    mend(&mut frame);
    assert_eq!(both(&frame).unwrap().l4, 74, "60 octets of header");
    frame[14] = 0x4a;
    frame[17] = 36;
    mend(&mut frame);
    assert_eq!(both(&frame), Err(DropReason::MalformedHeader), "longer than the packet");
}

#[test]
fn fragments_are_named_and_have_no_ports() {
    for field in [[0x20, 0], [0, 1], [0x3f, 0xff]] {
        let parsed = changed(SYN, 20, &field).unwrap();
        assert_eq!((parsed.kind, parsed.l4, parsed.key.protocol), (Kind::Fragment, 34, 6));
        assert_eq!((parsed.key.source_port, parsed.key.destination_port), (0, 0));
    }
    // The reserved bit makes no fragment.
    assert_eq!(changed(SYN, 20, &[0x80, 0]).unwrap().kind, Kind::Flow);
}

#[test]
fn an_ipv6_fragment_header_is_found_even_where_nothing_was_cut() {
    let mut frame = octets(OPTIONS6);
    frame[20] = FRAGMENT;
    frame[54..62].copy_from_slice(&[17, 0, 0, 0, 0, 0, 0x55, 0x55]);
    let parsed = both(&frame).unwrap();
    assert_eq!((parsed.kind, parsed.l4, parsed.key.protocol), (Kind::Fragment, 54, 17));
    frame[19] = 7;
    assert_eq!(both(&frame), Err(DropReason::Truncated));
}

#[test]
fn a_cut_transport_header_is_short_as_long_as_it_has_ports() {
    let cut = |protocol: u8, length: u8| {
        let mut frame = octets(SYN);
        frame[17] = 20 + length;
        frame[23] = protocol;
        mend(&mut frame);
        both(&frame).map(|parsed| (parsed.kind, parsed.short, parsed.flags))
    };
    for (protocol, whole) in [(protocol::TCP, 20), (protocol::UDP, 8), (protocol::SCTP, 16)] {
        for length in 0..4 {
            assert_eq!(cut(protocol, length), Err(DropReason::ShortTransport));
        }
        assert_eq!(cut(protocol, 4), Ok((Kind::Flow, true, 0)));
        assert!(cut(protocol, whole - 1).unwrap().1);
        assert!(!cut(protocol, whole).unwrap().1);
    }
    for length in 0..=26 {
        let mut frame = octets(TCP6);
        frame[19] = length;
        let expected = match length {
            0..4 => Err(DropReason::ShortTransport),
            _ => Ok((Kind::Flow, length < 20)),
        };
        assert_eq!(both(&frame).map(|parsed| (parsed.kind, parsed.short)), expected);
    }
    assert_eq!(cut(protocol::TCP, 14), Ok((Kind::Flow, true, 0x02)));
    assert_eq!(cut(protocol::SCTP, 13), Ok((Kind::Flow, true, 0xa0)));
    assert_eq!(cut(protocol::UDP, 20), Ok((Kind::Flow, false, 0)));
    assert_eq!(cut(protocol::GRE, 0), Ok((Kind::Other, false, 0)));
}

#[test]
fn extension_headers_are_walked_over() {
    let parsed = both(&octets(OPTIONS6)).unwrap();
    assert_eq!((parsed.kind, parsed.family), (Kind::Flow, Family::V6));
    assert_eq!((parsed.key.source, parsed.key.source_port), (addr("2001:db8:9::7"), 40001));
    assert_eq!((parsed.key.destination, parsed.key.destination_port), (addr("fd00::1"), 80));
    assert_eq!((parsed.l3, parsed.l4, parsed.end), (14, 62, 88));
    assert_eq!((parsed.flags, parsed.ttl, parsed.key.protocol), (0x18, 64, 6));
}

#[test]
fn echo_requests_are_verified() {
    for (hex, protocol, l4) in [(ECHO, 1, 34), (ECHO6, 58, 54)] {
        let mut frame = octets(hex);
        let parsed = both(&frame).unwrap();
        assert_eq!((parsed.kind, parsed.key.protocol, parsed.l4), (Kind::Echo, protocol, l4));
        assert_eq!(parsed.quoted_l3, 0);
        *frame.last_mut().unwrap() ^= 1;
        assert_eq!(both(&frame), Err(DropReason::BadIcmpChecksum));
    }
}

#[test]
fn an_icmp_error_has_the_key_of_the_packet_it_quotes() {
    let parsed = both(&octets(FRAG_NEEDED)).unwrap();
    assert_eq!(parsed.kind, Kind::IcmpError);
    assert_eq!((parsed.key.source, parsed.key.source_port), (addr("10.0.0.1"), 80));
    assert_eq!((parsed.key.destination, parsed.key.destination_port), (addr("10.9.0.7"), 40001));
    assert_eq!(parsed.key.protocol, 6);
    assert_eq!((parsed.l4, parsed.quoted_l3, parsed.quoted_l4), (34, 42, 62));
    assert_eq!((parsed.flags, parsed.short), (0, false));

    let parsed = both(&octets(TOO_BIG6)).unwrap();
    assert_eq!(parsed.kind, Kind::IcmpError);
    assert_eq!((parsed.key.source, parsed.key.source_port), (addr("fd00::1"), 80));
    assert_eq!((parsed.l4, parsed.quoted_l3, parsed.quoted_l4), (54, 62, 102));
}

#[test]
fn an_icmp_error_about_a_tunnel_shows_where_the_quote_is() {
    let parsed = both(&octets(TUNNEL_SHORT)).unwrap();
    assert_eq!((parsed.kind, parsed.key.protocol), (Kind::Other, protocol::ICMP));
    assert_eq!((parsed.key.source, parsed.key.destination), (addr("10.2.0.30"), addr("10.2.0.1")));
    assert_eq!((parsed.quoted_l3, parsed.quoted_l4), (42, 62));
}

/// [`FRAG_NEEDED`] with changes to the quoted packet, from octet 42 on, its ICMP checksum mended.
fn requoted(at: usize, new: &[u8], length: usize) -> Parsed {
    let mut frame = octets(FRAG_NEEDED);
    frame[at..at + new.len()].copy_from_slice(new);
    frame[16..18].copy_from_slice(&u16::try_from(length - 14).unwrap().to_be_bytes());
    mend(&mut frame);
    frame[36..38].fill(0);
    let checksum = Sum::of(&frame[34..length]).checksum();
    frame[36..38].copy_from_slice(&checksum.to_be_bytes());
    both(&frame).unwrap()
}

#[test]
fn a_quote_may_be_cut_but_not_before_eight_octets_of_transport() {
    let seen = |parsed: Parsed| (parsed.kind, parsed.quoted_l3, parsed.quoted_l4);
    assert_eq!(seen(requoted(42, &[], 70)), (Kind::IcmpError, 42, 62));
    assert_eq!(seen(requoted(42, &[], 69)), (Kind::Other, 42, 0));
    assert_eq!(seen(requoted(42, &[], 62)), (Kind::Other, 42, 0));
    assert_eq!(seen(requoted(42, &[], 61)), (Kind::Other, 0, 0));
    assert_eq!(seen(requoted(42, &[], 42)), (Kind::Other, 0, 0));
    assert_eq!(seen(requoted(42, &[0x46], 74)), (Kind::IcmpError, 42, 66), "options");
    assert_eq!(seen(requoted(42, &[0x4f], 78)), (Kind::Other, 0, 0), "options cut");
    assert_eq!(seen(requoted(42, &[0x65], 78)), (Kind::Other, 0, 0), "another family");
    assert_eq!(seen(requoted(48, &[0x20, 0], 78)), (Kind::IcmpError, 42, 62), "first fragment");
    assert_eq!(seen(requoted(48, &[0x20, 1], 78)), (Kind::Other, 42, 0), "later fragment");
    assert_eq!(seen(requoted(51, &[1], 78)), (Kind::Other, 42, 62), "about an echo");
    assert_eq!(seen(requoted(34, &[5], 78)), (Kind::Other, 0, 0), "a redirect is no error");
    assert_eq!(seen(requoted(34, &[11], 78)), (Kind::IcmpError, 42, 62), "time exceeded");
}

#[test]
fn a_quoted_ipv6_packet_is_walked_through_its_extension_headers() {
    let quoting = |next: u8, header: [u8; 8]| {
        let mut frame = octets(TOO_BIG6);
        frame[68] = next;
        frame[102..110].copy_from_slice(&header);
        frame[110..114].copy_from_slice(&[0, 80, 0x9c, 0x41]);
        frame[56..58].fill(0);
        let (source, destination) = (addr("2001:db8:8::1"), addr("fd00::1"));
        let sum = Sum::of(&frame[54..]).plus(pseudo(source, destination, 58, 108));
        frame[56..58].copy_from_slice(&sum.checksum().to_be_bytes());
        let parsed = both(&frame).unwrap();
        (parsed.kind, parsed.quoted_l4, parsed.key.protocol, parsed.key.source_port)
    };
    assert_eq!(quoting(60, [6, 0, 1, 4, 0, 0, 0, 0]), (Kind::IcmpError, 110, 6, 80));
    assert_eq!(quoting(44, [17, 0, 0, 1, 0, 0, 0, 9]), (Kind::IcmpError, 110, 17, 80));
    assert_eq!(quoting(44, [17, 0, 0, 8, 0, 0, 0, 9]), (Kind::Other, 0, 58, 0));
    assert_eq!(quoting(44, [44, 0, 0, 1, 0, 0, 0, 9]), (Kind::Other, 0, 58, 0));
    assert_eq!(quoting(41, [0x60, 0, 0, 0, 0, 0, 0, 0]), (Kind::Other, 102, 58, 0));
}

#[test]
fn frames_longer_than_an_offset_can_say_are_refused() {
    let mut frame = octets(SYN);
    frame.resize(0x1_0000, 0);
    assert_eq!(both(&frame), Err(DropReason::Oversized));
    assert!(both(&frame[..0xffff]).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn the_hot_ways_never_contradict_the_general_one(
        v6: bool,
        length in 42usize..90,
        damage in proptest::collection::vec((12usize..60, any::<u8>()), 0..4),
    ) {
        let mut frame = octets(if v6 { TCP6 } else { SYN });
        for (at, octet) in damage {
            frame[at] = octet;
        }
        mend(&mut frame);
        frame.resize(length, 0);
        _ = both(&frame);
    }
}
