//! Flows as they are listed.

use super::{
    Director,
    spec::{EngineData, FlowInfo},
};
use crate::{
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
            virt: end(flow.virt),
            real: end(flow.real),
            packets: (to_real, to_client),
            bytes: (octets_to_real, octets_to_client),
            engine,
        })
    }
}
