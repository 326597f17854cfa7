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
    wire::{
        ethernet::{self, ethertype},
        ipv4, ipv6,
    },
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
    inherit(packet.bytes(), tunnel)
}

/// What the outer header of the packet that `bytes` begin with takes over.
#[inline(always)]
fn inherit(bytes: &[u8], tunnel: &Tunnel<'_>) -> Result<Inherited, DropReason> {
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
    let payload = packet.len();
    let (source, destination) = (tunnel.path.local, tunnel.real.addr());
    if destination.is_v4() {
        header_v4(tunnel, protocol, inherited, payload).emit(packet.prepend()?);
        return link::replace(packet, 0, tunnel.path, ethertype::IPV4);
    }
    let (next_header, class, hop_limit) = (protocol, inherited.tos, inherited.ttl);
    ipv6::Header { source, destination, next_header, class, flow_label: 0, hop_limit, payload }
        .emit(packet.prepend()?);
    link::replace(packet, 0, tunnel.path, ethertype::IPV6)
}

/// The outer header of a packet for a real server with an IPv4 address.
#[inline(always)]
fn header_v4(
    tunnel: &Tunnel<'_>,
    protocol: u8,
    inherited: Inherited,
    payload: usize,
) -> ipv4::Header {
    let Inherited { tos, ttl, dont_fragment } = inherited;
    let (source, destination) = (tunnel.path.local, tunnel.real.addr());
    let id = if dont_fragment { 0 } else { tunnel.id };
    ipv4::Header { source, destination, protocol, tos, ttl, id, dont_fragment, payload }
}

/// [`unwrap`] and [`wrap`] in one step, around a packet behind a link header without tags: an outer
/// IPv4 header comes in between, and nothing else of the frame is touched.
#[inline(always)]
pub(super) fn wrap_at_once(
    packet: &mut Packet<'_>,
    tunnel: &Tunnel<'_>,
    protocol: u8,
) -> Result<(), DropReason> {
    let inner = packet.bytes().get(ethernet::LEN..).unwrap_or_default();
    let outer = header_v4(tunnel, protocol, inherit(inner, tunnel)?, inner.len());
    let head = packet.prepend_over::<{ ipv4::LEN }, { ethernet::LEN + ipv4::LEN }>()?;
    let (link, ip) = head.split_first_chunk_mut().ok_or(DropReason::NoHeadroom)?;
    link::write(link, tunnel.path, ethertype::IPV4);
    outer.emit(ip.first_chunk_mut().ok_or(DropReason::NoHeadroom)?);
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::{
        addr::Addr,
        endpoint::{Description, Endpoint},
        route::Path,
        verdict::DeviceId,
    };

    /// A frame after `step`, which may use all the headroom there is.
    fn after(
        frame: &[u8],
        room: usize,
        step: impl FnOnce(&mut Packet<'_>) -> Result<(), DropReason>,
    ) -> Result<Vec<u8>, DropReason> {
        let mut memory = [&vec![0xee; room], frame].concat();
        let end = memory.len();
        let mut packet = Packet::new(&mut memory, room, end, DeviceId(0));
        step(&mut packet)?;
        Ok(packet.bytes().to_vec())
    }

    #[test]
    fn wrapped_at_once_is_what_the_two_steps_make() {
        let addr = |last| Addr::from(IpAddr::V4(Ipv4Addr::new(10, 2, 0, last)));
        let real = Endpoint::default();
        real.describe(&Description { addr: addr(11), ..Description::default() });
        let mut path = Path::NONE;
        path.local = addr(1);
        let mut frame = [0; ethernet::LEN + 60];
        for (place, octet) in (0u8..).zip(&mut frame) {
            *octet = place.wrapping_mul(37);
        }
        let cases = [
            (Family::V4, 0x00, true),
            (Family::V4, 0x40, true),
            (Family::V4, 0x40, false),
            (Family::V6, 0x40, true),
        ];
        for (family, fragment, pmtu_disc) in cases {
            frame[ethernet::LEN + 6] = fragment;
            let (l3, id) = (ethernet::LEN, 0xfeed);
            let tunnel = Tunnel { family, l3, real: &real, path: &path, id, pmtu_disc };
            let protocol = inner_protocol(family);
            let at_once = after(&frame, 20, |packet| wrap_at_once(packet, &tunnel, protocol));
            let in_steps = after(&frame, 20, |packet| {
                let inherited = unwrap(packet, &tunnel)?;
                wrap(packet, &tunnel, protocol, inherited)
            });
            assert_eq!(at_once, in_steps, "{family:?} {fragment:#x} {pmtu_disc}");
            assert_eq!(at_once.unwrap().len(), frame.len() + ipv4::LEN);
            let narrow = after(&frame, 19, |packet| wrap_at_once(packet, &tunnel, protocol));
            assert_eq!(narrow, Err(DropReason::NoHeadroom));
            let short = after(&frame[..20], 20, |packet| wrap_at_once(packet, &tunnel, protocol));
            assert_eq!(short, Err(DropReason::Truncated));
        }
    }
}
