//! From netlink messages to the dataplane's vocabulary. Pure.

use std::net::{IpAddr, Ipv6Addr};

use dataplane::{
    addr::Addr,
    director::network::{Interface, Route},
    verdict::DeviceId,
};
use rtnetlink::packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
    link::{LinkAttribute, LinkMessage},
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
    },
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
        RouteNextHop, RouteNextHopFlags, RouteType, RouteVia,
    },
};

/// Neighbour states (`NUD_*`) whose link address is valid.
const REACHABLE: u16 = 0x02;
const NOARP: u16 = 0x40;
const PERMANENT: u16 = 0x80;
const USABLE: u16 = REACHABLE | 0x04 | 0x08 | 0x10 | NOARP | PERMANENT;

/// Where a route leads: device and gateway.
type Hop = (DeviceId, Option<Addr>);

/// What we know of one neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its link address, while that is valid.
    pub(super) mac: Option<[u8; 6]>,
    /// Whether the kernel keeps it resolved by itself.
    pub(super) managed: bool,
    /// Whether it was fixed by the administrator, or needs no resolution.
    pub(super) fixed: bool,
    /// Whether the kernel has confirmed it lately.
    pub(super) reachable: bool,
}

/// An interface, without its addresses yet.
pub(super) fn interface(device: DeviceId, name: &str, message: &LinkMessage) -> Interface {
    let mut interface = Interface {
        device,
        name: name.to_owned(),
        index: message.header.index,
        mac: [0; 6],
        mtu: u16::MAX,
        addrs: Vec::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(octets) => {
                interface.mac = octets.as_slice().try_into().unwrap_or_default();
            }
            // The loopback's 65536 octets are more than an IPv4 packet can have.
            LinkAttribute::Mtu(mtu) => interface.mtu = (*mtu).try_into().unwrap_or(u16::MAX),
            _ => {}
        }
    }
    interface
}

/// The interface's index, and an address with its prefix length that may be used as a source:
/// not one that duplicate address detection has still to confirm, or has refused.
pub(super) fn address(message: &AddressMessage) -> Option<(u32, (Addr, u8))> {
    let unusable = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
    let optimistic = message.header.flags.contains(AddressHeaderFlags::Optimistic);
    if message.header.flags.intersects(unusable) && !optimistic {
        return None;
    }
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    // On a point-to-point link `Address` is the peer's.
    let plain = || {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
    };
    let ip = local.or_else(plain)?;
    Some((message.header.index, (ip.into(), message.header.prefix_len)))
}

/// Whether a message is about a route that [`route`] could take.
pub(super) fn is_main_unicast(message: &RouteMessage) -> bool {
    let header = &message.header;
    let table = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    table.unwrap_or_else(|| header.table.into()) == u32::from(RouteHeader::RT_TABLE_MAIN)
        && header.kind == RouteType::Unicast
        && matches!(header.address_family, AddressFamily::Inet | AddressFamily::Inet6)
        // Routes for a TOS or a source, and what IPv6 learnt for one destination.
        && header.tos == 0
        && header.source_prefix_length == 0
        && !header.flags.contains(RouteFlags::Cloned)
}

/// The prefix of a route into the host's own stack, in whatever table: its addresses are the
/// host's own.
pub(super) fn local(message: &RouteMessage) -> Option<(Addr, u8)> {
    if message.header.kind != RouteType::Local {
        return None;
    }
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => addr(address),
        _ => None,
    });
    Some((destination?, message.header.destination_prefix_length))
}

