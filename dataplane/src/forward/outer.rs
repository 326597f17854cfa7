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
        outer::{Inside, LEN_V4, LEN_V6},
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
    let Inherited { tos, ttl, dont_fragment } = inherited;
    if destination.is_v4() {
        let id = if dont_fragment { 0 } else { tunnel.id };
        ipv4::Header { source, destination, protocol, tos, ttl, id, dont_fragment, payload }
            .emit(packet.prepend()?);
        return link::replace(packet, 0, tunnel.path, ethertype::IPV4);
    }
    let (next_header, class, hop_limit) = (protocol, inherited.tos, inherited.ttl);
    ipv6::Header { source, destination, next_header, class, flow_label: 0, hop_limit, payload }
        .emit(packet.prepend()?);
    link::replace(packet, 0, tunnel.path, ethertype::IPV6)
}

/// [`unwrap`] and [`wrap`] in one step, around a packet behind a link header without tags, where the path
/// has its headers ready: they come in front, and nothing else of the frame is touched.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the path's MTU was held against the length")]
pub(super) fn wrap_at_once(
    packet: &mut Packet<'_>,
    tunnel: &Tunnel<'_>,
    protocol: u8,
) -> Result<(), DropReason> {
    let (_, inner) = packet.bytes().split_at_checked(ethernet::LEN).ok_or(DropReason::Truncated)?;
    let Inherited { tos, ttl, dont_fragment } = inherit(inner, tunnel)?;
    let (id, payload) = (tunnel.id, inner.len() as u16);
    let inside = Inside { protocol, tos, ttl, id, dont_fragment, payload };
    let outer = tunnel.path.outer();
    if outer.is_v4() {
        outer.emit_v4(packet.prepend_over::<{ ipv4::LEN }, LEN_V4>()?, inside);
    } else {
        outer.emit_v6(packet.prepend_over::<{ ipv6::LEN }, LEN_V6>()?, inside);
    }
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
    use std::net::IpAddr;

    use super::*;
    use crate::{
        addr::Addr,
        endpoint::{Description, Endpoint},
        network::{Interface, Neighbour, Network, Route},
        route::{Path, Routes},
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

    /// The path from an interface of our own to a real server on its link.
    fn path(own: &str, real: &str) -> Path {
        let [own, real] = [own, real].map(|text| Addr::from(text.parse::<IpAddr>().unwrap()));
        let device = DeviceId(0);
        let (mac, name) = ([2, 0, 0, 0, 0, 1], "if0".to_owned());
        let addrs = vec![(own, 24)];
        let network = Network {
            interfaces: vec![Interface { device, name, index: 1, mac, mtu: 1500, addrs }],
            routes: vec![Route {
                prefix: (real, 24),
                device,
                gateway: None,
                source: None,
                metric: 0,
                mtu: None,
            }],
            neighbours: vec![Neighbour { device, addr: real, mac: [2, 0, 0, 0, 0, 2] }],
            local: Vec::new(),
        };
        Routes::new(&network, 1).real_path(real)
    }

    #[test]
    fn wrapped_at_once_is_what_the_two_steps_make() {
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
        let ends = [("10.2.0.1", "10.2.0.11", ipv4::LEN), ("fd02::1", "fd02::11", ipv6::LEN)];
        for ((own, to, header), (family, fragment, pmtu_disc)) in
            ends.into_iter().flat_map(|ends| cases.map(|case| (ends, case)))
        {
            let (real, path) = (Endpoint::default(), path(own, to));
            let addr = to.parse::<IpAddr>().unwrap().into();
            real.describe(&Description { addr, ..Description::default() });
            frame[ethernet::LEN + 6] = fragment;
            let (l3, id) = (ethernet::LEN, 0xfeed);
            let tunnel = Tunnel { family, l3, real: &real, path: &path, id, pmtu_disc };
            let protocol = inner_protocol(family);
            let at_once = after(&frame, header, |packet| wrap_at_once(packet, &tunnel, protocol));
            let in_steps = after(&frame, header, |packet| {
                let inherited = unwrap(packet, &tunnel)?;
                wrap(packet, &tunnel, protocol, inherited)
            });
            assert_eq!(at_once, in_steps, "{to} {family:?} {fragment:#x} {pmtu_disc}");
            assert_eq!(at_once.unwrap().len(), frame.len() + header);
            let narrow =
                after(&frame, header - 1, |packet| wrap_at_once(packet, &tunnel, protocol));
            assert_eq!(narrow, Err(DropReason::NoHeadroom));
            let short =
                after(&frame[..20], header, |packet| wrap_at_once(packet, &tunnel, protocol));
            assert_eq!(short, Err(DropReason::Truncated));
        }
    }

    #[test]
    fn only_a_path_that_is_known_has_headers_ready() {
        assert_eq!(path("10.2.0.1", "10.2.0.11").outer().growth(), 20);
        assert_eq!(path("fd02::1", "fd02::11").outer().growth(), 40);
        assert_eq!(path("fd02::1", "10.2.0.11").outer().growth(), 0, "no address of ours");
        assert_eq!(Path::NONE.tunnelled(Addr::v4(1)).outer().growth(), 0);
    }
}
