//! What names a flow: the five-tuple of its packets.
//!
//! Below the wire, which reads keys from packets, and the flow table, which finds flows by them.

use crate::addr::Addr;

/// What names a flow in one direction: the five-tuple of a packet, in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source address.
    pub source: Addr,
    /// Destination address; of the same family.
    pub destination: Addr,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Whether this names a persistence template: such a key never equals a packet's.
    pub template: bool,
}

impl FlowKey {
    /// The key of packets in the other direction, addresses untranslated.
    #[inline]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
            template: self.template,
        }
    }
}
