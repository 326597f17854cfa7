//! The network of the recordings: clients behind 10.1.0.254 on device 0, real servers 10.2.0.11 to
//! .13 on device 1, the same in IPv6.

use std::net::IpAddr;

use xvs_dataplane::{
    addr::Addr,
    director::network::{Interface, Neighbour, Network, Route},
    verdict::DeviceId,
};

pub(crate) const CLIENT: DeviceId = DeviceId(0);
pub(crate) const BACKEND: DeviceId = DeviceId(1);
pub(crate) const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
pub(crate) const OWN: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 1, 1]];

pub(crate) fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

pub(crate) fn real_mac(last: u8) -> [u8; 6] {
    [2, 0, 0, 0, 2, last]
}

pub(crate) fn network() -> Network {
    let interface = |device: u8, addrs: [(&str, u8); 2]| Interface {
        device: DeviceId(device),
        name: format!("if{device}"),
        index: u32::from(device) + 1,
        mac: OWN[usize::from(device)],
        mtu: 1500,
        addrs: addrs.map(|(a, length)| (addr(a), length)).to_vec(),
    };
    let route = |prefix: &str, length, device, gateway: Option<&str>| Route {
        prefix: (addr(prefix), length),
        device: DeviceId(device),
        gateway: gateway.map(addr),
        source: None,
        metric: 0,
        mtu: None,
    };
    let mut neighbours = vec![
        Neighbour { device: CLIENT, addr: addr("10.1.0.254"), mac: ROUTER },
        Neighbour { device: CLIENT, addr: addr("fd01::fe"), mac: ROUTER },
    ];
    for last in 11..=13u8 {
        let mac = real_mac(last);
        neighbours.push(Neighbour { device: BACKEND, addr: addr(&format!("10.2.0.{last}")), mac });
        neighbours.push(Neighbour { device: BACKEND, addr: addr(&format!("fd02::{last}")), mac });
    }
    Network {
        interfaces: vec![
            interface(0, [("10.1.0.1", 24), ("fd01::1", 64)]),
            interface(1, [("10.2.0.1", 24), ("fd02::1", 64)]),
        ],
        routes: vec![
            route("0.0.0.0", 0, 0, Some("10.1.0.254")),
            route("10.1.0.0", 24, 0, None),
            route("10.2.0.0", 24, 1, None),
            route("::", 0, 0, Some("fd01::fe")),
            route("fd02::", 64, 1, None),
        ],
        neighbours,
        local: vec![
            (addr("10.1.0.1"), 32),
            (addr("10.2.0.1"), 32),
            (addr("127.0.0.0"), 8),
            (addr("fd02::1"), 128),
        ],
    }
}
