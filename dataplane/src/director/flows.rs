//! Flows as they are listed.

use std::sync::atomic::Ordering::Relaxed;

use super::{
    Director,
    spec::{EngineData, FlowInfo, ServiceKey},
};
use crate::{
    addr::Addr,
    calls::Calls,
    clock::{TICKS_PER_SECOND, Tick},
    endpoint::AVAILABLE,
    flow::{
        FlowView, flag,
        state::{state_name, template_state_name},
        timeout,
    },
};

impl Director {
    /// Every real server with an upper threshold: its service, its name, whether it takes no new
    /// flows for that reason, and how many it has.
    pub fn limited_reals(&self) -> Vec<(ServiceKey, (Addr, u16), bool, u32)> {
        let reals = self
            .services
            .iter()
            .flat_map(|service| service.reals.iter().map(move |real| (service.spec.key, real)));
        let limited = reals.filter(|(_, real)| real.spec.upper != 0);
        let told = limited.map(|(key, real)| {
            let load = &self.endpoints.get(real.id).load;
            let overloaded = load.overloaded.load(Relaxed) != 0;
            (key, (real.spec.addr, real.spec.port), overloaded, load.total())
        });
        told.collect()
    }

    /// A flow, copied from the table, in the words of listings. What it names is looked up now: an
    /// endpoint that is gone is listed as an empty address. `None` if its time is over, or if it
    /// went with its real server (`expire_nodest_conn`): its next packet or a sweep takes it, and
    /// nobody shall see it till then.
    pub fn flow_info(&self, flow: &FlowView, now: Tick) -> Option<FlowInfo> {
        let gone = self.endpoints.get(flow.real).flags() & AVAILABLE == 0;
        if gone && self.settings.expire_nodest_conn {
            return None;
        }
        let template = flow.control.has(flag::TEMPLATE);
        let end = |id| {
            let endpoint = self.endpoints.get(id);
            let port = match endpoint.port() {
                0 => flow.any_port,
                port => port,
            };
            (endpoint.addr(), port)
        };
        let (virt, real) = (end(flow.virt), end(flow.real));
        // It places nothing more, and so the kernel writes its real server's port too.
        let invalid = template && self.endpoints.is_destination(flow.virt);
        let ticks = match flow.template_timeout {
            Some(own) if flow.control.class() == timeout::OWN => own,
            _ => self.timeouts.ticks(flow.control.class()),
        };
        let left = ticks.checked_sub(now.since(flow.seen)).filter(|left| *left > 0)?;
        let (client, engine) = match self.calls.as_ref().filter(|_| template) {
            Some(calls) if Calls::is_name(flow.client) => {
                let (client, id) = calls.describe(flow.client)?;
                let data = String::from_utf8_lossy(&id).into_owned();
                (client, Some(EngineData { name: "sip".to_owned(), data }))
            }
            _ => (flow.client, None),
        };
        let [to_real, to_client] = flow.packets.map(u64::from);
        let [octets_to_real, octets_to_client] = flow.octets.map(u64::from);
        Some(FlowInfo {
            protocol: flow.protocol,
            expires_s: left / TICKS_PER_SECOND,
            state: if template {
                template_state_name(flow.control.state() != 0)
            } else {
                state_name(flow.protocol, flow.control.state())
            },
            client: (client, flow.client_port),
            virt,
            real: if invalid { (real.0, virt.1) } else { real },
            packets: (to_real, to_client),
            bytes: (octets_to_real, octets_to_client),
            engine,
        })
    }
}
