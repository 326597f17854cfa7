//! GUE: the packet travels whole inside IP and UDP.
//!
//! | Ethernet 14 | outer IP | UDP 8 | GUE 4 | client's IP packet, untouched |
//!
//! UDP lets routers and NICs spread flows by port where IPIP would pin them to one path: the
//! source port is a hash of the flow, within 32768 to 60999. `--tun-csum` and `--tun-remcsum` fill
//! the UDP checksum; the remote checksum option itself would need a packet whose checksum is
//! unfinished, and ours are all finished before they get here.
//! Source: draft-ietf-intarea-gue-09; Linux `ip_vs_xmit.c`, `ipvs_gue_encap`.

use super::{Forward, Job, TUNNEL_CHECKSUM, TUNNEL_PORT, TUNNEL_REMOTE_CHECKSUM, outer};
use crate::{
    flow::FlowKey,
    packet::Packet,
    verdict::DropReason,
    wire::{gue, protocol, udp},
};

/// IPVS tunnelling, `-i --tun-type gue`.
#[derive(Debug)]
pub(super) struct Gue;

/// Octets between the outer IP header and the client's packet.
pub(super) const OVERHEAD: usize = udp::LEN + gue::LEN;

impl Forward for Gue {
    fn to_real(packet: &mut Packet<'_>, job: &Job<'_>) -> Result<(), DropReason> {
        let inherited = outer::unwrap(packet, &job.tunnel())?;
        let inside = outer::inner_protocol(job.parsed.family);
        gue::Header { protocol: inside }.emit(packet.prepend()?);
        let tunnel = job.real.tunnel();
        let [low, high, ..] = (tunnel & TUNNEL_PORT).to_le_bytes();
        let destination = u16::from_le_bytes([low, high]);
        let (source, payload) = (source_port(&job.parsed.key), packet.len());
        udp::Header { source, destination, payload }.emit(packet.prepend()?);
        if tunnel & (TUNNEL_CHECKSUM | TUNNEL_REMOTE_CHECKSUM) != 0 {
            udp::seal(packet.bytes_mut(), job.path.local, job.real.addr());
        }
        outer::wrap(packet, &job.tunnel(), protocol::UDP, inherited)
    }
}

/// One port per flow, so that a flow keeps its path.
#[expect(clippy::cast_possible_truncation, reason = "the high half of a product below 2^48")]
fn source_port(key: &FlowKey) -> u16 {
    const FIRST: u16 = 32_768;
    const LAST: u16 = 60_999;
    let fold = |bits: u128| (bits >> 64) as u64 ^ bits as u64;
    let ports = u64::from(key.source_port) << 16 | u64::from(key.destination_port);
    let mixed = (fold(key.source.bits()) ^ fold(key.destination.bits()).rotate_left(23) ^ ports)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let spread = ((mixed >> 32) * u64::from(LAST - FIRST + 1)) >> 32;
    FIRST + spread as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn a_flow_keeps_its_port_and_flows_spread() {
        let key = |port| FlowKey {
            source: Ipv4Addr::new(10, 9, 0, 7).into(),
            destination: Ipv4Addr::new(10, 0, 0, 1).into(),
            source_port: port,
            destination_port: 80,
            protocol: 6,
            template: false,
        };
        let mut ports: Vec<_> = (0..1000).map(|port| source_port(&key(port))).collect();
        assert!(ports.iter().all(|port| (32_768..=60_999).contains(port)));
        assert_eq!(source_port(&key(5)), ports[5]);
        ports.sort_unstable();
        ports.dedup();
        assert!(ports.len() > 950, "{} ports for 1000 flows", ports.len());
    }
}
