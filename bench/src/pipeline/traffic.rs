//! Synthetic flows: one in eight UDP, the others TCP; half of the packets requests, half replies.
//!
//! A flow is a number; everything else about it is computed, so that ten million of them take ten
//! megabytes of harness and the table's memory is what is measured. Checksums are right, as those of
//! frames from a wire are.

use std::net::{IpAddr, Ipv6Addr};

use anyhow::Context as _;
use arrayvec::ArrayVec;
use clap::ValueEnum;
use dataplane::{
    addr::{Addr, Family},
    director::{
        Director,
        network::{Interface, Neighbour, Network, Route},
        spec::{RealSpec, ServiceKey, ServiceSpec, TunnelSpec},
    },
    endpoint::Method,
    rng::Rng,
    verdict::DeviceId,
    wire::{
        checksum::{self, Sum},
        protocol,
    },
};

pub(super) const CLIENT: DeviceId = DeviceId(0);
const BACKEND: DeviceId = DeviceId(1);
const REALS: u8 = 8;
/// Last octet of the first real server's address.
const FIRST_REAL: u8 = 11;
const FIRST_PORT: u16 = 1024;
/// Flows of one client.
const PORTS: usize = 60_000;
const TCP_PORT: u16 = 80;
const UDP_PORT: u16 = 53;
const GUE_PORT: u16 = 6080;
/// Every so many flows one is UDP.
const UDP_EVERY: usize = 8;
/// Octets of the longest frame.
const FRAME_MAX: usize = 1514;
/// Octets of a mixed dozen's frames, as often as the Internet mix has them (IMIX: 7, 4, 1).
const MIX: [usize; 12] = [64, 594, 64, 64, 594, 64, 1514, 64, 594, 64, 64, 594];
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// How long frames are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Frames {
    /// 64 octets, and 78 with IPv6: as short as TCP gets.
    #[value(name = "64")]
    Short,
    /// 64, 594 and 1514 octets as 7 to 4 to 1.
    Mixed,
}

/// A frame and where it comes in.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    device: DeviceId,
    octets: ArrayVec<u8, FRAME_MAX>,
}

impl Frame {
    pub(super) const fn device(&self) -> DeviceId {
        self.device
    }

    pub(super) fn octets(&self) -> &[u8] {
        &self.octets
    }
}

/// What must be remembered of a flow: which real server it is on.
pub(super) type Flow = u8;

/// One end of a packet.
type End = (Addr, u16);

/// Makes the frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traffic {
    pub(super) method: Method,
    pub(super) family: Family,
    pub(super) frames: Frames,
}

impl Traffic {
    /// Gives `director` the network and the services that the frames belong to.
    pub(super) fn describe(self, director: &mut Director, scheduler: &str) -> anyhow::Result<()> {
        director.set_network(network());
        let gue_port = if self.method == Method::Gue { GUE_PORT } else { 0 };
        for (protocol, port) in [(protocol::TCP, TCP_PORT), (protocol::UDP, UDP_PORT)] {
            let key = ServiceKey::Address { protocol, addr: self.vip(), port };
            let service = ServiceSpec::new(key, scheduler);
            director.add_service(&service).context("the service")?;
            for number in 0..REALS {
                let real = RealSpec {
                    tunnel: TunnelSpec { port: gue_port, ..TunnelSpec::default() },
                    ..RealSpec::new(self.real(number), port, self.method)
                };
                director.add_real(&key, &real).context("a real server")?;
            }
        }
        Ok(())
    }

    /// Whether replies come back through the box.
    pub(super) const fn translates(&self) -> bool {
        self.method.translates()
    }

    /// Octets that a frame's memory needs.
    pub(super) const fn slot(&self) -> usize {
        match self.frames {
            Frames::Short => 512,
            Frames::Mixed => 2048,
        }
    }

    pub(super) fn vip(&self) -> Addr {
        addr(self.family, ("10.0.0.1", "fd00::1"), 0)
    }

    pub(super) fn real(&self, number: u8) -> Addr {
        real(self.family, number)
    }

    /// The first packet of a flow.
    pub(super) fn opening(&self, number: usize) -> Frame {
        self.request(number, SYN)
    }

    /// A SYN that no other flow was opened by. Never UDP: half-open flows make room for new ones,
    /// datagrams' flows would fill the table.
    pub(super) fn fresh(&self, number: usize) -> Frame {
        let ends = (self.client(number), (self.vip(), TCP_PORT));
        Frame { device: CLIENT, octets: self.octets(number, (false, SYN), ends) }
    }

