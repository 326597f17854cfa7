//! Any octets as a frame: parsed, answered, their headers taken apart and changed in place.
//!
//! Nothing may panic; what was found must lie within the frame; what we answer we must be able to
//! read, and an answer to an answer must not be due where it would loop.

#![no_main]

#[path = "../mend.rs"]
mod mend;

use libfuzzer_sys::fuzz_target;
use xvs_dataplane::{
    addr::{Addr, Family},
    wire::{
        arp, at_mut, ethernet, extension,
        frame::{Kind, Parsed, parse},
        gre, gue, icmp, ipv4, ipv4_options, ipv6, quote, reply, sctp, tcp, udp, vlan,
    },
};

fuzz_target!(|frame: &[u8]| {
    take_apart(frame);
    check(frame);
    check(&mend::mended(frame));
});

fn check(frame: &[u8]) {
    if let Ok(parsed) = parse(frame) {
        check_bounds(frame, &parsed);
        answer(frame, &parsed);
        change(frame, &parsed);
    }
}

/// Reads octets as every header there is.
fn take_apart(octets: &[u8]) {
    _ = vlan::outermost(octets);
    _ = ethernet::payload(octets);
    _ = arp::Message::parse(octets);
    _ = gre::parse(octets);
    _ = gue::parse(octets);
    _ = tcp::Reset::answering(octets);
    _ = sctp::is_valid(octets);
    if let Some(quote) = quote::read(octets) {
        let header = if quote.family == Family::V4 { ipv4::LEN } else { ipv6::LEN };
        assert!(quote.transport.is_none_or(|at| header <= at && at + 8 <= octets.len()));
    }
    if let [next, rest @ ..] = octets
        && let Ok(upper) = extension::walk(rest, 0, *next)
    {
        assert!(upper.offset <= rest.len());
    }
}

fn check_bounds(frame: &[u8], parsed: &Parsed) {
    let [l3, l4, end, quoted_l3, quoted_l4] =
        [parsed.l3, parsed.l4, parsed.end, parsed.quoted_l3, parsed.quoted_l4].map(usize::from);
    assert!(14 <= l3 && l3 <= l4 && l4 <= end && end <= frame.len());
    if parsed.kind == Kind::NotIp {
        return;
    }
    let header = if parsed.family == Family::V4 { ipv4::LEN } else { ipv6::LEN };
    assert!(l3 + header <= l4);
    assert_eq!(parsed.key.source.family(), parsed.family);
    assert_eq!(parsed.key.destination.family(), parsed.family);
    assert!(quoted_l3 == 0 || quoted_l3 == l4 + icmp::LEN && quoted_l3 + header <= end);
    assert!(quoted_l4 == 0 || quoted_l3 + header <= quoted_l4 && quoted_l4 + 8 <= end);
    assert!(parsed.kind != Kind::Flow || l4 + if parsed.short { 4 } else { 8 } <= end);
    assert!(parsed.kind != Kind::IcmpError || quoted_l4 != 0);
    // What lies behind the end does not count.
    assert_eq!(parse(&frame[..end]).as_ref(), Ok(parsed));
}

/// Writes every answer there is.
fn answer(frame: &[u8], parsed: &Parsed) {
    let mut out = vec![0; reply::LEN_MAX.max(frame.len())];
    let source = match parsed.family {
        Family::V4 => Addr::v4(0x0a00_0001),
        Family::V6 => Addr::v6(0xfd << 120 | 1),
    };
    for error in [
        icmp::Header::port_unreachable(parsed.family),
        icmp::Header::too_big(parsed.family, 1400),
        icmp::Header::time_exceeded(parsed.family),
    ] {
        let report = reply::Report { error, source, id: 1 };
        if let Some(length) = reply::error(frame, parsed, report, &mut out) {
            let report_parsed = parse(&out[..length]).expect("a report of ours can be read");
            assert!(matches!(report_parsed.kind, Kind::IcmpError | Kind::Other));
            let mut none = [0; reply::LEN_MAX];
            assert_eq!(reply::error(&out[..length], &report_parsed, report, &mut none), None);
        }
    }
    if let Some(length) = reply::echo(frame, parsed, 1, &mut out) {
        let echo = parse(&out[..length]).expect("an echo reply of ours can be read");
        assert_eq!(echo.key, parsed.key.reversed());
        assert_eq!(echo.kind, Kind::Other);
    }
    if let Some(length) = reply::reset(frame, parsed, &mut out) {
        let reset = parse(&out[..length]).expect("a reset of ours can be read");
        assert_eq!((reset.kind, reset.key), (Kind::Flow, parsed.key.reversed()));
        let mut none = [0; reply::LEN_MAX];
        assert_eq!(reply::reset(&out[..length], &reset, &mut none), None);
    }
}

/// Changes addresses, time to live and options in place: the packet must stay as readable.
fn change(frame: &[u8], parsed: &Parsed) {
    let (mut frame, l3) = (frame.to_vec(), usize::from(parsed.l3));
    match parsed.family {
        Family::V4 if parsed.kind != Kind::NotIp => {
            let header = at_mut::<{ ipv4::LEN }>(&mut frame, l3).expect("it was parsed");
            ipv4::set_source(header, Addr::v4(0x0a09_0007));
            ipv4::set_destination(header, Addr::v4(0x0a02_000b));
            if parsed.ttl != 0 {
                ipv4::decrement_ttl(header);
            }
            let length = ipv4::header_len(header);
            let readable = parse(&frame).map(|changed| changed.kind);
            assert_eq!(readable, Ok(parsed.kind));
            let options = &mut frame[l3..l3 + length];
            if ipv4_options::forward(options, Addr::v4(0x0a00_0001), 1 << 31).is_ok() {
                assert_eq!(parse(&frame).map(|changed| changed.kind), Ok(parsed.kind));
            }
        }
        Family::V6 => {
            let header = at_mut::<{ ipv6::LEN }>(&mut frame, l3).expect("it was parsed");
            ipv6::set_class(header, 0xb9);
            ipv6::decrement_hop_limit(header);
            assert_eq!(parse(&frame).map(|changed| changed.kind), Ok(parsed.kind));
        }
        Family::V4 => {}
    }
    let (l4, end) = (usize::from(parsed.l4), usize::from(parsed.end));
    let segment = &mut frame[l4..end];
    udp::seal(segment, parsed.key.source, parsed.key.destination);
    gre::seal(segment);
    sctp::seal(segment);
    assert!(segment.len() < sctp::LEN || sctp::is_valid(segment));
}
