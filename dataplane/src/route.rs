//! The way to an address: route, next hop, link header.
//!
//! Control compiles routes and neighbours into [`Routes`], part of a snapshot. A real server's
//! path is resolved when the snapshot is made; a client's is looked up when its flow begins and
//! again when [`Routes::generation`] has changed since.
//! Source of the rules: longest prefix, then lowest metric (Linux `net/ipv4/fib_trie.c`).

use hashbrown::HashMap;

use crate::{
    addr::Addr,
    network::{Network, Route},
    verdict::DeviceId,
    wire::outer::Outer,
};

/// The number of the path that leads nowhere.
pub const NO_PATH: u32 = 0;

/// A resolved way: what a frame needs to get to a next hop. One cache line, and for tunnels another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Path {
    /// The device it leaves through.
    pub device: DeviceId,
    /// Whether there is a route at all.
    pub routed: bool,
    /// Whether the next hop's link address is known.
    pub resolved: bool,
    /// Octets of the largest IP packet that can leave at once: `mtu`, or 0 while not `resolved`.
    room: u16,
    /// Largest IP packet, in octets.
    pub mtu: u16,
    /// The start of the link header, its ethertype left out: destination and source.
    link: [u8; 12],
    /// Link address of the next hop; meaningless while not `resolved`.
    pub destination: [u8; 6],
    /// Link address of our own interface.
    pub source: [u8; 6],
    /// Our own address on the way, for tunnels and ICMP errors; unspecified if we have none.
    pub local: Addr,
    /// The address whose link address is needed: the gateway or the destination itself.
    pub next_hop: Addr,
    /// The headers of a tunnel to the real server at the end of the way.
    outer: Outer,
}

impl Path {
    /// The way to nowhere.
    pub const NONE: Self = Self {
        device: DeviceId(0),
        destination: [0; 6],
        source: [0; 6],
        mtu: 0,
        local: Addr::UNSPECIFIED,
        next_hop: Addr::UNSPECIFIED,
        routed: false,
        resolved: false,
        link: [0; 12],
        room: 0,
        outer: Outer::NONE,
    };

    /// The way to a real server on the box itself: no route leads there.
    pub const HOST: Self = Self { device: DeviceId::HOST, mtu: u16::MAX, ..Self::NONE };

    /// Whether it leads into the host's own stack.
    #[inline]
    pub fn is_host(&self) -> bool {
        self.device == DeviceId::HOST
    }

    /// The same path with its link header ready, if its next hop is known.
    fn ready(mut self) -> Self {
        let (destination, source) = self.link.split_at_mut(6);
        destination.copy_from_slice(&self.destination);
        source.copy_from_slice(&self.source);
        self.room = if self.routed && self.resolved { self.mtu } else { 0 };
        self
    }

    /// The same path with the headers of a tunnel to `real` ready, if it can leave at once.
    pub fn tunnelled(mut self, real: Addr) -> Self {
        if self.room > 0 {
            self.outer = Outer::new(&self.link, self.local, real);
        }
        self
    }

    /// The headers of a tunnel to the real server at the end of the way; none if this is not the path to
    /// a real server, or nothing can leave.
    #[inline(always)]
    pub const fn outer(&self) -> &Outer {
        &self.outer
    }

    /// The start of the link header of frames that leave this way: destination and source.
    #[inline]
    pub const fn link(&self) -> &[u8; 12] {
        &self.link
    }

    /// Octets of the largest IP packet that can leave at once; 0 if none can.
    #[inline]
    pub const fn room(&self) -> u16 {
        self.room
    }
}

/// One route, ready to be matched.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Bits of the prefix, mapped for IPv4.
    bits: u128,
    /// Its mask.
    mask: u128,
    /// The path: whole if there is a gateway, else without next hop and link address.
    path: Path,
    /// The number of that path if there is a gateway, else [`NO_PATH`].
    id: u32,
}

/// All routes and neighbours of a snapshot.
#[derive(Clone, Debug)]
pub struct Routes {
    /// Changes whenever anything here does. Never 0.
    pub generation: u16,
    /// Routes, longest prefix first, then lowest metric.
    entries: Vec<Entry>,
    /// Paths with a number: no path, those of gateways, those of neighbours.
    paths: Vec<Path>,
    /// The number of the path to a neighbour on the link.
    neighbours: HashMap<(DeviceId, Addr), u32>,
    /// Bits and mask of the prefixes that are the host's own.
    local: Vec<(u128, u128)>,
}

impl Default for Routes {
    fn default() -> Self {
        Self::new(&Network::default(), 1)
    }
}

