//! Endpoints: the address and port at either end of the box's side of a flow.
//!
//! A *virtual* endpoint is VIP and port as the client sees them, a *real* endpoint a real server
//! of one service. Flows name both by id, so that an entry stays one cache line for IPv6 too.
//! The table is shared by all workers. What describes an endpoint is written by control alone,
//! while no flow names it; its load is written by the workers. An id is used again only after
//! nothing refers to it ([`Load::is_named`] and every worker has left the snapshot that knew it).
//!
//! Services with many addresses have a virtual endpoint for each one that flows name, see
//! [`crate::destination`].
//!
//! Everything is atomic and `Relaxed`: a reader that comes through a stale index word may see
//! an endpoint half rewritten, and its key comparison then fails or its entry's own check does.
//! On x86-64 and aarch64 these loads cost what plain loads cost.

mod load;

pub use load::{Bound, Load};

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::{
    addr::Addr,
    destination::Destinations,
    wire::{checksum, frame::plain::NewEnd, ipv4},
};

/// Names an endpoint; an index into [`Endpoints`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub u32);

/// How packets travel to a real server. Numbers are stored in endpoints and flow entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Method {
    /// Destination address and port rewritten, replies translated back: ipvsadm's `-m`.
    #[default]
    Nat = 0,
    /// Only link addresses rewritten: `-g`.
    Dr = 1,
    /// IP in IP: `-i`.
    Ipip = 2,
    /// Generic UDP encapsulation: `-i --tun-type gue`.
    Gue = 3,
    /// Generic routing encapsulation: `-i --tun-type gre`.
    Gre = 4,
    /// A real server on the box itself.
    Local = 5,
    /// Nat with the source rewritten too.
    FullNat = 6,
}

impl Method {
    /// The method with this number.
    #[inline]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Dr,
            2 => Self::Ipip,
            3 => Self::Gue,
            4 => Self::Gre,
            5 => Self::Local,
            6 => Self::FullNat,
            _ => Self::Nat,
        }
    }

    /// Whether replies come back through the box, so that a flow needs an index word for them.
    #[inline]
    pub const fn translates(self) -> bool {
        matches!(self, Self::Nat | Self::FullNat)
    }
}

/// Set while the real server belongs to its service; clear once it was removed and lives on only
/// for its flows (the kernel's `IP_VS_DEST_F_AVAILABLE`). Never set of a virtual endpoint.
pub const AVAILABLE: u16 = 1;

/// Set while not even templates send new flows to the real server.
pub const SHUNNED: u16 = 2;

/// Set where full NAT tells the real server its clients' addresses by TOA.
pub const TOA: u16 = 4;

/// Set where full NAT tells it by the PROXY protocol.
pub const PROXY: u16 = 8;

/// Set by the endpoint itself where its address is [`Addr::is_unicast_v4`].
const UNICAST_V4: u16 = 1 << 15;

/// What control says about an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Its address.
    pub addr: Addr,
    /// Its port; 0 if it takes every port.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// How packets get there; meaningless for a virtual endpoint.
    pub method: Method,
    /// [`AVAILABLE`], [`SHUNNED`], [`TOA`] and [`PROXY`].
    pub flags: u16,
    /// Its weight; 0 takes no new flows.
    pub weight: u32,
    /// Upper connection threshold, 0 for none.
    pub upper: u32,
    /// Lower connection threshold, 0 for none.
    pub lower: u32,
    /// Method's own octets: for gue the UDP port in the low 16 bits and the tunnel flags above.
    pub tunnel: u32,
}

/// One endpoint: a line that control writes and one that workers write.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Endpoint {
    /// High and low half of the address.
    addr: [AtomicU64; 2],
    /// port 16, protocol 8, method 8, flags 16 (from the low end).
    word: AtomicU64,
    /// weight 32, tunnel 32.
    tunnel: AtomicU64,
    /// upper 32, lower 32.
    thresholds: AtomicU64,
    /// Path MTU learned from an ICMP error, in octets; 0 if none was, as for every virtual endpoint. Here
    /// and not with the load, because every packet asks for it.
    pub learned_mtu: AtomicU32,
    /// When it was learned, in ticks.
    pub learned_at: AtomicU32,
    /// Sums of address and port, and of the address and one hop less, as they change checksums.
    sums: [Sums; 2],
    /// How busy it is.
    pub load: Load,
}

