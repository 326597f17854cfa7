//! What every forwarding method must hold to, for every protocol and family that it takes.
//!
//! nat, fullnat, and nat to the box itself: there and back is the identity. dr and local: the packet is
//! the client's, octet for octet. Tunnels: what is inside is the client's packet, one hop older.
//! Packets are built and judged by etherparse.
#![expect(clippy::unwrap_used, reason = "a failed step ends the test")]

mod support {
    pub(crate) mod lab;
    pub(crate) mod network;
}

use std::net::IpAddr;

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use proptest::prelude::*;
use support::{
    lab::{Lab, read, tcp},
    network::{BACKEND, CLIENT, OWN, ROUTER, addr},
};
use xvs_dataplane::{
    clock::Clock as _,
    director::spec::{LocalPool, ServiceKey},
    endpoint::Method,
    verdict::{DeviceId, DropReason},
};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A packet's ends and payload; its checksums must be right.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
    payload: Vec<u8>,
}

fn tell(frame: &[u8]) -> Told {
    let headers = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let payload = headers.payload.slice();
    let transport = headers.transport.unwrap();
    let (from, to): (IpAddr, IpAddr) = match headers.net.as_ref().unwrap() {
        NetHeaders::Ipv4(ip, _) => {
            assert_eq!(ip.calc_header_checksum(), ip.header_checksum);
            let (sum, is) = match &transport {
                TransportHeader::Tcp(tcp) => (tcp.calc_checksum_ipv4(ip, payload), tcp.checksum),
                TransportHeader::Udp(udp) => (udp.calc_checksum_ipv4(ip, payload), udp.checksum),
                other => panic!("{other:?}"),
            };
            assert_eq!(sum.unwrap(), is);
            (ip.source.into(), ip.destination.into())
        }
        NetHeaders::Ipv6(ip, _) => {
            let (sum, is) = match &transport {
                TransportHeader::Tcp(tcp) => (tcp.calc_checksum_ipv6(ip, payload), tcp.checksum),
                TransportHeader::Udp(udp) => (udp.calc_checksum_ipv6(ip, payload), udp.checksum),
                other => panic!("{other:?}"),
            };
            assert_eq!(sum.unwrap(), is);
            (ip.source.into(), ip.destination.into())
        }
        other => panic!("{other:?}"),
    };
    let (source, destination) = match transport {
        TransportHeader::Tcp(tcp) => (tcp.source_port, tcp.destination_port),
        TransportHeader::Udp(udp) => (udp.source_port, udp.destination_port),
        other => panic!("{other:?}"),
    };
    Told { source: (from, source), destination: (to, destination), payload: payload.to_vec() }
}

/// A SYN or a datagram.
fn packet(protocol: u8, from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    if protocol == TCP {
        let (source, destination) = (from.0.to_string(), to.0.to_string());
        return tcp((&source, from.1), (&destination, to.1), "S", payload);
    }
    let builder = PacketBuilder::ethernet2(ROUTER, OWN[0]);
    let builder = match (from.0, to.0) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), 64),
        _ => unreachable!("one family"),
    };
    let mut frame = Vec::new();
    builder.udp(from.1, to.1).write(&mut frame, payload).unwrap();
    frame
}

/// VIP and client of a family.
fn ends(v6: bool) -> (&'static str, IpAddr) {
    if v6 {
        ("fd00::1", addr("2001:db8:9::7").to_ip())
    } else {
        ("10.0.0.1", addr("10.9.0.7").to_ip())
    }
}

/// A box with one real server; the service takes TCP and UDP.
fn lab(method: Method, vip: &str, real: &str, port: u16) -> Lab {
    let mut it = Lab::with(method, vip, &[real], port);
    let info = it.director.services().remove(0);
    let mut spec = info.spec;
    spec.key = ServiceKey::Address { protocol: UDP, addr: addr(vip), port: 80 };
    it.director.add_service(&spec).unwrap();
    it.director.add_real(&spec.key, &info.reals[0].spec).unwrap();
    let addrs = vec![addr("10.2.0.200"), addr("fd02::200")];
    it.director.set_locals(&LocalPool { addrs, ports: (1024, 65535) }).unwrap();
    it.publish();
    assert!(it.flows.is_empty() && it.wanted.is_empty());
    let now = it.worker.clock().now();
    it.reap(now);
    it
}

