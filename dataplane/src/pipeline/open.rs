//! A packet of no known flow: opens one, is answered, or belongs to the host.
//!
//! Source: Linux `ip_vs_core.c`, `ip_vs_try_to_schedule`, `ip_vs_schedule`, `ip_vs_out_hook`;
//! `ip_vs_conn.c`, `ip_vs_conn_new`.

use super::{
    Context, Met, Outcome, Pipeline,
    advance::{method, method_flags},
    ahead::Picked,
    call,
    fullnat::Local,
    icmp::hop,
    send::Hop,
    template::Placed,
};
use crate::{
    addr::Addr,
    endpoint::{Bound, EndpointId, Endpoints, Method},
    flow::{
        Direction, Entry, FlowId, FlowKey, FlowTable, InsertError, Inserted, NewFlow,
        flag::{CONTROLLED, HALF_OPEN, INACTIVE, NO_OUTPUT, ONE_WAY},
        state::{self, Sloppy},
        tcp, timeout,
    },
    forward,
    packet::Packet,
    sched::Pick,
    service::Service,
    spec::ServiceKey,
    verdict::{DropReason, Verdict},
    wire::{frame::Parsed, protocol},
};

/// Stands for the template of a flow that hangs on none: slot 0 is never given out.
pub(super) const NO_TEMPLATE: FlowId = FlowId { slot: 0, generation: 0 };

/// The source port of active FTP's data connections. A packet from it opens no flow: with nat
/// it belongs to one already, or it is a real server's own.
const FTP_DATA: u16 = 20;

/// What became of a packet that asked for a real server.
pub(super) enum Scheduled {
    /// It has a flow: a new one, or another worker's that was faster.
    Flow(FlowId, Direction),
    /// It goes to this real server and leaves no flow (`-o`).
    Alone {
        /// What its client sees; whoever has sent the packet gives the count on it back.
        virt: EndpointId,
        /// Who serves it.
        real: EndpointId,
    },
    /// There is no real server to be had.
    Nowhere,
}

/// State, time-out class and load of a flow that has had no packet yet.
const FRESH: (u8, u8, Bound) = (0, timeout::FRESH, Bound::Inactive);

/// Where a packet goes that no flow is made for; what its real server answers cannot be translated,
/// so full NAT is nat.
pub(super) fn alone(cx: &Context<'_>, (virt, real): (EndpointId, EndpointId), longest: u16) -> Hop {
    let method = match cx.endpoints.get(real).method() {
        Method::FullNat => Method::Nat,
        method => method,
    };
    Hop { virt, real, method, slot: 0, longest }
}

/// Takes back what a flow that did not come about was bound to.
fn unbind(cx: &Context<'_>, (real, bound): (EndpointId, Bound), local: Option<Local>) {
    cx.endpoints.get(real).unbind(bound);
    if let Some((local, _)) = local {
        cx.endpoints.get(local).release();
    }
}

/// The port that stands for the port 0 of a service that takes every port.
pub(super) fn any_port(cx: &Context<'_>, key: &FlowKey, virt: EndpointId) -> u16 {
    if cx.endpoints.get(virt).port() == 0 { key.destination_port } else { 0 }
}

/// What the client of a new flow to `real` sees: the service's own endpoint, or, if the service has
/// many, that of this destination, with a count on it. Its port is 0 where the real server's is:
/// then both are the packet's.
pub(super) fn destination(
    cx: &Context<'_>,
    key: &FlowKey,
    service: &Service,
    real: EndpointId,
) -> Result<EndpointId, DropReason> {
    let every_port = cx.endpoints.get(service.endpoint).port() == 0;
    let port = match cx.endpoints.get(real).port() {
        0 => 0,
        _ if every_port => key.destination_port,
        _ => 0,
    };
    if port == 0 && matches!(service.key, ServiceKey::Address { .. }) {
        return Ok(service.endpoint);
    }
    take(cx.table, cx.endpoints, (key.destination, port)).ok_or(DropReason::DestinationsFull)
}

