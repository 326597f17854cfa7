//! What `frame::parse` finds in a frame is what etherparse finds in it, and nothing makes it panic.

#![expect(clippy::unwrap_used, reason = "a packet that cannot be built is the test's error")]

use etherparse::{
    IpAuthHeader, IpHeaders, IpNumber, Ipv4Header, Ipv6Extensions, Ipv6Header, Ipv6RawExtHeader,
    Ipv6RoutingExtensions, LinkSlice, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
};
use proptest::{collection::vec, option, prelude::*};
use xvs_dataplane::{
    addr::{Addr, Family},
    verdict::DropReason,
    wire::frame::{Kind, Parsed, parse},
};

/// How a packet looks between its link header and its transport header.
#[derive(Clone, Debug)]
enum Network {
    /// Addresses and whole words of options.
    V4([u8; 4], [u8; 4], Vec<[u8; 4]>),
    /// Addresses and extension headers.
    V6([u8; 16], [u8; 16], Box<Ipv6Extensions>),
}

/// What a packet carries.
#[derive(Clone, Copy, Debug)]
enum Transport {
    Tcp(u16, u16, u8),
    Udp(u16, u16),
    Echo(u16),
}

fn extension(payload: Vec<[u8; 8]>, first: [u8; 6]) -> Ipv6RawExtHeader {
    let octets = [&first[..], payload.as_flattened()].concat();
    Ipv6RawExtHeader::new_raw(IpNumber::TCP, &octets).unwrap()
}

fn extensions() -> impl Strategy<Value = Ipv6Extensions> {
    let options = || option::of((vec(any::<[u8; 8]>(), 0..4), any::<[u8; 6]>()));
    let auth = option::of((any::<u32>(), any::<u32>(), vec(any::<[u8; 4]>(), 0..5)));
    (options(), options(), options(), auth).prop_map(|(hop, destination, routing, auth)| {
        Ipv6Extensions {
            hop_by_hop_options: hop.map(|(more, first)| extension(more, first)),
            destination_options: destination.map(|(more, first)| extension(more, first)),
            routing: routing.map(|(more, [kind, _, a, b, c, d])| Ipv6RoutingExtensions {
                routing: extension(more, [kind, 0, a, b, c, d]),
                final_destination_options: None,
            }),
            fragment: None,
            auth: auth.map(|(spi, sequence, value)| {
                IpAuthHeader::new(IpNumber::TCP, spi, sequence, value.as_flattened()).unwrap()
            }),
        }
    })
}

fn networks() -> impl Strategy<Value = Network> {
    let v4 = (1u8..127, 128u8..224, any::<[u8; 3]>(), any::<[u8; 3]>());
    let v6 = (1u8..255, 1u8.., any::<[u8; 15]>(), any::<[u8; 15]>());
    prop_oneof![
        (v4, vec(any::<[u8; 4]>(), 0..=10)).prop_map(|((s, d, [a, b, c], [e, f, g]), options)| {
            Network::V4([s, a, b, c], [d, e, f, g], options)
        }),
        (v6, extensions()).prop_map(|((s, d, source, destination), extensions)| {
            let address = |first: u8, rest: [u8; 15]| {
                let mut octets = [first; 16];
                octets[1..].copy_from_slice(&rest);
                octets
            };
            Network::V6(address(s, source), address(d, destination), Box::new(extensions))
        }),
    ]
}

fn transports() -> impl Strategy<Value = Transport> {
    prop_oneof![
        any::<(u16, u16, u8)>().prop_map(|(from, to, flags)| Transport::Tcp(from, to, flags)),
        any::<(u16, u16)>().prop_map(|(from, to)| Transport::Udp(from, to)),
        any::<u16>().prop_map(Transport::Echo),
    ]
}

