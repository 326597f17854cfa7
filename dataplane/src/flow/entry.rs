//! A flow in the table: one cache line, all of it atomic.
//!
//! | octet | what |
//! | --- | --- |
//! | 0 | control: generation 32, state 8, time-out class 8, flags 16 |
//! | 8 | last seen, tick |
//! | 12 | client port 16, local (source NAT) port 16, or the port that stands for port 0 |
//! | 16 | client address |
//! | 32 | virtual endpoint, real endpoint |
//! | 40 | protocol 8, what the real server was told 8, local address's endpoint 16 |
//! | 44 | client path 16, its generation 16 |
//! | 48 | packets to the real server, to the client; of a template: flows that hang on it, unused |
//! | 56 | octets likewise; of a template: its own time-out in ticks, unused; of a flow that hangs on one: its slot in place of octets to the client; while a real server is told its client by the PROXY protocol: where the client's data begins in place of octets to the real server |
//!
//! Rules: the control word changes by compare-and-swap only, so exactly one caller ends a life.
//! What names the flow is written before its first index word is published and again only after
//! every worker that could have read that word has been quiescent; so `Relaxed` loads suffice for
//! it. Time, counters and client path are plain loads and stores by whichever worker has the
//! packet: a lost update there costs a tick or a count.

use super::{
    Direction, FlowKey, Telling,
    control::{Control, flag},
    sync::{
        AtomicU8, AtomicU16, AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
        fence,
    },
};
use crate::{
    addr::Addr,
    clock::Tick,
    endpoint::{Endpoint, EndpointId, Endpoints},
};

/// What a new flow is.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewFlow {
    /// Its requests: the source is the client, the destination is `virt`'s address and port.
    pub key: FlowKey,
    /// The virtual endpoint: service address and port as the client sees them.
    pub virt: EndpointId,
    /// The real endpoint. Its port is the port replies come from.
    pub real: EndpointId,
    /// First state.
    pub state: u8,
    /// First time-out class.
    pub class: u8,
    /// Flags, but for those the table sets itself: LIVE, TEMPLATE, FULLNAT.
    pub flags: u16,
    /// First time-out in ticks; a template keeps it in its entry.
    pub timeout: u32,
    /// Full NAT: the endpoint of the local address (its id below 65536) and the local port.
    pub local: Option<(EndpointId, u16)>,
    /// The port that stands for an endpoint's port 0: that of a service that takes every port.
    /// Not with full NAT.
    pub any_port: u16,
}

/// A flow table entry.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Entry {
    /// Acquire/Release: orders a life's fields for readers that do not come through the index.
    control: AtomicU64,
    seen: AtomicU32,
    client_port: AtomicU16,
    local_port: AtomicU16,
    /// High and low half.
    client: [AtomicU64; 2],
    /// The virtual and the real one.
    endpoints: [AtomicU32; 2],
    protocol: AtomicU8,
    /// How far the telling is; see [`Telling`]. Written after, read before what it begins at.
    pub(super) telling: AtomicU8,
    local: AtomicU16,
    client_path: AtomicU32,
    packets: [AtomicU32; 2],
    pub(super) octets: [AtomicU32; 2],
}

impl Entry {
    /// The control word.
    #[inline]
    pub fn control(&self) -> Control {
        Control(self.control.load(Acquire))
    }

    /// Replaces the control word if it still is `seen`.
    ///
    /// # Errors
    ///
    /// What it is instead: the caller decides again.
    #[inline]
    pub fn try_update(&self, seen: Control, new: Control) -> Result<(), Control> {
        debug_assert_eq!(seen.generation(), new.generation());
        debug_assert_eq!(seen.flags() & flag::LIVE, new.flags() & flag::LIVE);
        self.control.compare_exchange(seen.0, new.0, AcqRel, Acquire).map(drop).map_err(Control)
    }

    /// When the flow last had a packet.
    #[inline]
    pub fn seen(&self) -> Tick {
        Tick(self.seen.load(Relaxed))
    }

    /// Notes a packet at `now`. Writes only if the tick moved on: the line stays shared otherwise.
    #[inline]
    pub fn touch(&self, now: Tick) {
        if now.since(self.seen()) != 0 {
            self.seen.store(now.0, Relaxed);
        }
    }

    /// Counts a packet of `octets` octets. Both counters wrap.
    #[inline]
    pub fn count(&self, direction: Direction, octets: u32) {
        let add =
            |counter: &AtomicU32, n| counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
        add(&self.packets[direction as usize], 1);
        add(&self.octets[direction as usize], octets);
    }

