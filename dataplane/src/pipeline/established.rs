//! The ordinary way: a packet of hot shape, of an established flow, about which nothing is special.
//!
//! Nearly all packets are like that. First it is made sure, with nothing changed yet: the flow is
//! the packet's, its real server is in service, the state stays as it is ([`Steady`]), the path is
//! known and has room, a hop is left, the checksum is a finished one. Then time, counters, headers:
//! the same steps in the same order as the long way ([`super::advance`], [`super::send`]), with the
//! same result, octet for octet. The direction of the next packet cannot be guessed, so nothing
//! branches on it. Whatever fails a test takes the long way, which knows all cases.

use std::{hint::select_unpredictable, sync::atomic::Ordering::Relaxed};

use super::{
    Context,
    advance::{is_nat, method},
};
use crate::{
    addr::Family,
    clock::Tick,
    endpoint::{AVAILABLE, Endpoint, Method},
    flow::{
        Control, Direction, Ends, Entry, Look, Probe, Steady,
        flag::{CONTROLLED, NO_OUTPUT},
        state::{self, Step},
    },
    forward::{self, Tunnel},
    packet::Packet,
    route::Path,
    stats::EndpointStats,
    verdict::Verdict,
    wire::frame::{
        plain::Plain,
        shape::{L3, L4_V4, L4_V6, Shape},
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

impl<'a> Ordinary<'a> {
    /// What there is to read, while `secure_tcp` is or is not in force.
    pub(super) fn new(cx: &Context<'a>, secure_tcp: bool) -> Self {
        let routes = &cx.snapshot.routes;
        Self {
            look: cx.table.look(),
            endpoints: cx.endpoints.all(),
            stats: cx.stats.endpoints(),
            steady: Steady::new(secure_tcp),
            paths: [&cx.snapshot.paths, routes.numbered()],
            generation: routes.generation,
            now: cx.now,
            pmtu_disc: cx.snapshot.settings.pmtu_disc,
            secure_tcp,
        }
    }

    /// Forwards a packet if it is an ordinary one of the flow that `probe` found; if not, nothing has
    /// changed.
    #[inline(always)]
    pub(super) fn take(
        &self,
        shape: Shape,
        packet: &mut Packet<'_>,
        probe: Probe,
        next_id: &mut u16,
    ) -> Option<Verdict> {
        let flow = self.look.candidate(probe)?;
        match shape {
            Shape::V4 => self.forward::<L4_V4, { L4_V4 + 4 }, false>(packet, flow, next_id),
            Shape::V6 => self.forward::<L4_V6, { L4_V6 + 4 }, false>(packet, flow, next_id),
            Shape::Other => None,
        }
    }

    /// The same for the packet that a flow was just made for, whose state it has already.
    pub(super) fn take_first(
        &self,
        shape: Shape,
        packet: &mut Packet<'_>,
        flow: (&Entry, Direction),
        next_id: &mut u16,
    ) -> Option<Verdict> {
        match shape {
            Shape::V4 => self.forward::<L4_V4, { L4_V4 + 4 }, true>(packet, flow, next_id),
            Shape::V6 => self.forward::<L4_V6, { L4_V6 + 4 }, true>(packet, flow, next_id),
            Shape::Other => None,
        }
    }

    /// Forwards a packet of this shape if it is an ordinary one of the flow that `probe` found; if
    /// not, nothing has changed.
    #[inline(always)]
    fn forward<const L4: usize, const HEAD: usize, const FIRST: bool>(
        &self,
        packet: &mut Packet<'_>,
        (entry, direction): (&Entry, Direction),
        next_id: &mut u16,
    ) -> Option<Verdict> {
        let mut frame = Plain::<L4, HEAD>::of(packet.bytes_mut())?;
        let d = direction as usize;
        let control = entry.control();
        let id = entry.real().0 as usize;
        let (real, virt) = (self.endpoints.get(id)?, self.endpoints.get(entry.virt().0 as usize)?);
        let is_reply = direction == Direction::ToClient;
        let (old, new) = select_unpredictable(is_reply, (real, virt), (virt, real));
        let ((client, client_port), (other, other_port)) = (frame.end(d), frame.end(1 - d));
        let ends = Ends { client, client_port, other, other_port, protocol: frame.protocol() };
        if !entry.is_of(&ends, old, control)
            || !(self.steady.holds(control, direction, frame.flags())
                || FIRST && self.is_first(entry, control, frame.flags()))
            || real.flags() & AVAILABLE == 0
            || frame.ttl() <= 1
        {
            return None;
        }
        let path = self.path(entry, is_reply, id)?;
        let is_nat = is_nat(control);
        let octets = frame.octets();
        let overhead = if is_nat { 0 } else { overhead(method(control), real)? };
        if !has_room(u32::from(octets) + overhead, real, path) {
            return None;
        }
        let checksum = frame.finished_checksum()?;
        if is_nat {
            let (before, after) = (old.brief(), new.brief());
            let port = match (before.port(), after.port()) {
                // An end that takes every port leaves the port as it is; then so does the other.
                (0, 0) => other_port,
                (0, _) | (_, 0) => return None,
                (_, port) => port,
            };
            let change = before.change_to(after);
            frame.translate(1 - d, (new.addr(), port), checksum, change);
        } else {
            frame.hop();
        }
        if entry.seen() != self.now {
            entry.touch(self.now);
        }
        // Where the flow hangs on a template, that stands in place of the octets to the client.
        let is_slot = control.has(CONTROLLED) && cold(is_reply);
        entry.count(direction, if is_slot { 0 } else { octets.into() });
        if let Some(stats) = self.stats.get(id) {
            stats.count(direction, octets.into());
        }
        // Of the methods that this way knows only a tunnel adds octets.
        if overhead > 0 {
            packet.truncate(L3 + usize::from(octets));
            return Some(self.encapsulate::<L4>(packet, real, path, next_id));
        }
        frame.set_link(path.link());
        packet.truncate(L3 + usize::from(octets));
        Some(Verdict::Tx(path.device))
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

    /// The way to the real server `id`, or back to the client if the entry still knows it.
    #[inline(always)]
    fn path(&self, entry: &Entry, is_reply: bool, id: usize) -> Option<&'a Path> {
        let (number, generation) = entry.client_path();
        let [to_real, to_client] = self.paths;
        let paths = select_unpredictable(is_reply, to_client, to_real);
        let at = select_unpredictable(is_reply, usize::from(number), id);
        let generation = select_unpredictable(is_reply, generation, self.generation);
        if generation != self.generation {
            return None;
        }
        paths.get(at)
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

/// Octets that a method adds to a packet; none for those that only the long way knows.
#[inline(always)]
fn overhead(method: Method, real: &Endpoint) -> Option<u32> {
    match method {
        Method::Dr => Some(0),
        Method::Ipip => Some(forward::overhead(method, real.addr().family(), 0).into()),
        _ => None,
    }
}

/// Whether a packet of so many octets can leave at once.
#[inline(always)]
fn has_room(octets: u32, real: &Endpoint, path: &Path) -> bool {
    let learned = real.learned_mtu.load(Relaxed);
    octets <= u32::from(path.room()) && (learned == 0 || cold(octets <= learned))
}

/// Tells the compiler that this is hardly ever asked.
#[cold]
#[inline(never)]
const fn cold(answer: bool) -> bool {
    answer
}
