//! The ports that the steering program takes for an address, prefix by prefix.
//!
//! The program looks up the longest prefix only, so what a prefix holds includes what all shorter
//! ones hold that contain it. A prefix has room for [`RANGES`] ranges; of more, those of one protocol
//! that lie closest are joined. Then packets to the ports in between reach a worker too, which hands
//! them to the host.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    addr::Addr,
    selector::{Ports, Prefix, Selector},
};

/// Ranges that a prefix has room for. As `MAX_RANGES` in `steer.c`.
const RANGES: usize = 16;

/// Octets of a range: first and last port in network order, protocol or 0 for all, 1 for "in use".
const OCTETS: usize = 6;

/// A value of the map `prefixes`.
pub(super) type RangesValue = [u8; RANGES * OCTETS];

/// Protocol and ports.
type Range = (u8, Ports);

/// What the program must take at each prefix.
pub(super) fn compile(selectors: &BTreeSet<Selector>) -> BTreeMap<Prefix, RangesValue> {
    let mut own: BTreeMap<Prefix, Vec<Range>> = BTreeMap::new();
    let mut lengths = BTreeSet::new();
    for selector in selectors {
        let ranges = own.entry(selector.to).or_default();
        ranges.extend(selector.protocols().map(|protocol| (protocol, selector.ports)));
        lengths.insert(selector.to.length());
    }
    let all = |to: Prefix| {
        let containing = lengths.iter().filter(move |length| **length <= to.length());
        let prefixes = containing.filter_map(move |length| Prefix::new(to.addr(), *length));
        prefixes.filter_map(|prefix| own.get(&prefix)).flatten().copied().collect::<Vec<_>>()
    };
    own.keys().map(|&to| (to, value(fit(all(to))))).collect()
}

/// The same ranges, joined where they touch, and further where there are too many.
fn fit(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut joined: Vec<Range> = Vec::new();
    for (protocol, ports) in ranges {
        match joined.last_mut() {
            Some((known, before)) if *known == protocol && touch(*before, ports) => {
                before.last = before.last.max(ports.last);
            }
            _ => joined.push((protocol, ports)),
        }
    }
    // What holds for all three protocols stands once. A protocol's ranges no longer touch, so
    // each is there once.
    let everywhere = |ports| joined.iter().filter(|range| range.1 == ports).count() == 3;
    let mut fitting: Vec<_> = joined
        .iter()
        .map(|&(protocol, ports)| (if everywhere(ports) { 0 } else { protocol }, ports))
        .collect();
    fitting.sort_unstable();
    fitting.dedup();
    while fitting.len() > RANGES {
        let pairs = (0..fitting.len() - 1).filter(|at| fitting[*at].0 == fitting[at + 1].0);
        let gap = |at: &usize| fitting[at + 1].1.first.saturating_sub(fitting[*at].1.last);
        let Some(at) = pairs.min_by_key(gap) else { break };
        let (_, next) = fitting.remove(at + 1);
        fitting[at].1.last = fitting[at].1.last.max(next.last);
    }
    fitting
}

/// Whether there is no port between two ranges, of which the second begins no earlier.
fn touch(a: Ports, b: Ports) -> bool {
    u32::from(b.first) <= u32::from(a.last) + 1
}

/// The ranges as the program reads them.
fn value(ranges: Vec<Range>) -> RangesValue {
    let mut value = [0; RANGES * OCTETS];
    for (octets, (protocol, ports)) in value.chunks_exact_mut(OCTETS).zip(ranges) {
        octets[..2].copy_from_slice(&ports.first.to_be_bytes());
        octets[2..4].copy_from_slice(&ports.last.to_be_bytes());
        octets[4] = protocol;
        octets[5] = 1;
    }
    value
}

/// Octets of an IPv4-mapped address in front of the IPv4 address, in bits.
const MAPPED_BITS: u8 = 96;

/// A prefix as the program reads it: length in bits of the mapped address, and the address.
pub(super) fn key(prefix: Prefix) -> (u8, [u8; 16]) {
    let addr: Addr = prefix.addr();
    let length = if addr.is_v4() { MAPPED_BITS + prefix.length() } else { prefix.length() };
    (length, addr.bits().to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(protocol: Option<u8>, to: &str, ports: &str) -> Selector {
        Selector { protocol, to: to.parse().unwrap(), ports: ports.parse().unwrap(), from: None }
    }

    fn ranges(value: &RangesValue) -> Vec<(u8, u16, u16)> {
        let used = value.chunks_exact(OCTETS).filter(|octets| octets[5] == 1);
        let port = |a, b| u16::from_be_bytes([a, b]);
        used.map(|o| (o[4], port(o[0], o[1]), port(o[2], o[3]))).collect()
    }

    #[test]
    fn a_prefix_holds_what_shorter_ones_hold() {
        let selectors = [
            selector(None, "10.3.0.0/16", "80"),
            selector(Some(6), "10.3.1.0/24", "81-90"),
            selector(Some(17), "10.4.0.0/16", "53"),
        ];
        let compiled = compile(&selectors.into());
        let at = |text: &str| ranges(&compiled[&text.parse().unwrap()]);
        assert_eq!(at("10.3.0.0/16"), [(0, 80, 80)]);
        assert_eq!(at("10.3.1.0/24"), [(6, 80, 90), (17, 80, 80), (132, 80, 80)]);
        assert_eq!(at("10.4.0.0/16"), [(17, 53, 53)]);
    }

    #[test]
    fn of_too_many_ranges_the_closest_are_joined_and_none_is_lost() {
        let ports = [1, 100, 102, 200, 300, 400, 500, 600, 700, 800, 900, 1000, 1100, 1200, 1300];
        let mut selectors: BTreeSet<_> =
            ports.iter().map(|port| selector(Some(6), "10.3.0.0/16", &port.to_string())).collect();
        selectors.insert(selector(Some(17), "10.3.0.0/16", "53"));
        selectors.insert(selector(Some(17), "10.3.0.0/16", "65535"));
        let [value] = compile(&selectors).into_values().collect::<Vec<_>>()[..] else { panic!() };
        let ranges = ranges(&value);
        assert_eq!(ranges.len(), RANGES);
        assert!(ranges.contains(&(6, 100, 102)));
        for selector in &selectors {
            let Ports { first, .. } = selector.ports;
            let taken =
                |r: &(u8, u16, u16)| Some(r.0) == selector.protocol && (r.1..=r.2).contains(&first);
            assert!(ranges.iter().any(taken), "{first}");
        }
    }

    #[test]
    fn keys_are_laid_out_as_the_program_reads_them() {
        let (length, addr) = key("10.1.0.0/16".parse().unwrap());
        assert_eq!(length, 112);
        assert_eq!(addr[8..], [0, 0, 0xff, 0xff, 10, 1, 0, 0]);
        assert_eq!(key("::/0".parse().unwrap()), (0, [0; 16]));
        assert_eq!(key("fd00::/8".parse().unwrap()).0, 8);
    }
}
