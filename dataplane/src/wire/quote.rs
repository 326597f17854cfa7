//! The packet quoted in an ICMP error, or the one inside a quoted tunnel packet: what is left of
//! an IP packet that may be cut off anywhere.
//!
//! Only what is there is read, and nothing is verified: routers change what they quote (time to
//! live, checksums). The total length says how long the packet was, not how much of it is here.
//! Source: RFC 792; RFC 1812, section 4.3.2.3; RFC 4443, section 2.4.

use super::{
    extension::{self, FRAGMENT},
    protocol, u16_at, u32_at, u128_at,
};
use crate::{
    addr::{Addr, Family},
    key::FlowKey,
};

/// Octets of the quoted transport header that must be there (RFC 792): ports, and what TCP's
/// sequence number or UDP's checksum needs.
pub const TRANSPORT_LEN: usize = 8;

/// What was found out about a quoted packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Its family.
    pub family: Family,
    /// Addresses and protocol; the ports too if [`Quote::has_ports`].
    pub key: FlowKey,
    /// Offset of its transport header from its IP header, if at least [`TRANSPORT_LEN`] octets
    /// of it are quoted. `None` for later fragments.
    pub transport: Option<usize>,
}

impl Quote {
    /// Whether the ports are known.
    #[inline]
    pub const fn has_ports(&self) -> bool {
        self.transport.is_some()
            && matches!(self.key.protocol, protocol::TCP | protocol::UDP | protocol::SCTP)
    }
}

/// Reads a quoted packet, from its IP header on.
///
/// `None` if its IP header is not there in full or cannot be one, an IPv6 header with an
/// IPv4-mapped address among them.
pub fn read(quoted: &[u8]) -> Option<Quote> {
    match quoted.first()? >> 4 {
        4 => read_v4(quoted),
        6 => read_v6(quoted),
        _ => None,
    }
}

fn read_v4(quoted: &[u8]) -> Option<Quote> {
    let header: &[u8; 20] = quoted.first_chunk()?;
    let length = usize::from(header[0] & 0x0f) * 4;
    if length < 20 || length > quoted.len() {
        return None;
    }
    let key = FlowKey {
        source: Addr::v4(u32_at(header, 12)),
        destination: Addr::v4(u32_at(header, 16)),
        protocol: header[9],
        ..FlowKey::default()
    };
    let first = u16_at(header, 6) & 0x1fff == 0;
    Some(with_transport(quoted, Family::V4, key, first.then_some(length)))
}

fn read_v6(quoted: &[u8]) -> Option<Quote> {
    let header: &[u8; 40] = quoted.first_chunk()?;
    let source = Addr::v6(u128_at(header, 8));
    let destination = Addr::v6(u128_at(header, 24));
    if source.is_v4() || destination.is_v4() {
        return None;
    }
    let key = FlowKey { source, destination, protocol: header[6], ..FlowKey::default() };
    let Some((protocol, offset)) = upper_v6(quoted, header[6]) else {
        return Some(with_transport(quoted, Family::V6, key, None));
    };
    Some(with_transport(quoted, Family::V6, FlowKey { protocol, ..key }, Some(offset)))
}

/// Protocol and offset of the upper layer; `None` if it is cut off or in an earlier fragment.
fn upper_v6(quoted: &[u8], next: u8) -> Option<(u8, usize)> {
    let mut upper = extension::walk(quoted, 40, next).ok()?;
    if upper.protocol == FRAGMENT {
        let fragment: &[u8; extension::FRAGMENT_LEN] = quoted[upper.offset..].first_chunk()?;
        if u16_at(fragment, 2) & 0xfff8 != 0 {
            return None;
        }
        upper =
            extension::walk(quoted, upper.offset + extension::FRAGMENT_LEN, fragment[0]).ok()?;
    }
    (upper.protocol != FRAGMENT).then_some((upper.protocol, upper.offset))
}

/// Completes a quote by its transport header at `offset`, as far as that is there.
fn with_transport(quoted: &[u8], family: Family, key: FlowKey, offset: Option<usize>) -> Quote {
    let mut quote = Quote { family, key, transport: None };
    let header: Option<&[u8; TRANSPORT_LEN]> =
        offset.and_then(|offset| quoted.get(offset..)).and_then(|octets| octets.first_chunk());
    if let Some(header) = header {
        quote.transport = offset;
        if quote.has_ports() {
            quote.key.source_port = u16_at(header, 0);
            quote.key.destination_port = u16_at(header, 2);
        }
    }
    quote
}
