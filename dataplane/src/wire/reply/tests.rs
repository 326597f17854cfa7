//! Tests of the answers: what is sent, and to what nothing is.

use super::*;
use crate::wire::frame::parse;
use std::net::IpAddr;

/// A segment that came with time to live 1, and what Linux answered.
const TIME_EXCEEDED: [&str; 2] = [
    "0200000000010200000000fe08004500002c12344000010653880a0900070a0000019c4100500000 \
     0452000023295018faf0fc14000074746c31",
    "0200000000fe020000000001080045c00048d15e0000400194860a0000010a0900070b00092f0000 \
     00004500002c12344000010653880a0900070a0000019c41005000000452000023295018faf0fc14 \
     000074746c31",
];

/// A SYN to a port nobody listens on, and what Linux answered.
const RESET_SYN: [&str; 2] = [
    "0200000000010200000000fe080045000028123440004006148c0a0900070a0000019c5400510000 \
     03e8000000005002faf000540000",
    "0200000000fe02000000000108004500002800004000400626c00a0000010a09000700519c540000 \
     0000000003e950140000fb310000",
];

/// A stray ACK, and what Linux answered.
const RESET_ACK: [&str; 2] = [
    "0200000000010200000000fe080045000028123440004006148c0a0900070a0000019c5500500000 \
     0001000000015010faf0042c0000",
    "0200000000fe02000000000108004500002800004000400626c00a0000010a09000700509c550000 \
     00010000000050040000ff290000",
];

/// An echo request, and what Linux answered.
const ECHO: [&str; 2] = [
    "0200000000010200000000fe08004500002000070000400166c60a0900070a000001080018cb0063 \
     000170696e67",
    "0200000000fe020000000001080045000020d1630000400195690a0000010a090007000020cb0063 \
     000170696e67",
];

/// A segment that came with hop limit 1, and what Linux answered.
const TIME_EXCEEDED6: [&str; 2] = [
    "0200000000010200000000fe86dd600000000018060120010db8000900000000000000000007fd00 \
     00000000000000000000000000019c41005000000452000023295018faf0e55a000074746c31",
    "0200000000fe02000000000186dd6007afad00483a40fd0000000000000000000000000000012001 \
     0db800090000000000000000000703006bb700000000600000000018060120010db8000900000000 \
     000000000007fd0000000000000000000000000000019c41005000000452000023295018faf0e55a \
     000074746c31",
];

/// An IPv6 echo request, and what Linux answered.
const ECHO6: [&str; 2] = [
    "0200000000010200000000fe86dd60000000000c3a4020010db8000900000000000000000007fd00 \
     0000000000000000000000000001800075b90063000170696e67",
    "0200000000fe02000000000186dd6004964b000c3a40fd0000000000000000000000000000012001 \
     0db8000900000000000000000007810074b90063000170696e67",
];

fn octets(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
}

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

/// The answer that `write` gives to a frame.
fn answer(
    frame: &[u8],
    write: impl FnOnce(&[u8], &Parsed, &mut [u8]) -> Option<usize>,
) -> Option<Vec<u8>> {
    let mut out = [0xee; LEN_MAX];
    let length = write(frame, &parse(frame).unwrap(), &mut out)?;
    assert!(out[length..].iter().all(|&octet| octet == 0xee), "written behind the end");
    Some(out[..length].to_vec())
}

fn reported(frame: &[u8], error: icmp::Header, source: &str, id: u16) -> Option<Vec<u8>> {
    let report = Report { error, source: addr(source), id };
    answer(frame, |frame, parsed, out| super::error(frame, parsed, report, out))
}

fn sent_by_linux(hex: &str) -> Vec<u8> {
    let mut frame = octets(hex);
    if frame[12] == 0x86 {
        // Linux labels its own flows by a secret; we do not.
        frame[15] &= 0xf0;
        frame[16..18].fill(0);
    }
    frame
}

#[test]
fn answers_are_those_that_linux_sent() {
    let [cause, answer4] = TIME_EXCEEDED;
    let error = icmp::Header::time_exceeded(Family::V4);
    let sent = reported(&octets(cause), error, "10.0.0.1", 0xd15e);
    assert_eq!(sent, Some(sent_by_linux(answer4)));

    let [cause, answer6] = TIME_EXCEEDED6;
    let error = icmp::Header::time_exceeded(Family::V6);
    assert_eq!(reported(&octets(cause), error, "fd00::1", 0), Some(sent_by_linux(answer6)));

    for [cause, sent] in [RESET_SYN, RESET_ACK] {
        assert_eq!(answer(&octets(cause), reset), Some(sent_by_linux(sent)));
    }
    for [cause, sent] in [ECHO, ECHO6] {
        let reply = answer(&octets(cause), |frame, parsed, out| echo(frame, parsed, 0xd163, out));
        assert_eq!(reply, Some(sent_by_linux(sent)));
    }
}

#[test]
fn answers_go_back_through_the_same_vlans() {
    let frame = octets(ECHO[0]);
    let tags = [0x88, 0xa8, 0, 7, 0x81, 0, 0, 8];
    let tagged = [&frame[..12], &tags, &frame[12..]].concat();
    let reply = answer(&tagged, |frame, parsed, out| echo(frame, parsed, 0, out)).unwrap();
    assert_eq!((&reply[..6], &reply[6..12]), (&frame[6..12], &frame[..6]));
    assert_eq!(reply[12..20], tags);
    assert_eq!(reply.len(), frame.len() + 8);
}