    /// Packets so far, modulo 2^32.
    pub fn packets(&self, direction: Direction) -> u32 {
        self.packets[direction as usize].load(Relaxed)
    }

    /// Octets so far, modulo 2^32; meaningless for a template.
    pub fn octets(&self, direction: Direction) -> u32 {
        self.octets[direction as usize].load(Relaxed)
    }

    /// A template's own time-out in ticks; meaningless for a flow.
    #[inline]
    pub fn template_timeout(&self) -> u32 {
        self.octets[0].load(Relaxed)
    }

    /// Flows that hang on this template.
    pub fn controlled(&self) -> u32 {
        self.packets[0].load(Relaxed)
    }

    /// One flow more hangs on this template.
    pub fn control_one(&self) {
        self.packets[0].fetch_add(1, Relaxed);
    }

    /// One flow less does; never below none, should a slot have changed hands.
    pub fn release_one(&self) {
        let less = |count: u32| count.checked_sub(1);
        self.packets[0].fetch_update(Relaxed, Relaxed, less).ok();
    }

    /// The slot of the template that this flow hangs on; for [`flag::CONTROLLED`] only.
    pub fn template(&self) -> u32 {
        self.octets[1].load(Relaxed)
    }

    /// Hangs this flow on the template in that slot.
    pub fn set_template(&self, slot: u32) {
        self.octets[1].store(slot, Relaxed);
    }

    /// The port that stands for an endpoint's port 0.
    #[inline]
    pub fn any_port(&self) -> u16 {
        self.local_port()
    }

    /// The client's address.
    #[inline]
    pub fn client(&self) -> Addr {
        let [high, low] =
            [&self.client[0], &self.client[1]].map(|half| u128::from(half.load(Relaxed)));
        Addr::v6(high << 64 | low)
    }

    /// The last 32 bits of the client's address.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the low 32 bits are what is asked for")]
    fn client_low32(&self) -> u32 {
        self.client[1].load(Relaxed) as u32
    }

    /// The client's port.
    #[inline]
    pub fn client_port(&self) -> u16 {
        self.client_port.load(Relaxed)
    }

