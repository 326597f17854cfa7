//! Real servers that answer: the capture's own replies, sent from where the flow went.
//!
//! A capture shows a client and *the* server; replayed, the client's packets go to one of several real
//! servers, and the server's recorded packets have to come from that one, or no reply would ever be
//! translated and no connection ever established. So a reply's source is rewritten, before it is
//! received, to the real server that the flow's packets were last sent to.
//!
//! Bounded by [`FLOWS_MAX`]; replies of flows beyond it come as they were captured.

use std::collections::BTreeMap;

use dataplane::{
    addr::Addr,
    flow::FlowKey,
    wire::{
        checksum::{apply, apply_udp, delta, endpoint, sum_addr},
        frame::{Kind, Parsed, parse},
        protocol,
    },
};

/// Flows remembered at most.
const FLOWS_MAX: usize = 1 << 20;
/// SCTP's checksum covers the ports but no address: it is made anew.
const SCTP_CHECKSUM: usize = 8;

/// Which real server each flow went to.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    /// By the key of the client's packets.
    flows: BTreeMap<Name, (Addr, u16)>,
}

/// Protocol, client and virtual server of a flow.
type Name = (u8, (Addr, u16), (Addr, u16));

const fn name(key: &FlowKey) -> Name {
    (key.protocol, (key.source, key.source_port), (key.destination, key.destination_port))
}

impl Mirror {
    /// Remembers where a client's packet was sent: `key` names it as it came, `sent` is what left.
    pub(super) fn learn(&mut self, key: &FlowKey, sent: &[u8]) {
        let Ok(parsed) = parse(sent) else { return };
        let same = parsed.key.source == key.source && parsed.key.source_port == key.source_port;
        if parsed.kind != Kind::Flow || !same {
            return;
        }
        if self.flows.len() < FLOWS_MAX || self.flows.contains_key(&name(key)) {
            let real = (parsed.key.destination, parsed.key.destination_port);
            self.flows.insert(name(key), real);
        }
    }

    /// Lets a server's packet come from the real server its flow went to.
    pub(super) fn reply(&self, frame: &mut [u8]) {
        let Ok(parsed) = parse(frame) else { return };
        if parsed.kind != Kind::Flow || parsed.short {
            return;
        }
        if let Some(&real) = self.flows.get(&name(&parsed.key.reversed())) {
            rewrite_source(frame, &parsed, real);
        }
    }
}

/// Rewrites source address and port and brings all checksums along. Families are the same: nat
/// does not cross them.
fn rewrite_source(frame: &mut [u8], parsed: &Parsed, (addr, port): (Addr, u16)) {
    let (l3, l4) = (usize::from(parsed.l3), usize::from(parsed.l4));
    let (from, from_port) = (parsed.key.source, parsed.key.source_port);
    if addr.is_v4() {
        frame[l3 + 12..l3 + 16].copy_from_slice(&addr.low32().to_be_bytes());
        let change = delta(sum_addr(from).fold(), sum_addr(addr).fold());
        patch(frame, l3 + 10, |sum| apply(sum, change));
    } else {
        frame[l3 + 8..l3 + 24].copy_from_slice(&addr.bits().to_be_bytes());
    }
    frame[l4..l4 + 2].copy_from_slice(&port.to_be_bytes());
    let change = delta(endpoint(from, from_port), endpoint(addr, port));
    match parsed.key.protocol {
        protocol::TCP => patch(frame, l4 + 16, |sum| apply(sum, change)),
        protocol::UDP => patch(frame, l4 + 6, |sum| apply_udp(sum, change)),
        _ => {
            let segment = &mut frame[l4..usize::from(parsed.end)];
            segment[SCTP_CHECKSUM..SCTP_CHECKSUM + 4].fill(0);
            let sum = crc32c::crc32c(segment);
            segment[SCTP_CHECKSUM..SCTP_CHECKSUM + 4].copy_from_slice(&sum.to_le_bytes());
        }
    }
}

/// Replaces the word at `offset` by what `change` makes of it.
fn patch(frame: &mut [u8], offset: usize, change: impl FnOnce(u16) -> u16) {
    let word = change(u16::from_be_bytes([frame[offset], frame[offset + 1]]));
    frame[offset..offset + 2].copy_from_slice(&word.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{PacketBuilder, PacketHeaders, TransportHeader};
    use std::net::Ipv4Addr;

    fn tcp(from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from.0, to.0, 64);
        let mut frame = Vec::new();
        builder.tcp(from.1, to.1, 1, 1).syn().write(&mut frame, b"data").unwrap();
        frame
    }

    #[test]
    fn a_reply_comes_from_the_real_server_its_flow_went_to() {
        let (client, vip, real) =
            (([10, 9, 0, 7], 1000), ([10, 0, 0, 1], 80), ([198, 18, 0, 2], 8080));
        let mut mirror = Mirror::default();
        let key = parse(&tcp(client, vip)).unwrap().key;
        mirror.learn(&key, &tcp(client, real));
        let mut reply = tcp(vip, client);
        mirror.reply(&mut reply);
        let key = parse(&reply).unwrap().key;
        assert_eq!((key.source, key.source_port), (Ipv4Addr::from(real.0).into(), 8080));
        let read = PacketHeaders::from_ethernet_slice(&reply).unwrap();
        let Some(etherparse::NetHeaders::Ipv4(ip, _)) = read.net else { panic!("not IPv4") };
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        let Some(TransportHeader::Tcp(header)) = read.transport else { panic!("not TCP") };
        let sum = header.calc_checksum_ipv4(&ip, read.payload.slice()).unwrap();
        assert_eq!(header.checksum, sum);
    }

    #[test]
    fn a_reply_of_an_unknown_flow_comes_as_it_was() {
        let mut reply = tcp(([10, 0, 0, 1], 80), ([10, 9, 0, 7], 1000));
        let before = reply.clone();
        Mirror::default().reply(&mut reply);
        assert_eq!(reply, before);
    }
}
