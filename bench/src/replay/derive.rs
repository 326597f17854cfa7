//! Services for a capture that came without rules: its busiest server endpoints.
//!
//! A server is where SYNs and INITs go and where SYN+ACKs come from; of a conversation whose start was
//! not captured, the end with the lower port (the destination of the first packet if they are equal).
//! The busiest of them become services, each with the same three synthetic real servers.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use dataplane::{
    addr::{Addr, Family},
    director::spec::{RealSpec, ServiceKey, ServiceSpec, TunnelSpec},
    endpoint::Method,
    flow::FlowKey,
    wire::{
        frame::{Kind, Parsed, parse},
        protocol,
    },
};

/// Services derived from one capture at most, the busiest first.
pub(super) const SERVICES_MAX: usize = 64;
/// How many real servers each of them gets.
const REALS: u8 = 3;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// SCTP's INIT and INIT ACK chunks (RFC 9260, section 3.2).
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;

/// Protocol, address and port of a server.
type Server = (u8, Addr, u16);

/// Protocol and the two ends, the lesser first.
type Conversation = (u8, (Addr, u16), (Addr, u16));

/// Counts who serves in a capture.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// Which end of a conversation serves, and how many packets it has; keyed by the lesser of its
    /// two directions.
    conversations: BTreeMap<Conversation, (Server, u64)>,
}

impl Census {
    /// Takes a frame into account; what is no packet of a flow does not count.
    pub(super) fn add(&mut self, frame: &[u8]) {
        let Ok(parsed) = parse(frame) else { return };
        if parsed.kind != Kind::Flow {
            return;
        }
        let key = parsed.key;
        let from = (key.source, key.source_port);
        let to = (key.destination, key.destination_port);
        let name = (key.protocol, from.min(to), from.max(to));
        let (known, certain) = server(&parsed, &key);
        let (server, packets) = self.conversations.entry(name).or_insert((known, 0));
        if certain {
            *server = known;
        }
        *packets += 1;
    }

    /// The busiest servers with their packets, busiest first.
    fn servers(&self) -> Vec<(Server, u64)> {
        let mut servers = BTreeMap::new();
        for &(server, packets) in self.conversations.values() {
            *servers.entry(server).or_insert(0) += packets;
        }
        let mut servers: Vec<_> = servers.into_iter().collect();
        servers.sort_by_key(|&(server, packets)| (std::cmp::Reverse(packets), server));
        servers.truncate(SERVICES_MAX);
        servers
    }

    /// The services, each with its real servers.
    pub(super) fn services(
        &self,
        method: Method,
        scheduler: &str,
    ) -> Vec<(ServiceSpec, Vec<RealSpec>)> {
        let service = |((protocol, addr, port), _)| {
            let spec = ServiceSpec::new(ServiceKey::Address { protocol, addr, port }, scheduler);
            let real = |number| RealSpec {
                addr: real(addr.family(), number),
                port,
                method,
                tunnel: TunnelSpec {
                    port: if method == Method::Gue { 6080 } else { 0 },
                    ..TunnelSpec::default()
                },
                weight: 1,
                upper: 0,
                lower: 0,
            };
            (spec, (1..=REALS).map(real).collect())
        };
        self.servers().into_iter().map(service).collect()
    }
}

/// Which end of a packet serves, and whether the packet itself says so.
fn server(parsed: &Parsed, key: &FlowKey) -> (Server, bool) {
    let source = (key.protocol, key.source, key.source_port);
    let destination = (key.protocol, key.destination, key.destination_port);
    match (key.protocol, parsed.flags) {
        (protocol::TCP, flags) if flags & SYN != 0 => {
            (if flags & ACK == 0 { destination } else { source }, true)
        }
        (protocol::SCTP, INIT) => (destination, true),
        (protocol::SCTP, INIT_ACK) => (source, true),
        _ if key.source_port < key.destination_port => (source, false),
        _ => (destination, false),
    }
}

/// A synthetic real server: from the networks for benchmarks (RFC 2544, RFC 5180).
fn real(family: Family, number: u8) -> Addr {
    match family {
        Family::V4 => Ipv4Addr::new(198, 18, 0, number).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, number.into()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn builder(from: u8, to: u8) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, from], [10, 0, 0, to], 64)
    }

    fn written(step: etherparse::PacketBuilderStep<etherparse::TcpHeader>) -> Vec<u8> {
        let mut frame = Vec::new();
        step.write(&mut frame, &[]).unwrap();
        frame
    }

    fn keys(census: &Census) -> Vec<(Addr, u16)> {
        let key = |(spec, _): (ServiceSpec, _)| match spec.key {
            ServiceKey::Address { addr, port, .. } => (addr, port),
            ServiceKey::Mark { .. } => panic!("no marks are derived"),
        };
        census.services(Method::Nat, "rr").into_iter().map(key).collect()
    }

    #[test]
    fn handshakes_say_who_serves_and_ports_do_where_none_was_seen() {
        let mut census = Census::default();
        let host = |number| Addr::from(Ipv4Addr::new(10, 0, 0, number));
        // A high port is a server if a SYN goes there, even if data was seen first.
        census.add(&written(builder(1, 2).tcp(1000, 8080, 1, 1).ack(1)));
        census.add(&written(builder(1, 2).tcp(1000, 8080, 1, 1).syn()));
        census.add(&written(builder(1, 2).tcp(1000, 8080, 1, 1).ack(1)));
        // A SYN+ACK comes from one.
        census.add(&written(builder(3, 1).tcp(9000, 1001, 1, 1).syn().ack(1)));
        census.add(&written(builder(1, 3).tcp(1001, 9000, 1, 1).ack(1)));
        // Else the lower port is one.
        let mut frame = Vec::new();
        builder(1, 4).udp(5000, 53).write(&mut frame, b"?").unwrap();
        census.add(&frame);
        assert_eq!(keys(&census), [(host(2), 8080), (host(3), 9000), (host(4), 53)]);
    }

    #[test]
    fn what_is_no_flow_makes_no_service() {
        let mut census = Census::default();
        let mut frame = Vec::new();
        builder(1, 2).icmpv4_echo_request(1, 1).write(&mut frame, b"ping").unwrap();
        census.add(&frame);
        census.add(b"\0");
        census.add(&[]);
        assert_eq!(keys(&census), []);
    }

    #[test]
    fn every_service_gets_reals_of_its_family_on_its_port() {
        let mut census = Census::default();
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv6([0x20; 16], [0x21; 16], 64)
            .udp(5000, 443)
            .write(&mut frame, b"?")
            .unwrap();
        census.add(&frame);
        let (_, reals) = census.services(Method::Gue, "rr").remove(0);
        assert_eq!(reals.len(), usize::from(REALS));
        assert!(reals.iter().all(|real| real.port == 443 && !real.addr.is_v4()));
    }
}