/// The packet as etherparse writes it, all checksums right.
fn write(network: &Network, transport: Transport, payload: &[u8]) -> Vec<u8> {
    let (v4, headers) = match network {
        Network::V4(source, destination, options) => {
            let mut header = Ipv4Header::new(0, 64, IpNumber::TCP, *source, *destination).unwrap();
            header.options = options.as_flattened().try_into().unwrap();
            (true, IpHeaders::Ipv4(header, Default::default()))
        }
        Network::V6(source, destination, extensions) => {
            let (source, destination) = (*source, *destination);
            let header = Ipv6Header { hop_limit: 64, source, destination, ..Default::default() };
            (false, IpHeaders::Ipv6(header, Ipv6Extensions::clone(extensions)))
        }
    };
    let builder = PacketBuilder::ip(headers);
    let mut out = Vec::new();
    match transport {
        Transport::Tcp(from, to, flags) => {
            let mut header = etherparse::TcpHeader::new(from, to, 1, 1);
            [header.fin, header.syn, header.rst, header.psh] =
                [1, 2, 4, 8].map(|bit| flags & bit != 0);
            [header.ack, header.urg, header.ece, header.cwr] =
                [16, 32, 64, 128].map(|bit| flags & bit != 0);
            builder.tcp_header(header).write(&mut out, payload).unwrap();
        }
        Transport::Udp(from, to) => builder.udp(from, to).write(&mut out, payload).unwrap(),
        Transport::Echo(id) if v4 => {
            builder.icmpv4_echo_request(id, 1).write(&mut out, payload).unwrap();
        }
        Transport::Echo(id) => {
            builder.icmpv6_echo_request(id, 1).write(&mut out, payload).unwrap();
        }
    }
    out
}

/// A link header with `tags` VLAN tags.
fn link(tags: usize, v4: bool) -> Vec<u8> {
    let mut out = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for tag in 0..tags {
        out.extend(if tag + 1 < tags { [0x88, 0xa8, 0x20, 7] } else { [0x81, 0, 0, 8] });
    }
    out.extend(if v4 { [8, 0] } else { [0x86, 0xdd] });
    out
}

prop_compose! {
    /// A whole frame with all that is optional, and what it carries.
    fn frames()(
        network in networks(),
        transport in transports(),
        payload in vec(any::<u8>(), 0..64),
        tags in 0usize..=2,
        padding in 0usize..20,
    ) -> (Vec<u8>, Transport, usize) {
        let mut frame = link(tags, matches!(network, Network::V4(..)));
        frame.extend(write(&network, transport, &payload));
        let end = frame.len();
        frame.resize(end + padding, 0xaa);
        (frame, transport, end)
    }
}

/// What must hold for whatever was parsed from whatever frame.
fn check_bounds(frame: &[u8], parsed: &Parsed) {
    let [l3, l4, end, quoted_l3, quoted_l4] =
        [parsed.l3, parsed.l4, parsed.end, parsed.quoted_l3, parsed.quoted_l4].map(usize::from);
    assert!(14 <= l3 && l3 <= l4 && l4 <= end && end <= frame.len(), "{parsed:?}");
    if parsed.kind == Kind::NotIp {
        return;
    }
    let header = if parsed.family == Family::V4 { 20 } else { 40 };
    assert!(l3 + header <= l4, "{parsed:?}");
    assert_eq!(parsed.key.source.family(), parsed.family);
    assert_eq!(parsed.key.destination.family(), parsed.family);
    if quoted_l3 != 0 {
        assert!(quoted_l3 == l4 + 8 && quoted_l3 + header <= end, "{parsed:?}");
    }
    if quoted_l4 != 0 {
        assert!(quoted_l3 + header <= quoted_l4 && quoted_l4 + 8 <= end, "{parsed:?}");
    }
    match parsed.kind {
        Kind::Flow => assert!(l4 + if parsed.short { 4 } else { 8 } <= end, "{parsed:?}"),
        Kind::IcmpError => assert!(quoted_l4 != 0, "{parsed:?}"),
        Kind::Echo => assert!(l4 + 8 <= end, "{parsed:?}"),
        _ => {}
    }
}