    /// The real server that a flow's first packet went to, read off the packet that left.
    pub(super) fn opened(&self, left: &[u8]) -> Option<Flow> {
        let at = match (self.method, self.family) {
            // The link address names it: see `network`.
            (Method::Dr, _) => return left.get(5).copied(),
            (_, Family::V4) => 33,
            (_, Family::V6) => 53,
        };
        left.get(at)?.checked_sub(FIRST_REAL).filter(|real| *real < REALS)
    }

    /// The real server's answer to it.
    pub(super) fn accept(&self, number: usize, flow: Flow) -> Frame {
        self.reply(number, flow, SYN | ACK)
    }

    /// The client's next packet.
    pub(super) fn confirm(&self, number: usize) -> Frame {
        self.request(number, ACK)
    }

    /// A packet of a random flow for worker `worker` of `workers`. With methods that translate,
    /// half of them are replies, which always come to another worker than the requests.
    #[expect(clippy::cast_possible_truncation, reason = "below the number of flows")]
    pub(super) fn any(
        &self,
        flows: &[Flow],
        (worker, workers): (usize, usize),
        rng: &mut Rng,
    ) -> Frame {
        let is_reply = self.translates() && rng.next_u64() & 1 == 1;
        let owner = if is_reply { (worker + 1) % workers } else { worker };
        let rounds = (flows.len() / workers) as u64;
        let number = rng.below(rounds) as usize * workers + owner;
        if is_reply { self.reply(number, flows[number], ACK) } else { self.request(number, ACK) }
    }

    /// Client address and port of a flow.
    #[expect(clippy::cast_possible_truncation, reason = "at most 60,000 ports, some clients")]
    fn client(&self, number: usize) -> End {
        let client = addr(self.family, ("10.128.0.0", "2001:db8::"), (number / PORTS) as u32);
        (client, FIRST_PORT + (number % PORTS) as u16)
    }

    fn request(&self, number: usize, flags: u8) -> Frame {
        let port = if is_udp(number) { UDP_PORT } else { TCP_PORT };
        let ends = (self.client(number), (self.vip(), port));
        Frame { device: CLIENT, octets: self.octets(number, (is_udp(number), flags), ends) }
    }

    fn reply(&self, number: usize, flow: Flow, flags: u8) -> Frame {
        let port = if is_udp(number) { UDP_PORT } else { TCP_PORT };
        let ends = ((self.real(flow), port), self.client(number));
        Frame { device: BACKEND, octets: self.octets(number, (is_udp(number), flags), ends) }
    }

    /// An Ethernet frame with IP and TCP or UDP.
    fn octets(
        &self,
        number: usize,
        (udp, flags): (bool, u8),
        (from, to): (End, End),
    ) -> ArrayVec<u8, FRAME_MAX> {
        let l4 = if self.family == Family::V4 { 34 } else { 54 };
        let length = match self.frames {
            Frames::Short => l4 + 30,
            Frames::Mixed => MIX[number % MIX.len()].max(l4 + 30),
        };
        let length = if self.frames == Frames::Short && l4 == 54 { 78 } else { length };
        let protocol = if udp { protocol::UDP } else { protocol::TCP };
        let mut frame: ArrayVec<u8, FRAME_MAX> = std::iter::repeat_n(0, length).collect();
        frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0xfe]);
        self.write_ip(&mut frame, protocol, (from.0, to.0));
        let segment = &mut frame[l4..];
        let octets = u16::try_from(segment.len()).unwrap_or(u16::MAX);
        segment[..2].copy_from_slice(&from.1.to_be_bytes());
        segment[2..4].copy_from_slice(&to.1.to_be_bytes());
        let at = if udp {
            segment[4..6].copy_from_slice(&octets.to_be_bytes());
            6
        } else {
            segment[12..14].copy_from_slice(&[5 << 4, flags]);
            16
        };
        let pseudo = checksum::pseudo(from.0, to.0, protocol, octets.into());
        let sum = Sum::of(segment).plus(pseudo).udp_checksum();
        segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    /// Ethertype and IP header of a frame that is as long as it will be.
    fn write_ip(&self, frame: &mut [u8], protocol: u8, (from, to): (Addr, Addr)) {
        let length = u16::try_from(frame.len() - 14).unwrap_or(u16::MAX);
        if self.family == Family::V6 {
            frame[12..18].copy_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
            frame[18..20].copy_from_slice(&(length - 40).to_be_bytes());
            frame[20..22].copy_from_slice(&[protocol, 64]);
            frame[22..38].copy_from_slice(&from.bits().to_be_bytes());
            frame[38..54].copy_from_slice(&to.bits().to_be_bytes());
            return;
        }
        frame[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0]);
        frame[16..18].copy_from_slice(&length.to_be_bytes());
        frame[20..24].copy_from_slice(&[0x40, 0, 64, protocol]);
        frame[26..30].copy_from_slice(&from.low32().to_be_bytes());
        frame[30..34].copy_from_slice(&to.low32().to_be_bytes());
        let sum = Sum::of(&frame[14..34]).checksum();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
}

