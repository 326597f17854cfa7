//! The ordinary way: a packet of hot shape, of an established flow, about which nothing is special.
//!
//! Nearly all packets are like that. First it is made sure, with nothing changed yet: the flow is
//! the packet's, its real server is in service, the state stays as it is ([`Steady`]), the path is
//! known and has room, a hop is left, the checksum is a finished one. Then time, counters, headers:
//! the same steps in the same order as the long way ([`super::advance`], [`super::send`]), with the
//! same result, octet for octet. The direction of the next packet cannot be guessed, so nothing
//! branches on it. Whatever fails a test takes the long way, which knows all cases.

use std::{hint::select_unpredictable, num::NonZeroU8, sync::atomic::Ordering::Relaxed};

use super::{
    Context, Staged,
    advance::{is_nat, method},
};
use crate::{
    addr::Family,
    clock::Tick,
    endpoint::{AVAILABLE, Endpoint, Method},
    flow::{
        Control, Direction, Entry, Look, Steady,
        flag::{self, CONTROLLED, NO_OUTPUT},
        state::{self, Step},
    },
    forward::{self, Tunnel},
    packet::Packet,
    route::Path,
    stats::EndpointStats,
    verdict::Verdict,
    wire::frame::{
        plain::Plain,
        shape::{HEAD_V4, HEAD_V6, L3, L4_V4, L4_V6, Shape},
    },
};

/// What the ordinary way reads, gathered once for a burst.
#[derive(Clone, Copy)]
pub(super) struct Ordinary<'a> {
    pub(super) look: Look<'a>,
    endpoints: &'a [Endpoint],
    /// By endpoint.
    stats: &'a [EndpointStats],
    steady: Steady,
    /// By direction: to the real servers by their ids, to the clients by the numbers that entries
    /// keep.
    paths: [&'a [Path]; 2],
    /// Those numbers' generation.
    generation: u16,
    now: Tick,
    pmtu_disc: bool,
    secure_tcp: bool,
}

/// What is known of a packet: the entry that was found for it, the direction it was found for, where the
/// transport checksum is.
#[derive(Clone, Copy)]
struct Found<'t> {
    entry: &'t Entry,
    direction: Direction,
    checksum_at: NonZeroU8,
}

/// Where a packet will go.
#[derive(Clone, Copy)]
struct Way<'a> {
    path: &'a Path,
    /// The path MTU that was learned, or 0.
    learned: u32,
}

impl Way<'_> {
    /// Whether a packet of so many octets can leave at once.
    #[inline(always)]
    fn has_room(self, octets: u32) -> bool {
        octets <= u32::from(self.path.room()) && (self.learned == 0 || cold(octets <= self.learned))
    }
}

impl<'a> Ordinary<'a> {
    /// What there is to read, while `secure_tcp` is or is not in force.
    pub(super) fn new(cx: &Context<'a>, secure_tcp: bool) -> Self {
        let routes = &cx.snapshot.routes;
        // Beyond are numbers that no entry keeps.
        let numbered = routes.numbered();
        let numbered = numbered.get(..1 << 16).unwrap_or(numbered);
        Self {
            look: cx.table.look(),
            endpoints: cx.endpoints.all(),
            stats: cx.stats.endpoints(),
            steady: Steady::new(secure_tcp),
            paths: [&cx.snapshot.paths, numbered],
            generation: routes.generation,
            now: cx.now,
            pmtu_disc: cx.snapshot.settings.pmtu_disc,
            secure_tcp,
        }
    }

    /// Forwards a packet if it is an ordinary one of the flow that was found for it; if not, nothing has
    /// changed.
    #[inline(always)]
    pub(super) fn take(
        &self,
        staged: &mut Staged<'_, '_, '_>,
        next_id: &mut u16,
    ) -> Option<Verdict> {
        let (checksum_at, entry) = (staged.checksum_at?, staged.entry?);
        let found = Found { entry, direction: staged.probe.direction(), checksum_at };
        self.forward_any::<false>(staged.packet, found, next_id)
    }

