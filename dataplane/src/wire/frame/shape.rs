//! The two hot shapes of a frame, which nearly all packets of flows have.
//!
//! Ethernet without tags, then IPv4 without options or IPv6 without extension headers, no
//! fragment, a right header checksum, a length that fits, and octets enough for a TCP header
//! behind. Where things are then follows from the shape alone, so that the packet path reads fields at
//! constant offsets and keeps no note of them.
//! [`Shape::of`] says no more than that. Of what a packet of a known flow has in common with the packet
//! that opened the flow nothing is asked twice: the transport protocol and addresses that must not be on
//! the wire. `read`, for the parser, asks for it all.
//! Tests are branches that are never taken but under attack: cheaper than combining them.

use std::num::NonZeroU8;

use super::{FlowKey, Kind, Parsed, offset};
use crate::{
    addr::{Addr, Family},
    wire::{
        checksum,
        ethernet::{self, ethertype},
        protocol, u16_at, u32_at, u128_at, word_at,
    },
};

/// Offset of the IP header in both shapes.
pub const L3: usize = ethernet::LEN;

/// Offset of the transport header behind IPv4.
pub const L4_V4: usize = L3 + 20;

/// Offset of the transport header behind IPv6.
pub const L4_V6: usize = L3 + 40;

/// Octets up to the end of a TCP header behind IPv4.
pub const HEAD_V4: usize = L4_V4 + TCP;

/// Octets up to the end of a TCP header behind IPv6.
pub const HEAD_V6: usize = L4_V6 + TCP;

/// Octets of a TCP header.
pub(super) const TCP: usize = 20;

/// Octets of a UDP header.
const UDP: usize = 8;

/// Where TCP keeps its flags, from its header on.
const FLAGS_AT: usize = 13;

/// What a frame looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// IPv4 with ports and protocol where TCP and UDP have theirs.
    V4,
    /// TCP or UDP over IPv6.
    V6,
    /// Anything else.
    #[default]
    Other,
}

impl Shape {
    /// The shape of a frame whose transport checksum is there: [`super::plain::Plain::ready_checksum`].
    #[inline(always)]
    pub fn of_checksum_at(at: NonZeroU8) -> Self {
        if usize::from(at.get()) < L4_V6 { Self::V4 } else { Self::V6 }
    }

    /// The shape of a frame.
    #[inline(always)]
    pub fn of(frame: &[u8]) -> Self {
        if frame.first_chunk().is_some_and(|head| is_v4(head, frame.len())) {
            return Self::V4;
        }
        if frame.first_chunk().is_some_and(|head| is_v6(head, frame.len())) {
            return Self::V6;
        }
        Self::Other
    }
}

#[inline(always)]
fn is_v4(head: &[u8; HEAD_V4], length: usize) -> bool {
    let total = usize::from(u16_at(head, L3 + 2));
    // A right header sums to a multiple of 0xffff, in words of any width (RFC 1071).
    let sum: u64 = (0..5).map(|i| word_at(head, L3 + 4 * i)).sum();
    // Ethertype 0x0800, version 4 and header length 5 are three octets in a row.
    u32_at(head, 12) & 0xffff_ff00 == 0x0800_4500
        && u16_at(head, L3 + 6) & 0x3fff == 0
        && L3 + total <= length
        && checksum::is_multiple(sum)
}

#[inline(always)]
fn is_v6(head: &[u8; HEAD_V6], length: usize) -> bool {
    let protocol = head[L3 + 6];
    let payload = usize::from(u16_at(head, L3 + 4));
    u32_at(head, 12) & 0xffff_f000 == 0x86dd_6000
        && (protocol == protocol::TCP || protocol == protocol::UDP)
        && L4_V6 + payload <= length
        // All that is impossible begins with the octet 0, or 0xff as source.
        && head[L3 + 8].wrapping_sub(1) < 0xfe
        && head[L3 + 24] != 0
}

/// Reads a frame of one of the two shapes with a whole TCP or UDP header in it, from and to addresses
/// beyond suspicion.
pub(crate) fn read(frame: &[u8]) -> Option<Parsed> {
    read_as(Shape::of(frame), frame)
}

/// The same for a frame that is known to have this shape.
pub(crate) fn read_as(shape: Shape, frame: &[u8]) -> Option<Parsed> {
    if frame.len() > 0xffff {
        return None;
    }
    let parsed = match shape {
        Shape::V4 => read_v4(frame)?,
        Shape::V6 => read_v6(frame)?,
        Shape::Other => return None,
    };
    let FlowKey { protocol, source, destination, .. } = parsed.key;
    let header = match protocol {
        protocol::TCP => TCP,
        protocol::UDP => UDP,
        _ => return None,
    };
    let is_whole = usize::from(parsed.end) >= usize::from(parsed.l4) + header;
    let is_plain =
        parsed.family == Family::V6 || source.is_unicast_v4() && destination.is_unicast_v4();
    (is_whole && is_plain).then_some(parsed)
}

fn read_v4(frame: &[u8]) -> Option<Parsed> {
    let head: &[u8; HEAD_V4] = frame.first_chunk()?;
    let key = FlowKey {
        source: Addr::v4(u32_at(head, L3 + 12)),
        destination: Addr::v4(u32_at(head, L3 + 16)),
        source_port: u16_at(head, L4_V4),
        destination_port: u16_at(head, L4_V4 + 2),
        protocol: head[L3 + 9],
        template: false,
    };
    Some(Parsed {
        flags: flags(frame, L4_V4, key.protocol),
        key,
        kind: Kind::Flow,
        family: Family::V4,
        short: false,
        ttl: head[L3 + 8],
        ethertype: ethertype::IPV4,
        l3: offset(L3),
        l4: offset(L4_V4),
        end: offset(L3) + u16_at(head, L3 + 2),
        quoted_l3: 0,
        quoted_l4: 0,
    })
}

fn read_v6(frame: &[u8]) -> Option<Parsed> {
    let head: &[u8; HEAD_V6] = frame.first_chunk()?;
    let key = FlowKey {
        source: Addr::v6(u128_at(head, L3 + 8)),
        destination: Addr::v6(u128_at(head, L3 + 24)),
        source_port: u16_at(head, L4_V6),
        destination_port: u16_at(head, L4_V6 + 2),
        protocol: head[L3 + 6],
        template: false,
    };
    Some(Parsed {
        flags: flags(frame, L4_V6, key.protocol),
        key,
        kind: Kind::Flow,
        family: Family::V6,
        short: false,
        ttl: head[L3 + 7],
        ethertype: ethertype::IPV6,
        l3: offset(L3),
        l4: offset(L4_V6),
        end: offset(L4_V6) + u16_at(head, L3 + 4),
        quoted_l3: 0,
        quoted_l4: 0,
    })
}

/// TCP's flags; 0 for others.
fn flags(frame: &[u8], l4: usize, protocol: u8) -> u8 {
    let at = frame.get(l4 + FLAGS_AT).copied();
    if protocol == protocol::TCP { at.unwrap_or(0) } else { 0 }
}