impl Endpoint {
    /// A flow or a template now names this real server (`ip_vs_bind_dest`).
    pub fn bind(&self, kind: Bound) {
        self.counter(kind).fetch_add(1, Relaxed);
        let (upper, _) = self.thresholds();
        if upper != 0 && self.load.total() >= upper {
            self.load.overloaded.store(1, Relaxed);
        }
    }

    /// It does no longer (`ip_vs_unbind_dest`).
    pub fn unbind(&self, kind: Bound) {
        self.counter(kind).fetch_sub(1, Relaxed);
        let (upper, lower) = self.thresholds();
        let total = self.load.total();
        let clear = match (upper, lower) {
            (_, 1..) => total < lower,
            (1.., _) => u64::from(total) * 4 < u64::from(upper) * 3,
            _ => self.load.overloaded.load(Relaxed) != 0,
        };
        if clear {
            self.load.overloaded.store(0, Relaxed);
        }
    }

    /// A flow now names this local address.
    pub fn hold(&self) {
        self.load.refs.fetch_add(1, Relaxed);
    }

    /// It does no longer.
    pub fn release(&self) {
        self.load.refs.fetch_sub(1, Relaxed);
    }

    /// The counter that a bound thing is in.
    const fn counter(&self, kind: Bound) -> &AtomicU32 {
        match kind {
            Bound::Active => &self.load.active,
            Bound::Inactive => &self.load.inactive,
            Bound::Template => &self.load.persistent,
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "fields are packed into words on purpose")]
impl Endpoint {
    /// Makes it nobody's, so that its id may be given out again: as virtual endpoint it must have learned
    /// no path MTU. Control only.
    pub fn forget(&self) {
        self.describe(&Description::default());
        self.learned_mtu.store(0, Relaxed);
    }

    /// Writes the description. Control only; address, port and protocol only while no flow names
    /// the endpoint, the rest may change under living flows.
    pub fn describe(&self, d: &Description) {
        let bits = d.addr.bits();
        self.addr[0].store((bits >> 64) as u64, Relaxed);
        self.addr[1].store(bits as u64, Relaxed);
        let unicast = if d.addr.is_unicast_v4() { UNICAST_V4 } else { 0 };
        let [both, addr] = &self.sums;
        both.set(checksum::endpoint(d.addr, d.port), 0);
        addr.set(checksum::endpoint(d.addr, 0), ipv4::HOP_LESS.into());
        self.word.store(
            u64::from(d.port)
                | u64::from(d.protocol) << 16
                | u64::from(d.method as u8) << 24
                | u64::from(d.flags & !UNICAST_V4 | unicast) << 32,
            Relaxed,
        );
        self.tunnel.store(u64::from(d.weight) | u64::from(d.tunnel) << 32, Relaxed);
        self.thresholds.store(u64::from(d.upper) | u64::from(d.lower) << 32, Relaxed);
    }

    /// Reads the description back.
    pub fn description(&self) -> Description {
        let word = self.word.load(Relaxed);
        let (upper, lower) = self.thresholds();
        Description {
            addr: self.addr(),
            port: word as u16,
            protocol: (word >> 16) as u8,
            method: Method::from_number((word >> 24) as u8),
            flags: self.flags(),
            weight: self.weight(),
            upper,
            lower,
            tunnel: self.tunnel(),
        }
    }

    /// The address.
    #[inline]
    pub fn addr(&self) -> Addr {
        let high = u128::from(self.addr[0].load(Relaxed));
        Addr::v6(high << 64 | u128::from(self.addr[1].load(Relaxed)))
    }