/// Where a client's packet went, and what comes back of an answer to it.
fn there_and_back(it: &mut Lab, sent: &[u8], (protocol, answer): (u8, &[u8])) -> (Told, Told) {
    let came = it.pass(CLIENT, sent);
    let (device, given) = match it.worker.io_mut().take_host() {
        Some((_, frame)) => (DeviceId::HOST, frame),
        None => came[0].clone(),
    };
    let there = tell(&given);
    let reply = packet(protocol, there.destination, there.source, answer);
    let back = it.pass(if device == DeviceId::HOST { device } else { BACKEND }, &reply);
    let [(device, frame)] = &back[..] else { panic!("{back:?}") };
    assert_eq!(*device, CLIENT);
    (there, tell(frame))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn translation_there_and_back_is_the_identity(
        v6 in any::<bool>(),
        kind in 0..3_usize,
        protocol in prop_oneof![Just(TCP), Just(UDP)],
        port in 21..=65_535_u16,
        payload in prop::collection::vec(any::<u8>(), 0..1200),
        answer in prop::collection::vec(any::<u8>(), 0..1200),
    ) {
        let (vip, client) = ends(v6);
        let (method, real) = [
            (Method::Nat, if v6 { "fd02::11" } else { "10.2.0.11" }),
            (Method::FullNat, if v6 { "fd02::11" } else { "10.2.0.11" }),
            (Method::Nat, if v6 { "fd02::1" } else { "10.2.0.1" }),
        ][kind];
        let mut it = lab(method, vip, real, 8080);
        let sent = packet(protocol, (client, port), (addr(vip).to_ip(), 80), &payload);
        let (there, back) = there_and_back(&mut it, &sent, (protocol, &answer));
        prop_assert_eq!(there.destination, (addr(real).to_ip(), 8080));
        prop_assert_eq!(&there.payload, &payload);
        if method == Method::FullNat {
            let local = if v6 { "fd02::200" } else { "10.2.0.200" };
            prop_assert_eq!(there.source.0, addr(local).to_ip());
            prop_assert!(there.source.1 >= 1024);
        } else {
            prop_assert_eq!(there.source, (client, port));
        }
        let asked = tell(&sent);
        prop_assert_eq!((back.source, back.destination), (asked.destination, asked.source));
        prop_assert_eq!(back.payload, answer);
        let dropped = DropReason::ALL.iter().map(|reason| it.dropped(*reason)).sum::<u64>();
        prop_assert_eq!(dropped, 0);
    }

    #[test]
    fn what_is_not_translated_is_the_clients_packet(
        v6 in any::<bool>(),
        outer_v6 in any::<bool>(),
        method in 1..6_u8,
        protocol in prop_oneof![Just(TCP), Just(UDP)],
        port in 21..=65_535_u16,
        payload in prop::collection::vec(any::<u8>(), 0..1200),
    ) {
        let (vip, client) = ends(v6);
        let method = Method::from_number(method);
        let tunnel = matches!(method, Method::Ipip | Method::Gue | Method::Gre);
        let outer_v6 = if tunnel { outer_v6 } else { v6 };
        let real = if outer_v6 { "fd02::11" } else { "10.2.0.11" };
        let mut it = lab(method, vip, real, 80);
        let sent = packet(protocol, (client, port), (addr(vip).to_ip(), 80), &payload);
        let came = it.pass(CLIENT, &sent);
        if method == Method::Local {
            let (_, given) = it.worker.io_mut().take_host().unwrap();
            prop_assert_eq!(given, sent);
            return Ok(());
        }
        let [(device, frame)] = &came[..] else { panic!("{came:?}") };
        prop_assert_eq!(*device, BACKEND);
        // The inner packet stands at the end; one hop is off.
        let inner = &frame[frame.len() - (sent.len() - 14)..];
        let mut framed = sent[..14].to_vec();
        framed.extend_from_slice(inner);
        let (ttl, at) = if v6 { (framed[21], 21) } else { (framed[22], 22) };
        prop_assert_eq!(ttl, 63);
        prop_assert_eq!(tell(&framed), tell(&sent));
        let mut restored = framed;
        restored[at] = 64;
        if !v6 {
            restored[24..26].copy_from_slice(&sent[24..26]);
        }
        prop_assert_eq!(&restored, &sent);
        let outer = usize::from(tunnel) * (if outer_v6 { 40 } else { 20 });
        let extra = match method {
            Method::Gue => 8 + 4,
            Method::Gre => 4,
            _ => 0,
        };
        prop_assert_eq!(frame.len(), sent.len() + outer + extra);
        read(&tcp(("10.9.0.7", 1), ("10.0.0.1", 80), "S", b""));
    }
}