/// A unicast route of the main table, if it leaves through one of ours. Of several next hops the
/// first that is ours and alive counts: the kernel would spread flows, we take one path.
/// Routes that need an encapsulation (MPLS, SRv6) are not ours.
pub(super) fn route(
    message: &RouteMessage,
    device_of: impl Fn(u32) -> Option<DeviceId>,
) -> Option<Route> {
    if !is_main_unicast(message) || message.header.flags.contains(RouteFlags::Dead) {
        return None;
    }
    let unspecified = match message.header.address_family {
        AddressFamily::Inet => Addr::v4(0),
        _ => Addr::v6(Ipv6Addr::UNSPECIFIED.to_bits()),
    };
    let length = message.header.destination_prefix_length;
    let (mut prefix, mut source, mut metric, mut mtu) = ((unspecified, length), None, 0, None);
    let mut hop = single_hop(&message.attributes, &device_of);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => prefix.0 = addr(address)?,
            RouteAttribute::PrefSource(address) => source = addr(address),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Metrics(metrics) => mtu = route_mtu(metrics),
            RouteAttribute::MultiPath(hops) => hop = first_hop(hops, &device_of),
            _ => {}
        }
    }
    let (device, gateway) = hop?;
    Some(Route { prefix, device, gateway, source, metric, mtu })
}

/// Device and gateway of a route with one next hop.
fn single_hop(
    attributes: &[RouteAttribute],
    device_of: impl Fn(u32) -> Option<DeviceId>,
) -> Option<Hop> {
    let index = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    Some((device_of(index?)?, gateway(attributes)?))
}

/// The first of several next hops that is ours and alive.
fn first_hop(hops: &[RouteNextHop], device_of: impl Fn(u32) -> Option<DeviceId>) -> Option<Hop> {
    hops.iter()
        .filter(|hop| !hop.flags.contains(RouteNextHopFlags::Dead))
        .find_map(|hop| Some((device_of(hop.interface_index)?, gateway(&hop.attributes)?)))
}

/// The gateway among a next hop's attributes, if it has one; `None` if it needs an encapsulation.
fn gateway(attributes: &[RouteAttribute]) -> Option<Option<Addr>> {
    let mut gateway = None;
    for attribute in attributes {
        match attribute {
            RouteAttribute::Gateway(address) => gateway = addr(address),
            RouteAttribute::Via(RouteVia::Inet(ip)) => gateway = Some(Addr::from(*ip)),
            RouteAttribute::Via(RouteVia::Inet6(ip)) => gateway = Some(Addr::from(*ip)),
            RouteAttribute::EncapType(_) => return None,
            _ => {}
        }
    }
    Some(gateway)
}

fn addr(address: &RouteAddress) -> Option<Addr> {
    match address {
        RouteAddress::Inet(ip) => Some(Addr::from(*ip)),
        RouteAddress::Inet6(ip) => Some(Addr::from(*ip)),
        _ => None,
    }
}

fn route_mtu(metrics: &[RouteMetric]) -> Option<u16> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) if *mtu > 0 => Some((*mtu).try_into().unwrap_or(u16::MAX)),
        _ => None,
    })
}