    /// Whether this is its address; if not `v6`, both are known to be IPv4.
    #[inline(always)]
    pub fn is_at(&self, addr: Addr, v6: bool) -> bool {
        if v6 { self.addr() == addr } else { self.low32() == addr.low32() }
    }

    /// The 32 bits of an IPv4 address; of an IPv6 address its last 32.
    #[inline]
    fn low32(&self) -> u32 {
        self.addr[1].load(Relaxed) as u32
    }

    /// What changes in a packet where this endpoint becomes another; if not `v6`, that is known to be IPv4.
    #[inline(always)]
    pub fn becomes(&self, other: &Self, v6: bool) -> NewEnd {
        NewEnd {
            addr: if v6 { other.addr() } else { Addr::v4(other.low32()) },
            port: other.port(),
            change: self.sums[0].change_to(&other.sums[0]),
            header_change: self.sums[1].change_to(&other.sums[1]),
        }
    }

    /// The port.
    #[inline]
    pub fn port(&self) -> u16 {
        self.word.load(Relaxed) as u16
    }

    /// The one's complement sum of address and port, for incremental checksums.
    #[inline]
    pub fn sum(&self) -> u16 {
        u16::from_be(self.sums[0].more.load(Relaxed) as u16)
    }

    /// The flags.
    #[inline]
    pub fn flags(&self) -> u16 {
        (self.word.load(Relaxed) >> 32) as u16 & !UNICAST_V4
    }

    /// Whether its address is [`Addr::is_unicast_v4`].
    #[inline]
    pub fn is_unicast_v4(&self) -> bool {
        (self.word.load(Relaxed) >> 32) as u16 & UNICAST_V4 != 0
    }

    /// The forwarding method.
    #[inline]
    pub fn method(&self) -> Method {
        Method::from_number((self.word.load(Relaxed) >> 24) as u8)
    }

    /// The weight.
    #[inline]
    pub fn weight(&self) -> u32 {
        self.tunnel.load(Relaxed) as u32
    }

    /// Upper and lower connection threshold, 0 for none.
    #[inline]
    pub fn thresholds(&self) -> (u32, u32) {
        let both = self.thresholds.load(Relaxed);
        (both as u32, (both >> 32) as u32)
    }

    /// Tunnel parameters.
    #[inline]
    pub fn tunnel(&self) -> u32 {
        (self.tunnel.load(Relaxed) >> 32) as u32
    }
}

/// A folded sum in network order, and what it takes to take it off. Octets change places in sums as in what is
/// summed (RFC 1071, section 2 B).
#[derive(Debug, Default)]
struct Sums {
    less: AtomicU32,
    more: AtomicU32,
}

impl Sums {
    /// `beside` changes with the sum whenever it comes in another's place.
    fn set(&self, sum: u16, beside: u32) {
        self.less.store(u32::from(!sum.to_be()), Relaxed);
        self.more.store(u32::from(sum.to_be()) + beside, Relaxed);
    }

    /// By how much sums change where this one becomes another; below 2^18.
    #[inline(always)]
    fn change_to(&self, other: &Self) -> u32 {
        self.less.load(Relaxed) + other.more.load(Relaxed)
    }
}

/// All endpoints of the box: those that control gives out, and behind them the destinations that
/// workers give out.
#[derive(Debug)]
pub struct Endpoints {
    all: Box<[Endpoint]>,
    /// How many of them control gives out.
    given: usize,
    destinations: Destinations,
}

impl Endpoints {
    /// Room for `count` endpoints, at least one, and as many destinations. Id 0 is never given out.
    pub fn new(count: usize) -> Self {
        Self::with_destinations(count, count)
    }

    /// Room for `count` endpoints, at least one, and for `destinations` destinations of services
    /// that have many.
    pub fn with_destinations(count: usize, destinations: usize) -> Self {
        let given = count.max(1);
        Self {
            all: (0..given + destinations).map(|_| Endpoint::default()).collect(),
            given,
            destinations: Destinations::new(destinations),
        }
    }