    /// IP protocol number.
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.protocol.load(Relaxed)
    }

    /// The virtual endpoint.
    #[inline]
    pub fn virt(&self) -> EndpointId {
        self.named(0)
    }

    /// The real endpoint.
    #[inline]
    pub fn real(&self) -> EndpointId {
        self.named(1)
    }

    /// The endpoint that packets from the client (0) or to the client (1) name beside the client: the virtual
    /// or the real one.
    #[inline(always)]
    pub fn named(&self, d: usize) -> EndpointId {
        EndpointId(self.endpoints[d & 1].load(Relaxed))
    }

    /// Full NAT: the endpoint of the local address.
    #[inline]
    pub fn local(&self) -> EndpointId {
        EndpointId(u32::from(self.local.load(Relaxed)))
    }

    /// Full NAT: the local port.
    #[inline]
    pub fn local_port(&self) -> u16 {
        self.local_port.load(Relaxed)
    }

    /// The path back to the client, as far as it is known.
    #[inline]
    pub fn client_path(&self) -> ClientPath {
        ClientPath(self.client_path.load(Relaxed))
    }

    /// Notes the path back to the client.
    #[inline]
    pub fn set_client_path(&self, path: ClientPath) {
        self.client_path.store(path.0, Relaxed);
    }

    /// Whether this is the client's address; if not `v6`, both are known to be IPv4.
    #[inline(always)]
    pub fn is_client(&self, addr: Addr, v6: bool) -> bool {
        if v6 { self.client() == addr } else { self.client_low32() == addr.low32() }
    }

    /// Whether a packet with this key, found through a word of this direction, belongs here: then
    /// the control word seen.
    #[inline(always)]
    pub(super) fn matches(
        &self,
        key: &FlowKey,
        direction: Direction,
        endpoints: &Endpoints,
    ) -> Option<Control> {
        let control = self.control();
        // Selection by index and not by branch: which way the next packet goes cannot be guessed.
        let d = direction as usize;
        let near = [key.source.bits(), key.destination.bits()][d];
        let far = [key.destination.bits(), key.source.bits()][d];
        let near_port = [key.source_port, key.destination_port][d];
        let far_port = [key.destination_port, key.source_port][d];
        let other = endpoints.get(self.named(d));
        let (mut client, mut client_port) = (self.client().bits(), self.client_port());
        if control.has(flag::FULLNAT) && direction == Direction::ToClient {
            client = endpoints.get(self.local()).addr().bits();
            client_port = self.local_port();
        }
        let wanted = flag::LIVE | if key.template { flag::TEMPLATE } else { 0 };
        let addresses = (client ^ near) | (other.addr().bits() ^ far);
        let rest = (client_port ^ near_port)
            | (self.port_of(other) ^ far_port)
            | u16::from(self.protocol() ^ key.protocol)
            | (control.flags() & (flag::LIVE | flag::TEMPLATE)) ^ wanted;
        (addresses | u128::from(rest) == 0).then_some(control)
    }

    /// An endpoint's port, or what stands for it if it takes every port.
    #[inline]
    pub fn port_of(&self, endpoint: &Endpoint) -> u16 {
        match endpoint.port() {
            0 => self.local_port(),
            port => port,
        }
    }

    /// The key of its packets from the client.
    #[must_use]
    pub fn key(&self, endpoints: &Endpoints) -> FlowKey {
        self.keys(endpoints).0
    }

    /// The keys of both directions, as [`Entry::matches`] takes them; the second unless it is
    /// one-way.
    pub(super) fn keys(&self, endpoints: &Endpoints) -> (FlowKey, Option<FlowKey>) {
        let control = self.control();
        let (virt, real) = (endpoints.get(self.virt()), endpoints.get(self.real()));
        let to_real = FlowKey {
            source: self.client(),
            destination: virt.addr(),
            source_port: self.client_port(),
            destination_port: self.port_of(virt),
            protocol: self.protocol(),
            template: control.has(flag::TEMPLATE),
        };
        if control.has(flag::ONE_WAY) {
            return (to_real, None);
        }
        let (destination, destination_port) = if control.has(flag::FULLNAT) {
            (endpoints.get(self.local()).addr(), self.local_port())
        } else {
            (self.client(), self.client_port())
        };
        let to_client = FlowKey {
            source: real.addr(),
            destination,
            source_port: self.port_of(real),
            destination_port,
            ..to_real
        };
        (to_real, Some(to_client))
    }

    /// Begins a life: for the owner of a free entry. Returns its control word.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "address halves; local ids are below 65536"
    )]
    pub(super) fn begin(&self, new: &NewFlow, flags: u16, now: Tick) -> Control {
        let old = Control(self.control.load(Relaxed));
        // A reader outside the workers that sees a field of this life sees that the last is over.
        fence(Release);
        let (local, local_port) = new.local.unwrap_or((EndpointId(0), new.any_port));
        let client = new.key.source.bits();
        self.seen.store(now.0, Relaxed);
        self.endpoints[0].store(new.virt.0, Relaxed);
        self.endpoints[1].store(new.real.0, Relaxed);
        self.client[0].store((client >> 64) as u64, Relaxed);
        self.client[1].store(client as u64, Relaxed);
        self.client_port.store(new.key.source_port, Relaxed);
        self.local_port.store(local_port, Relaxed);
        self.protocol.store(new.key.protocol, Relaxed);
        self.telling.store(Telling::Over as u8, Relaxed);
        self.client_path.store(0, Relaxed);
        self.local.store(local.0 as u16, Relaxed);
        for direction in 0..2 {
            self.packets[direction].store(0, Relaxed);
            self.octets[direction].store(0, Relaxed);
        }
        if new.key.template {
            self.octets[0].store(new.timeout, Relaxed);
        }
        let control = Control::new(old.generation().wrapping_add(1), new.state, new.class, flags);
        self.control.store(control.0, Release);
        control
    }

    /// The flow's words are in the index: from now on anyone may end it.
    pub(super) fn announce(&self) {
        self.control.fetch_and(!u64::from(flag::ARRIVING), AcqRel);
    }

    /// Ends a life that was not announced; nobody else can.
    pub(super) fn withdraw(&self) {
        self.control.fetch_and(!u64::from(flag::LIVE | flag::ARRIVING), AcqRel);
    }

    /// Ends the life `generation`; the last control word of it if this call did so.
    pub(super) fn end(&self, generation: u32) -> Option<Control> {
        let mut seen = self.control();
        while seen.generation() == generation && seen.is_announced() {
            let dead = seen.without_flags(flag::LIVE);
            match self.control.compare_exchange(seen.0, dead.0, AcqRel, Acquire) {
                Ok(_) => return Some(seen),
                Err(now) => seen = Control(now),
            }
        }
        None
    }

    /// Marks a dead entry as waiting for a sweep: for who ended its life.
    pub(super) fn park(&self) {
        let dead = Control(self.control.load(Relaxed));
        self.control.store(dead.with_flags(flag::PARKED).0, Release);
    }

    /// Takes over a parked entry; whether this call did so.
    pub(super) fn unpark(&self, seen: Control) -> bool {
        let new = seen.without_flags(flag::PARKED);
        seen.has(flag::PARKED)
            && self.control.compare_exchange(seen.0, new.0, AcqRel, Relaxed).is_ok()
    }

    /// Keeps slot numbers in a free entry: what [`Entry::held`] gives back. For its owner.
    pub(super) fn hold(&self, next: u32, slots: [u32; HELD]) {
        self.seen.store(next, Relaxed);
        let [a, b, c, d, rest @ ..] = slots;
        self.client[0].store(u64::from(a) << 32 | u64::from(b), Relaxed);
        self.client[1].store(u64::from(c) << 32 | u64::from(d), Relaxed);
        for (place, slot) in self.packets.iter().chain(&self.octets).zip(rest) {
            place.store(slot, Relaxed);
        }
    }

    /// What [`Entry::hold`] kept, if nobody used the entry since.
    #[expect(clippy::cast_possible_truncation, reason = "two numbers in a word")]
    pub(super) fn held(&self) -> (u32, [u32; HELD]) {
        let [ab, cd] = [&self.client[0], &self.client[1]].map(|word| word.load(Relaxed));
        let [e, f] = [&self.packets[0], &self.packets[1]].map(|place| place.load(Relaxed));
        let [g, h] = [&self.octets[0], &self.octets[1]].map(|place| place.load(Relaxed));
        let slots = [(ab >> 32) as u32, ab as u32, (cd >> 32) as u32, cd as u32, e, f, g, h];
        (self.seen.load(Relaxed), slots)
    }
}

