//! Persistence: templates pin a client, or a network of clients, to a real server.
//!
//! A template is an entry of the flow table under a key that no packet has: the client's address
//! masked, source port 0, the service's address and port. Its time-out starts anew with each
//! connection it places, not with packets. One that runs out while connections hang on it is held
//! for 60 s more, again and again. It ignores overload and, unless `expire_quiescent_template` is
//! set, weight 0. It becomes ASSURED when one of its connections is established.
//! One whose real server may no longer be used places nothing more; it is listed under port 65535
//! until it expires. Differing from the kernel: FTP's port 21 has no meaning of its own.
//! Source: Linux `ip_vs_core.c`, `ip_vs_sched_persist`; `ip_vs_conn.c`, `ip_vs_check_template`,
//! `ip_vs_conn_expire`.

use super::{Context, Pipeline, advance::method_flags};
use crate::{
    addr::Addr,
    clock::Tick,
    endpoint::{AVAILABLE, Bound, EndpointId, Endpoints, SHUNNED},
    flow::{
        Entry, FlowId, FlowKey, FlowRef, Inserted, NewFlow,
        flag::{HALF_OPEN, INACTIVE, TEMPLATE},
        timeout,
    },
    service::{Persistence, Service},
    spec::ServiceKey,
    verdict::DropReason,
    wire::frame::Parsed,
};

/// State of a template one of whose connections was established.
const ASSURED: u8 = 1;

/// The port of a template that places nothing more, as the kernel lists it.
const INVALID_PORT: u16 = u16::MAX;

/// What a template says: the real server, and itself.
pub(super) type Placed = (EndpointId, FlowId);

impl Pipeline {
    /// The real server of a new connection to a persistent service, and the template that says
    /// so; `None` if the scheduler has none.
    pub(super) fn place(
        &mut self,
        cx: &Context<'_>,
        parsed: &Parsed,
        (service, persistence): (&Service, Persistence),
    ) -> Result<Option<Placed>, DropReason> {
        let key = template_key(cx.endpoints, &parsed.key, (service, persistence));
        if let Some((template, _)) = cx.table.lookup(&key, cx.endpoints) {
            if is_good(cx, &template) {
                template.touch(cx.now);
                return Ok(Some((template.real(), template.id())));
            }
            self.invalidate(cx, template, &key);
        }
        let Some(real) = self.pick(cx, parsed, service) else { return Ok(None) };
        let new = NewFlow {
            key,
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
            Ok(Inserted::New(template)) => Ok(Some((real, template.id()))),
            Ok(Inserted::Existing(template, _)) => {
                cx.endpoints.get(real).unbind(Bound::Template);
                Ok(Some((template.real(), template.id())))
            }
            Err(_) => {
                cx.endpoints.get(real).unbind(Bound::Template);
                Err(DropReason::TableFull)
            }
        }
    }
}

impl Pipeline {
    /// Takes a template out of use: what is left of its time it stands under a key that is never
    /// asked for. If there is one already, or no room, it is gone at once.
    #[cold]
    fn invalidate(&mut self, cx: &Context<'_>, template: FlowRef<'_>, key: &FlowKey) {
        let (seen, real) = (template.control(), template.real());
        let left = template_deadline(cx, &template).since(cx.now);
        self.end(cx, template);
        let key = FlowKey { destination_port: INVALID_PORT, ..*key };
        let hash = cx.table.hash(&key).bits();
        let Some(virt) = cx.endpoints.destination(key.destination, INVALID_PORT, hash) else {
            return;
        };
        let new = NewFlow {
            key,
            virt,
            real,
            state: seen.state(),
            class: timeout::OWN,
            flags: seen.flags() & !HALF_OPEN,
            timeout: left,
            local: None,
            any_port: 0,
        };
        cx.endpoints.get(real).bind(Bound::Template);
        if !matches!(self.table.insert(&new, cx.endpoints, cx.now), Ok(Inserted::New(_))) {
            cx.endpoints.get(real).unbind(Bound::Template);
            cx.endpoints.release(virt);
        }
    }
}

/// What names the template of a client.
pub(super) fn template_key(
    endpoints: &Endpoints,
    key: &FlowKey,
    (service, persistence): (&Service, Persistence),
) -> FlowKey {
    let virt = endpoints.get(service.endpoint);
    FlowKey {
        source: masked(key.source, persistence.mask),
        // Of a firewall mark the mark itself: one template for all its addresses.
        destination: virt.addr(),
        source_port: 0,
        destination_port: virt.port(),
        protocol: match service.key {
            ServiceKey::Address { protocol, .. } => protocol,
            ServiceKey::Mark { .. } => 0,
        },
        template: true,
    }
}

/// A client's address as its template has it.
pub(super) fn masked(client: Addr, mask: u128) -> Addr {
    Addr::v6(client.bits() & mask)
}

/// Whether a template's real server may still be used.
pub(super) fn is_good(cx: &Context<'_>, template: &Entry) -> bool {
    let real = cx.endpoints.get(template.real());
    let quiescent = real.weight() == 0 && cx.snapshot.settings.expire_quiescent_template;
    real.flags() & (AVAILABLE | SHUNNED) == AVAILABLE && !quiescent
}

/// The template that a flow hangs on, if it is still there.
pub(super) fn template_of<'a>(cx: &Context<'a>, flow: &Entry) -> Option<FlowRef<'a>> {
    let template = cx.table.at(flow.template())?;
    (template.control().has(TEMPLATE) && template.real() == flow.real()).then_some(template)
}

/// Makes the template of a flow ASSURED.
pub(super) fn assure(cx: &Context<'_>, flow: &Entry) {
    if let Some(template) = template_of(cx, flow) {
        let seen = template.control();
        // Whoever changes it meanwhile ends it or does the same.
        template.try_update(seen, seen.with_state(ASSURED)).ok();
    }
}

/// When a template is over. One that runs out while flows hang on it is held, and then lives from
/// hold to hold.
pub(super) fn template_deadline(cx: &Context<'_>, template: &Entry) -> Tick {
    let control = template.control();
    let held = cx.snapshot.timeouts.ticks(timeout::HELD);
    let own = match control.class() {
        timeout::OWN => template.template_timeout(),
        _ => held,
    };
    let deadline = template.seen().plus(own);
    if template.controlled() == 0 || !cx.now.reached(deadline) {
        return deadline;
    }
    template.touch(cx.now);
    template.try_update(control, control.with_class(timeout::HELD)).ok();
    cx.now.plus(held)
}