    /// How many ids control gives out.
    pub const fn len(&self) -> usize {
        self.given
    }

    /// Whether there is no room at all; never true.
    pub const fn is_empty(&self) -> bool {
        self.given == 0
    }

    /// All of them, by id.
    #[inline]
    pub const fn all(&self) -> &[Endpoint] {
        &self.all
    }

    /// The endpoint with this id; an id out of range, which only a torn read can give, names
    /// endpoint 0, which matches nothing.
    #[inline]
    pub fn get(&self, id: EndpointId) -> &Endpoint {
        self.all.get(id.0 as usize).unwrap_or(&self.all[0])
    }

    /// The destinations.
    pub const fn destinations(&self) -> &Destinations {
        &self.destinations
    }

    /// Takes a count on the endpoint of a destination, to be given back by [`Endpoints::release`];
    /// `None` if there is no room for another. `hash` is a keyed hash of it.
    pub fn destination(&self, addr: Addr, port: u16, hash: u64) -> Option<EndpointId> {
        let endpoint = |at: usize| &self.all[self.given + at];
        let same = |at: usize| endpoint(at).addr() == addr && endpoint(at).port() == port;
        let description = Description { addr, port, ..Description::default() };
        let at = self.destinations.take(hash, same, |at| endpoint(at).describe(&description))?;
        u32::try_from(self.given + at).ok().map(EndpointId)
    }

    /// Whether this is the id of a destination.
    pub const fn is_destination(&self, id: EndpointId) -> bool {
        id.0 as usize >= self.given
    }

    /// Gives back what [`Endpoints::destination`] took; does nothing to an endpoint of control's.
    #[inline]
    pub fn release(&self, id: EndpointId) {
        if let Some(at) = (id.0 as usize).checked_sub(self.given) {
            self.destinations.release(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn overload_is_set_at_a_bind_and_cleared_at_an_unbind() {
        // ip_vs_conn.c: set when total >= upper at a bind; cleared below lower, or below 3/4 upper.
        let endpoint = Endpoint::default();
        endpoint.describe(&Description { upper: 4, lower: 2, ..Description::default() });
        for _ in 0..4 {
            endpoint.bind(Bound::Active);
        }
        assert_eq!(endpoint.load.overloaded.load(Relaxed), 1);
        endpoint.unbind(Bound::Active);
        endpoint.unbind(Bound::Active);
        assert_eq!(endpoint.load.overloaded.load(Relaxed), 1);
        endpoint.unbind(Bound::Active);
        assert_eq!(endpoint.load.overloaded.load(Relaxed), 0);
        endpoint.describe(&Description { upper: 4, lower: 0, ..Description::default() });
        for _ in 0..3 {
            endpoint.bind(Bound::Inactive);
        }
        assert_eq!(endpoint.load.overloaded.load(Relaxed), 1);
        endpoint.unbind(Bound::Inactive);
        assert_eq!(endpoint.load.overloaded.load(Relaxed), 1);
        endpoint.unbind(Bound::Inactive);
        assert_eq!(endpoint.load.overloaded.load(Relaxed), 0);
    }

    #[test]
    fn a_description_comes_back_as_it_was() {
        let endpoints = Endpoints::new(4);
        let d = Description {
            addr: Ipv4Addr::new(10, 2, 0, 11).into(),
            port: 8080,
            protocol: 6,
            method: Method::Ipip,
            flags: AVAILABLE,
            weight: 7,
            upper: 3,
            lower: 2,
            tunnel: 0x1_17c0,
        };
        endpoints.get(EndpointId(2)).describe(&d);
        assert_eq!(endpoints.get(EndpointId(2)).description(), d);
        assert_eq!(endpoints.get(EndpointId(2)).sum(), 0x0a02 + 0x000b + 8080);
        assert_eq!(endpoints.get(EndpointId(99)).description(), Description::default());
        assert_eq!(size_of::<Endpoint>(), 128);
    }
}
