//! Synthetic flows: one in eight UDP, the others TCP; half of the packets requests, half replies.
//!
//! A flow is a number; everything else about it is computed, so that ten million of them take ten
//! megabytes of harness and the table's memory is what is measured.

use std::net::Ipv4Addr;

use anyhow::Context as _;
use dataplane::{
    addr::Addr,
    director::{
        Director,
        network::{Interface, Neighbour, Network, Route},
        spec::{RealSpec, ServiceKey, ServiceSpec, TunnelSpec},
    },
    endpoint::Method,
    rng::Rng,
    sched::SchedFlags,
    verdict::DeviceId,
    wire::{
        checksum::{self, Sum},
        protocol,
    },
};

const CLIENT: DeviceId = DeviceId(0);
const BACKEND: DeviceId = DeviceId(1);
const VIP: u32 = 0x0a00_0001;
/// Real servers are this address and those after it.
const REAL: u32 = 0x0a02_000b;
const REALS: u8 = 8;
/// Clients are this address and those after it.
const FIRST_CLIENT: u32 = 0x0a80_0000;
const FIRST_PORT: u16 = 1024;
/// Flows of one client.
const PORTS: usize = 60_000;
const TCP_PORT: u16 = 80;
const UDP_PORT: u16 = 53;
/// Every so many flows one is UDP.
const UDP_EVERY: usize = 8;
/// Octets of a frame.
const FRAME: usize = 64;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// A frame and where it comes in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    device: DeviceId,
    octets: [u8; FRAME],
}

impl Frame {
    pub(super) const fn device(&self) -> DeviceId {
        self.device
    }

    pub(super) const fn octets(&self) -> &[u8] {
        &self.octets
    }
}

/// What must be remembered of a flow: which real server it is on.
pub(super) type Flow = u8;

/// Makes the frames.
#[derive(Debug)]
pub(super) struct Traffic {
    method: Method,
}

impl Traffic {
    /// Gives `director` the network and the services that the frames belong to.
    pub(super) fn new(director: &mut Director, method: Method) -> anyhow::Result<Self> {
        director.set_network(network());
        for (protocol, port) in [(protocol::TCP, TCP_PORT), (protocol::UDP, UDP_PORT)] {
            let key = ServiceKey::Address { protocol, addr: Addr::v4(VIP), port };
            let service = ServiceSpec {
                key,
                scheduler: "rr".to_owned(),
                flags: SchedFlags::default(),
                persistence_s: None,
                netmask: u32::MAX,
                one_packet: false,
                engine: None,
                toa: false,
            };
            director.add_service(&service).context("the service")?;
            for number in 0..REALS {
                let real = RealSpec {
                    addr: Addr::v4(REAL + u32::from(number)),
                    port,
                    method,
                    tunnel: TunnelSpec::default(),
                    weight: 1,
                    upper: 0,
                    lower: 0,
                };
                director.add_real(&key, &real).context("a real server")?;
            }
        }
        Ok(Self { method })
    }

    /// Whether replies come back through the box.
    pub(super) const fn translates(&self) -> bool {
        self.method.translates()
    }

    /// The first packet of a flow.
    pub(super) fn opening(&self, number: usize) -> Frame {
        request(number, SYN)
    }

    /// A SYN that no other flow was opened by. Never UDP: half-open flows make room for new ones,
    /// datagrams' flows would fill the table.
    pub(super) fn fresh(&self, number: usize) -> Frame {
        Frame { device: CLIENT, octets: octets(false, SYN, client(number), (VIP, TCP_PORT)) }
    }

    /// The real server that a flow's first packet went to, read off the packet that left.
    pub(super) fn opened(&self, left: &[u8]) -> Option<Flow> {
        let to = match self.method {
            // The link address names it: see `network`.
            Method::Dr => return left.get(5).copied(),
            _ => u32::from_be_bytes(*left.get(30..)?.first_chunk()?),
        };
        u8::try_from(to.checked_sub(REAL)?).ok().filter(|real| *real < REALS)
    }

    /// The real server's answer to it.
    pub(super) fn accept(&self, number: usize, flow: Flow) -> Frame {
        reply(number, flow, SYN | ACK)
    }

    /// The client's next packet.
    pub(super) fn confirm(&self, number: usize) -> Frame {
        request(number, ACK)
    }

    /// A packet of a random flow; with methods that translate, half of them are replies.
    #[expect(clippy::cast_possible_truncation, reason = "below the number of flows")]
    pub(super) fn any(&self, flows: &[Flow], rng: &mut Rng) -> Frame {
        let number = rng.below(flows.len() as u64) as usize;
        if self.translates() && rng.next_u64() & 1 == 1 {
            reply(number, flows[number], ACK)
        } else {
            request(number, ACK)
        }
    }
}

