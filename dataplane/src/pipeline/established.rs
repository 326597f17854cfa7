//! The ordinary way: a packet of hot shape, of an established flow, about which nothing is special.
//!
//! Nearly all packets are like that. First it is made sure, with nothing changed yet: the flow is
//! the packet's, its real server is in service, the state stays as it is ([`Steady`]), the path is
//! known and has room, a hop is left, the checksum is a finished one. Then time, counters, headers:
//! the same steps in the same order as the long way ([`super::advance`], [`super::send`]), with the
//! same result, octet for octet. Whatever fails a test takes the long way, which knows all cases.

use std::sync::atomic::Ordering::Relaxed;

use super::{Context, advance::method};
use crate::{
    addr::Family,
    clock::Tick,
    endpoint::{AVAILABLE, Endpoint, Endpoints, Method},
    flow::{Direction, Ends, Look, Probe, Steady, flag::CONTROLLED},
    forward::{self, Tunnel},
    packet::Packet,
    route::Path,
    stats::WorkerStats,
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
    endpoints: &'a Endpoints,
    stats: &'a WorkerStats,
    steady: Steady,
    /// By direction: to the real servers by their ids, to the clients by the numbers that entries
    /// keep.
    paths: [&'a [Path]; 2],
    /// Those numbers' generation.
    generation: u16,
    now: Tick,
    pmtu_disc: bool,
}

impl<'a> Ordinary<'a> {
    /// What there is to read, while `secure_tcp` is or is not in force.
    pub(super) fn new(cx: &Context<'a>, secure_tcp: bool) -> Self {
        let routes = &cx.snapshot.routes;
        Self {
            look: cx.table.look(),
            endpoints: cx.endpoints,
            stats: cx.stats,
            steady: Steady::new(secure_tcp),
            paths: [&cx.snapshot.paths, routes.numbered()],
            generation: routes.generation,
            now: cx.now,
            pmtu_disc: cx.snapshot.settings.pmtu_disc,
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
        match shape {
            Shape::V4 => self.forward::<L4_V4, { L4_V4 + 4 }>(packet, probe, next_id),
            Shape::V6 => self.forward::<L4_V6, { L4_V6 + 4 }>(packet, probe, next_id),
            Shape::Other => None,
        }
    }

    /// Forwards a packet of this shape if it is an ordinary one of the flow that `probe` found; if
    /// not, nothing has changed.
    #[inline(always)]
    fn forward<const L4: usize, const HEAD: usize>(
        &self,
        packet: &mut Packet<'_>,
        probe: Probe,
        next_id: &mut u16,
    ) -> Option<Verdict> {
        let (entry, direction) = self.look.candidate(probe)?;
        let d = direction as usize;
        let control = entry.control();
        let (real, real_id) = (self.endpoints.get(entry.real()), entry.real());
        let virt = self.endpoints.get(entry.virt());
        let (old, new) = match direction {
            Direction::ToReal => (virt, real),
            Direction::ToClient => (real, virt),
        };
        let mut frame = Plain::<L4, HEAD>::of(packet.bytes_mut())?;
        let ((client, client_port), (other, other_port)) = (frame.end(d), frame.end(1 - d));
        let ends = Ends { client, client_port, other, other_port, protocol: frame.protocol() };
        let octets = frame.octets();
        let (client_path, generation) = entry.client_path();
        let numbers = [real_id.0, u32::from(client_path)];
        let path = self.paths[d].get(numbers[d] as usize)?;
        // Only what goes back to a client depends on it; and no branch on the direction.
        let outdated = u32::from(generation ^ self.generation) * direction as u32;
        let room = match real.learned_mtu.load(Relaxed) {
            0 => path.room().into(),
            learned => learned.min(path.room().into()),
        };
        let method = method(control);
        let overhead = match method {
            Method::Nat | Method::Dr => 0,
            Method::Ipip => forward::overhead(method, real.addr().family(), 0),
            _ => return None,
        };
        let checksum = frame.finished_checksum()?;
        if !entry.is_of(&ends, old, control)
            || !self.steady.holds(control, direction, frame.flags())
            || real.flags() & AVAILABLE == 0
            || u32::from(octets) + u32::from(overhead) > room
            || frame.ttl() <= 1
            || outdated != 0
        {
            return None;
        }
        if method == Method::Nat {
            let (before, after) = (old.brief(), new.brief());
            // An end that takes every port leaves the port as it is; then so does the other.
            if (before.port() == 0) != (after.port() == 0) {
                return None;
            }
            let port = if after.port() == 0 { other_port } else { after.port() };
            let sums = (before.sum(), after.sum());
            frame.translate(1 - d, (new.addr(), port), checksum, sums);
        } else {
            frame.hop();
        }
        entry.touch(self.now);
        let counted = if d == 1 && control.has(CONTROLLED) { 0 } else { octets };
        entry.count(direction, counted.into());
        self.stats.endpoint(real_id).count(direction, octets.into());
        if method == Method::Ipip {
            packet.truncate(L3 + usize::from(octets));
            return Some(self.encapsulate::<L4>(packet, real, path, next_id));
        }
        frame.set_link(path.link());
        packet.truncate(L3 + usize::from(octets));
        Some(Verdict::Tx(path.device))
    }

    /// Puts the packet behind an outer header.
    #[inline]
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
        match forward::ipip(packet, &tunnel) {
            Ok(()) => Verdict::Tx(path.device),
            Err(reason) => Verdict::Drop(reason),
        }
    }
}
