//! What the kernel says about the network around the box: interfaces, routes, neighbours.
//!
//! Filled from netlink by the daemon, by hand in tests and replays; compiled into paths.

use crate::{addr::Addr, verdict::DeviceId};

/// One interface that the workers own a queue of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its place in the configuration.
    pub device: DeviceId,
    /// Its name.
    pub name: String,
    /// The kernel's number for it.
    pub index: u32,
    /// Its link address.
    pub mac: [u8; 6],
    /// Largest IP packet it carries, in octets.
    pub mtu: u16,
    /// Its own addresses with their prefix lengths.
    pub addrs: Vec<(Addr, u8)>,
}

/// One route that leaves through one of the interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination prefix: address and length (of its own family: 0 to 32 or 0 to 128).
    pub prefix: (Addr, u8),
    /// The interface it leaves through.
    pub device: DeviceId,
    /// The next hop; `None` if the destination itself is on the link.
    pub gateway: Option<Addr>,
    /// The source address the kernel prefers for it (RTA_PREFSRC).
    pub source: Option<Addr>,
    /// Its metric: of two routes with the same prefix the lower wins.
    pub metric: u32,
    /// A path MTU set on the route, in octets.
    pub mtu: Option<u16>,
}

/// One resolved neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface it is on.
    pub device: DeviceId,
    /// Its address.
    pub addr: Addr,
    /// Its link address.
    pub mac: [u8; 6],
}

/// All of it. An address with no route here is reached, if at all, by the host alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// The workers' interfaces.
    pub interfaces: Vec<Interface>,
    /// Routes through them.
    pub routes: Vec<Route>,
    /// Neighbours on them whose link address is known and valid.
    pub neighbours: Vec<Neighbour>,
    /// Prefixes whose addresses are the host's own, on whatever interface: a real server there is
    /// on the box itself.
    pub local: Vec<(Addr, u8)>,
}
