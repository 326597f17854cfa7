//! A packet of a flow that is known: what it does to the flow, before it is forwarded.
//!
//! Source of the order of steps: Linux `ip_vs_core.c`, `ip_vs_in_hook` and `handle_response`;
//! for replies `ip_forward` comes first, so a reply whose time to live is over is not counted.

use super::{
    Context, Met, Outcome, Pipeline,
    fullnat::local_of,
    send::Hop,
    template::{assure, template_of},
};
use crate::{
    endpoint::{AVAILABLE, Bound, Endpoint, Method},
    flow::{
        Control, Direction, Entry, FlowRef, Telling,
        flag::{self, CONTROLLED, HALF_OPEN, INACTIVE, NO_OUTPUT, ONE_WAY, TEMPLATE},
        sctp,
        state::{self, Step},
        tcp,
    },
    packet::Packet,
    verdict::{DropReason, Verdict},
    wire::{frame::Parsed, protocol},
};

/// How often a state change is tried against other workers that change the same flow. Two
/// directions race at most; whoever loses this often leaves the state to the others.
const TRIES: u32 = 4;

impl Pipeline {
    /// A packet from the client.
    pub(super) fn request(
        &mut self,
        cx: &Context<'_>,
        packet: &mut Packet<'_>,
        parsed: Met<'_>,
        flow: FlowRef<'_>,
    ) -> Outcome {
        let entry: &Entry = &flow;
        let id = entry.real();
        let real = cx.endpoints.get(id);
        if state::begins(parsed.key.protocol, parsed.flags)
            && is_stale(cx, entry.control(), real, &parsed)
        {
            self.end(cx, flow);
            return self.miss(cx, packet, parsed);
        }
        if real.flags() & AVAILABLE == 0 {
            if !cx.snapshot.settings.expire_nodest_conn {
                return Err(DropReason::NoDestination);
            }
            self.end(cx, flow);
            return self.miss(cx, packet, parsed);
        }
        let octets = u32::from(parsed.end - parsed.l3);
        cx.stats.endpoint(id).count_in(u64::from(octets));
        // Until the real server knows its client, another number stands in their place.
        let counted = if entry.telling().0 == Telling::Over { octets } else { 0 };
        entry.count(Direction::ToReal, counted);
        self.advance(cx, packet, &parsed, (flow, Direction::ToReal));
        let hop = Hop {
            virt: entry.virt(),
            real: id,
            method: method(entry.control()),
            slot: flow.id().slot,
            longest: parsed.longest,
        };
        self.forward(cx, packet, &parsed, hop)
    }

    /// A packet from the real server.
    pub(super) fn response(
        &mut self,
        cx: &Context<'_>,
        packet: &mut Packet<'_>,
        parsed: Met<'_>,
        flow: FlowRef<'_>,
    ) -> Outcome {
        let entry: &Entry = &flow;
        let real = cx.endpoints.get(entry.real());
        if cx.snapshot.settings.expire_nodest_conn && real.flags() & AVAILABLE == 0 {
            // The flow went with its real server: this is a packet of no flow.
            self.end(cx, flow);
            return self.miss(cx, packet, parsed);
        }
        let path = self.client_path(cx, entry);
        self.may_reply(cx, packet, parsed, &path)?;
        let octets = u32::from(parsed.end - parsed.l3);
        cx.stats.endpoint(entry.real()).count_out(u64::from(octets));
        count_reply(entry, octets);
        self.advance(cx, packet, &parsed, (flow, Direction::ToClient));
        let hop = Hop {
            virt: entry.virt(),
            real: entry.real(),
            method: method(entry.control()),
            slot: flow.id().slot,
            longest: parsed.longest,
        };
        self.reply(cx, packet, &parsed, (hop, &path))
    }

    /// A reply that a real server of dr or a tunnel sends through the box: counted and followed,
    /// but the host's to route.
    pub(super) fn passing_reply(
        &mut self,
        cx: &Context<'_>,
        packet: &Packet<'_>,
        parsed: &Parsed,
        flow: FlowRef<'_>,
    ) -> Verdict {
        let octets = u32::from(parsed.end - parsed.l3);
        cx.stats.endpoint(flow.real()).count_out(u64::from(octets));
        count_reply(&flow, octets);
        self.advance(cx, packet, parsed, (flow, Direction::ToClient));
        Verdict::Host
    }