/// Takes a count on the endpoint of a destination.
pub(super) fn take(
    table: &FlowTable,
    endpoints: &Endpoints,
    (addr, port): (Addr, u16),
) -> Option<EndpointId> {
    let named = FlowKey { destination: addr, destination_port: port, ..FlowKey::default() };
    endpoints.destination(addr, port, table.hash(&named).bits())
}

/// Whether a packet that no flow knows may open one.
pub(super) fn may_open(cx: &Context<'_>, parsed: &Parsed) -> bool {
    let settings = &cx.snapshot.settings;
    let sloppy = Sloppy { tcp: settings.sloppy_tcp, sctp: settings.sloppy_sctp };
    parsed.key.source_port != FTP_DATA && state::opens(parsed.key.protocol, parsed.flags, sloppy)
}

/// Whether what finds no real server goes where its sender sent it (`cache_bypass`): packets for other
/// hosts that a firewall mark brings to a service, which stands for caches then. The kernel makes
/// a flow for it; here the host's own routing decides about each packet.
fn bypasses(cx: &Context<'_>, key: &FlowKey, service: &Service) -> bool {
    cx.snapshot.settings.cache_bypass
        && matches!(service.key, ServiceKey::Mark { .. })
        && !cx.snapshot.routes.is_local(key.destination)
}

impl Pipeline {
    /// A packet that no flow knows.
    #[cold]
    pub(super) fn miss(
        &mut self,
        cx: &Context<'_>,
        packet: &mut Packet<'_>,
        parsed: Met<'_>,
    ) -> Outcome {
        match cx.snapshot.find(&parsed.key) {
            Some(service) => self.open(cx, packet, parsed, service),
            None => self.unknown(cx, packet, parsed),
        }
    }

    /// A packet to a service: schedules it if it may open a flow.
    fn open(
        &mut self,
        cx: &Context<'_>,
        packet: &mut Packet<'_>,
        parsed: Met<'_>,
        service: &Service,
    ) -> Outcome {
        if parsed.short && parsed.key.protocol != protocol::UDP {
            return Err(DropReason::ShortTransport);
        }
        if !may_open(cx, &parsed) {
            if bypasses(cx, &parsed.key, service) {
                return Ok(Verdict::Host);
            }
            return self.stray(cx, packet, &parsed);
        }
        let message = call::message(service, packet, &parsed);
        let scheduled = self.schedule(cx, &parsed, service, message)?;
        if matches!(scheduled, Scheduled::Nowhere) && bypasses(cx, &parsed.key, service) {
            return Ok(Verdict::Host);
        }
        self.send_first(cx, packet, parsed, scheduled)
    }

    /// Goes on with a packet that asked for a real server.
    pub(super) fn send_first(
        &mut self,
        cx: &Context<'_>,
        packet: &mut Packet<'_>,
        parsed: Met<'_>,
        scheduled: Scheduled,
    ) -> Outcome {
        match scheduled {
            Scheduled::Flow(id, direction) => {
                let flow = cx.table.get(id).ok_or(DropReason::TableFull)?;
                match direction {
                    Direction::ToReal => self.request(cx, packet, parsed, flow),
                    Direction::ToClient => self.response(cx, packet, parsed, flow),
                }
            }
            Scheduled::Alone { virt, real } => {
                let octets = u64::from(parsed.end - parsed.l3);
                cx.stats.endpoint(real).count_in(octets);
                let hop = alone(cx, (virt, real), parsed.longest);
                let outcome = self.forward(cx, packet, &parsed, hop);
                cx.endpoints.release(virt);
                outcome
            }
            Scheduled::Nowhere => {
                self.port_unreachable(cx, packet, &parsed);
                Err(DropReason::NoRealServer)
            }
        }
    }

