//! The persistence engine sip: all datagrams of a call go to one real server.
//!
//! A template's key is the client's address, masked, the service and the Call-ID
//! ([`crate::calls`]). A datagram to the service that names no call is dropped, as the kernel drops
//! it. A nat real server may begin a call: then the datagram opens the flow backwards and leaves
//! with the service's address. A datagram of a known flow belongs to that flow, whatever it names:
//! `-o` has every one looked at.
//! Source: Linux `ip_vs_pe_sip.c`; `ip_vs_core.c`, `ip_vs_sched_persist`, `ip_vs_new_conn_out`,
//! `__ip_vs_rs_conn_out`.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

use super::{
    Context, Met, Outcome, Pipeline,
    advance::method_flags,
    open::{NO_TEMPLATE, alone},
    template::{Placed, is_good, masked},
};
use crate::{
    addr::Addr,
    calls::{Call, CallError, Calls},
    endpoint::{Bound, EndpointId},
    flow::{Direction, FlowId, FlowKey, Inserted, NewFlow, flag::INACTIVE, timeout},
    packet::Packet,
    service::{Engine, Persistence, Service},
    spec::ServiceKey,
    verdict::DropReason,
    wire::{frame::Parsed, protocol, sip, udp},
};

/// The payload of a UDP datagram, to services that have to look into it; empty for everything else.
pub(super) fn message<'a>(service: &Service, packet: &'a Packet<'_>, parsed: &Parsed) -> &'a [u8] {
    if service.engine.is_none() || parsed.key.protocol != protocol::UDP {
        return &[];
    }
    let start = usize::from(parsed.l4) + udp::LEN;
    packet.bytes().get(start..usize::from(parsed.end)).unwrap_or(&[])
}

/// The call of a message from this client.
fn call<'a>(
    cx: &Context<'_>,
    client: Addr,
    (service, persistence): (&Service, Persistence),
    message: &'a [u8],
) -> Option<Call<'a>> {
    let id = match service.engine {
        Some(Engine::Sip) => sip::call_id(message)?,
        None => return None,
    };
    let (client, virt) = (masked(client, persistence.mask), service.endpoint);
    // Keyed by the flow table's secret: nobody can aim at a bucket.
    let secret = |port| cx.table.hash(&FlowKey { source_port: port, ..FlowKey::default() }).bits();
    let mut hasher = SipHasher13::new_with_keys(secret(1), secret(2));
    hasher.write(&client.bits().to_le_bytes());
    hasher.write(&virt.0.to_le_bytes());
    hasher.write(id);
    Some(Call { client, virt, id, hash: hasher.finish() })
}

impl Pipeline {
    /// The real server of a message to a service with an engine, and the template that says so;
    /// `None` if the scheduler has none.
    pub(super) fn place_call(
        &mut self,
        cx: &Context<'_>,
        (parsed, message): (&Parsed, &[u8]),
        named: (&Service, Persistence),
    ) -> Result<Option<Placed>, DropReason> {
        let calls = cx.snapshot.calls.as_deref().ok_or(DropReason::CallsFull)?;
        let call = call(cx, parsed.key.source, named, message).ok_or(DropReason::NoCallId)?;
        if let Some(template) = calls.find(&call).and_then(|template| cx.table.get(template)) {
            if is_good(cx, &template) {
                template.touch(cx.now);
                return Ok(Some((template.real(), template.id())));
            }
            self.end(cx, template);
        }
        let Some(real) = self.pick(cx, parsed, named.0) else { return Ok(None) };
        self.pin(cx, (calls, &call), named, real).map(Some)
    }

