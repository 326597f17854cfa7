//! Steering rules as the octets of the program's maps, and the way from one set to the next.
//!
//! The rule: what is new is entered before what is gone is removed, so that a packet which both
//! the old and the new rules take is taken at every moment in between. The layouts are those of
//! `struct endpoint` and `struct address` in `steer.c`.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ranges::{self, RangesValue},
    rules::{SteeringRules, Target},
};
use crate::addr::Addr;

/// A key of the map `addrs`: an address in network order, IPv4 mapped.
pub(super) type AddrKey = [u8; 16];

/// A key of the map `endpoints`: address, port in network order, protocol, role.
pub(super) type EndpointKey = [u8; 20];

/// A key of the map `prefixes`: length in bits of the mapped address, and the address.
pub(super) type PrefixKey = (u8, AddrKey);

/// Of an address: it is a VIP. Of an endpoint: it is a service.
const VIP: u8 = 1;
/// It is a real server that answers through the box.
const REAL: u8 = 2;
/// It is a fullnat local address.
const LOCAL: u8 = 4;
/// It is the far end of a tunnel.
const TUNNEL: u8 = 8;
/// It belongs to the box itself.
const OWN: u8 = 16;
/// It is a nat real server on the box itself.
const HOSTED: u8 = 32;
/// It is a real server on the box itself that is reached otherwise.
const WATCHED: u8 = 64;

/// The contents of the program's maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tables {
    /// Addresses with their roles.
    pub(super) addrs: BTreeMap<AddrKey, u8>,
    /// Endpoints with their role inside the key.
    pub(super) endpoints: BTreeSet<EndpointKey>,
    /// Prefixes with the ports that are taken there.
    pub(super) prefixes: BTreeMap<PrefixKey, RangesValue>,
}

/// One change of one map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Gives an address these roles, whatever it had.
    SetAddr(AddrKey, u8),
    /// Forgets an address.
    RemoveAddr(AddrKey),
    /// Enters an endpoint.
    AddEndpoint(EndpointKey),
    /// Forgets an endpoint.
    RemoveEndpoint(EndpointKey),
    /// Gives a prefix these ports, whatever it had.
    SetPrefix(PrefixKey, RangesValue),
    /// Forgets a prefix.
    RemovePrefix(PrefixKey),
}

impl Tables {
    /// The maps' contents for these rules.
    pub(super) fn compile(rules: &SteeringRules) -> Self {
        let mut tables = Self::default();
        tables.targets(&rules.services, VIP);
        tables.targets(&rules.nat_reals, REAL);
        tables.targets(&rules.tunnel_reals, TUNNEL);
        tables.targets(&rules.hosted, HOSTED);
        tables.targets(&rules.watched, WATCHED);
        tables.roles(&rules.vips, VIP);
        tables.roles(&rules.local_addrs, LOCAL);
        tables.roles(&rules.own_addrs, OWN);
        let prefixes = ranges::compile(&rules.selectors).into_iter();
        tables.prefixes = prefixes.map(|(prefix, value)| (ranges::key(prefix), value)).collect();
        tables
    }

    fn targets(&mut self, targets: &BTreeSet<Target>, role: u8) {
        for target in targets {
            self.endpoints.insert(endpoint(target, role));
            *self.addrs.entry(address(target.addr)).or_default() |= role;
        }
    }

    fn roles(&mut self, addrs: &BTreeSet<Addr>, role: u8) {
        for &addr in addrs {
            *self.addrs.entry(address(addr)).or_default() |= role;
        }
    }

    /// The changes that lead to `next`, in the order in which they must be made.
    pub(super) fn changes(&self, next: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        changes.extend(next.endpoints.difference(&self.endpoints).map(|&k| Change::AddEndpoint(k)));
        // What a prefix holds includes what shorter ones hold: so whatever both rules take, the
        // new value of the longest one takes, and the shorter ones once it is gone.
        let set =
            next.prefixes.iter().filter(|(key, value)| self.prefixes.get(*key) != Some(value));
        changes.extend(set.map(|(&key, &value)| Change::SetPrefix(key, value)));
        for (&key, &roles) in &next.addrs {
            let old = self.addrs.get(&key).copied().unwrap_or(0);
            if old | roles != old {
                changes.push(Change::SetAddr(key, old | roles));
            }
        }
        // From here on everything the new rules take is taken.
        for (&key, &old) in &self.addrs {
            match next.addrs.get(&key) {
                Some(&roles) if old & !roles != 0 => changes.push(Change::SetAddr(key, roles)),
                Some(_) => {}
                None => changes.push(Change::RemoveAddr(key)),
            }
        }
        let gone = self.endpoints.difference(&next.endpoints);
        changes.extend(gone.map(|&k| Change::RemoveEndpoint(k)));
        let gone = self.prefixes.keys().filter(|key| !next.prefixes.contains_key(*key));
        changes.extend(gone.map(|&k| Change::RemovePrefix(k)));
        changes
    }

