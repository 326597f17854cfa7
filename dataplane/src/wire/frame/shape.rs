//! The two hot shapes of a frame, which nearly all packets of flows have.
//!
//! Ethernet without tags, then IPv4 without options or IPv6 without extension headers, no
//! fragment, then TCP or UDP with a whole header; lengths, header checksum and addresses beyond
//! suspicion. [`Shape::of`] tests all of it. Where things are then follows from the shape alone, so
//! that the packet path reads fields at constant offsets and keeps no note of them.
//! Tests are branches that are never taken but under attack: cheaper than combining them.

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

/// Octets up to the end of a UDP header behind IPv4.
const HEAD_V4: usize = L4_V4 + 8;

/// Octets up to the end of a UDP header behind IPv6.
const HEAD_V6: usize = L4_V6 + 8;

/// Where TCP keeps its flags, from its header on.
const FLAGS_AT: usize = 13;

/// What a frame looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// TCP or UDP over IPv4.
    V4,
    /// TCP or UDP over IPv6.
    V6,
    /// Anything else.
    #[default]
    Other,
}

impl Shape {
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

/// The frame's ports and protocol as a flow's hash takes them; the frame's transport header starts
/// at `l4`, the octet that names it is at `next`.
#[inline(always)]
pub(crate) fn tail<const N: usize>(head: &[u8; N], l4: usize, next: usize) -> u64 {
    u64::from(u32_at(head, l4)) | u64::from(head[next]) << 32
}

#[inline(always)]
fn is_v4(head: &[u8; HEAD_V4], length: usize) -> bool {
    let protocol = head[L3 + 9];
    let transport = if protocol == protocol::TCP { 20 } else { 8 };
    let total = usize::from(u16_at(head, L3 + 2));
    // A right header sums to a multiple of 0xffff, in words of any width (RFC 1071).
    let sum: u64 = (0..5).map(|i| word_at(head, L3 + 4 * i)).sum();
    // Ethertype 0x0800, version 4 and header length 5 are three octets in a row.
    u32_at(head, 12) & 0xffff_ff00 == 0x0800_4500
        && (protocol == protocol::TCP || protocol == protocol::UDP)
        && u16_at(head, L3 + 6) & 0x3fff == 0
        && total >= 20 + transport
        && L3 + total <= length
        && length <= 0xffff
        && !DUBIOUS[usize::from(head[L3 + 12])]
        && !DUBIOUS[usize::from(head[L3 + 16])]
        && checksum::is_multiple(sum)
}

#[inline(always)]
fn is_v6(head: &[u8; HEAD_V6], length: usize) -> bool {
    let protocol = head[L3 + 6];
    let transport = if protocol == protocol::TCP { 20 } else { 8 };
    let payload = usize::from(u16_at(head, L3 + 4));
    u32_at(head, 12) & 0xffff_f000 == 0x86dd_6000
        && (protocol == protocol::TCP || protocol == protocol::UDP)
        && payload >= transport
        && L4_V6 + payload <= length
        && length <= 0xffff
        // All that is impossible begins with the octet 0, or 0xff as source.
        && head[L3 + 8].wrapping_sub(1) < 0xfe
        && head[L3 + 24] != 0
}

/// First octets of IPv4 addresses that need the full test of what is impossible: 0/8, 127/8, 224/3.
static DUBIOUS: [bool; 256] = {
    let mut dubious = [false; 256];
    let mut first = 0;
    while first < 256 {
        dubious[first] = first == 0 || first == 127 || first >= 224;
        first += 1;
    }
    dubious
};

/// Reads a frame of one of the two shapes.
pub(super) fn read(frame: &[u8]) -> Option<Parsed> {
    match Shape::of(frame) {
        Shape::V4 => read_v4(frame),
        Shape::V6 => read_v6(frame),
        Shape::Other => None,
    }
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
