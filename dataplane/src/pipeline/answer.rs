//! What we say ourselves: ICMP errors, resets, echo replies.
//!
//! All go through the outbox, are bounded by [`Limiter`], and are never given to an ICMP error.
//! Errors to a client come from the VIP; errors to a real server from our own address on its
//! side. About a flow whose replies we never see they count as its output, as the kernel counts
//! them (its own ICMP passes the hook that watches replies).
//! Source: Linux `net/ipv4/icmp.c`, `__icmp_send`; `net/ipv4/tcp_ipv4.c`, `tcp_v4_send_reset`;
//! RFC 1812, section 4.3.2; RFC 4443, section 2.4.

use super::{Context, Outcome, Pipeline, send::Hop};
use crate::{
    addr::{Addr, Family},
    clock::{TICKS_PER_SECOND, Tick},
    packet::Packet,
    route::Path,
    verdict::{DropReason, Verdict},
    wire::{
        ethernet::{self, ethertype},
        frame::{Kind, Parsed},
        icmp,
        reply::{self, Report},
    },
};

/// Least MTU that an IPv6 link has.
const MTU_MIN_V6: u16 = 1280;

/// Bounds our own answers: so many per second, as many at once.
#[derive(Debug)]
pub(super) struct Limiter {
    /// Answers that may still be given.
    tokens: u32,
    /// Most there can be.
    per_second: u32,
    /// When tokens were last added.
    filled: Tick,
}

impl Limiter {
    /// So many answers per second.
    pub(super) const fn new(per_second: u32) -> Self {
        Self { tokens: per_second, per_second, filled: Tick(0) }
    }

    /// Whether one more may be given now.
    fn allows(&mut self, now: Tick) -> bool {
        let ticks = u64::from(now.since(self.filled));
        let more = ticks * u64::from(self.per_second) / u64::from(TICKS_PER_SECOND);
        if more > 0 {
            let tokens = u64::from(self.tokens) + more;
            self.tokens = u32::try_from(tokens).unwrap_or(u32::MAX).min(self.per_second);
            self.filled = now;
        }
        let allowed = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        allowed
    }
}

/// A packet that does not fit.
#[derive(Clone, Copy, Debug)]
pub(super) struct TooBig {
    /// What would fit, in octets.
    pub(super) mtu: u16,
    /// Where it was to go, if it came from a client.
    pub(super) hop: Option<Hop>,
}

impl Pipeline {
    /// Time to live used up. From a client if `hop` is given, else from a real server.
    #[cold]
    pub(super) fn time_exceeded(
        &mut self,
        cx: &Context<'_>,
        packet: &Packet<'_>,
        parsed: &Parsed,
        hop: Option<Hop>,
    ) {
        let from = self.speaker(cx, parsed, hop.is_some());
        self.error(cx, packet, parsed, (icmp::Header::time_exceeded(parsed.family), from, hop));
    }

    /// Too big and not to be fragmented.
    #[cold]
    pub(super) fn too_big(
        &mut self,
        cx: &Context<'_>,
        packet: &Packet<'_>,
        parsed: &Parsed,
        what: TooBig,
    ) {
        let from = self.speaker(cx, parsed, what.hop.is_some());
        let mtu = match parsed.family {
            Family::V4 => what.mtu,
            Family::V6 => what.mtu.max(MTU_MIN_V6),
        };
        let error = icmp::Header::too_big(parsed.family, mtu);
        self.error(cx, packet, parsed, (error, from, what.hop));
    }

    /// Nobody is there to take the packet.
    #[cold]
    pub(super) fn port_unreachable(
        &mut self,
        cx: &Context<'_>,
        packet: &Packet<'_>,
        parsed: &Parsed,
    ) {
        let from = self.speaker(cx, parsed, cx.snapshot.is_vip(parsed.key.destination));
        let error = icmp::Header::port_unreachable(parsed.family);
        self.error(cx, packet, parsed, (error, from, None));
    }

    /// The address we speak from: the VIP to a client, our own on the way to a real server.
    fn speaker(&self, cx: &Context<'_>, parsed: &Parsed, to_client: bool) -> Addr {
        if to_client {
            parsed.key.destination
        } else {
            cx.snapshot.routes.path(parsed.key.source).local
        }
    }