    /// The same for the packet that a flow was just made for, whose state it has already.
    pub(super) fn take_first(
        &self,
        staged: &mut Staged<'_, '_, '_>,
        (entry, direction): (&Entry, Direction),
        next_id: &mut u16,
    ) -> Option<Verdict> {
        let found = Found { entry, direction, checksum_at: staged.checksum_at? };
        self.forward_any::<true>(staged.packet, found, next_id)
    }

    /// [`Self::forward`] for the shape that the packet has.
    #[inline(always)]
    fn forward_any<const FIRST: bool>(
        &self,
        packet: &mut Packet<'_>,
        found: Found<'_>,
        next_id: &mut u16,
    ) -> Option<Verdict> {
        match Shape::of_checksum_at(found.checksum_at) {
            Shape::V4 => self.forward::<L4_V4, HEAD_V4, FIRST>(packet, found, next_id),
            Shape::V6 => self.forward::<L4_V6, HEAD_V6, FIRST>(packet, found, next_id),
            Shape::Other => None,
        }
    }

    /// Forwards a packet of this shape, nothing special in itself, if nothing is special about its flow
    /// either.
    #[inline(always)]
    fn forward<const L4: usize, const HEAD: usize, const FIRST: bool>(
        &self,
        packet: &mut Packet<'_>,
        found: Found<'_>,
        next_id: &mut u16,
    ) -> Option<Verdict> {
        let mut frame = Plain::<L4, HEAD>::of(packet.bytes_mut())?;
        let Found { entry, direction, checksum_at } = found;
        let d = direction as usize;
        let control = entry.control();
        let old = self.endpoints.get(entry.named(d).0 as usize)?;
        if !is_of(entry, control, &frame, d, old)
            || !(self.steady.holds(control, direction, frame.flags())
                || FIRST && self.is_first(entry, control, frame.flags()))
        {
            return None;
        }
        let new = self.endpoints.get(entry.named(1 - d).0 as usize)?;
        let way = Way {
            path: self.path(entry, d)?,
            // Flags and a learned MTU are a real server's: the virtual endpoint has none.
            learned: old.learned_mtu.load(Relaxed) | new.learned_mtu.load(Relaxed),
        };
        if (old.flags() | new.flags()) & AVAILABLE == 0 {
            return None;
        }
        if !is_nat(control) {
            return self.forward_as_it_is::<L4, HEAD>(packet, found, (way, new), next_id);
        }
        let octets = frame.octets();
        // An end that takes every port leaves the port as it is; then so does the other.
        if !way.has_room(octets.into())
            || (old.port() == 0 || new.port() == 0) && cold(old.port() != new.port())
        {
            return None;
        }
        frame.translate(1 - d, old.becomes(new, L4 == L4_V6), checksum_at);
        frame.set_link(way.path.link());
        self.count(found, control, octets);
        packet.truncate(L3 + usize::from(octets));
        Some(Verdict::Tx(way.path.device))
    }

