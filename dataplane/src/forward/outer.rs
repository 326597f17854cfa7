//! The outer IP header of a tunnel.
//!
//! Time to live and traffic class, ECN included, are the inner packet's; DF is too between two
//! IPv4 headers. The source is our own address on the path. An outer packet with DF has
//! identification 0.
//! Source: Linux `ip_vs_xmit.c`, `ip_vs_tunnel_xmit` and `ip_vs_prepare_tunneled_skb`; RFC 6040,
//! section 4.1.

use super::{Tunnel, link};
use crate::{
    addr::Family,
    packet::Packet,
    verdict::DropReason,
    wire::{ethernet::ethertype, ipv4, ipv6},
};

/// What an outer header takes over from the inner one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inherited {
    /// Type of service or traffic class.
    tos: u8,
    /// Time to live or hop limit.
    ttl: u8,
    /// Whether the outer packet must not be fragmented.
    dont_fragment: bool,
}

/// Takes the link header off and reads what the outer header takes over.
#[inline]
pub(super) fn unwrap(
    packet: &mut Packet<'_>,
    tunnel: &Tunnel<'_>,
) -> Result<Inherited, DropReason> {
    packet.strip(tunnel.l3)?;
    let bytes = packet.bytes();
    Ok(match tunnel.family {
        Family::V4 => {
            let header = bytes.first_chunk().ok_or(DropReason::Truncated)?;
            Inherited {
                tos: ipv4::tos(header),
                ttl: header[8],
                dont_fragment: tunnel.pmtu_disc && ipv4::dont_fragment(header),
            }
        }
        Family::V6 => {
            let header = bytes.first_chunk().ok_or(DropReason::Truncated)?;
            Inherited { tos: ipv6::class(header), ttl: header[7], dont_fragment: false }
        }
    })
}

/// Puts the outer IP header and the link header in front of what `packet` holds.
#[inline]
pub(super) fn wrap(
    packet: &mut Packet<'_>,
    tunnel: &Tunnel<'_>,
    protocol: u8,
    inherited: Inherited,
) -> Result<(), DropReason> {
    let Inherited { tos, ttl, dont_fragment } = inherited;
    let payload = packet.len();
    let (source, destination) = (tunnel.path.local, tunnel.real.addr());
    if destination.is_v4() {
        let id = if dont_fragment { 0 } else { tunnel.id };
        ipv4::Header { source, destination, protocol, tos, ttl, id, dont_fragment, payload }
            .emit(packet.prepend()?);
        return link::replace(packet, 0, tunnel.path, ethertype::IPV4);
    }
    let (next_header, class, hop_limit) = (protocol, tos, ttl);
    ipv6::Header { source, destination, next_header, class, flow_label: 0, hop_limit, payload }
        .emit(packet.prepend()?);
    link::replace(packet, 0, tunnel.path, ethertype::IPV6)
}

/// The protocol number under which a packet of this family travels inside another.
#[inline]
pub(super) const fn inner_protocol(family: Family) -> u8 {
    use crate::wire::protocol::{IPIP, IPV6};
    match family {
        Family::V4 => IPIP,
        Family::V6 => IPV6,
    }
}