    /// An ICMP error about a packet of no flow: with `schedule_icmp` it opens the flow that the
    /// packet would have belonged to and goes to its real server, where somebody may know more. The
    /// kernel sends no error about an error where there is no real server.
    pub(super) fn open_for_error(
        &mut self,
        cx: &Context<'_>,
        packet: &mut Packet<'_>,
        parsed: Met<'_>,
    ) -> Option<Outcome> {
        let key = parsed.key.reversed();
        let service = cx.snapshot.find(&key)?;
        if key.source_port == FTP_DATA {
            return None;
        }
        let asked = Parsed { key, ..*parsed };
        // A message that is only quoted names no call.
        let (hop, alone) = match self.schedule(cx, &asked, service, &[]) {
            Ok(Scheduled::Flow(id, _)) => (hop(cx.table.get(id)?, parsed.longest), None),
            Ok(Scheduled::Alone { virt, real }) => {
                (alone(cx, (virt, real), parsed.longest), Some(virt))
            }
            Ok(Scheduled::Nowhere) => return Some(Err(DropReason::NoRealServer)),
            Err(reason) => return Some(Err(reason)),
        };
        cx.stats.endpoint(hop.real).count_in(u64::from(parsed.end - parsed.l3));
        let outcome = self.forward(cx, packet, &parsed, hop);
        if let Some(virt) = alone {
            cx.endpoints.release(virt);
        }
        Some(outcome)
    }

    /// Finds a real server for a packet to a service and makes the flow. `message` is what the
    /// service's engine looks at.
    pub(super) fn schedule(
        &mut self,
        cx: &Context<'_>,
        parsed: &Parsed,
        service: &Service,
        message: &[u8],
    ) -> Result<Scheduled, DropReason> {
        if self.defence.drops_packet() {
            return Err(DropReason::Defence);
        }
        let placed = match (service.persistence, service.engine) {
            (Some(persistence), Some(_)) => {
                self.place_call(cx, (parsed, message), (service, persistence))?
            }
            (Some(persistence), None) => self.place(cx, parsed, (service, persistence))?,
            (None, _) => {
                let picked = self.picked.as_ref().map(|picked| picked.real);
                let real = picked.or_else(|| self.pick(cx, parsed, service));
                real.map(|real| (real, NO_TEMPLATE))
            }
        };
        let Some((real, template)) = placed else { return Ok(Scheduled::Nowhere) };
        if service.one_packet && parsed.key.protocol == protocol::UDP {
            let virt = destination(cx, &parsed.key, service, real)?;
            cx.stats.endpoint(real).conns.add(1);
            return Ok(Scheduled::Alone { virt, real });
        }
        let (id, direction) =
            self.create(cx, parsed, service, (real, template)).inspect_err(|_| {
                cx.stats.work.flows_refused.add(1);
            })?;
        Ok(Scheduled::Flow(id, direction))
    }

    /// The real server of a new flow.
    pub(super) fn pick(
        &mut self,
        cx: &Context<'_>,
        parsed: &Parsed,
        service: &Service,
    ) -> Option<EndpointId> {
        let pick = Pick {
            reals: &service.reals,
            endpoints: cx.endpoints,
            client: parsed.key.source,
            client_port: parsed.key.source_port,
            destination: parsed.key.destination,
            destination_port: parsed.key.destination_port,
            protocol: parsed.key.protocol,
            now: cx.now,
        };
        let at = service.scheduler.pick(&pick, &service.state, &mut self.rng)?;
        service.reals.get(at).map(|real| real.id)
    }