/// Client address and port of a flow.
#[expect(
    clippy::cast_possible_truncation,
    reason = "at most 60,000 ports and a few thousand clients"
)]
const fn client(number: usize) -> (u32, u16) {
    (FIRST_CLIENT + (number / PORTS) as u32, FIRST_PORT + (number % PORTS) as u16)
}

const fn is_udp(number: usize) -> bool {
    number % UDP_EVERY == UDP_EVERY - 1
}

fn request(number: usize, flags: u8) -> Frame {
    let port = if is_udp(number) { UDP_PORT } else { TCP_PORT };
    Frame { device: CLIENT, octets: octets(is_udp(number), flags, client(number), (VIP, port)) }
}

fn reply(number: usize, flow: Flow, flags: u8) -> Frame {
    let port = if is_udp(number) { UDP_PORT } else { TCP_PORT };
    let real = (REAL + u32::from(flow), port);
    Frame { device: BACKEND, octets: octets(is_udp(number), flags, real, client(number)) }
}

/// An Ethernet frame of 64 octets with IPv4 and TCP or UDP.
fn octets(udp: bool, flags: u8, from: (u32, u16), to: (u32, u16)) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0xfe]);
    frame[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0]);
    frame[16..18].copy_from_slice(&50u16.to_be_bytes());
    frame[20..24].copy_from_slice(&[0x40, 0, 64, if udp { protocol::UDP } else { protocol::TCP }]);
    frame[26..30].copy_from_slice(&from.0.to_be_bytes());
    frame[30..34].copy_from_slice(&to.0.to_be_bytes());
    let sum = Sum::of(&frame[14..34]).checksum();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame[34..36].copy_from_slice(&from.1.to_be_bytes());
    frame[36..38].copy_from_slice(&to.1.to_be_bytes());
    if udp {
        frame[38..40].copy_from_slice(&30u16.to_be_bytes());
    } else {
        frame[46] = 5 << 4;
        frame[47] = flags;
    }
    let at = if udp { 40 } else { 50 };
    let protocol = if udp { protocol::UDP } else { protocol::TCP };
    let pseudo = checksum::pseudo(Addr::v4(from.0), Addr::v4(to.0), protocol, 30);
    let sum = Sum::of(&frame[34..]).plus(pseudo).udp_checksum();
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Clients behind a gateway, real servers on a link of their own; a real server's number is the last
/// octet of its link address.
fn network() -> Network {
    let interface = |device: DeviceId, addr: [u8; 4]| Interface {
        device,
        name: format!("bench{}", device.0),
        index: u32::from(device.0) + 1,
        mac: [2, 0, 0, 0, device.0, 1],
        mtu: 1500,
        addrs: vec![(Ipv4Addr::from(addr).into(), 24)],
    };
    let route = |prefix: (u32, u8), device, gateway: Option<u32>| Route {
        prefix: (Addr::v4(prefix.0), prefix.1),
        device,
        gateway: gateway.map(Addr::v4),
        source: None,
        metric: 0,
        mtu: None,
    };
    let gateway = 0x0a01_00fe;
    let mut neighbours =
        vec![Neighbour { device: CLIENT, addr: Addr::v4(gateway), mac: [2, 0, 0, 0, 0, 0xfe] }];
    for number in 0..REALS {
        let addr = Addr::v4(REAL + u32::from(number));
        neighbours.push(Neighbour { device: BACKEND, addr, mac: [2, 0, 0, 0, 2, number] });
    }
    Network {
        interfaces: vec![interface(CLIENT, [10, 1, 0, 1]), interface(BACKEND, [10, 2, 0, 1])],
        routes: vec![
            route((0x0a01_0000, 24), CLIENT, None),
            route((0x0a02_0000, 24), BACKEND, None),
            route((0, 0), CLIENT, Some(gateway)),
        ],
        neighbours,
        ..Network::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::wire::frame::{Kind, parse};
    use std::collections::BTreeSet;

    #[test]
    fn every_flow_is_another_one_and_parses() {
        let mut keys = BTreeSet::new();
        for number in (0..5000).chain(PORTS - 10..PORTS + 10) {
            let frame = request(number, SYN);
            let parsed = parse(frame.octets()).unwrap();
            assert_eq!(parsed.kind, Kind::Flow);
            assert!(!parsed.short);
            let key = parsed.key;
            assert!(keys.insert((key.protocol, key.source, key.source_port)));
            let answer = parse(reply(number, 3, ACK).octets()).unwrap().key;
            assert_eq!(
                (answer.destination, answer.destination_port),
                (key.source, key.source_port)
            );
        }
    }
}