const fn is_udp(number: usize) -> bool {
    number % UDP_EVERY == UDP_EVERY - 1
}

/// The address `offset` behind the first one of a family.
fn addr(family: Family, (v4, v6): (&str, &str), offset: u32) -> Addr {
    let first = match family {
        Family::V4 => v4,
        Family::V6 => v6,
    };
    let first: IpAddr = first.parse().unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    Addr::v6(Addr::from(first).bits() + u128::from(offset))
}

fn real(family: Family, number: u8) -> Addr {
    addr(family, ("10.2.0.0", "fd02::"), u32::from(FIRST_REAL + number))
}

/// Clients behind a gateway, real servers on a link of their own; a real server's number is the last
/// octet of its link address.
fn network() -> Network {
    let text = |text: &str| addr(Family::V4, (text, text), 0);
    let interface = |device: DeviceId, addrs: [&str; 2]| Interface {
        device,
        name: format!("bench{}", device.0),
        index: u32::from(device.0) + 1,
        mac: [2, 0, 0, 0, device.0, 1],
        mtu: 9000,
        addrs: vec![(text(addrs[0]), 24), (text(addrs[1]), 64)],
    };
    let route = |prefix: (&str, u8), device, gateway: Option<&str>| Route {
        prefix: (text(prefix.0), prefix.1),
        device,
        gateway: gateway.map(text),
        source: None,
        metric: 0,
        mtu: None,
    };
    let router = [2, 0, 0, 0, 0, 0xfe];
    let gateways = ["10.1.0.254", "fd01::fe"];
    let mut neighbours: Vec<_> =
        gateways.map(|at| Neighbour { device: CLIENT, addr: text(at), mac: router }).into();
    for number in 0..REALS {
        let mac = [2, 0, 0, 0, 2, number];
        for family in [Family::V4, Family::V6] {
            neighbours.push(Neighbour { device: BACKEND, addr: real(family, number), mac });
        }
    }
    Network {
        interfaces: vec![
            interface(CLIENT, ["10.1.0.1", "fd01::1"]),
            interface(BACKEND, ["10.2.0.1", "fd02::1"]),
        ],
        routes: vec![
            route(("10.1.0.0", 24), CLIENT, None),
            route(("10.2.0.0", 24), BACKEND, None),
            route(("0.0.0.0", 0), CLIENT, Some(gateways[0])),
            route(("fd02::", 64), BACKEND, None),
            route(("::", 0), CLIENT, Some(gateways[1])),
        ],
        neighbours,
        local: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::wire::frame::{Kind, parse};
    use std::collections::BTreeSet;

    #[test]
    fn every_flow_is_another_one_and_its_frames_are_sound() {
        for (family, frames) in [Family::V4, Family::V6]
            .into_iter()
            .flat_map(|family| [Frames::Short, Frames::Mixed].map(|frames| (family, frames)))
        {
            let traffic = Traffic { method: Method::Nat, family, frames };
            let mut keys = BTreeSet::new();
            for number in (0..5000).chain(PORTS - 10..PORTS + 10) {
                let frame = traffic.request(number, SYN);
                etherparse::SlicedPacket::from_ethernet(frame.octets()).unwrap();
                let parsed = parse(frame.octets()).unwrap();
                assert_eq!(parsed.kind, Kind::Flow);
                assert!(!parsed.short);
                let key = parsed.key;
                assert!(keys.insert((key.protocol, key.source, key.source_port)));
                let segment = &frame.octets()[usize::from(parsed.l4)..usize::from(parsed.end)];
                let length = u32::try_from(segment.len()).unwrap();
                let pseudo = checksum::pseudo(key.source, key.destination, key.protocol, length);
                assert!(Sum::of(segment).plus(pseudo).is_valid());
                let answer = parse(traffic.reply(number, 3, ACK).octets()).unwrap().key;
                assert_eq!(
                    (answer.destination, answer.destination_port),
                    (key.source, key.source_port)
                );
            }
        }
    }
}
