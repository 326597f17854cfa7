//! ICMP and ICMPv6 messages.
//!
//! | type 1 | code 1 | checksum 2 | depends on the type 4 | body |
//!
//! Source: RFC 792; RFC 1191 for the MTU in "fragmentation needed"; RFC 4443.

use super::{
    checksum::{Sum, pseudo},
    ipv4, ipv6, protocol, put, u32_at,
};
use crate::addr::{Addr, Family};

/// Length of the header in front of every body.
pub const LEN: usize = 8;

/// Offset of the checksum in the header.
pub const CHECKSUM_AT: usize = 2;

/// Longest IPv4 packet that reports an error (RFC 1812, section 4.3.2.3), in octets.
pub const ERROR_MAX_V4: usize = 576;

/// Octets of the packet in error that an error quotes at most: over IPv4 as many as make the
/// report [`ERROR_MAX_V4`] long, over IPv6 as many as make it [`ipv6::MTU_MIN`] long (RFC 4443,
/// section 2.4).
#[inline]
pub const fn quote_max(family: Family) -> usize {
    match family {
        Family::V4 => ERROR_MAX_V4 - ipv4::LEN - LEN,
        Family::V6 => ipv6::MTU_MIN - ipv6::LEN - LEN,
    }
}

/// Whether messages of this type report an error and quote a packet: destination unreachable,
/// source quench, time exceeded, parameter problem; of ICMPv6 destination unreachable, packet too
/// big, time exceeded, parameter problem. A redirect quotes too, but is no error of the flow.
#[inline]
pub const fn is_error(family: Family, kind: u8) -> bool {
    match family {
        Family::V4 => matches!(kind, 3 | 4 | 11 | 12),
        Family::V6 => matches!(kind, 1..=4),
    }
}

/// Type of an echo request.
#[inline]
pub const fn echo_request(family: Family) -> u8 {
    match family {
        Family::V4 => 8,
        Family::V6 => 128,
    }
}

/// Type of an echo reply.
#[inline]
pub const fn echo_reply(family: Family) -> u8 {
    match family {
        Family::V4 => 0,
        Family::V6 => 129,
    }
}

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The four octets that depend on the type: an MTU, a pointer, an echo's id and number.
    pub rest: u32,
}

impl Header {
    /// Nobody listens on this port.
    pub const fn port_unreachable(family: Family) -> Self {
        match family {
            Family::V4 => Self { kind: 3, code: 3, rest: 0 },
            Family::V6 => Self { kind: 1, code: 4, rest: 0 },
        }
    }

    /// The destination cannot be reached.
    pub const fn host_unreachable(family: Family) -> Self {
        match family {
            Family::V4 => Self { kind: 3, code: 1, rest: 0 },
            Family::V6 => Self { kind: 1, code: 3, rest: 0 },
        }
    }

    /// No route leads to the destination's network.
    pub const fn no_route(family: Family) -> Self {
        match family {
            Family::V4 => Self { kind: 3, code: 0, rest: 0 },
            Family::V6 => Self { kind: 1, code: 0, rest: 0 },
        }
    }

    /// The packet is longer than the next link's `mtu` and may not be fragmented.
    pub const fn too_big(family: Family, mtu: u16) -> Self {
        match family {
            Family::V4 => Self { kind: 3, code: 4, rest: mtu as u32 },
            Family::V6 => Self { kind: 2, code: 0, rest: mtu as u32 },
        }
    }

    /// Time to live or hop limit used up on the way.
    pub const fn time_exceeded(family: Family) -> Self {
        match family {
            Family::V4 => Self { kind: 11, code: 0, rest: 0 },
            Family::V6 => Self { kind: 3, code: 0, rest: 0 },
        }
    }

    /// The other fragments did not come in time.
    pub const fn reassembly_time_exceeded(family: Family) -> Self {
        Self { code: 1, ..Self::time_exceeded(family) }
    }

    /// Reads a header.
    #[inline]
    pub fn parse(octets: &[u8; LEN]) -> Self {
        Self { kind: octets[0], code: octets[1], rest: u32_at(octets, 4) }
    }

    /// Writes the header without a checksum: [`seal_v4`] or [`seal_v6`] adds it.
    #[inline]
    pub fn emit(self, out: &mut [u8; LEN]) {
        put(out, 0, [self.kind, self.code, 0, 0]);
        put(out, 4, self.rest.to_be_bytes());
    }
}

/// Writes the checksum into an ICMP message, which lies in `message` from its header to its end.
/// Does nothing to less than a header.
pub fn seal_v4(message: &mut [u8]) {
    seal(message, Sum::default());
}

/// The same for ICMPv6, whose checksum covers the addresses (RFC 4443, section 2.3).
pub fn seal_v6(message: &mut [u8], source: Addr, destination: Addr) {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    seal(message, pseudo(source, destination, protocol::ICMPV6, length));
}

fn seal(message: &mut [u8], pseudo: Sum) {
    if let Some(header) = message.first_chunk_mut::<LEN>() {
        put(header, CHECKSUM_AT, [0, 0]);
        let checksum = Sum::of(message).plus(pseudo).checksum();
        message[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_as_long_as_they_may_be() {
        assert_eq!(quote_max(Family::V4), 548);
        assert_eq!(quote_max(Family::V6), 1232);
    }

    #[test]
    fn a_header_comes_back_as_it_was_written() {
        for family in [Family::V4, Family::V6] {
            let header = Header::too_big(family, 1480);
            let mut out = [0xff; LEN];
            header.emit(&mut out);
            assert_eq!(Header::parse(&out), header);
            assert_eq!(out[2..], [0, 0, 0, 0, 0x05, 0xc8]);
            assert!(is_error(family, header.kind));
            assert!(!is_error(family, echo_request(family)));
        }
    }
}
