//! A frame in words, layer by layer, for people. Read by etherparse, not by the code that forwards.

use std::fmt::Write as _;

use dataplane::wire::{gre, gue};
use etherparse::{LinkSlice, NetSlice, SlicedPacket, TransportSlice};

/// UDP port that GUE has by convention, and ipvsadm's example.
const GUE_PORTS: [u16; 2] = [6080, 5555];

/// How many packets may lie in each other.
const DEPTH: usize = 4;

/// A frame, from its Ethernet header on, in words.
pub fn frame(frame: &[u8]) -> String {
    let mut out = String::new();
    match SlicedPacket::from_ethernet(frame) {
        Ok(sliced) => {
            if let Some(LinkSlice::Ethernet2(link)) = &sliced.link {
                let (from, to) = (mac(link.source()), mac(link.destination()));
                write!(out, "{from} > {to}").expect("a string takes everything");
            }
            layers(&mut out, &sliced, DEPTH);
        }
        Err(error) => write!(out, "unreadable: {error}").expect("a string takes everything"),
    }
    out
}

fn mac(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}

/// The network layer; gives back the protocol behind it and its payload.
fn network<'a>(out: &mut String, sliced: &SlicedPacket<'a>) -> Option<(u8, &'a [u8])> {
    match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let (from, to, ttl) = (header.source_addr(), header.destination_addr(), header.ttl());
            write!(out, " | IPv4 {from} > {to} ttl {ttl}").expect("a string takes everything");
            Some((ip.payload().ip_number.0, ip.payload().payload))
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let (from, to) = (header.source_addr(), header.destination_addr());
            let limit = header.hop_limit();
            write!(out, " | IPv6 {from} > {to} hop limit {limit}")
                .expect("a string takes everything");
            Some((ip.payload().ip_number.0, ip.payload().payload))
        }
        _ => {
            out.push_str(" | not IP");
            None
        }
    }
}

/// Network and transport layer, and a packet inside.
fn layers(out: &mut String, sliced: &SlicedPacket<'_>, depth: usize) {
    let Some((protocol, payload)) = network(out, sliced) else { return };
    let inside = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let flags = [
                (tcp.syn(), 'S'),
                (tcp.ack(), 'A'),
                (tcp.fin(), 'F'),
                (tcp.rst(), 'R'),
                (tcp.psh(), 'P'),
            ];
            let flags: String = flags.iter().filter(|(set, _)| *set).map(|(_, c)| *c).collect();
            let (from, to) = (tcp.source_port(), tcp.destination_port());
            let length = tcp.payload().len();
            write!(out, " | TCP {from} > {to} {flags} {length} octets")
                .expect("a string takes everything");
            None
        }
        Some(TransportSlice::Udp(udp)) => {
            let (from, to) = (udp.source_port(), udp.destination_port());
            let length = udp.payload().len();
            write!(out, " | UDP {from} > {to} {length} octets").expect("a string takes everything");
            let message = udp.payload();
            let gue = gue::parse(message).filter(|_| GUE_PORTS.contains(&to));
            gue.and_then(|(_, at)| Some(("GUE", message.get(at..)?)))
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            write!(out, " | ICMP {:?}", icmp.icmp_type()).expect("a string takes everything");
            None
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            write!(out, " | ICMPv6 {:?}", icmp.icmp_type()).expect("a string takes everything");
            None
        }
        Some(TransportSlice::Igmp(_)) => {
            out.push_str(" | IGMP");
            None
        }
        None => match protocol {
            4 | 41 => Some(("IP", payload)),
            47 => gre::parse(payload).and_then(|(_, at)| Some(("GRE", payload.get(at..)?))),
            other => {
                write!(out, " | protocol {other} {} octets", payload.len())
                    .expect("a string takes everything");
                None
            }
        },
    };
    let Some((name, inside)) = inside.filter(|_| depth > 0) else { return };
    write!(out, " | {name}").expect("a string takes everything");
    match SlicedPacket::from_ip(inside) {
        Ok(sliced) => layers(out, &sliced, depth - 1),
        Err(error) => write!(out, " unreadable: {error}").expect("a string takes everything"),
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    #[test]
    fn a_tunnel_is_told_layer_by_layer() {
        let inner = PacketBuilder::ipv4([10, 9, 0, 7], [10, 0, 0, 1], 63).tcp(1025, 80, 1, 9).syn();
        let mut inside = Vec::new();
        inner.write(&mut inside, b"").unwrap();
        let mut whole = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 2, 0, 1], [10, 2, 0, 11], 64)
            .udp(40000, 6080)
            .write(&mut whole, &[&[0, 4, 0, 0][..], &inside].concat())
            .unwrap();
        assert_eq!(
            frame(&whole),
            "02:00:00:00:00:01 > 02:00:00:00:00:02 | IPv4 10.2.0.1 > 10.2.0.11 ttl 64 | \
             UDP 40000 > 6080 44 octets | GUE | IPv4 10.9.0.7 > 10.0.0.1 ttl 63 | \
             TCP 1025 > 80 S 0 octets"
        );
        assert!(frame(&[0; 5]).contains("unreadable"));
    }
}
