//! Selectors compiled for look-ups.
//!
//! A look-up costs one hash for each length of prefix in use (33 at most for IPv4, 129 for IPv6), a
//! binary search among the ports of each prefix met, and at most [`super::SOURCES_MAX`] comparisons of
//! source prefixes there.

use std::{cmp::Reverse, collections::BTreeMap};

use hashbrown::{HashMap, HashSet};

use super::{PROTOCOLS, Ports, Prefix, Selector, mask};
use crate::{
    addr::{Addr, Family},
    key::FlowKey,
};

/// A selector in a table.
#[derive(Clone, Copy, Debug)]
pub struct Ranked {
    /// The packets.
    pub selector: Selector,
    /// Of several that take a packet the highest decides; no two are equal.
    pub priority: u64,
    /// What a look-up returns.
    pub value: u32,
}

/// Selectors, ready for look-ups.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Lengths in use, IPv4 and IPv6.
    levels: [Vec<Level>; 2],
}

/// The destination prefixes of one length.
#[derive(Clone, Debug)]
struct Level {
    mask: u128,
    nets: HashMap<u128, Net>,
}

/// The selectors of one destination prefix.
#[derive(Clone, Debug, Default)]
struct Net {
    /// In the order of [`PROTOCOLS`]: what holds from a port on until the next one.
    ports: [Vec<(u16, Vec<Candidate>)>; 3],
}

/// A selector whose destination fits.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    priority: u64,
    value: u32,
    from: Option<Prefix>,
}

impl Table {
    /// Compiles a table. Control thread.
    pub fn new(selectors: &[Ranked]) -> Self {
        let mut nets: BTreeMap<Prefix, Vec<Ranked>> = BTreeMap::new();
        for ranked in selectors {
            nets.entry(ranked.selector.to).or_default().push(*ranked);
        }
        let mut table = Self::default();
        for (to, selectors) in nets {
            let levels = &mut table.levels[usize::from(to.family() == Family::V6)];
            let mask = mask(to.family(), to.length);
            let at = levels.iter().position(|level| level.mask == mask).unwrap_or_else(|| {
                levels.push(Level { mask, nets: HashMap::new() });
                levels.len() - 1
            });
            let ports = PROTOCOLS.map(|protocol| intervals(&selectors, protocol));
            levels[at].nets.insert(to.addr.bits(), Net { ports });
        }
        table
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.levels.iter().all(Vec::is_empty)
    }

    /// The value of the selector that takes a packet with this key.
    pub fn find(&self, key: &FlowKey) -> Option<u32> {
        let protocol = PROTOCOLS.iter().position(|protocol| *protocol == key.protocol)?;
        let met = self.nets(key.destination).filter_map(|net| {
            let intervals = &net.ports[protocol];
            let behind = intervals.partition_point(|(first, _)| *first <= key.destination_port);
            let (_, candidates) = intervals.get(behind.checked_sub(1)?)?;
            candidates.iter().find(|c| c.from.is_none_or(|from| from.contains(key.source)))
        });
        met.max_by_key(|candidate| candidate.priority).map(|candidate| candidate.value)
    }

    /// The destination prefixes that an address lies in.
    fn nets(&self, addr: Addr) -> impl Iterator<Item = &Net> {
        let levels = &self.levels[usize::from(addr.family() == Family::V6)];
        levels.iter().filter_map(move |level| level.nets.get(&(addr.bits() & level.mask)))
    }
}

/// What holds for one protocol from each port on: the selectors in order of priority, up to the
/// first that takes packets from anywhere.
fn intervals(selectors: &[Ranked], protocol: u8) -> Vec<(u16, Vec<Candidate>)> {
    // What begins and what ends in front of each port; 65536 is behind the last.
    let mut edges: BTreeMap<u32, Vec<(bool, Ranked)>> = BTreeMap::new();
    for ranked in selectors {
        if ranked.selector.protocol.is_none_or(|only| only == protocol) {
            let Ports { first, last } = ranked.selector.ports;
            edges.entry(u32::from(first)).or_default().push((true, *ranked));
            edges.entry(u32::from(last) + 1).or_default().push((false, *ranked));
        }
    }
    let mut holding = BTreeMap::new();
    let mut intervals = Vec::new();
    for (port, changes) in edges {
        for (begins, ranked) in changes {
            let place = Reverse(ranked.priority);
            if begins {
                holding.insert(place, ranked);
            } else {
                holding.remove(&place);
            }
        }
        let mut candidates = Vec::new();
        for ranked in holding.values() {
            let Ranked { selector, priority, value } = *ranked;
            candidates.push(Candidate { priority, value, from: selector.from });
            if selector.from.is_none() {
                break;
            }
        }
        if let Ok(port) = u16::try_from(port) {
            intervals.push((port, candidates));
        }
    }
    intervals
}

/// Destination prefixes, to be asked for single addresses.
#[derive(Clone, Debug, Default)]
pub struct Nets {
    /// Masks with the prefixes of their length, IPv4 and IPv6.
    levels: [Vec<(u128, HashSet<u128>)>; 2],
}

impl Nets {
    /// Compiles them. Control thread.
    pub fn new(prefixes: impl IntoIterator<Item = Prefix>) -> Self {
        let mut nets = Self::default();
        for prefix in prefixes {
            let levels = &mut nets.levels[usize::from(prefix.family() == Family::V6)];
            let mask = mask(prefix.family(), prefix.length);
            let at = levels.iter().position(|(known, _)| *known == mask).unwrap_or_else(|| {
                levels.push((mask, HashSet::new()));
                levels.len() - 1
            });
            levels[at].1.insert(prefix.addr.bits());
        }
        nets
    }

