//! The flows that are asked for: a page of the flow table, filtered.

use std::{collections::BTreeMap, time::Instant};

use dataplane::{
    addr::Addr,
    clock::{Clock as _, SystemClock},
    director::spec::FlowInfo,
    flow::{FlowId, FlowView},
};

use super::{
    Engine,
    drain::{States, name},
};

/// Slots of the flow table that one page passes at most, so that an answer comes soon even if
/// hardly a flow fits.
const SLOTS_A_PAGE: u32 = 1 << 17;

/// Flows that are looked at under the lock at a time, when all are.
const PORTION: usize = 4096;

/// One page of flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowPage {
    /// Slot of the flow table to start at.
    pub from: u32,
    /// At most this many flows.
    pub limit: usize,
    /// Which.
    pub filter: FlowFilter,
}

/// Address and port, each if it matters.
type End = (Option<Addr>, Option<u16>);

/// Which flows are meant; what is `None` fits everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// The virtual end.
    pub virt: End,
    /// The client.
    pub client: End,
    /// The real server.
    pub real: End,
    /// The name of the state, in letters of either size.
    pub state: Option<String>,
}

impl FlowFilter {
    /// Whether every flow is meant.
    pub fn is_any(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a flow is meant.
    pub fn fits(&self, flow: &FlowInfo) -> bool {
        let end = |(addr, port): End, is: (Addr, u16)| {
            addr.is_none_or(|addr| addr == is.0) && port.is_none_or(|port| port == is.1)
        };
        self.protocol.is_none_or(|protocol| protocol == flow.protocol)
            && end(self.virt, flow.virt)
            && end(self.client, flow.client)
            && end(self.real, flow.real)
            && self.state.as_ref().is_none_or(|state| state.eq_ignore_ascii_case(flow.state))
    }
}

impl Engine {
    /// One page of flows, and where the next begins; `None` after the last.
    pub fn flows(&self, page: &FlowPage) -> (Vec<FlowInfo>, Option<u32>) {
        let end = page.from.saturating_add(SLOTS_A_PAGE);
        let mut found = Vec::new();
        let mut next = None;
        // Copied without the lock: workers and changes need not wait for a long list.
        let mut views = self.table().flows(page.from).peekable();
        while let Some(view) = views.next_if(|view| view.id.slot < end) {
            found.push(view);
            if found.len() >= page.limit && page.filter.is_any() {
                break;
            }
        }
        if let Some(view) = views.peek() {
            next = Some(view.id.slot);
        }
        let flows = self.described(&found, page);
        match flows {
            (flows, None) => (flows, next),
            cut => cut,
        }
    }

    /// How many flows fit, by protocol and state. Looks at the whole table: not to be done on a
    /// thread that others need.
    pub fn count_flows(&self, filter: &FlowFilter) -> States {
        let mut counts = BTreeMap::<_, u64>::new();
        self.each_flow(filter, |view| *counts.entry((view.protocol, name(view))).or_default() += 1);
        counts.into_iter().map(|((protocol, name), count)| (protocol, name, count)).collect()
    }

    /// Ends the flows that fit; says how many. Looks at the whole table, like
    /// [`Engine::count_flows`].
    pub fn delete_flows(&self, filter: &FlowFilter) -> usize {
        let started = Instant::now();
        let mut ids: Vec<FlowId> = Vec::new();
        self.each_flow(filter, |view| ids.push(view.id));
        let snapshot = self.lock().director.compile();
        let ended = self.evictor().end(&ids, &snapshot, SystemClock.now());
        tracing::info!(flows = ended, took = ?started.elapsed(), "flows deleted");
        ended
    }

    /// Hands every flow that fits to `each`.
    fn each_flow(&self, filter: &FlowFilter, mut each: impl FnMut(&FlowView)) {
        let now = SystemClock.now();
        let mut views = self.table().flows(0);
        loop {
            let portion: Vec<_> = views.by_ref().take(PORTION).collect();
            if portion.is_empty() {
                return;
            }
            let state = self.lock();
            let fits = |view: &&FlowView| {
                state.director.flow_info(view, now).is_some_and(|flow| filter.fits(&flow))
            };
            portion.iter().filter(fits).for_each(&mut each);
        }
    }

    /// The flows that fit, in IPVS's words; if the page is full, where the next begins.
    fn described(&self, found: &[FlowView], page: &FlowPage) -> (Vec<FlowInfo>, Option<u32>) {
        let now = SystemClock.now();
        let state = self.lock();
        let mut flows = Vec::new();
        for view in found {
            // A flow whose time is over only waits to be swept.
            let Some(flow) = state.director.flow_info(view, now) else { continue };
            if !page.filter.fits(&flow) {
                continue;
            }
            if flows.len() >= page.limit {
                return (flows, Some(view.id.slot));
            }
            flows.push(flow);
        }
        (flows, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_set_must_fit() {
        let at = |last: u32, port| (Addr::v4(0x0a00_0000 | last), port);
        let flow = FlowInfo {
            protocol: 6,
            expires_s: 60,
            state: "SYN_RECV",
            client: at(1, 40000),
            virt: at(2, 80),
            real: at(3, 8080),
            packets: (1, 0),
            bytes: (60, 0),
            engine: None,
        };
        let any = FlowFilter::default();
        assert!(any.fits(&flow));
        let exact = FlowFilter {
            protocol: Some(6),
            virt: (Some(flow.virt.0), Some(80)),
            client: (Some(flow.client.0), None),
            real: (None, Some(8080)),
            state: Some("syn_recv".to_owned()),
        };
        assert!(exact.fits(&flow));
        for other in [
            FlowFilter { protocol: Some(17), ..exact.clone() },
            FlowFilter { virt: (Some(flow.real.0), Some(80)), ..exact.clone() },
            FlowFilter { virt: (Some(flow.virt.0), Some(81)), ..exact.clone() },
            FlowFilter { client: (Some(flow.virt.0), None), ..exact.clone() },
            FlowFilter { real: (None, Some(80)), ..exact.clone() },
            FlowFilter { state: Some("ESTABLISHED".to_owned()), ..exact.clone() },
        ] {
            assert!(!other.fits(&flow), "{other:?}");
        }
    }
}