    /// The same for a packet that is sent on as it came but for one hop, by itself or in a tunnel.
    #[inline(always)]
    fn forward_as_it_is<const L4: usize, const HEAD: usize>(
        &self,
        packet: &mut Packet<'_>,
        found: Found<'_>,
        (way, real): (Way<'_>, &Endpoint),
        next_id: &mut u16,
    ) -> Option<Verdict> {
        let mut frame = Plain::<L4, HEAD>::of(packet.bytes_mut())?;
        let control = found.entry.control();
        let overhead = overhead(method(control), way.path)?;
        let octets = frame.octets();
        if !way.has_room(u32::from(octets) + u32::from(overhead))
            || found.direction == Direction::ToClient
        {
            return None;
        }
        frame.hop();
        self.count(found, control, octets);
        // Of the methods that this way knows only a tunnel adds octets.
        if overhead > 0 {
            packet.truncate(L3 + usize::from(octets));
            return Some(self.encapsulate::<L4>(packet, real, way.path, next_id));
        }
        frame.set_link(way.path.link());
        packet.truncate(L3 + usize::from(octets));
        Some(Verdict::Tx(way.path.device))
    }

    /// Notes when the flow was seen, and counts the packet.
    #[inline(always)]
    fn count(&self, found: Found<'_>, control: Control, octets: u16) {
        let Found { entry, direction, .. } = found;
        if entry.seen() != self.now {
            entry.touch(self.now);
        }
        // Where the flow hangs on a template, that stands in place of the octets to the client.
        let is_slot = control.has(CONTROLLED) && cold(direction == Direction::ToClient);
        entry.count(direction, if is_slot { 0 } else { octets.into() });
        if let Some(stats) = self.stats.get(entry.real().0 as usize) {
            stats.count(direction, octets.into());
        }
    }

    /// Whether this packet is the first one of its flow, whose state it would leave as it is.
    fn is_first(&self, entry: &Entry, control: Control, flags: u8) -> bool {
        let next = state::transition(Step {
            protocol: entry.protocol(),
            direction: Direction::ToReal,
            state: control.state(),
            flags,
            no_output: control.has(NO_OUTPUT),
            secure_tcp: self.secure_tcp,
        });
        (next.state, next.class) == (control.state(), control.class())
            && entry.packets(Direction::ToReal) == 0
    }

    /// The path to the entry's real server (`d` is 0), or back to the client if the entry still knows it.
    #[inline(always)]
    fn path(&self, entry: &Entry, d: usize) -> Option<&'a Path> {
        let id = entry.real().0 as usize;
        // Of another generation than ours it is no number of a path.
        let number = entry.client_path().number(self.generation) as usize;
        self.paths[d & 1].get(select_unpredictable(d != 0, number, id))
    }

    /// Puts the packet behind an outer header.
    #[inline(always)]
    fn encapsulate<const L4: usize>(
        &self,
        packet: &mut Packet<'_>,
        real: &Endpoint,
        path: &Path,
        next_id: &mut u16,
    ) -> Verdict {
        let family = if L4 == L4_V6 { Family::V6 } else { Family::V4 };
        let tunnel = Tunnel { family, l3: L3, real, path, id: *next_id, pmtu_disc: self.pmtu_disc };
        *next_id = next_id.wrapping_add(1);
        match forward::ipip(packet, tunnel) {
            Ok(()) => Verdict::Tx(path.device),
            Err(reason) => Verdict::Drop(reason),
        }
    }
}

/// Octets that a method adds to a packet that goes this way; none for those that only the long way knows.
#[inline(always)]
fn overhead(method: Method, path: &Path) -> Option<u16> {
    match (method, path.outer().growth()) {
        (Method::Dr, _) => Some(0),
        (Method::Ipip, growth @ 1..) => Some(growth),
        _ => None,
    }
}

/// Whether a frame that goes this way belongs to the entry, of which `control` was seen and `old` is the
/// endpoint beside the client: as a lookup would say, but never of a template, with full NAT, or where the
/// family is not that of [`flag::V4`].
#[inline(always)]
fn is_of<const L4: usize, const HEAD: usize>(
    entry: &Entry,
    control: Control,
    frame: &Plain<'_, L4, HEAD>,
    d: usize,
    old: &Endpoint,
) -> bool {
    // Hardly ever false where the tag was right: branches are cheaper here than one sum.
    let wanted = flag::LIVE | if L4 == L4_V6 { 0 } else { flag::V4 };
    control.flags() & (flag::LIVE | flag::TEMPLATE | flag::FULLNAT | flag::V4) == wanted
        && entry.protocol() == frame.protocol()
        && entry.client_port() == frame.port(d)
        && entry.is_client(frame.addr(d), L4 == L4_V6)
        && old.is_at(frame.addr(1 - d), L4 == L4_V6)
        && entry.port_of(old) == frame.port(1 - d)
}

/// Tells the compiler that this is hardly ever asked.
#[cold]
#[inline(never)]
const fn cold(answer: bool) -> bool {
    answer
}