    /// Sends an ICMP error about `packet` back the way it came.
    fn error(
        &mut self,
        cx: &Context<'_>,
        packet: &Packet<'_>,
        parsed: &Parsed,
        (error, source, hop): (icmp::Header, Addr, Option<Hop>),
    ) {
        if parsed.kind != Kind::Flow || !self.may_answer(cx) {
            return;
        }
        let report = Report { error, source, id: self.take_id() };
        let mut octets = 0;
        self.outbox.push(packet.device, |slot| {
            let length = reply::error(packet.bytes(), parsed, report, slot)?;
            octets = length - usize::from(parsed.l3);
            Some(length)
        });
        count_output(cx, hop, octets);
    }

    /// Sends an ICMP error about a packet that was quoted to us.
    pub(super) fn report(
        &mut self,
        cx: &Context<'_>,
        quote: &[u8],
        (error, source, to): (icmp::Header, Addr, Addr),
        hop: Option<Hop>,
    ) {
        let path = cx.snapshot.routes.path(to);
        if !path.resolved {
            self.want(&path);
            return;
        }
        if !self.may_answer(cx) {
            return;
        }
        let report = Report { error, source, id: self.take_id() };
        let mut octets = 0;
        self.outbox.push(path.device, |slot| {
            let (link, ip) = slot.split_first_chunk_mut::<{ ethernet::LEN }>()?;
            octets = reply::error_packet(report, to, quote, ip)?;
            link_header(&path, to.family()).emit(link);
            Some(ethernet::LEN + octets)
        });
        count_output(cx, hop, octets);
    }

    /// Answers a stray TCP segment with a reset from the VIP.
    #[cold]
    pub(super) fn reset(&mut self, cx: &Context<'_>, packet: &Packet<'_>, parsed: &Parsed) {
        if self.may_answer(cx) {
            self.outbox.push(packet.device, |slot| reply::reset(packet.bytes(), parsed, slot));
        }
    }

    /// Answers an echo request to a VIP.
    #[cold]
    pub(super) fn echo(
        &mut self,
        cx: &Context<'_>,
        packet: &Packet<'_>,
        parsed: &Parsed,
    ) -> Outcome {
        if !self.may_answer(cx) {
            return Err(DropReason::RateLimited);
        }
        let id = self.take_id();
        let mtu = cx.snapshot.routes.path(parsed.key.source).mtu;
        if parsed.end - parsed.l3 <= mtu {
            let sent = self
                .outbox
                .push(packet.device, |slot| reply::echo(packet.bytes(), parsed, id, slot));
            return if sent { Ok(Verdict::Consumed) } else { Err(DropReason::TxRingFull) };
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let sent = reply::echo(packet.bytes(), parsed, id, &mut scratch)
            .filter(|_| usize::from(parsed.l3) == ethernet::LEN)
            .map(|length| self.send_pieces(packet.device, &scratch[..length], mtu));
        self.scratch = scratch;
        sent.unwrap_or(Err(DropReason::TooBig))
    }

    /// Whether one more answer may be given; a refusal is counted.
    fn may_answer(&mut self, cx: &Context<'_>) -> bool {
        let may = self.limiter.allows(cx.now);
        if !may {
            cx.stats.work.answers_suppressed.add(1);
        }
        may
    }

    /// The identification of the next IPv4 packet of our own.
    pub(super) const fn take_id(&mut self) -> u16 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }
}

/// Counts an error about a flow of dr or a tunnel as that flow's output.
fn count_output(cx: &Context<'_>, hop: Option<Hop>, octets: usize) {
    if let Some(hop) = hop
        && !hop.method.translates()
        && octets != 0
    {
        cx.stats.endpoint(hop.real).count_out(octets as u64);
    }
}

/// The link header of a packet of this family on this path.
const fn link_header(path: &Path, family: Family) -> ethernet::Header {
    let ethertype = match family {
        Family::V4 => ethertype::IPV4,
        Family::V6 => ethertype::IPV6,
    };
    ethernet::Header { source: path.source, destination: path.destination, ethertype }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_bounded_and_come_back_with_time() {
        let mut limiter = Limiter::new(32);
        let now = Tick(100);
        assert_eq!((0..100).filter(|_| limiter.allows(now)).count(), 32);
        assert_eq!((0..100).filter(|_| limiter.allows(now.plus(1))).count(), 2);
        assert_eq!((0..100).filter(|_| limiter.allows(now.plus(100))).count(), 32);
    }
}