    /// Notes that `change` was made.
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::SetAddr(key, roles) => _ = self.addrs.insert(key, roles),
            Change::RemoveAddr(key) => _ = self.addrs.remove(&key),
            Change::AddEndpoint(key) => _ = self.endpoints.insert(key),
            Change::RemoveEndpoint(key) => _ = self.endpoints.remove(&key),
            Change::SetPrefix(key, value) => _ = self.prefixes.insert(key, value),
            Change::RemovePrefix(key) => _ = self.prefixes.remove(&key),
        }
    }
}

const fn address(addr: Addr) -> AddrKey {
    addr.bits().to_be_bytes()
}

fn endpoint(target: &Target, role: u8) -> EndpointKey {
    let mut key = [0; 20];
    key[..16].copy_from_slice(&address(target.addr));
    key[16..18].copy_from_slice(&target.port.to_be_bytes());
    key[18] = target.protocol;
    key[19] = role;
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selector::Selector;
    use std::net::IpAddr;

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn target(protocol: u8, text: &str, port: u16) -> Target {
        Target { protocol, addr: addr(text), port }
    }

    fn selector(to: &str, ports: &str) -> Selector {
        let (to, ports) = (to.parse().unwrap(), ports.parse().unwrap());
        Selector { protocol: None, to, ports, from: None }
    }

    #[test]
    fn keys_are_laid_out_as_the_program_reads_them() {
        let key = endpoint(&target(6, "10.1.0.100", 0x1f90), REAL);
        assert_eq!(key[..10], [0; 10]);
        assert_eq!(key[10..], [0xff, 0xff, 10, 1, 0, 100, 0x1f, 0x90, 6, 2]);
    }

    #[test]
    fn a_service_makes_its_address_a_vip_and_roles_add_up() {
        let rules = SteeringRules {
            services: [target(6, "10.1.0.1", 80)].into(),
            own_addrs: [addr("10.1.0.1"), addr("10.1.0.2")].into(),
            ..SteeringRules::default()
        };
        let tables = Tables::compile(&rules);
        assert_eq!(tables.addrs[&address(addr("10.1.0.1"))], VIP | OWN);
        assert_eq!(tables.addrs[&address(addr("10.1.0.2"))], OWN);
        assert_eq!(tables.endpoints.len(), 1);
    }

    /// What both rule sets hold must hold after each single change.
    #[test]
    fn nothing_common_to_old_and_new_rules_is_missing_in_between() {
        let old = Tables::compile(&SteeringRules {
            services: [target(6, "10.1.0.1", 80), target(17, "10.1.0.2", 53)].into(),
            nat_reals: [target(6, "10.2.0.1", 8080), target(6, "10.2.0.2", 8080)].into(),
            selectors: [selector("10.3.0.0/24", "80-90")].into(),
            ..SteeringRules::default()
        });
        let new = Tables::compile(&SteeringRules {
            services: [target(6, "10.1.0.1", 80), target(6, "10.1.0.3", 0)].into(),
            nat_reals: [target(6, "10.2.0.2", 8080), target(6, "10.1.0.2", 80)].into(),
            selectors: [selector("10.3.0.0/16", "85"), selector("10.3.0.64/26", "99")].into(),
            ..SteeringRules::default()
        });
        let mut now = old.clone();
        for change in old.changes(&new) {
            now.apply(change);
            assert!(old.endpoints.intersection(&new.endpoints).all(|k| now.endpoints.contains(k)));
            for (key, roles) in &old.addrs {
                let both = roles & new.addrs.get(key).copied().unwrap_or(0);
                let held = now.addrs.get(key).copied().unwrap_or(0);
                assert_eq!(held & both, both, "after {change:?}");
            }
            let longest = now.prefixes.iter().filter(|(key, _)| {
                let mask = u128::MAX.checked_shl(128 - u32::from(key.0)).unwrap_or(0);
                addr("10.3.0.70").bits() & mask == u128::from_be_bytes(key.1)
            });
            let (_, value) = longest.max_by_key(|(key, _)| key.0).unwrap();
            let takes_85 = value.chunks(6).any(|range| match *range {
                [a, b, c, d, _, 1] => {
                    (u16::from_be_bytes([a, b])..=u16::from_be_bytes([c, d])).contains(&85)
                }
                _ => false,
            });
            assert!(takes_85, "after {change:?}");
        }
        assert_eq!(now, new);
        assert_eq!(new.changes(&new), []);
    }
}