impl Routes {
    /// Compiles what the kernel says. Control thread.
    pub fn new(network: &Network, generation: u16) -> Self {
        let macs: HashMap<_, _> =
            network.neighbours.iter().map(|n| ((n.device, n.addr), n.mac)).collect();
        let mut paths = vec![Path::NONE];
        let mut number = |path: Path| {
            let id = u32::try_from(paths.len()).unwrap_or(NO_PATH);
            paths.push(path);
            id
        };
        let mut entries = Vec::new();
        for route in &network.routes {
            let Some(at) = network.interfaces.iter().position(|i| i.device == route.device) else {
                continue;
            };
            let mut path = on_link(network, at, route);
            let mut id = NO_PATH;
            if let Some(gateway) = route.gateway {
                let mac = macs.get(&(route.device, gateway));
                path.next_hop = gateway;
                path.destination = mac.copied().unwrap_or_default();
                path.resolved = mac.is_some();
                path = path.ready();
                id = number(path);
            }
            let (prefix, length) = route.prefix;
            let mask = mask(prefix, length);
            entries.push((route.metric, Entry { bits: prefix.bits() & mask, mask, path, id }));
        }
        entries
            .sort_by_key(|(metric, entry)| (std::cmp::Reverse(entry.mask.count_ones()), *metric));
        let entries: Vec<_> = entries.into_iter().map(|(_, entry)| entry).collect();
        let mut neighbours = HashMap::new();
        for n in &network.neighbours {
            let Some(entry) =
                find(&entries, n.addr).filter(|e| e.id == NO_PATH && e.path.device == n.device)
            else {
                continue;
            };
            let path = Path { destination: n.mac, next_hop: n.addr, resolved: true, ..entry.path };
            neighbours.insert((n.device, n.addr), number(path.ready()));
        }
        let own = |&(addr, length): &(Addr, u8)| {
            let mask = mask(addr, length);
            (addr.bits() & mask, mask)
        };
        let local = network.local.iter().map(own).collect();
        Self { generation: generation.max(1), entries, paths, neighbours, local }
    }

    /// The path with this number; [`Path::NONE`] for one out of range.
    #[inline]
    pub fn get(&self, id: u32) -> &Path {
        self.paths.get(id as usize).unwrap_or(&Path::NONE)
    }

    /// The paths that have a number, by number.
    #[inline]
    pub fn numbered(&self) -> &[Path] {
        &self.paths
    }

    /// The path to `to` and its number; [`NO_PATH`] if the path is not resolved yet or leads
    /// nowhere, [`Path::NONE`] if no route leads there.
    ///
    /// Bounded by the number of routes: a box has few. Runs when a flow begins.
    pub fn find(&self, to: Addr) -> (u32, Path) {
        let Some(entry) = find(&self.entries, to) else {
            return (NO_PATH, Path::NONE);
        };
        if entry.id != NO_PATH {
            return (entry.id, entry.path);
        }
        match self.neighbours.get(&(entry.path.device, to)) {
            Some(&id) => (id, *self.get(id)),
            None => (NO_PATH, Path { next_hop: to, ..entry.path }),
        }
    }

    /// The path to `to`.
    pub fn path(&self, to: Addr) -> Path {
        self.find(to).1
    }

    /// The path to a real server: [`Path::HOST`] if its address is the host's own.
    pub fn real_path(&self, to: Addr) -> Path {
        if self.is_local(to) { Path::HOST } else { self.path(to).tunnelled(to) }
    }

    /// Whether an address is the host's own.
    pub fn is_local(&self, addr: Addr) -> bool {
        self.local.iter().any(|&(bits, mask)| addr.bits() & mask == bits)
    }
}

/// The first route that takes `to`.
fn find(entries: &[Entry], to: Addr) -> Option<&Entry> {
    entries.iter().find(|entry| to.bits() & entry.mask == entry.bits)
}

/// The path of a route, its next hop still open.
fn on_link(network: &Network, interface: usize, route: &Route) -> Path {
    let own = &network.interfaces[interface];
    Path {
        device: own.device,
        destination: [0; 6],
        source: own.mac,
        mtu: route.mtu.map_or(own.mtu, |mtu| mtu.min(own.mtu)),
        local: route.source.unwrap_or_else(|| own_address(network, interface, route)),
        next_hop: Addr::UNSPECIFIED,
        routed: true,
        resolved: false,
        link: [0; 12],
        room: 0,
        outer: Outer::NONE,
    }
}

