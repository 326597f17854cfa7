//! A received frame, found out about in one pass.
//!
//! All lengths are checked here, once: what [`Parsed`] points at is there. Two hot shapes
//! ([`shape`]) are known by few tests; every doubt leads to the general way, which accepts all
//! that the hot ones do, with the same result, and names the reason for what it refuses.
//!
//! What a router must refuse is refused as Linux does before IPVS sees it (`ip_rcv_core`,
//! `ip6_rcv_core`, `ip_route_input_slow`): broken headers and addresses that cannot be on the
//! wire. What a director only does not balance is no error. Transport checksums are not verified:
//! they are the receiver's business (RFC 1812, section 5.2.2, asks for the IPv4 header's only).
//! Not understood: IPv6 jumbograms (RFC 2675), which no Ethernet carries.

pub mod plain;
pub mod shape;

use super::{
    checksum::{Sum, pseudo},
    ethernet::{self, ethertype},
    extension::{self, FRAGMENT},
    icmp, protocol, quote, u16_at, u32_at, u128_at,
};
use crate::{
    addr::{Addr, Family},
    key::FlowKey,
    verdict::DropReason,
};

/// What a frame carries, as far as a load balancer wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP, UDP or SCTP with its ports at hand; the key is the packet's own.
    Flow,
    /// An ICMP or ICMPv6 error whose quoted packet is TCP, UDP or SCTP with ports at hand. The key
    /// is that of the quoted packet **as quoted**: a packet of the other direction. Checksum of
    /// the ICMP message verified.
    IcmpError,
    /// An echo request. The key holds the addresses; ports are 0. Checksum verified.
    Echo,
    /// A fragment, first or later, of IPv4 or IPv6, an IPv6 atomic fragment among them (RFC 6946).
    /// The key holds the addresses and the protocol, for IPv6 the one that follows the fragment
    /// header; ports are 0.
    Fragment,
    /// IP, but none of the above: another protocol, another ICMP message, an error about one.
    /// The key holds addresses and protocol; ports are 0. An ICMP error about a packet that is no
    /// TCP, UDP or SCTP (a tunnel's, say) has its quote found all the same: see
    /// [`Parsed::quoted_l3`].
    Other,
    /// Not IP: ARP among others. The key is empty.
    NotIp,
}

/// Where things are in a frame. Offsets count from the frame's first octet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The five-tuple; see [`Kind`] for what it means where.
    pub key: FlowKey,
    /// What it is.
    pub kind: Kind,
    /// Family of the outermost IP header. [`Family::V4`] for [`Kind::NotIp`].
    pub family: Family,
    /// TCP's flag octet (CWR ECE URG ACK PSH RST SYN FIN), of the packet itself; 0 for others.
    /// For SCTP the type of the first chunk. 0 if [`Parsed::short`] cuts it off.
    pub flags: u8,
    /// Whether the transport header is cut short (TCP under 20 octets, UDP under 8, SCTP under
    /// 12 and a chunk header), while the ports are still there.
    pub short: bool,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// The ethertype found after any VLAN tags.
    pub ethertype: u16,
    /// Offset of the outermost IP header: 14, or 4 more for each VLAN tag.
    pub l3: u16,
    /// Offset of the transport header (behind IPv4 options and IPv6 extension headers); for
    /// [`Kind::IcmpError`] and [`Kind::Echo`] of the ICMP header; for [`Kind::Fragment`] of
    /// IPv6 the fragment header, of IPv4 the fragment's data; for [`Kind::NotIp`] the same as
    /// [`Parsed::l3`].
    pub l4: u16,
    /// Where the IP packet ends: Ethernet padding lies behind.
    pub end: u16,
    /// For an ICMP error ([`Kind::IcmpError`], or [`Kind::Other`] if the quoted packet is neither
    /// TCP, UDP nor SCTP or is cut short) the offset of the quoted IP header, if that header is
    /// whole and of the packet's family; 0 otherwise.
    pub quoted_l3: u16,
    /// Likewise the offset of the quoted transport header, behind options and extension headers,
    /// if the quote reaches 8 octets into it and is no later fragment; 0 otherwise.
    pub quoted_l4: u16,
}

