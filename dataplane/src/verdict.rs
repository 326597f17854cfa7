//! What becomes of a packet: exactly one verdict, counted once.

/// Names one device of a worker: an interface's place in the configuration. Every worker numbers
/// the interfaces alike, so the id also names the interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(pub u8);

impl DeviceId {
    /// The host's own stack, where a real server on the box itself lives: behind all interfaces.
    pub const HOST: Self = Self(16);
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Leaves through this device, rewritten in place.
    Tx(DeviceId),
    /// Belongs to the host's own stack.
    Host,
    /// Answered by us, or kept (a fragment, a packet that waits for its next hop); what answers it
    /// leaves through the outbox.
    Consumed,
    /// Dropped, for a reason.
    Drop(DropReason),
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal,)+) => {
        /// Why a packet was dropped. One octet, one counter each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name under which statistics, logs and `explain` show it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// What it means, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc,)+).trim_ascii(),)+
                }
            }
        }
    };
}

reasons! {
    /// Shorter than the headers it announces.
    Truncated => "truncated",
    /// An IP version, header length or extension chain that cannot be.
    MalformedHeader => "malformed-header",
    /// The IPv4 header checksum is wrong.
    BadHeaderChecksum => "bad-header-checksum",
    /// The checksum of an ICMP message is wrong.
    BadIcmpChecksum => "bad-icmp-checksum",
    /// An IPv6 packet with an IPv4-mapped address, or an address that cannot send or receive.
    MappedAddress => "martian-address",
    /// The transport header is cut short where it would have to be rewritten.
    ShortTransport => "short-transport",
    /// The real server was removed while its flows live on (`expire_nodest_conn` 0).
    NoDestination => "no-destination",
    /// The service has real servers, but its scheduler picked none, and no answer was due.
    NoRealServer => "no-real-server",
    /// The flow table has no room.
    TableFull => "table-full",
    /// The quota of half-open flows is used up.
    HalfOpenQuota => "half-open-quota",
    /// The service has many addresses, and no more destinations of flows can be remembered.
    DestinationsFull => "destinations-full",
    /// Full NAT: no local port is free for another flow to this real server.
    LocalPorts => "local-ports",
    /// No route leads there.
    NoRoute => "no-route",
    /// The next hop's link address is not known, and the waiting queue is full or timed out.
    NextHopUnresolved => "next-hop-unresolved",
    /// Time to live or hop limit used up; the sender was told where it may be.
    TtlExceeded => "ttl-exceeded",
    /// Too big for the path and not to be fragmented; the sender was told where it may be.
    TooBig => "too-big",
    /// No room in front of the packet for a tunnel header.
    NoHeadroom => "no-headroom",
    /// No room behind the packet.
    NoTailroom => "no-tailroom",
    /// Overlapping, oversized or contradictory fragments (RFC 5722, RFC 8200 section 4.5).
    BadFragment => "bad-fragment",
    /// An ICMP error about a flow that cannot be passed on by the flow's method.
    IcmpUntranslatable => "icmp-untranslatable",
    /// An answer was due but the rate limit for answers was reached.
    RateLimited => "rate-limited",
    /// The egress device had no room.
    TxRingFull => "tx-ring-full",
    /// Longer than the egress device can send.
    Oversized => "oversized",
    /// The verdict names a device that this worker does not have.
    NoSuchDevice => "no-such-device",
    /// The host hand-over had no room, or there is none.
    HostUnavailable => "host-unavailable",
    /// A packet to a service of the persistence engine sip that names no call.
    NoCallId => "no-call-id",
    /// There is no room for what the persistence engine keeps of another call.
    CallsFull => "calls-full",
    /// Dropped by the drop_packet or drop_entry defence.
    Defence => "defence",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_in_order_and_named_once() {
        for (number, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
        }
        let mut names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::COUNT);
    }
}
