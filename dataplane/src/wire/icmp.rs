//! ICMP and ICMPv6 messages.
//!
//! | type 1 | code 1 | checksum 2 | depends on the type 4 | body |
//!
//! Source: RFC 792; RFC 4443.

use crate::addr::Family;

/// Length of the header in front of every body.
pub const LEN: usize = 8;

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