/// The interface's index, the address and what is known of it, of a neighbour of ARP or neighbour
/// discovery.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<(u32, Addr, Entry)> {
    let header = &message.header;
    if !matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6)
        || header.flags.contains(NeighbourFlags::Proxy)
    {
        return None;
    }
    let (mut address, mut mac, mut managed) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                address = Some(Addr::from(IpAddr::V4(*ip)));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                address = Some(Addr::from(IpAddr::V6(*ip)));
            }
            NeighbourAttribute::LinkLayerAddress(octets) => mac = octets.as_slice().try_into().ok(),
            NeighbourAttribute::ExtFlags(flags) => {
                managed = flags.contains(NeighbourExtFlags::Managed);
            }
            _ => {}
        }
    }
    let state = u16::from(header.state);
    let entry = Entry {
        mac: mac.filter(|_| state & USABLE != 0),
        managed,
        fixed: state & (PERMANENT | NOARP) != 0,
        reachable: state & REACHABLE != 0,
    };
    Some((header.ifindex, address?, entry))
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::{
        neighbour::NeighbourState,
        route::{RouteLwEnCapType, RouteProtocol},
    };

    use super::*;

    fn ours(index: u32) -> Option<DeviceId> {
        (7..9).contains(&index).then(|| DeviceId(u8::try_from(index).unwrap() - 7))
    }

    /// 192.0.2.0/24 in the main table with these attributes besides.
    fn message(attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = 24;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        message.attributes = attributes;
        message
            .attributes
            .push(RouteAttribute::Destination(RouteAddress::Inet([192, 0, 2, 0].into())));
        message
    }

    fn gateway(last: u8) -> RouteAttribute {
        RouteAttribute::Gateway(RouteAddress::Inet([10, 9, 0, last].into()))
    }

    fn hop(index: u32, last: u8, flags: RouteNextHopFlags) -> RouteNextHop {
        let mut hop = RouteNextHop::default();
        (hop.interface_index, hop.flags, hop.attributes) = (index, flags, vec![gateway(last)]);
        hop
    }

    #[test]
    fn a_route_leads_through_the_first_of_its_hops_that_is_ours_and_alive() {
        let alive = RouteNextHopFlags::empty();
        let hops = vec![hop(3, 1, alive), hop(7, 2, RouteNextHopFlags::Dead), hop(8, 3, alive)];
        let found = route(&message(vec![RouteAttribute::MultiPath(hops)]), ours).unwrap();
        assert_eq!((found.device, found.gateway), (DeviceId(1), Some(Addr::v4(0x0a09_0003))));
        let elsewhere = vec![hop(3, 1, alive)];
        assert_eq!(route(&message(vec![RouteAttribute::MultiPath(elsewhere)]), ours), None);
    }

    #[test]
    fn routes_that_we_cannot_follow_are_left_out() {
        let plain = || message(vec![RouteAttribute::Oif(7), gateway(2)]);
        assert!(route(&plain(), ours).is_some());
        let encapsulated = RouteAttribute::EncapType(RouteLwEnCapType::Mpls);
        let mut mpls = plain();
        mpls.attributes.push(encapsulated);
        let mut dead = plain();
        dead.header.flags = RouteFlags::Dead;
        let mut tos = plain();
        tos.header.tos = 0x10;
        let mut cached = plain();
        cached.header.flags = RouteFlags::Cloned;
        let mut other_table = plain();
        other_table.attributes.push(RouteAttribute::Table(1000));
        for message in [mpls, dead, tos, cached, other_table] {
            assert_eq!(route(&message, ours), None, "{message:?}");
        }
    }

    #[test]
    fn a_local_route_names_addresses_of_the_host() {
        let mut message = message(vec![RouteAttribute::Oif(1)]);
        assert_eq!(local(&message), None);
        message.header.kind = RouteType::Local;
        message.attributes.push(RouteAttribute::Table(255));
        assert_eq!(local(&message), Some((Addr::v4(0xc000_0200), 24)));
        assert_eq!(route(&message, ours), None, "it leads nowhere else");
    }

    #[test]
    fn a_neighbour_is_offered_while_its_link_address_is_valid() {
        use NeighbourState as S;
        let valid = [S::Reachable, S::Stale, S::Delay, S::Probe, S::Permanent, S::Noarp];
        let invalid = [S::Incomplete, S::Failed, S::None];
        for (states, offered) in [(&valid[..], true), (&invalid[..], false)] {
            for &state in states {
                let mut message = NeighbourMessage::default();
                message.header.family = AddressFamily::Inet;
                message.header.ifindex = 7;
                message.header.state = state;
                message.attributes = vec![
                    NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 9, 0, 2].into())),
                    NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 2]),
                ];
                let (index, addr, entry) = neighbour(&message).unwrap();
                assert_eq!((index, addr), (7, Addr::v4(0x0a09_0002)));
                assert_eq!(entry.mac.is_some(), offered, "{state}");
                message.header.flags = NeighbourFlags::Proxy;
                assert!(neighbour(&message).is_none());
            }
        }
    }

    #[test]
    fn an_address_counts_once_it_is_confirmed() {
        let mut message = AddressMessage::default();
        message.header.index = 7;
        message.header.prefix_len = 31;
        message.attributes = vec![
            AddressAttribute::Address([10, 9, 0, 3].into()),
            AddressAttribute::Local([10, 9, 0, 2].into()),
        ];
        assert_eq!(address(&message), Some((7, (Addr::v4(0x0a09_0002), 31))));
        message.header.flags = AddressHeaderFlags::Tentative;
        assert_eq!(address(&message), None);
    }
}