    /// Makes the template of a call, unless another worker was faster: then that one's counts.
    fn pin(
        &self,
        cx: &Context<'_>,
        (calls, call): (&Calls, &Call<'_>),
        (service, persistence): (&Service, Persistence),
        real: EndpointId,
    ) -> Result<Placed, DropReason> {
        let made = calls.place(call, |name| self.template(cx, name, (service, persistence), real));
        match made {
            Ok(id) => {
                let template = cx.table.get(id).ok_or(DropReason::TableFull)?;
                Ok((template.real(), id))
            }
            Err(CallError::Full) => Err(DropReason::CallsFull),
            Err(CallError::Template(reason)) => Err(reason),
        }
    }

    /// Puts the template of a record of this name into the flow table.
    fn template(
        &self,
        cx: &Context<'_>,
        name: Addr,
        (service, persistence): (&Service, Persistence),
        real: EndpointId,
    ) -> Result<FlowId, DropReason> {
        let virt = cx.endpoints.get(service.endpoint);
        let new = NewFlow {
            key: FlowKey {
                source: name,
                destination: virt.addr(),
                source_port: 0,
                destination_port: virt.port(),
                protocol: match service.key {
                    ServiceKey::Address { protocol, .. } => protocol,
                    ServiceKey::Mark { .. } => 0,
                },
                template: true,
            },
            virt: service.endpoint,
            real,
            state: 0,
            class: timeout::OWN,
            flags: INACTIVE | method_flags(cx.endpoints.get(real).method()),
            timeout: persistence.timeout,
            local: None,
            any_port: 0,
        };
        cx.endpoints.get(real).bind(Bound::Template);
        match self.table.insert(&new, cx.endpoints, cx.now) {
            Ok(Inserted::New(template)) => Ok(template.id()),
            // Nobody else has this name; and if the table is full, there is no template.
            Ok(Inserted::Existing(..)) | Err(_) => {
                cx.endpoints.get(real).unbind(Bound::Template);
                Err(DropReason::TableFull)
            }
        }
    }

    /// A datagram that a real server sends of its own accord: if it may begin a call, it leaves with
    /// the service's address, and the answers come back to it. `None`: it is the host's.
    #[cold]
    pub(super) fn open_from_real(
        &mut self,
        cx: &Context<'_>,
        packet: &mut Packet<'_>,
        parsed: Met<'_>,
    ) -> Option<Outcome> {
        let key = &parsed.key;
        if key.protocol != protocol::UDP || parsed.short {
            return None;
        }
        let &(service, real) = cx.snapshot.callers.get(&(key.source, key.source_port))?;
        let service = cx.snapshot.services.get(service as usize)?;
        if let ServiceKey::Mark { .. } = service.key {
            // Of its many addresses none is the real server's to call from.
            return None;
        }
        let template = match service.persistence {
            Some(persistence) => {
                let calls = cx.snapshot.calls.as_deref()?;
                let named = (&**service, persistence);
                let message = message(service, packet, &parsed);
                let call = call(cx, key.destination, named, message)?;
                self.pinned(cx, (calls, &call), named, real).ok()?
            }
            None => NO_TEMPLATE,
        };
        let virt = cx.endpoints.get(service.endpoint);
        let asked = FlowKey {
            source: key.destination,
            destination: virt.addr(),
            source_port: key.destination_port,
            destination_port: virt.port(),
            ..*key
        };
        if service.one_packet {
            return Some(self.answer_alone(cx, packet, parsed, (service.endpoint, real)));
        }
        let turned = Parsed { key: asked, ..*parsed };
        let (id, direction) = self.create(cx, &turned, service, (real, template)).ok()?;
        let flow = cx.table.get(id).filter(|_| direction == Direction::ToReal)?;
        Some(self.response(cx, packet, parsed, flow))
    }

    /// The template of a call that this real server sends a message of: the one there is, if it is
    /// this real server's, else a new one.
    fn pinned(
        &mut self,
        cx: &Context<'_>,
        (calls, call): (&Calls, &Call<'_>),
        named: (&Service, Persistence),
        real: EndpointId,
    ) -> Result<FlowId, DropReason> {
        if let Some(template) = calls.find(call).and_then(|template| cx.table.get(template)) {
            if is_good(cx, &template) && template.real() == real {
                template.touch(cx.now);
                return Ok(template.id());
            }
            self.end(cx, template);
        }
        self.pin(cx, (calls, call), named, real).map(|(_, id)| id)
    }

    /// Sends a real server's datagram on for a service that keeps no flows (`-o`).
    fn answer_alone(
        &mut self,
        cx: &Context<'_>,
        packet: &mut Packet<'_>,
        parsed: Met<'_>,
        (virt, real): (EndpointId, EndpointId),
    ) -> Outcome {
        let path = cx.snapshot.routes.path(parsed.key.destination);
        self.may_reply(cx, packet, parsed, &path)?;
        cx.stats.endpoint(real).conns.add(1);
        cx.stats.endpoint(real).count_out(u64::from(parsed.end - parsed.l3));
        let hop = alone(cx, (virt, real), parsed.longest);
        self.reply(cx, packet, &parsed, (hop, &path))
    }
}
