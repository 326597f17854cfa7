//! What `wire` writes, other implementations accept; what it changes in place, they would have
//! written so.

#![expect(clippy::unwrap_used, reason = "a packet that cannot be built is the test's error")]

use etherparse::{Ethernet2Header, Ipv4HeaderSlice, Ipv6HeaderSlice, PacketBuilder, UdpHeader};
use pnet_packet::util;
use proptest::{array::uniform32, collection::vec, prelude::*};
use smoltcp::{phy::ChecksumCapabilities, wire as smol};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use xvs_dataplane::{
    addr::{Addr, Family},
    wire::{
        arp, at, at_mut, checksum, ethernet, frame::parse, gre, icmp, ipv4, ipv6, protocol, reply,
        tcp, udp, vlan,
    },
};

fn v4s() -> impl Strategy<Value = Addr> {
    (1u8..127, any::<[u8; 3]>()).prop_map(|(first, [a, b, c])| Ipv4Addr::new(first, a, b, c).into())
}

fn v6s() -> impl Strategy<Value = Addr> {
    (1u8..255, any::<u128>())
        .prop_map(|(first, rest)| Addr::v6(u128::from(first) << 120 | rest >> 8))
}

/// Two addresses of one family.
fn pairs() -> impl Strategy<Value = (Addr, Addr)> {
    prop_oneof![(v4s(), v4s()), (v6s(), v6s())]
}

fn ip4(addr: Addr) -> Ipv4Addr {
    match addr.to_ip() {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(_) => unreachable!("an IPv4 address was made"),
    }
}

fn ip6(addr: Addr) -> Ipv6Addr {
    match addr.to_ip() {
        IpAddr::V6(ip) => ip,
        IpAddr::V4(_) => unreachable!("an IPv6 address was made"),
    }
}

/// A TCP or UDP packet in an Ethernet frame, as etherparse writes it.
fn segment(from: (Addr, u16), to: (Addr, u16), is_tcp: bool, payload: &[u8]) -> Vec<u8> {
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let network = match (from.0.to_ip(), to.0.to_ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => link.ipv4(a.octets(), b.octets(), 64),
        (IpAddr::V6(a), IpAddr::V6(b)) => link.ipv6(a.octets(), b.octets(), 64),
        _ => unreachable!("one family"),
    };
    let mut out = Vec::new();
    if is_tcp {
        network.tcp(from.1, to.1, 7, 9).write(&mut out, payload).unwrap();
    } else {
        network.udp(from.1, to.1).write(&mut out, payload).unwrap();
    }
    out
}

/// Whether smoltcp finds all checksums of a frame right that it can look at.
fn smoltcp_accepts(frame: &[u8]) -> bool {
    let all = ChecksumCapabilities::default();
    let link = smol::EthernetFrame::new_checked(frame).unwrap();
    match link.ethertype() {
        smol::EthernetProtocol::Ipv4 => {
            let ip = smol::Ipv4Packet::new_checked(link.payload()).unwrap();
            let (source, destination) = (ip.src_addr(), ip.dst_addr());
            let inside = ip.payload();
            ip.verify_checksum()
                && match ip.next_header() {
                    smol::IpProtocol::Icmp => {
                        let icmp = smol::Icmpv4Packet::new_checked(inside).unwrap();
                        smol::Icmpv4Repr::parse(&icmp, &all).is_ok()
                    }
                    smol::IpProtocol::Tcp => smol::TcpPacket::new_checked(inside)
                        .unwrap()
                        .verify_checksum(&source.into(), &destination.into()),
                    smol::IpProtocol::Udp => smol::UdpPacket::new_checked(inside)
                        .unwrap()
                        .verify_checksum(&source.into(), &destination.into()),
                    _ => false,
                }
        }
        smol::EthernetProtocol::Ipv6 => {
            let ip = smol::Ipv6Packet::new_checked(link.payload()).unwrap();
            let (source, destination) = (ip.src_addr(), ip.dst_addr());
            let inside = ip.payload();
            match ip.next_header() {
                smol::IpProtocol::Icmpv6 => {
                    let icmp = smol::Icmpv6Packet::new_checked(inside).unwrap();
                    smol::Icmpv6Repr::parse(&source, &destination, &icmp, &all).is_ok()
                }
                smol::IpProtocol::Tcp => smol::TcpPacket::new_checked(inside)
                    .unwrap()
                    .verify_checksum(&source.into(), &destination.into()),
                smol::IpProtocol::Udp => smol::UdpPacket::new_checked(inside)
                    .unwrap()
                    .verify_checksum(&source.into(), &destination.into()),
                _ => false,
            }
        }
        _ => false,
    }
}

