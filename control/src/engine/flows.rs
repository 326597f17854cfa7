//! The flows that are asked for: a page of the flow table, filtered.

use dataplane::{addr::Addr, director::spec::FlowInfo};

/// One page of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowPage {
    /// Slot of the flow table to start at.
    pub from: u64,
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
