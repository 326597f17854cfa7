//! New flows, looked after ahead: between the stages, so that their memory is there when they are made.
//!
//! A packet of a group that no flow knows and that opens one with a service is scheduled, and its
//! real server bound, before the group is forwarded: then it is known where the word for the
//! replies belongs, and its bucket, the free entry and its due octet are fetched while others are at
//! work. When the packet's turn comes, the flow is made as ever, but with the real server picked here
//! and the state that the packet gives it. Schedulers see the flows of a group in order, as they
//! come. Left to the long way alone: services with
//! persistence or one-packet scheduling, and everything while packets are dropped on purpose.

use arrayvec::ArrayVec;

use super::{
    Context, GROUP, Group, Met, Pipeline, Staged,
    established::Ordinary,
    open::{Scheduled, may_open},
};
use crate::{
    endpoint::{Bound, Endpoint, EndpointId, Method},
    flow::{
        Direction, FlowHash, FlowKey, Prepared,
        state::{self, Next, Step},
    },
    service::Service,
    verdict::Verdict,
    wire::frame::{
        Parsed,
        shape::{self, Shape},
    },
};

/// A packet that will make a flow.
#[derive(Debug)]
pub(super) struct Ahead<'a> {
    parsed: Parsed,
    service: &'a Service,
    picked: Picked,
}

/// Those of a group, in order.
pub(super) type AheadOfGroup<'a> = ArrayVec<Ahead<'a>, GROUP>;

/// A real server that was picked ahead and counts the flow already.
#[derive(Clone, Copy, Debug)]
pub(super) struct Picked {
    pub(super) real: EndpointId,
    /// What the first packet makes of the flow's state.
    next: Next,
    /// Where the flow belongs in the index, unless full NAT is yet to say where its replies do.
    prepared: Option<Prepared>,
}

impl Picked {
    /// State, time-out class and load that the flow begins with.
    pub(super) const fn state(self) -> (u8, u8, Bound) {
        (self.next.state, self.next.class, self.bound())
    }

    /// Where the flow belongs in the index, if that is known.
    pub(super) const fn prepared(self) -> Option<Prepared> {
        self.prepared
    }

    const fn bound(self) -> Bound {
        if self.next.active { Bound::Active } else { Bound::Inactive }
    }
}

impl Pipeline {
    /// Looks after those packets of a group that will make flows.
    #[cold]
    #[inline(never)]
    pub(super) fn look_ahead<'a>(
        &mut self,
        cx: &Context<'a>,
        group: &mut Group<'_, '_, '_>,
    ) -> AheadOfGroup<'a> {
        let mut ahead = AheadOfGroup::new();
        if self.defence.may_drop_packets() {
            return ahead;
        }
        for staged in group.iter_mut().filter(|staged| staged.probe.is_miss()) {
            let frame = staged.packet.bytes();
            let known = staged.checksum_at.map(Shape::of_checksum_at);
            let shape = known.unwrap_or_else(|| Shape::of(frame));
            let Some(parsed) = shape::read_as(shape, frame) else { continue };
            if let Some((service, picked)) = self.pick_ahead(cx, &parsed, staged.hash) {
                staged.ahead = u8::try_from(ahead.len()).ok();
                ahead.push(Ahead { parsed, service, picked });
            }
        }
        self.table.prefetch_slots(ahead.len());
        ahead
    }

    /// The real server of the flow that this packet will open, bound, if it opens one and nothing
    /// but its service's scheduler has a say in it.
    fn pick_ahead<'a>(
        &mut self,
        cx: &Context<'a>,
        parsed: &Parsed,
        hash: FlowHash,
    ) -> Option<(&'a Service, Picked)> {
        if !may_open(cx, parsed) {
            return None;
        }
        let service = cx.snapshot.find(&parsed.key)?;
        if service.persistence.is_some() || service.one_packet {
            return None;
        }
        let real = self.pick(cx, parsed, service)?;
        let endpoint = cx.endpoints.get(real);
        let next = state::transition(Step {
            protocol: parsed.key.protocol,
            direction: Direction::ToReal,
            state: 0,
            flags: parsed.flags,
            no_output: !endpoint.method().translates(),
            secure_tcp: self.defence.secure_tcp(),
        });
        let prepared = self.prepare(parsed, hash, endpoint);
        let picked = Picked { real, next, prepared };
        endpoint.bind(picked.bound());
        Some((service, picked))
    }

    /// Finds the buckets of a flow that will be made, and fetches them.
    fn prepare(&self, parsed: &Parsed, hash: FlowHash, real: &Endpoint) -> Option<Prepared> {
        let port = if real.port() == 0 { parsed.key.destination_port } else { real.port() };
        let reply = FlowKey { source: real.addr(), source_port: port, ..parsed.key.reversed() };
        match real.method() {
            Method::Nat => Some(self.table.prepare(hash, Some(&reply))),
            Method::FullNat => {
                let _fetched = self.table.prepare(hash, None);
                None
            }
            _ => Some(self.table.prepare(hash, None)),
        }
    }

    /// Goes on with such a packet: makes the flow and sends the packet, the ordinary way if it can.
    #[inline(never)]
    pub(super) fn make_ahead(
        &mut self,
        cx: &Context<'_>,
        ordinary: &Ordinary<'_>,
        staged: &mut Staged<'_, '_, '_>,
        ahead: &Ahead<'_>,
    ) {
        self.picked = Some(ahead.picked);
        let parsed = Met::whole(&ahead.parsed);
        let scheduled = self.schedule(cx, &parsed, ahead.service, &[]);
        if let Some(picked) = self.picked.take() {
            // Nothing came of it.
            cx.endpoints.get(picked.real).unbind(picked.bound());
        }
        if let Ok(Scheduled::Flow(id, direction)) = scheduled
            && let Some(flow) = cx.table.get(id)
            && let Some(verdict) =
                ordinary.take_first(staged, (&flow, direction), &mut self.next_id)
        {
            staged.packet.verdict = verdict;
            return;
        }
        let outcome = scheduled.and_then(|s| self.send_first(cx, staged.packet, parsed, s));
        staged.packet.verdict = outcome.unwrap_or_else(Verdict::Drop);
    }
}