proptest! {
    #[test]
    fn ethernet_and_vlan_headers_are_read_as_written(
        source: [u8; 6], destination: [u8; 6], ethertype: u16,
        priority in 0u8..8, drop_eligible: bool, id in 0u16..4096,
    ) {
        let mut out = [0; ethernet::LEN];
        ethernet::Header { source, destination, ethertype }.emit(&mut out);
        let (read, _) = Ethernet2Header::from_slice(&out).unwrap();
        prop_assert_eq!((read.source, read.destination), (source, destination));
        prop_assert_eq!(read.ether_type.0, ethertype);

        let mut out = [0; vlan::LEN];
        let tag = vlan::Tag { priority, drop_eligible, id, ethertype };
        tag.emit(&mut out);
        let (read, _) = etherparse::SingleVlanHeader::from_slice(&out).unwrap();
        prop_assert_eq!((read.pcp.value(), read.vlan_id.value()), (priority, id));
        prop_assert_eq!((read.drop_eligible_indicator, read.ether_type.0), (drop_eligible, ethertype));
        prop_assert_eq!(vlan::Tag::parse(&out), tag);
    }

    #[test]
    fn an_ipv4_header_is_accepted_by_all_three(
        source in v4s(), destination in v4s(), tos: u8, ttl: u8, id: u16,
        dont_fragment: bool, payload in 0usize..60,
    ) {
        let protocol = protocol::IPIP;
        let mut packet = [0; ipv4::LEN + 60];
        let header = packet.first_chunk_mut().unwrap();
        ipv4::Header { source, destination, protocol, tos, ttl, id, dont_fragment, payload }
            .emit(header);
        let read = Ipv4HeaderSlice::from_slice(&packet).unwrap();
        prop_assert_eq!(read.to_header().calc_header_checksum(), read.header_checksum());
        prop_assert_eq!(read.dcp().value() << 2 | read.ecn().value(), tos);
        prop_assert_eq!((read.ttl(), read.identification()), (ttl, id));
        prop_assert_eq!(usize::from(read.payload_len().unwrap()), payload);
        prop_assert_eq!(read.dont_fragment(), dont_fragment);
        prop_assert_eq!(Addr::from(IpAddr::V4(read.source_addr())), source);
        prop_assert!(smol::Ipv4Packet::new_checked(&packet).unwrap().verify_checksum());
        let judged = pnet_packet::ipv4::Ipv4Packet::new(&packet).unwrap();
        prop_assert_eq!(pnet_packet::ipv4::checksum(&judged), judged.get_checksum());
    }

    #[test]
    fn an_ipv6_header_is_read_as_written(
        source in v6s(), destination in v6s(), class: u8, flow_label in 0u32..0x10_0000,
        hop_limit: u8, payload in 0usize..65536,
    ) {
        let mut out = [0; ipv6::LEN];
        let next_header = protocol::GRE;
        ipv6::Header { source, destination, next_header, class, flow_label, hop_limit, payload }
            .emit(&mut out);
        let read = Ipv6HeaderSlice::from_slice(&out).unwrap();
        prop_assert_eq!((read.traffic_class(), read.flow_label().value()), (class, flow_label));
        prop_assert_eq!((read.hop_limit(), read.next_header().0), (hop_limit, next_header));
        prop_assert_eq!(usize::from(read.payload_length()), payload);
        prop_assert_eq!(Addr::from(IpAddr::V6(read.source_addr())), source);
        prop_assert_eq!(Addr::from(IpAddr::V6(read.destination_addr())), destination);
    }

    #[test]
    fn a_sealed_datagram_has_the_checksum_that_etherparse_computes(
        (from, to) in pairs(), source: u16, destination: u16, payload in vec(any::<u8>(), 0..99),
    ) {
        let mut datagram = vec![0; udp::LEN];
        datagram.extend(&payload);
        let header = datagram.first_chunk_mut().unwrap();
        udp::Header { source, destination, payload: payload.len() }.emit(header);
        udp::seal(&mut datagram, from, to);
        let read = UdpHeader::from_slice(&datagram).unwrap().0;
        let expected = match from.family() {
            Family::V4 => {
                read.calc_checksum_ipv4_raw(ip4(from).octets(), ip4(to).octets(), &payload)
            }
            Family::V6 => {
                read.calc_checksum_ipv6_raw(ip6(from).octets(), ip6(to).octets(), &payload)
            }
        };
        prop_assert_eq!(read.checksum, expected.unwrap());
        prop_assert_eq!((read.source_port, read.destination_port), (source, destination));
        prop_assert_eq!(usize::from(read.length), datagram.len());
    }

    #[test]
    fn a_gre_checksum_is_the_one_that_pnet_computes(payload in vec(any::<u8>(), 0..99)) {
        let mut message = vec![0; gre::LEN_CHECKSUM];
        message.extend(&payload);
        gre::Header { ethertype: 0x86dd }.emit_with_checksum(message.first_chunk_mut().unwrap());
        gre::seal(&mut message);
        prop_assert_eq!(util::checksum(&message, 2).to_be_bytes(), [message[4], message[5]]);
        let judged = pnet_packet::gre::GrePacket::new(&message).unwrap();
        prop_assert_eq!((judged.get_checksum_present(), judged.get_protocol_type()), (1, 0x86dd));
        prop_assert_eq!((judged.get_version(), judged.get_key_present()), (0, 0));
    }

    #[test]
    fn arp_is_read_by_smoltcp_as_written(
        sender_mac: [u8; 6], sender in v4s(), target_mac: [u8; 6], target in v4s(), reply: bool,
    ) {
        let operation = if reply { arp::Operation::Reply } else { arp::Operation::Request };
        let message = arp::Message { operation, sender_mac, sender, target_mac, target };
        let mut out = [0; arp::LEN];
        message.emit(&mut out);
        let read = smol::ArpRepr::parse(&smol::ArpPacket::new_checked(&out).unwrap()).unwrap();
        let expected = smol::ArpRepr::EthernetIpv4 {
            operation: if reply { smol::ArpOperation::Reply } else { smol::ArpOperation::Request },
            source_hardware_addr: smol::EthernetAddress(sender_mac),
            source_protocol_addr: ip4(sender),
            target_hardware_addr: smol::EthernetAddress(target_mac),
            target_protocol_addr: ip4(target),
        };
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn answers_are_accepted_by_smoltcp(
        (from, to) in pairs(), ports in any::<(u16, u16)>(), is_tcp: bool,
        payload in uniform32(any::<u8>()), mtu in 1280u16..1500,
    ) {
        let frame = segment((from, ports.0), (to, ports.1), is_tcp, &payload);
        let parsed = parse(&frame).unwrap();
        let mut out = [0; reply::LEN_MAX];
        let family = from.family();
        for error in [
            icmp::Header::port_unreachable(family),
            icmp::Header::host_unreachable(family),
            icmp::Header::no_route(family),
            icmp::Header::too_big(family, mtu),
            icmp::Header::time_exceeded(family),
        ] {
            let report = reply::Report { error, source: to, id: mtu };
            let length = reply::error(&frame, &parsed, report, &mut out).unwrap();
            prop_assert!(smoltcp_accepts(&out[..length]), "{error:?}");
            let read_back = parse(&out[..length]).unwrap();
            prop_assert_eq!(read_back.key, parsed.key);
        }
        let reset = reply::reset(&frame, &parsed, &mut out);
        prop_assert_eq!(reset.is_some(), is_tcp);
        if let Some(length) = reset {
            prop_assert!(smoltcp_accepts(&out[..length]));
            prop_assert_eq!(parse(&out[..length]).unwrap().key, parsed.key.reversed());
        }
    }

    #[test]
    fn a_translated_packet_is_what_would_have_been_written(
        (from, to) in pairs(), real in any::<u128>(), ports in any::<(u16, u16, u16)>(),
        is_tcp: bool, payload in vec(any::<u8>(), 0..99),
    ) {
        let real = match from.family() {
            Family::V4 => Addr::v4(0x0a00_0000 | (real >> 104) as u32),
            Family::V6 => Addr::v6(0xfd << 120 | real >> 8),
        };
        let mut frame = segment((from, ports.0), (to, ports.1), is_tcp, &payload);
        let parsed = parse(&frame).unwrap();
        let (l3, l4) = (usize::from(parsed.l3), usize::from(parsed.l4));
        let delta = checksum::delta(
            checksum::endpoint(to, ports.1),
            checksum::endpoint(real, ports.2),
        );
        match from.family() {
            Family::V4 => ipv4::set_destination(at_mut(&mut frame, l3).unwrap(), real),
            Family::V6 => ipv6::set_destination(at_mut(&mut frame, l3).unwrap(), real),
        }
        let field = l4 + if is_tcp { tcp::CHECKSUM_AT } else { udp::CHECKSUM_AT };
        let old = u16::from_be_bytes(*at(&frame, field).unwrap());
        let new = if is_tcp { checksum::apply(old, delta) } else { checksum::apply_udp(old, delta) };
        *at_mut(&mut frame, field).unwrap() = new.to_be_bytes();
        *at_mut(&mut frame, l4 + 2).unwrap() = ports.2.to_be_bytes();
        prop_assert_eq!(frame, segment((from, ports.0), (real, ports.2), is_tcp, &payload));
    }
}