/// Addresses and ports as etherparse sees them, if it sees TCP or UDP.
fn seen_by_etherparse(frame: &[u8]) -> Option<(Addr, Addr, u16, u16)> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    assert!(matches!(sliced.link, Some(LinkSlice::Ethernet2(_))));
    let (source, destination) = match sliced.net? {
        NetSlice::Ipv4(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        NetSlice::Ipv6(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        NetSlice::Arp(_) => return None,
    };
    let (source, destination) =
        (std::net::IpAddr::into(source), std::net::IpAddr::into(destination));
    match sliced.transport? {
        TransportSlice::Tcp(tcp) => {
            Some((source, destination, tcp.source_port(), tcp.destination_port()))
        }
        TransportSlice::Udp(udp) => {
            Some((source, destination, udp.source_port(), udp.destination_port()))
        }
        _ => None,
    }
}

/// Where etherparse finds the transport header.
fn transport_offset(frame: &[u8]) -> usize {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let header = match sliced.transport.unwrap() {
        TransportSlice::Tcp(tcp) => tcp.slice(),
        TransportSlice::Udp(udp) => udp.slice(),
        TransportSlice::Icmpv4(icmp) => icmp.slice(),
        TransportSlice::Icmpv6(icmp) => icmp.slice(),
        _ => unreachable!("no such transport was written"),
    };
    header.as_ptr().addr() - frame.as_ptr().addr()
}

/// The key's addresses and ports.
fn seen_by_us(parsed: &Parsed) -> (Addr, Addr, u16, u16) {
    let key = parsed.key;
    (key.source, key.destination, key.source_port, key.destination_port)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_valid_frame_is_read_as_etherparse_reads_it((frame, transport, end) in frames()) {
        let parsed = parse(&frame).unwrap();
        check_bounds(&frame, &parsed);
        prop_assert_eq!(usize::from(parsed.end), end);
        prop_assert_eq!(usize::from(parsed.l4), transport_offset(&frame));
        prop_assert_eq!(parsed.ttl, 64);
        prop_assert!(!parsed.short);
        match transport {
            Transport::Tcp(_, _, flags) => {
                prop_assert_eq!((parsed.kind, parsed.key.protocol), (Kind::Flow, 6));
                prop_assert_eq!(parsed.flags, flags);
                prop_assert_eq!(Some(seen_by_us(&parsed)), seen_by_etherparse(&frame));
            }
            Transport::Udp(..) => {
                prop_assert_eq!((parsed.kind, parsed.key.protocol), (Kind::Flow, 17));
                prop_assert_eq!(Some(seen_by_us(&parsed)), seen_by_etherparse(&frame));
            }
            Transport::Echo(_) => prop_assert_eq!(parsed.kind, Kind::Echo),
        }
    }

    #[test]
    fn every_prefix_of_a_valid_frame_is_truncated((frame, _, end) in frames()) {
        for length in 0..end {
            prop_assert_eq!(parse(&frame[..length]), Err(DropReason::Truncated), "{}", length);
        }
    }

    #[test]
    fn a_damaged_frame_is_read_as_etherparse_reads_it_or_refused(
        (mut frame, _, _) in frames(),
        damage in vec(any::<(prop::sample::Index, u8)>(), 1..4),
    ) {
        for (index, octet) in damage {
            let at = index.index(frame.len());
            frame[at] = octet;
        }
        if let Ok(parsed) = parse(&frame) {
            check_bounds(&frame, &parsed);
            if let (Kind::Flow, Some(seen)) = (parsed.kind, seen_by_etherparse(&frame)) {
                prop_assert_eq!(seen_by_us(&parsed), seen);
            }
        }
    }

    #[test]
    fn an_error_about_a_frame_has_that_frames_key(
        (inner, transport, end) in frames(),
        keep in 0usize..200,
    ) {
        let about = parse(&inner).unwrap();
        let (l3, l4) = (usize::from(about.l3), usize::from(about.l4));
        let quote = &inner[l3..end.min(l3 + keep)];
        let mut frame = link(0, about.family == Family::V4);
        let builder = match about.family {
            Family::V4 => PacketBuilder::ipv4([10, 8, 0, 1], [10, 0, 0, 1], 9)
                .icmpv4_raw(3, 4, [0, 0, 5, 0x14])
                .write(&mut frame, quote),
            Family::V6 => PacketBuilder::ipv6([0xfd; 16], [0xfc; 16], 9)
                .icmpv6_raw(2, 0, [0, 0, 5, 0x14])
                .write(&mut frame, quote),
        };
        builder.unwrap();
        let parsed = parse(&frame).unwrap();
        check_bounds(&frame, &parsed);
        let has_transport = quote.len() >= l4 - l3 + 8;
        prop_assert_eq!(parsed.quoted_l4 != 0, has_transport);
        if has_transport && !matches!(transport, Transport::Echo(_)) {
            prop_assert_eq!((parsed.kind, parsed.key), (Kind::IcmpError, about.key));
            prop_assert_eq!(usize::from(parsed.quoted_l4 - parsed.quoted_l3), l4 - l3);
        } else {
            prop_assert_eq!(parsed.kind, Kind::Other);
        }
    }

    #[test]
    fn no_octets_whatever_make_it_panic(
        frame in vec(any::<u8>(), 0..200),
        start in prop::sample::select(vec![
            &[0x08, 0x00, 0x45][..],
            &[0x08, 0x00],
            &[0x86, 0xdd, 0x60],
            &[0x81, 0x00],
            &[],
        ]),
    ) {
        let frame = [&[2; 12], start, &frame].concat();
        if let Ok(parsed) = parse(&frame) {
            check_bounds(&frame, &parsed);
        }
    }
}
