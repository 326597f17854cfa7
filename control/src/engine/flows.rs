//! The flows that are asked for: a page of the flow table, filtered.

use dataplane::{
    addr::Addr,
    clock::{Clock as _, SystemClock},
    director::spec::FlowInfo,
    flow::FlowView,
};

use super::Engine;

/// Slots of the flow table that one page passes at most, so that an answer comes soon even if
/// hardly a flow fits.
const SLOTS_A_PAGE: u32 = 1 << 17;

/// One page of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// The virtual end.
    pub virt: End,
    /// The client.
    pub client: End,
    /// The real server.
    pub real: End,
}

impl FlowFilter {
    /// Whether every flow is meant.
    fn is_any(&self) -> bool {
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
        };
        assert!(exact.fits(&flow));
        for other in [
            FlowFilter { protocol: Some(17), ..exact },
            FlowFilter { virt: (Some(flow.real.0), Some(80)), ..exact },
            FlowFilter { virt: (Some(flow.virt.0), Some(81)), ..exact },
            FlowFilter { client: (Some(flow.virt.0), None), ..exact },
            FlowFilter { real: (None, Some(80)), ..exact },
        ] {
            assert!(!other.fits(&flow), "{other:?}");
        }
    }
}