/// A frame of `total` octets of IPv4 or IPv6, no transport protocol we know, TOS 0xb9.
fn long(family: Family, total: usize) -> Vec<u8> {
    let mut frame = vec![0x55; 14 + total];
    frame[..12].copy_from_slice(&octets("020000000001 0200000000fe"));
    let (source, destination) = (Addr::v4(0x0a09_0007), Addr::v4(0x0a00_0001));
    match family {
        Family::V4 => {
            frame[12..14].copy_from_slice(&[8, 0]);
            let header = frame[14..].first_chunk_mut().unwrap();
            ipv4::Header {
                source,
                destination,
                protocol: 253,
                tos: 0xb9,
                ttl: 9,
                id: 1,
                dont_fragment: true,
                payload: total - ipv4::LEN,
            }
            .emit(header);
        }
        Family::V6 => {
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            let header = frame[14..].first_chunk_mut().unwrap();
            ipv6::Header {
                source: addr("fd09::7"),
                destination: addr("fd00::1"),
                next_header: 253,
                class: 0xb9,
                flow_label: 0,
                hop_limit: 9,
                payload: total - ipv6::LEN,
            }
            .emit(header);
        }
    }
    frame
}

#[test]
fn a_report_quotes_as_much_as_fits_into_576_or_1280_octets() {
    let cases = [(Family::V4, "10.0.0.1", 548, 28), (Family::V6, "fd00::1", 1232, 48)];
    for (family, source, most, headers) in cases {
        let error = icmp::Header::too_big(family, 1400);
        for total in [most - 1, most, most + 1, 1500] {
            let frame = long(family, total);
            let report = reported(&frame, error, source, 0).unwrap();
            let quoted = total.min(most);
            assert_eq!(report.len(), 14 + headers + quoted);
            assert_eq!(report[14 + headers..], frame[14..14 + quoted]);
            assert!(parse(&report).is_ok(), "checksums");
        }
    }
    let report =
        reported(&long(Family::V4, 60), icmp::Header::time_exceeded(Family::V4), "10.0.0.1", 0);
    assert_eq!(report.unwrap()[15], 0xd8, "0xb9 & 0x1e | 0xc0");
}

#[test]
fn padding_is_not_quoted() {
    let mut frame = octets(TIME_EXCEEDED[0]);
    frame.extend([0xaa; 10]);
    let error = icmp::Header::time_exceeded(Family::V4);
    let report = reported(&frame, error, "10.0.0.1", 0xd15e);
    assert_eq!(report, Some(octets(TIME_EXCEEDED[1])));
}

#[test]
fn nothing_is_reported_about_errors_broadcasts_and_later_fragments() {
    let error = icmp::Header::port_unreachable(Family::V4);
    let due = |frame: &[u8]| reported(frame, error, "10.0.0.1", 0).is_some();
    let change = |at: usize, new: &[u8]| {
        let mut frame = octets(TIME_EXCEEDED[0]);
        frame[at..at + new.len()].copy_from_slice(new);
        frame[24..26].fill(0);
        let checksum = Sum::of(&frame[14..34]).checksum();
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        frame
    };
    assert!(due(&change(0, &[])));
    assert!(due(&octets(ECHO[0])), "about an echo request");
    assert!(due(&change(20, &[0x20, 0])), "about a first fragment");
    assert!(!due(&change(20, &[0x00, 1])), "about a later fragment");
    assert!(!due(&octets(TIME_EXCEEDED[1])), "about an error");
    assert!(!due(&change(0, &[0xff])), "sent to all stations");
    assert!(!due(&change(30, &[224, 0, 0, 5])), "sent to a group");
    assert!(!due(&change(30, &[255, 255, 255, 255])), "sent to all");
    assert!(!due(&change(26, &[240, 0, 0, 1])), "from no station");
    let mut first = change(20, &[0x20, 0]);
    first[23] = protocol::ICMP;
    first[34] = 3;
    first[24..26].fill(0);
    let checksum = Sum::of(&first[14..34]).checksum();
    first[24..26].copy_from_slice(&checksum.to_be_bytes());
    assert!(!due(&first), "about the first fragment of an error");
}

#[test]
fn of_what_was_sent_to_a_group_only_packet_too_big_is_reported() {
    let mut frame = long(Family::V6, 100);
    frame[38..54].copy_from_slice(&octets("ff0e0000000000000000000000000001"));
    let due = |error| reported(&frame, error, "fd00::1", 0).is_some();
    assert!(due(icmp::Header::too_big(Family::V6, 1400)));
    assert!(!due(icmp::Header::time_exceeded(Family::V6)));
}

#[test]
fn a_segment_with_a_wrong_checksum_is_not_answered_an_unfinished_one_is() {
    let mut frame = octets(RESET_ACK[0]);
    frame[50] ^= 1;
    assert_eq!(answer(&frame, reset), None);
    let sum = pseudo(addr("10.9.0.7"), addr("10.0.0.1"), protocol::TCP, 20).fold();
    frame[50..52].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(answer(&frame, reset), Some(octets(RESET_ACK[1])));
    frame[15] = 0xbb;
    frame[24..26].fill(0);
    let checksum = Sum::of(&frame[14..34]).checksum();
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    assert_eq!(answer(&frame, reset).unwrap()[15], 0xb8, "no ECN bits");
    frame[47] |= tcp::flags::RST;
    assert_eq!(answer(&frame, reset), None);
}

#[test]
fn a_buffer_too_small_gets_nothing() {
    let frame = octets(ECHO[0]);
    let parsed = parse(&frame).unwrap();
    for length in 0..frame.len() {
        assert_eq!(echo(&frame, &parsed, 0, &mut vec![0; length]), None);
    }
    assert_eq!(echo(&frame, &parsed, 0, &mut vec![0; frame.len()]), Some(frame.len()));
}