/// Reads a frame from its Ethernet header on.
///
/// Runs on the packet path. What is not IP is no error: it is [`Kind::NotIp`].
///
/// # Errors
///
/// The reason why a router would drop the packet: cut short, malformed, a wrong IPv4 header
/// checksum, a wrong ICMP checksum, an impossible address; a frame of more than 65 535 octets is
/// [`DropReason::Oversized`].
#[inline]
pub fn parse(frame: &[u8]) -> Result<Parsed, DropReason> {
    match shape::read(frame) {
        Some(parsed) => Ok(parsed),
        None => general(frame),
    }
}

/// An offset into a frame, whose length was checked to fit.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "frames are at most 65 535 octets long")]
const fn offset(position: usize) -> u16 {
    debug_assert!(position <= 0xffff);
    position as u16
}

/// Reads any frame.
#[cold]
fn general(frame: &[u8]) -> Result<Parsed, DropReason> {
    if frame.len() > 0xffff {
        return Err(DropReason::Oversized);
    }
    let (ethertype, l3) = ethernet::payload(frame).ok_or(DropReason::Truncated)?;
    let parsed = Parsed {
        key: FlowKey::default(),
        kind: Kind::NotIp,
        family: Family::V4,
        flags: 0,
        short: false,
        ttl: 0,
        ethertype,
        l3: offset(l3),
        l4: offset(l3),
        end: offset(frame.len()),
        quoted_l3: 0,
        quoted_l4: 0,
    };
    match ethertype {
        ethertype::IPV4 => ipv4(frame, parsed),
        ethertype::IPV6 => ipv6(frame, parsed),
        _ => Ok(parsed),
    }
}

/// Goes on at an IPv4 header (RFC 791, section 3.1).
fn ipv4(frame: &[u8], mut parsed: Parsed) -> Result<Parsed, DropReason> {
    let packet = &frame[usize::from(parsed.l3)..];
    let header: &[u8; 20] = packet.first_chunk().ok_or(DropReason::Truncated)?;
    let length = usize::from(header[0] & 0x0f) * 4;
    let total = usize::from(u16_at(header, 2));
    if header[0] >> 4 != 4 || length < 20 || total < length {
        return Err(DropReason::MalformedHeader);
    }
    let packet = packet.get(..total).ok_or(DropReason::Truncated)?;
    if !Sum::of(&packet[..length]).is_valid() {
        return Err(DropReason::BadHeaderChecksum);
    }
    let (source, destination) = (u32_at(header, 12), u32_at(header, 16));
    if impossible_v4(source, destination) {
        return Err(DropReason::MappedAddress);
    }
    parsed.key.source = Addr::v4(source);
    parsed.key.destination = Addr::v4(destination);
    parsed.key.protocol = header[9];
    parsed.ttl = header[8];
    parsed.end = parsed.l3 + offset(total);
    parsed.l4 = parsed.l3 + offset(length);
    // More fragments, or an offset.
    if u16_at(header, 6) & 0x3fff != 0 {
        parsed.kind = Kind::Fragment;
        return Ok(parsed);
    }
    transport(frame, parsed)
}

/// Whether Linux would not believe an IPv4 packet's addresses on a network interface: source
/// multicast, broadcast or loopback; destination loopback; 0.0.0.0 as destination, or as source
/// to one receiver (to all of them it asks for an address, RFC 2131, or reports a multicast
/// membership, RFC 3376).
const fn impossible_v4(source: u32, destination: u32) -> bool {
    const MULTICAST: u32 = 0xe;
    const LOOPBACK: u32 = 127;
    const BROADCAST: u32 = u32::MAX;
    let to_many = destination >> 28 == MULTICAST || destination == BROADCAST;
    source >> 28 == MULTICAST
        || source == BROADCAST
        || source >> 24 == LOOPBACK
        || destination >> 24 == LOOPBACK
        || destination == 0
        || source == 0 && !to_many
}