    /// Makes a flow: bound to its real server, inactive, without a state, unless it was picked ahead.
    /// Another worker may have been faster: then it is that one's flow.
    pub(super) fn create(
        &mut self,
        cx: &Context<'_>,
        parsed: &Parsed,
        service: &Service,
        (real, template): Placed,
    ) -> Result<(FlowId, Direction), DropReason> {
        let (method, local) = self.local_end(cx, &parsed.key, real)?;
        let virt = destination(cx, &parsed.key, service, real)?;
        let one_way = if method.translates() { 0 } else { ONE_WAY | NO_OUTPUT };
        let controlled = if template == NO_TEMPLATE { 0 } else { CONTROLLED };
        // Bound before it is visible: the load is never less than what flows name.
        let picked = self.picked.take();
        if picked.is_none() {
            cx.endpoints.get(real).bind(Bound::Inactive);
        }
        let (state, class, bound) = picked.map_or(FRESH, |picked| picked.state());
        let half_open = if state::is_half_open(parsed.key.protocol, state) { HALF_OPEN } else { 0 };
        let inactive = if bound == Bound::Active { 0 } else { INACTIVE };
        let new = NewFlow {
            key: parsed.key,
            virt,
            real,
            state,
            class,
            flags: inactive | one_way | half_open | controlled | method_flags(method),
            timeout: cx.snapshot.timeouts.ticks(class),
            local,
            any_port: any_port(cx, &parsed.key, virt),
        };
        if let Some((local, _)) = local {
            cx.endpoints.get(local).hold();
        }
        let inserted = match picked.and_then(Picked::prepared).filter(|_| local.is_none()) {
            Some(prepared) => self.table.commit(&new, prepared, cx.endpoints, cx.now),
            None => self.table.insert(&new, cx.endpoints, cx.now),
        };
        match inserted {
            Ok(Inserted::New(flow)) => {
                cx.stats.work.flows_created.add(1);
                cx.stats.endpoint(real).conns.add(1);
                if controlled != 0 {
                    flow.set_template(template.slot);
                    if let Some(template) = cx.table.get(template) {
                        template.control_one();
                    }
                }
                self.want_client(cx, &flow);
                Ok((flow.id(), Direction::ToReal))
            }
            Ok(Inserted::Existing(flow, direction)) => {
                unbind(cx, (real, bound), local);
                cx.endpoints.release(virt);
                Ok((flow.id(), direction))
            }
            Err(error) => {
                unbind(cx, (real, bound), local);
                cx.endpoints.release(virt);
                Err(match error {
                    InsertError::Full | InsertError::NoRoom => DropReason::TableFull,
                    InsertError::HalfOpen => DropReason::HalfOpenQuota,
                })
            }
        }
    }

    /// Asks for the client's link address as soon as its flow begins, so that it is known when
    /// the first reply comes.
    fn want_client(&self, cx: &Context<'_>, flow: &Entry) {
        if method(flow.control()).translates() {
            let path = self.client_path(cx, flow);
            if path.routed && !path.resolved {
                self.want(&path);
            }
        }
    }

    /// A packet to a service that opens no flow and belongs to none: what the host's own stack
    /// would say, which knows no such connection either.
    fn stray(&mut self, cx: &Context<'_>, packet: &Packet<'_>, parsed: &Parsed) -> Outcome {
        if parsed.key.protocol != protocol::TCP {
            return Ok(Verdict::Host);
        }
        if parsed.flags & tcp::RST == 0 {
            self.reset(cx, packet, parsed);
        }
        Ok(Verdict::Consumed)
    }

    /// A packet to no service.
    fn unknown(&mut self, cx: &Context<'_>, packet: &mut Packet<'_>, parsed: Met<'_>) -> Outcome {
        let key = &parsed.key;
        if !cx.snapshot.callers.is_empty()
            && let Some(outcome) = self.open_from_real(cx, packet, parsed)
        {
            return outcome;
        }
        if cx.snapshot.is_vip(key.source)
            && let Some((flow, Direction::ToReal)) = cx.table.lookup(&key.reversed(), cx.endpoints)
            && flow.control().has(ONE_WAY)
        {
            return Ok(self.passing_reply(cx, packet, &parsed, flow));
        }
        let is_real = [key.source_port, 0]
            .iter()
            .any(|&port| cx.snapshot.nat_reals.contains(&(key.protocol, key.source, port)));
        if cx.snapshot.settings.nat_icmp_send && is_real {
            let reset = key.protocol == protocol::TCP && parsed.flags & tcp::RST != 0;
            if !reset && parsed.ttl > 1 {
                // The kernel asks this where it forwards: one hop is already taken off.
                forward::decrement_ttl(packet, &parsed);
                self.port_unreachable(cx, packet, &parsed);
                return Err(DropReason::NoDestination);
            }
        }
        Ok(Verdict::Host)
    }
}
