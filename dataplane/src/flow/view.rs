//! A flow as control sees it: a copy of the entry as it was at one moment.

use super::{
    Direction, FlowId, Telling,
    control::{Control, flag},
    entry::Entry,
    sync::{Ordering::Acquire, fence},
};
use crate::{addr::Addr, clock::Tick, endpoint::EndpointId};

/// A copy of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowView {
    /// Its name.
    pub id: FlowId,
    /// State, time-out class and flags.
    pub control: Control,
    /// When it last had a packet.
    pub seen: Tick,
    /// The client's address.
    pub client: Addr,
    /// The client's port.
    pub client_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// The virtual endpoint.
    pub virt: EndpointId,
    /// The real endpoint.
    pub real: EndpointId,
    /// Full NAT: the endpoint of the local address and the local port.
    pub local: Option<(EndpointId, u16)>,
    /// The port that stands for an endpoint's port 0.
    pub any_port: u16,
    /// Packets to the real server and to the client, modulo 2^32.
    pub packets: [u32; 2],
    /// Octets likewise; none for a template.
    pub octets: [u32; 2],
    /// A template's own time-out in ticks.
    pub template_timeout: Option<u32>,
}

impl FlowView {
    /// Copies the entry, if it is a flow. Times, counters and path may be a packet newer than the
    /// rest.
    pub(super) fn of(entry: &Entry, slot: u32) -> Option<Self> {
        let control = entry.control();
        if !control.is_announced() {
            return None;
        }
        let both = [Direction::ToReal, Direction::ToClient];
        let template = control.has(flag::TEMPLATE);
        let view = Self {
            id: FlowId { slot, generation: control.generation() },
            control,
            seen: entry.seen(),
            client: entry.client(),
            client_port: entry.client_port(),
            protocol: entry.protocol(),
            virt: entry.virt(),
            real: entry.real(),
            local: control.has(flag::FULLNAT).then(|| (entry.local(), entry.local_port())),
            packets: both.map(|direction| entry.packets(direction)),
            any_port: entry.any_port(),
            octets: both.map(|direction| match direction {
                _ if template => 0,
                Direction::ToClient if control.has(flag::CONTROLLED) => 0,
                Direction::ToReal if entry.telling().0 != Telling::Over => 0,
                _ => entry.octets(direction),
            }),
            template_timeout: template.then(|| entry.template_timeout()),
        };
        // If a field of the slot's next life was read, the end of this one is seen now.
        fence(Acquire);
        let still = entry.control();
        (still.is_announced() && still.generation() == control.generation()).then_some(view)
    }
}