    /// Takes the flow's state on by one packet and starts its time-out anew.
    #[inline]
    fn advance(
        &mut self,
        cx: &Context<'_>,
        packet: &Packet<'_>,
        parsed: &Parsed,
        (flow, direction): (FlowRef<'_>, Direction),
    ) {
        let entry: &Entry = &flow;
        entry.touch(cx.now);
        if parsed.short {
            return;
        }
        let protocol = parsed.key.protocol;
        let flags = if protocol == protocol::SCTP {
            let (l4, end) = (usize::from(parsed.l4), usize::from(parsed.end));
            sctp::decisive_chunk(parsed.flags, &packet.bytes()[l4..end])
        } else {
            parsed.flags
        };
        if protocol == protocol::TCP && flags & (tcp::SYN | tcp::RST) != 0 {
            note_answer(cx, entry, direction, flags);
        }
        for _ in 0..TRIES {
            let seen = entry.control();
            let next = state::transition(Step {
                protocol,
                direction,
                state: seen.state(),
                flags,
                no_output: seen.has(NO_OUTPUT),
                secure_tcp: self.defence.secure_tcp(),
            });
            let half_open = state::is_half_open(protocol, next.state);
            let new = seen
                .with_state(next.state)
                .with_class(next.class)
                .without_flags(if half_open { 0 } else { HALF_OPEN })
                .without_flags(INACTIVE | NO_OUTPUT)
                .with_flags(if next.active { 0 } else { INACTIVE })
                .with_flags(if next.no_output { NO_OUTPUT } else { 0 });
            if new == seen || !seen.is_live() {
                return;
            }
            if entry.try_update(seen, new).is_ok() {
                if new.has(INACTIVE) != seen.has(INACTIVE) {
                    cx.endpoints.get(entry.real()).load.shift(next.active);
                }
                let timeouts = &cx.snapshot.timeouts;
                if next.assures && new.has(CONTROLLED) {
                    assure(cx, entry);
                }
                if new.class() != seen.class() {
                    self.table.expire_at(flow, timeouts.ticks(new.class()), cx.now);
                }
                return;
            }
        }
    }

    /// Removes a flow; whoever wins settles what it counted as.
    pub(super) fn end(&mut self, cx: &Context<'_>, flow: FlowRef<'_>) {
        if self.table.remove(flow, cx.endpoints) {
            settle(cx, &flow);
        }
    }
}

/// Settles what a flow or template that has just ended counted as: its entry still reads as it
/// was.
pub(super) fn settle(cx: &Context<'_>, ended: &Entry) {
    let control = ended.control();
    cx.endpoints.get(ended.real()).unbind(bound(control));
    cx.endpoints.release(ended.virt());
    if control.has(TEMPLATE)
        && let Some(calls) = &cx.snapshot.calls
    {
        calls.release(ended.client());
    }
    if let Some(local) = local_of(ended) {
        cx.endpoints.get(local).release();
    }
    if control.has(CONTROLLED)
        && let Some(template) = template_of(cx, ended)
    {
        template.release_one();
    }
}

/// Counts whether a real server accepts its connections, where its replies pass through us: its first
/// reply accepts or refuses, and a client that repeats its SYN has had none.
fn note_answer(cx: &Context<'_>, entry: &Entry, direction: Direction, flags: u8) {
    if !method(entry.control()).translates() {
        return;
    }
    let replies = entry.packets(Direction::ToClient);
    let stats = cx.stats.endpoint(entry.real());
    match direction {
        Direction::ToClient if replies == 1 && flags & tcp::RST != 0 => stats.failed.add(1),
        Direction::ToClient if replies == 1 => stats.accepted.add(1),
        Direction::ToReal
            if replies == 0
                && flags & (tcp::SYN | tcp::RST) == tcp::SYN
                && entry.packets(Direction::ToReal) == 2 =>
        {
            stats.failed.add(1);
        }
        Direction::ToReal | Direction::ToClient => {}
    }
}

/// Counts a packet to the client; a flow that hangs on a template has no room for the octets.
#[inline]
fn count_reply(entry: &Entry, octets: u32) {
    let octets = if entry.control().has(CONTROLLED) { 0 } else { octets };
    entry.count(Direction::ToClient, octets);
}

/// Where a flow's method stands among the flags: real servers may change theirs, flows keep it.
const METHOD_AT: u32 = flag::FIRST_FREE.trailing_zeros();

/// The flags that say by which method a flow's packets travel.
pub(super) const fn method_flags(method: Method) -> u16 {
    (method as u16) << METHOD_AT
}

/// Whether a flow's packets travel by nat.
#[inline(always)]
pub(super) const fn is_nat(control: Control) -> bool {
    const { assert!(method_flags(Method::Nat) == 0) };
    control.flags() & 7 << METHOD_AT == 0
}

/// The method that a flow was opened with.
#[inline]
pub(super) const fn method(control: Control) -> Method {
    Method::from_number((control.flags() >> METHOD_AT & 7) as u8)
}

/// As what a flow or template with this control word counts.
pub(super) const fn bound(control: Control) -> Bound {
    if control.has(TEMPLATE) {
        Bound::Template
    } else if control.has(INACTIVE) {
        Bound::Inactive
    } else {
        Bound::Active
    }
}

/// Whether a packet that begins a connection finds a flow that is over, or whose real server is
/// being drained while `expire_nodest_conn` is set.
fn is_stale(cx: &Context<'_>, control: Control, real: &Endpoint, parsed: &Parsed) -> bool {
    let settings = &cx.snapshot.settings;
    let drained = settings.expire_nodest_conn && real.weight() == 0;
    let no_output = control.has(NO_OUTPUT) && control.has(ONE_WAY);
    let protocol = parsed.key.protocol;
    let controlled = control.has(CONTROLLED);
    drained
        || !controlled
            && state::is_over(protocol, control.state(), no_output, settings.conn_reuse_mode)
}