    /// Whether an address lies in one of them.
    pub fn cover(&self, addr: Addr) -> bool {
        let levels = &self.levels[usize::from(addr.family() == Family::V6)];
        levels.iter().any(|(mask, nets)| nets.contains(&(addr.bits() & mask)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::IpAddr;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn key(protocol: u8, source: &str, destination: &str, port: u16) -> FlowKey {
        FlowKey {
            source: addr(source),
            destination: addr(destination),
            source_port: 1000,
            destination_port: port,
            protocol,
            template: false,
        }
    }

    #[test]
    fn the_highest_priority_among_all_prefixes_decides() {
        let selector = |to: &str, ports: &str, protocol, from: Option<&str>| Selector {
            protocol,
            to: prefix(to),
            ports: ports.parse().unwrap(),
            from: from.map(prefix),
        };
        let selectors = [
            selector("10.0.0.0/8", "any", None, None),
            selector("10.3.0.0/16", "80-90", Some(6), None),
            selector("10.3.1.0/24", "85", None, Some("192.0.2.0/24")),
            selector("10.3.0.0/16", "88", Some(17), None),
        ];
        let ranked = |order: &[usize]| -> Vec<Ranked> {
            let of = |(at, &which): (usize, &usize)| Ranked {
                selector: selectors[which],
                priority: at as u64,
                value: u32::try_from(which).unwrap(),
            };
            order.iter().enumerate().map(of).collect()
        };
        let table = Table::new(&ranked(&[0, 1, 2, 3]));
        let find = |table: &Table, protocol, source, to, port| {
            table.find(&key(protocol, source, to, port))
        };
        assert_eq!(find(&table, 6, "1.1.1.1", "10.3.1.1", 79), Some(0));
        assert_eq!(find(&table, 6, "1.1.1.1", "10.3.1.1", 80), Some(1));
        assert_eq!(find(&table, 6, "1.1.1.1", "10.3.1.1", 85), Some(1));
        assert_eq!(find(&table, 6, "192.0.2.9", "10.3.1.1", 85), Some(2));
        assert_eq!(find(&table, 6, "1.1.1.1", "10.3.1.1", 91), Some(0));
        assert_eq!(find(&table, 17, "1.1.1.1", "10.3.1.1", 88), Some(3));
        assert_eq!(find(&table, 17, "1.1.1.1", "11.3.1.1", 88), None);
        assert_eq!(find(&table, 1, "1.1.1.1", "10.3.1.1", 88), None, "no ports");
        let table = Table::new(&ranked(&[3, 2, 1, 0]));
        assert_eq!(find(&table, 6, "192.0.2.9", "10.3.1.1", 85), Some(0), "the last one added");
    }

    #[test]
    fn an_address_lies_in_the_prefixes_of_its_family() {
        let nets = Nets::new(["10.0.0.0/8", "192.0.2.1", "fd00::/64"].map(prefix));
        for inside in ["10.255.0.1", "192.0.2.1", "fd00::9"] {
            assert!(nets.cover(addr(inside)), "{inside}");
        }
        for outside in ["11.0.0.1", "192.0.2.2", "fd00:0:0:1::9", "::"] {
            assert!(!nets.cover(addr(outside)), "{outside}");
        }
        assert!(!Nets::default().cover(addr("10.0.0.1")));
    }

    /// Selectors that often overlap.
    fn any_selector() -> impl Strategy<Value = Selector> {
        let protocol = prop::option::of(prop::sample::select(vec![6_u8, 17, 132]));
        let to = (0..16_u32, prop::sample::select(vec![0_u8, 8, 28, 30, 31, 32]));
        let from = prop::option::of((0..4_u32, prop::sample::select(vec![31_u8, 32])));
        (protocol, to, 0..8_u16, 0..8_u16, from).prop_map(|(protocol, to, a, b, from)| {
            let net = |(low, length)| Prefix::new(Addr::v4(0x0a00_0000 + low), length).unwrap();
            let last = if b == 7 { u16::MAX } else { a.max(b) };
            Selector {
                protocol,
                to: net(to),
                ports: Ports { first: a.min(b), last },
                from: from.map(net),
            }
        })
    }

    proptest! {
        #[test]
        fn a_table_finds_what_a_walk_through_the_list_finds(
            selectors in prop::collection::vec(any_selector(), 0..24),
            source in 0..5_u32,
            destination in 0..20_u32,
            port in prop::sample::select(vec![0_u16, 1, 2, 3, 5, 6, 7, 8, 65535]),
            protocol in prop::sample::select(vec![6_u8, 17, 132, 1]),
        ) {
            let ranked: Vec<_> = (0..).zip(&selectors).map(|(at, &selector)| Ranked {
                selector,
                priority: at,
                value: u32::try_from(at).unwrap(),
            }).collect();
            let key = FlowKey {
                source: Addr::v4(0x0a00_0000 + source),
                destination: Addr::v4(0x0a00_0000 + destination),
                source_port: 9,
                destination_port: port,
                protocol,
                template: false,
            };
            let walked = selectors.iter().rposition(|selector| selector.takes(&key));
            let walked = walked.filter(|_| protocol != 1);
            let found = Table::new(&ranked).find(&key);
            prop_assert_eq!(found.map(|value| value as usize), walked);
        }
    }
}