/// Goes on at an IPv6 header (RFC 8200, section 3).
fn ipv6(frame: &[u8], mut parsed: Parsed) -> Result<Parsed, DropReason> {
    parsed.family = Family::V6;
    let packet = &frame[usize::from(parsed.l3)..];
    let header: &[u8; 40] = packet.first_chunk().ok_or(DropReason::Truncated)?;
    if header[0] >> 4 != 6 {
        return Err(DropReason::MalformedHeader);
    }
    let total = 40 + usize::from(u16_at(header, 4));
    let packet = packet.get(..total).ok_or(DropReason::Truncated)?;
    let (source, destination) = (u128_at(header, 8), u128_at(header, 24));
    if impossible_v6(source, destination) {
        return Err(DropReason::MappedAddress);
    }
    let upper = extension::walk(packet, 40, header[6])?;
    parsed.key.source = Addr::v6(source);
    parsed.key.destination = Addr::v6(destination);
    parsed.key.protocol = upper.protocol;
    parsed.ttl = header[7];
    parsed.end = parsed.l3 + offset(total);
    parsed.l4 = parsed.l3 + offset(upper.offset);
    if upper.protocol == FRAGMENT {
        let fragment: &[u8; extension::FRAGMENT_LEN] =
            packet[upper.offset..].first_chunk().ok_or(DropReason::Truncated)?;
        parsed.kind = Kind::Fragment;
        parsed.key.protocol = fragment[0];
        return Ok(parsed);
    }
    transport(frame, parsed)
}

/// Whether an IPv6 packet's addresses cannot be on the wire: loopback or IPv4-mapped at either
/// end (RFC 4291, sections 2.5.3 and 2.5.5.2), multicast as source, `::` as destination, or as
/// source to one receiver (to all of them it looks for duplicates of its address, RFC 4862).
const fn impossible_v6(source: u128, destination: u128) -> bool {
    const LOOPBACK: u128 = 1;
    const MULTICAST: u128 = 0xff;
    source >> 120 == MULTICAST
        || source == LOOPBACK
        || destination == LOOPBACK
        || Addr::v6(source).is_v4()
        || Addr::v6(destination).is_v4()
        || destination == 0
        || source == 0 && destination >> 120 != MULTICAST
}

/// Goes on behind the IP headers. All but ports, flags, quote and kind is known.
#[inline]
fn transport(frame: &[u8], mut parsed: Parsed) -> Result<Parsed, DropReason> {
    let segment = &frame[usize::from(parsed.l4)..usize::from(parsed.end)];
    let (whole, flags_at) = match (parsed.key.protocol, parsed.family) {
        (protocol::TCP, _) => (20, Some(13)),
        (protocol::UDP, _) => (8, None),
        (protocol::SCTP, _) => (16, Some(12)),
        (protocol::ICMP, Family::V4) | (protocol::ICMPV6, Family::V6) => {
            return icmp_message(segment, parsed);
        }
        _ => {
            parsed.kind = Kind::Other;
            return Ok(parsed);
        }
    };
    let ports: &[u8; 4] = segment.first_chunk().ok_or(DropReason::ShortTransport)?;
    parsed.key.source_port = u16_at(ports, 0);
    parsed.key.destination_port = u16_at(ports, 2);
    parsed.kind = Kind::Flow;
    parsed.short = segment.len() < whole;
    parsed.flags = flags_at.and_then(|at: usize| segment.get(at).copied()).unwrap_or(0);
    Ok(parsed)
}

/// Goes on at an ICMP or ICMPv6 message.
fn icmp_message(message: &[u8], mut parsed: Parsed) -> Result<Parsed, DropReason> {
    let header: &[u8; icmp::LEN] = message.first_chunk().ok_or(DropReason::Truncated)?;
    let mut sum = Sum::of(message);
    if parsed.family == Family::V6 {
        let (source, destination) = (parsed.key.source, parsed.key.destination);
        let length = u32::from(parsed.end - parsed.l4);
        sum = sum.plus(pseudo(source, destination, protocol::ICMPV6, length));
    }
    if !sum.is_valid() {
        return Err(DropReason::BadIcmpChecksum);
    }
    parsed.kind = match header[0] {
        kind if kind == icmp::echo_request(parsed.family) => Kind::Echo,
        kind if icmp::is_error(parsed.family, kind) => return Ok(error(message, parsed)),
        _ => Kind::Other,
    };
    Ok(parsed)
}

/// Finds out what an ICMP error is about.
fn error(message: &[u8], mut parsed: Parsed) -> Parsed {
    parsed.kind = Kind::Other;
    let Some(quote) = quote::read(&message[icmp::LEN..]) else {
        return parsed;
    };
    if quote.family != parsed.family {
        return parsed;
    }
    parsed.quoted_l3 = parsed.l4 + offset(icmp::LEN);
    if let Some(transport) = quote.transport {
        parsed.quoted_l4 = parsed.quoted_l3 + offset(transport);
        if quote.has_ports() {
            parsed.kind = Kind::IcmpError;
            parsed.key = quote.key;
        }
    }
    parsed
}

#[cfg(test)]
mod tests;
