//! A received frame, found out about in one pass.

use crate::{addr::Family, flow::FlowKey, verdict::DropReason};

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
    /// A fragment, first or later, of IPv4 or IPv6. The key holds the addresses and, for IPv6,
    /// the protocol that follows the fragment header; ports are 0.
    Fragment,
    /// IP, but none of the above: another protocol, another ICMP message, an error about one.
    /// The key holds addresses and protocol; ports are 0.
    Other,
    /// Not IP: ARP among others. The key is empty.
    NotIp,
}

/// Where things are in a frame. Offsets count from the frame's first octet.
#[derive(Clone, Copy, Debug)]
pub struct Parsed {
    /// The five-tuple; see [`Kind`] for what it means where.
    pub key: FlowKey,
    /// What it is.
    pub kind: Kind,
    /// Family of the outermost IP header. [`Family::V4`] for [`Kind::NotIp`].
    pub family: Family,
    /// TCP's flag octet (CWR ECE URG ACK PSH RST SYN FIN), of the packet itself; 0 for others.
    /// For SCTP the type of the first chunk.
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
    /// IPv6 the fragment header, of IPv4 the fragment's data.
    pub l4: u16,
    /// Where the IP packet ends: Ethernet padding lies behind.
    pub end: u16,
    /// For [`Kind::IcmpError`] the offset of the quoted IP header; 0 otherwise.
    pub quoted_l3: u16,
    /// For [`Kind::IcmpError`] the offset of the quoted transport header; 0 otherwise.
    pub quoted_l4: u16,
}

/// Reads a frame from its Ethernet header on.
///
/// Runs on the packet path. What is not IP is no error: it is [`Kind::NotIp`].
///
/// # Errors
///
/// The reason why a router would drop the packet: cut short, malformed, a wrong IPv4 header
/// checksum, a wrong ICMP checksum, an impossible address.
pub fn parse(frame: &[u8]) -> Result<Parsed, DropReason> {
    _ = frame;
    Err(DropReason::Truncated)
}
