//! Which packets leave the kernel for a worker, as plain data.
//!
//! The director fills [`SteeringRules`] from the same state as a snapshot; the steering program
//! follows it. Everything that no rule names stays in the kernel: ssh, ARP, neighbour discovery,
//! routing protocols, the box's own traffic.

use std::collections::BTreeSet;

use crate::{addr::Addr, selector::Selector};

/// Protocol, address and port of packets to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// IP protocol number.
    pub protocol: u8,
    /// The address.
    pub addr: Addr,
    /// The port; 0 for every port of that protocol.
    pub port: u16,
}

/// What to take. A packet is taken if at least one rule names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SteeringRules {
    /// TCP, UDP and SCTP packets to these. Their addresses count as VIPs too.
    pub services: BTreeSet<Target>,
    /// Fragments, ICMP echo requests and ICMP errors to these addresses.
    pub vips: BTreeSet<Addr>,
    /// TCP, UDP and SCTP packets to these, for services that a firewall mark names; fragments, ICMP
    /// echo requests and errors to their prefixes. Not to one of `own_addrs`. Where they come from
    /// is not asked.
    pub selectors: BTreeSet<Selector>,
    /// Real servers whose replies come back through the box (nat and fullnat): TCP, UDP and SCTP
    /// packets from these, fragments from their addresses, and ICMP errors, whoever sends them,
    /// that quote a packet to these. Not if the packet is for one of `own_addrs`.
    pub nat_reals: BTreeSet<Target>,
    /// Fullnat's local addresses: TCP, UDP and SCTP packets to `local_ports` of these, fragments to
    /// them, and ICMP errors that quote a packet from there. Nothing else on the box can use those
    /// ports of them.
    pub local_addrs: BTreeSet<Addr>,
    /// The first and the last port that fullnat uses at its local addresses.
    pub local_ports: (u16, u16),
    /// Real servers on the box itself that are reached by nat: what the host's stack sends from these,
    /// fragments from their addresses, and ICMP errors that quote a packet to these, leaves by a
    /// worker.
    pub hosted: BTreeSet<Target>,
    /// Real servers on the box itself that are reached otherwise: a copy of what the host's stack
    /// sends from these goes to a worker.
    pub watched: BTreeSet<Target>,
    /// ICMP errors that quote a packet which we sent in a tunnel to these. The protocol is the
    /// outer packet's: 4, 41 or 47 with port 0, or UDP with the port of gue.
    pub tunnel_reals: BTreeSet<Target>,
    /// The box's own addresses, but for those that are VIPs: what a selector's prefix happens to
    /// contain stays the box's, and what a real server sends to one of them answers the box itself,
    /// a health check for instance, and stays in the kernel.
    pub own_addrs: BTreeSet<Addr>,
}
