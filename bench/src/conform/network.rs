//! The director's network, the same in every recording.
//!
//! | side | link address | own addresses | neighbours |
//! | --- | --- | --- | --- |
//! | client | 02:00:00:00:00:01 | 10.1.0.1/24, fd01::1/64 | the gateway of the default routes |
//! | backend | 02:00:00:00:01:01 | 10.2.0.1/24, fd02::1/64 | 10.2.0.N and fd02::N, N = 11 to 30, at 02:00:00:00:02:NN |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane::{
    addr::Addr,
    director::network::{Interface, Neighbour, Network, Route},
    selector::Prefix,
    verdict::DeviceId,
};

/// The clients' side.
pub(super) const CLIENT: DeviceId = DeviceId(0);
/// The real servers' side.
pub(super) const BACKEND: DeviceId = DeviceId(1);
/// Where clients' frames come from: the gateway.
pub(super) const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
/// The director's own link addresses.
pub(super) const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 1, 1]];
/// The last octets of the real servers' addresses.
const REALS: std::ops::RangeInclusive<u8> = 11..=30;

/// The network with these MTUs, in octets.
pub(super) fn network(mtus: [u16; 2]) -> Network {
    let interface = |device: DeviceId, name: &str, number: u8| Interface {
        device,
        name: name.to_owned(),
        index: u32::from(number) + 1,
        mac: MACS[usize::from(device.0)],
        mtu: mtus[usize::from(device.0)],
        addrs: vec![
            (Ipv4Addr::new(10, number, 0, 1).into(), 24),
            (Ipv6Addr::new(0xfd00 + u16::from(number), 0, 0, 0, 0, 0, 0, 1).into(), 64),
        ],
    };
    let interfaces = vec![interface(CLIENT, "client", 1), interface(BACKEND, "backend", 2)];
    let v4: Addr = Ipv4Addr::new(10, 1, 0, 254).into();
    let v6: Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 0xfe).into();
    let mut routes = Vec::new();
    for interface in &interfaces {
        for &prefix in &interface.addrs {
            routes.push(route(prefix, interface.device, None));
        }
    }
    routes.push(route((Ipv4Addr::UNSPECIFIED.into(), 0), CLIENT, Some(v4)));
    routes.push(route((Ipv6Addr::UNSPECIFIED.into(), 0), CLIENT, Some(v6)));
    let mut neighbours: Vec<_> =
        [v4, v6].map(|addr| Neighbour { device: CLIENT, addr, mac: GATEWAY_MAC }).into();
    for number in REALS {
        let mac = [2, 0, 0, 0, 2, number];
        // An address that reads fd02::11 has the octet 0x11 at its end.
        let digits = u16::from(number / 10 * 16 + number % 10);
        let v4: IpAddr = Ipv4Addr::new(10, 2, 0, number).into();
        let v6: IpAddr = Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, digits).into();
        for addr in [v4, v6] {
            neighbours.push(Neighbour { device: BACKEND, addr: addr.into(), mac });
        }
    }
    Network { interfaces, routes, neighbours, local: local() }
}

/// What [`is_local`] says of single addresses, and the loopback networks.
fn local() -> Vec<(Addr, u8)> {
    let v4 = [[10, 1, 0, 1], [10, 2, 0, 1]].into_iter().chain((1..=4).map(|n| [10, 0, 0, n]));
    let v6 = [[0xfd01, 1], [0xfd02, 1]].into_iter().chain((1..=4).map(|n| [0xfd00, n]));
    let v4 = v4.map(|octets| (Ipv4Addr::from(octets).into(), 32));
    let v6 = v6.map(|[net, host]| (Ipv6Addr::new(net, 0, 0, 0, 0, 0, 0, host).into(), 128));
    let loopback = [(Ipv4Addr::new(127, 0, 0, 0).into(), 8), (Ipv6Addr::LOCALHOST.into(), 128)];
    v4.chain(v6).chain(loopback).collect()
}

fn route(prefix: (Addr, u8), device: DeviceId, gateway: Option<Addr>) -> Route {
    Route { prefix, device, gateway, source: None, metric: 0, mtu: None }
}

/// The link address of a real server; of anything else that of the first.
pub(super) fn real_mac(addr: IpAddr) -> [u8; 6] {
    let network = network([1500; 2]);
    let addr: Addr = addr.into();
    let found = network.neighbours.iter().find(|n| n.device == BACKEND && n.addr == addr);
    found.map_or([2, 0, 0, 0, 2, *REALS.start()], |n| n.mac)
}

/// The VIPs.
pub(super) fn vips() -> impl Iterator<Item = Prefix> {
    (1..=4).flat_map(|last: u8| {
        let v6 = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last));
        [Prefix::host(Ipv4Addr::new(10, 0, 0, last).into()), Prefix::host(v6.into())]
    })
}

/// Whether an address belongs to the director: its interfaces' and the VIPs 10.0.0.1-4, fd00::1-4.
pub(super) fn is_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => matches!(addr.octets(), [10, 0, 0, 1..=4] | [10, 1 | 2, 0, 1]),
        IpAddr::V6(addr) => {
            matches!(
                addr.segments(),
                [0xfd00, 0, 0, 0, 0, 0, 0, 1..=4] | [0xfd01 | 0xfd02, 0, 0, 0, 0, 0, 0, 1]
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_servers_have_their_macs_in_both_families() {
        let mac = |addr: &str| real_mac(addr.parse().unwrap());
        assert_eq!(mac("10.2.0.12"), [2, 0, 0, 0, 2, 12]);
        assert_eq!(mac("fd02::12"), [2, 0, 0, 0, 2, 12]);
        assert!(is_local("fd00::4".parse().unwrap()) && !is_local("10.2.0.11".parse().unwrap()));
    }
}