/// Where the path back to a flow's client is found: a number and the generation of the paths that it
/// belongs to. The latter is never 0 of a path that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientPath(u32);

impl ClientPath {
    /// The path of this number in this generation.
    #[must_use]
    pub const fn new(number: u16, generation: u16) -> Self {
        Self((generation as u32) << 16 | number as u32)
    }

    /// The number if the path belongs to this generation, and if not, no number of a path: 65,536 or
    /// more.
    #[inline(always)]
    #[must_use]
    pub const fn number(self, generation: u16) -> u32 {
        self.0 ^ (generation as u32) << 16
    }
}

/// Slot numbers that fit into a free entry.
pub(super) const HELD: usize = 8;

impl NewFlow {
    /// The flags of its first control word.
    #[inline]
    pub(super) const fn all_flags(&self) -> u16 {
        let own = flag::TEMPLATE | flag::FULLNAT | flag::PARKED | flag::V4;
        let mut flags = self.flags & !own | flag::LIVE | flag::ARRIVING;
        if self.key.template {
            flags |= flag::TEMPLATE | flag::ONE_WAY;
        }
        if self.local.is_some() {
            flags |= flag::FULLNAT;
        }
        flags
    }

    /// The same, and [`flag::V4`] where it belongs.
    #[inline]
    pub(super) fn all_flags_among(&self, endpoints: &Endpoints) -> u16 {
        let flags = self.all_flags();
        let [virt, real] = [self.virt, self.real].map(|id| endpoints.get(id).is_unicast_v4());
        let plain = self.key.source.is_unicast_v4() && virt && (real || flags & flag::ONE_WAY != 0);
        if plain { flags | flag::V4 } else { flags }
    }

    /// The key of its replies, unless there are none.
    #[inline]
    #[must_use]
    pub fn reply_key(&self, endpoints: &Endpoints) -> Option<FlowKey> {
        if self.all_flags() & flag::ONE_WAY != 0 {
            return None;
        }
        let real = endpoints.get(self.real);
        let (destination, destination_port) = match self.local {
            Some((local, port)) => (endpoints.get(local).addr(), port),
            None => (self.key.source, self.key.source_port),
        };
        Some(FlowKey {
            source: real.addr(),
            destination,
            source_port: if real.port() == 0 { self.any_port } else { real.port() },
            destination_port,
            ..self.key
        })
    }
}