/// The mask of a prefix length within the mapped 128 bits.
fn mask(prefix: Addr, length: u8) -> u128 {
    let ones =
        if prefix.is_v4() { 96 + u32::from(length.min(32)) } else { u32::from(length.min(128)) };
    if ones == 0 { 0 } else { u128::MAX << (128 - ones) }
}

/// Our own address that suits a route without a preferred source: one in the gateway's network,
/// else the interface's first of the family.
fn own_address(network: &Network, interface: usize, route: &Route) -> Addr {
    let target = route.gateway.unwrap_or(route.prefix.0);
    let family = route.prefix.0.family();
    let own = network.interfaces[interface].addrs.iter().filter(|(a, _)| a.family() == family);
    let near = own.clone().find(|&&(addr, length)| {
        let mask = mask(addr, length);
        addr.bits() & mask == target.bits() & mask
    });
    near.or_else(|| own.clone().next()).map_or(Addr::UNSPECIFIED, |&(addr, _)| addr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{Interface, Neighbour};
    use std::net::IpAddr;

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn network() -> Network {
        let interface = |device, addrs: &[(&str, u8)]| Interface {
            device: DeviceId(device),
            name: format!("if{device}"),
            index: u32::from(device) + 1,
            mac: [2, 0, 0, 0, device, 1],
            mtu: 1500,
            addrs: addrs.iter().map(|&(a, l)| (addr(a), l)).collect(),
        };
        let route = |prefix: (&str, u8), device, gateway: Option<&str>, metric| Route {
            prefix: (addr(prefix.0), prefix.1),
            device: DeviceId(device),
            gateway: gateway.map(addr),
            source: None,
            metric,
            mtu: None,
        };
        Network {
            interfaces: vec![
                interface(0, &[("10.1.0.1", 24), ("fd01::1", 64)]),
                interface(1, &[("10.2.0.1", 24), ("fd02::1", 64)]),
            ],
            routes: vec![
                route(("0.0.0.0", 0), 0, Some("10.1.0.254"), 0),
                route(("10.2.0.0", 24), 1, None, 100),
                route(("10.2.0.0", 24), 0, Some("10.1.0.7"), 200),
                route(("::", 0), 0, Some("fd01::fe"), 1024),
            ],
            neighbours: vec![
                Neighbour {
                    device: DeviceId(0),
                    addr: addr("10.1.0.254"),
                    mac: [2, 0, 0, 0, 0, 0xfe],
                },
                Neighbour {
                    device: DeviceId(1),
                    addr: addr("10.2.0.11"),
                    mac: [2, 0, 0, 0, 2, 11],
                },
            ],
            local: vec![(addr("10.1.0.1"), 32), (addr("127.0.0.0"), 8)],
        }
    }

    #[test]
    fn longest_prefix_then_lowest_metric_wins() {
        let routes = Routes::new(&network(), 1);
        let path = routes.path(addr("10.2.0.11"));
        assert_eq!((path.device, path.resolved), (DeviceId(1), true));
        assert_eq!(path.destination, [2, 0, 0, 0, 2, 11]);
        assert_eq!(path.local, addr("10.2.0.1"));
    }

    #[test]
    fn a_default_route_leads_to_its_gateway() {
        let routes = Routes::new(&network(), 1);
        let path = routes.path(addr("192.0.2.1"));
        assert_eq!(path.next_hop, addr("10.1.0.254"));
        assert_eq!(path.destination, [2, 0, 0, 0, 0, 0xfe]);
    }

    #[test]
    fn a_real_server_at_an_address_of_the_host_is_on_the_box() {
        let routes = Routes::new(&network(), 1);
        for own in ["10.1.0.1", "127.0.0.1"] {
            assert_eq!(routes.real_path(addr(own)), Path::HOST);
        }
        let real = addr("10.2.0.11");
        assert_eq!(routes.real_path(real), routes.path(real).tunnelled(real));
        assert!(!routes.path(addr("10.1.0.1")).is_host(), "a client there is reached by its route");
    }

    #[test]
    fn an_unknown_neighbour_is_routed_but_not_resolved() {
        let routes = Routes::new(&network(), 1);
        let path = routes.path(addr("10.2.0.12"));
        assert!(path.routed && !path.resolved);
        let path = routes.path(addr("2001:db8::1"));
        assert!(path.routed && !path.resolved);
        assert_eq!(path.next_hop, addr("fd01::fe"));
    }

    #[test]
    fn an_ipv4_default_route_does_not_take_ipv6() {
        let mut network = network();
        network.routes.pop();
        let routes = Routes::new(&network, 1);
        assert_eq!(routes.path(addr("2001:db8::1")), Path::NONE);
    }
}
