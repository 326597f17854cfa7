//! Frames that answer a frame: a reset, an ICMP error, an echo reply.
//!
//! An answer goes back the way its cause came: the same VLAN tags, link addresses swapped. It is
//! written into a buffer of the caller's; `None` means that none is due, or that the buffer is too
//! small. What Linux's own stack would send is sent: time to live 64, the type of service of the
//! cause without its ECN bits for a reset, as it was for an echo reply, `tos & 0x1e | 0xc0` for an
//! ICMP error over IPv4 and 0 over IPv6.
//! Source: RFC 1122, section 3.2.2; RFC 4443, section 2.4; RFC 9293, section 3.10.7.1; Linux
//! `icmp_send`, `icmp6_send`, `tcp_v4_send_reset`.

use super::{
    at,
    checksum::{Sum, is_unfinished, pseudo},
    ethernet,
    frame::{Kind, Parsed},
    icmp, ipv4, ipv6, protocol, put, tcp, u16_at,
};
use crate::addr::{Addr, Family};

/// A buffer of this length holds every answer but an echo reply, which is as long as its request.
pub const LEN_MAX: usize = 1536;

/// An ICMP error to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Type, code and what depends on them.
    pub error: icmp::Header,
    /// Who reports: a VIP, or an address of the box; of the packet's family.
    pub source: Addr,
    /// Identification of the IPv4 packet.
    pub id: u16,
}

/// The IP header of an answer; its family is that of the addresses.
#[derive(Clone, Copy, Debug)]
struct Envelope {
    source: Addr,
    destination: Addr,
    protocol: u8,
    tos: u8,
    /// Identification of an IPv4 packet that may be fragmented.
    id: Option<u16>,
}

impl Envelope {
    /// Writes an IP header in front of room for `payload` octets, and returns its length and that
    /// room.
    fn open(self, payload: usize, out: &mut [u8]) -> Option<(usize, &mut [u8])> {
        let Self { source, destination, protocol, tos, id } = self;
        let (length, rest) = match source.family() {
            Family::V4 => {
                let (header, rest) = out.split_first_chunk_mut()?;
                let (ttl, dont_fragment) = (ipv4::TTL, id.is_none());
                let id = id.unwrap_or(0);
                ipv4::Header {
                    source,
                    destination,
                    protocol,
                    tos,
                    ttl,
                    id,
                    dont_fragment,
                    payload,
                }
                .emit(header);
                (ipv4::LEN, rest)
            }
            Family::V6 => {
                let (header, rest) = out.split_first_chunk_mut()?;
                ipv6::Header {
                    source,
                    destination,
                    next_header: protocol,
                    class: tos,
                    flow_label: 0,
                    hop_limit: ipv6::HOP_LIMIT,
                    payload,
                }
                .emit(header);
                (ipv6::LEN, rest)
            }
        };
        Some((length, rest.get_mut(..payload)?))
    }
}

/// Writes the link header that leads back, VLAN tags and all, and returns the room behind it.
fn link_back<'a>(frame: &[u8], parsed: &Parsed, out: &'a mut [u8]) -> Option<&'a mut [u8]> {
    let (link, rest) = out.split_at_mut_checked(usize::from(parsed.l3))?;
    link.copy_from_slice(frame.get(..link.len())?);
    let cause = ethernet::Header::parse(frame.first_chunk()?);
    ethernet::readdress(link, cause.destination, cause.source);
    Some(rest)
}

/// Source, destination and type of service of the packet itself, whatever the key is of.
fn packet(frame: &[u8], parsed: &Parsed) -> Option<(Addr, Addr, u8)> {
    let l3 = usize::from(parsed.l3);
    Some(match parsed.family {
        Family::V4 => {
            let header = at(frame, l3)?;
            (ipv4::source(header), ipv4::destination(header), ipv4::tos(header))
        }
        Family::V6 => {
            let header = at(frame, l3)?;
            (ipv6::source(header), ipv6::destination(header), ipv6::class(header))
        }
    })
}

/// Whether an address names one receiver, as far as it shows.
const fn is_unicast(address: Addr) -> bool {
    match address.family() {
        Family::V4 => address.low32() != 0 && address.low32() >> 28 < 0xe,
        Family::V6 => address.bits() != 0 && address.bits() >> 120 != 0xff,
    }
}

/// Whether the frame came to this box alone, not to many on its link.
fn to_one_station(frame: &[u8]) -> bool {
    frame.first().is_some_and(|first| first & 1 == 0)
}

/// Whether RFC 1122, section 3.2.2, and RFC 4443, section 2.4 (e), allow an ICMP error about this
/// packet: not about an ICMP error or redirect, not about a later fragment, not about what was sent
/// to many (but for "packet too big") or comes from no one station.
pub fn may_report(frame: &[u8], parsed: &Parsed, error: icmp::Header) -> bool {
    let Some((source, destination, _)) = packet(frame, parsed) else {
        return false;
    };
    let too_big =
        error == icmp::Header { rest: error.rest, ..icmp::Header::too_big(Family::V6, 0) };
    let to_many = !to_one_station(frame) || !is_unicast(destination);
    if parsed.kind == Kind::NotIp
        || !is_unicast(source)
        || to_many && !(parsed.family == Family::V6 && too_big)
    {
        return false;
    }
    let l4 = usize::from(parsed.l4);
    match (parsed.kind, parsed.key.protocol, parsed.family) {
        (Kind::IcmpError, ..) => false,
        (Kind::Fragment, ..) => is_first_fragment(frame, parsed),
        (_, protocol::ICMP, Family::V4) => frame.get(l4).is_some_and(|kind| !is_v4_error(*kind)),
        (_, protocol::ICMPV6, Family::V6) => {
            frame.get(l4).is_some_and(|&kind| kind >= 128 && kind != REDIRECT_V6)
        }
        _ => true,
    }
}

/// ICMPv6 redirect.
const REDIRECT_V6: u8 = 137;

/// What ICMP reports: errors and redirects, and types that nobody knows (Linux's `NR_ICMP_TYPES`).
const fn is_v4_error(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 5 | 11 | 12) || kind > 18
}

/// Whether a fragment is the first of its packet and no ICMP error.
fn is_first_fragment(frame: &[u8], parsed: &Parsed) -> bool {
    let l4 = usize::from(parsed.l4);
    let (field, data) = match parsed.family {
        Family::V4 => {
            let header = at::<{ ipv4::LEN }>(frame, usize::from(parsed.l3));
            (header.map(|header| ipv4::fragment_field(header) & ipv4::OFFSET), l4)
        }
        Family::V6 => {
            let header = at::<8>(frame, l4);
            (header.map(|header| u16_at(header, 2) & 0xfff8), l4 + 8)
        }
    };
    let kind = frame.get(data).copied().unwrap_or(0);
    field == Some(0)
        && match (parsed.key.protocol, parsed.family) {
            (protocol::ICMP, Family::V4) => !is_v4_error(kind),
            (protocol::ICMPV6, Family::V6) => kind >= 128 && kind != REDIRECT_V6,
            _ => true,
        }
}

/// Writes an ICMP error about a frame into `out` and returns its length.
///
/// Quotes the packet as it lies in the frame now, as much of it as [`icmp::quote_max`] allows.
/// Rate limits are the caller's. `None` also where [`may_report`] says no.
#[cold]
pub fn error(frame: &[u8], parsed: &Parsed, report: Report, out: &mut [u8]) -> Option<usize> {
    if !may_report(frame, parsed, report.error) {
        return None;
    }
    let whole = frame.get(usize::from(parsed.l3)..usize::from(parsed.end))?;
    let to = packet(frame, parsed)?.0;
    let out = link_back(frame, parsed, out)?;
    Some(usize::from(parsed.l3) + error_packet(report, to, whole, out)?)
}

/// Writes an ICMP error to `to` about the IP packet `cause`, without a link header, into `out` and
/// returns its length: for a packet that came in a tunnel, or quoted in an error about one.
///
/// Quotes as much as [`icmp::quote_max`] allows; whether an error is due is the caller's.
#[cold]
pub fn error_packet(report: Report, to: Addr, cause: &[u8], out: &mut [u8]) -> Option<usize> {
    let (source, destination, id) = (report.source, to, Some(report.id));
    let family = source.family();
    let quote = &cause[..cause.len().min(icmp::quote_max(family))];
    let (protocol, tos) = match family {
        Family::V4 => (protocol::ICMP, cause.get(1)? & 0x1e | 0xc0),
        Family::V6 => (protocol::ICMPV6, 0),
    };
    let payload = icmp::LEN + quote.len();
    let envelope = Envelope { source, destination, protocol, tos, id };
    let (length, message) = envelope.open(payload, out)?;
    let (header, body) = message.split_first_chunk_mut()?;
    report.error.emit(header);
    body.copy_from_slice(quote);
    seal(message, source, destination);
    Some(length + payload)
}

/// Writes the checksum into an ICMP message of either family.
fn seal(message: &mut [u8], source: Addr, destination: Addr) {
    match source.family() {
        Family::V4 => icmp::seal_v4(message),
        Family::V6 => icmp::seal_v6(message, source, destination),
    }
}

/// Writes the reply to an echo request into `out` and returns its length, that of the request
/// without IP options, extension headers and padding. `id` is for the IPv4 header.
#[cold]
pub fn echo(frame: &[u8], parsed: &Parsed, id: u16, out: &mut [u8]) -> Option<usize> {
    let (destination, source, tos) = packet(frame, parsed)?;
    let sent_to_one = to_one_station(frame) && is_unicast(source) && is_unicast(destination);
    if parsed.kind != Kind::Echo || !sent_to_one {
        return None;
    }
    let request = frame.get(usize::from(parsed.l4)..usize::from(parsed.end))?;
    let out = link_back(frame, parsed, out)?;
    let protocol = parsed.key.protocol;
    let envelope = Envelope { source, destination, protocol, tos, id: Some(id) };
    let (length, message) = envelope.open(request.len(), out)?;
    message.copy_from_slice(request);
    let header = message.first_chunk_mut::<{ icmp::LEN }>()?;
    put(header, 0, [icmp::echo_reply(parsed.family), 0]);
    seal(message, source, destination);
    Some(usize::from(parsed.l3) + length + request.len())
}

/// Writes the reset that answers a stray TCP segment into `out` and returns its length. `None`
/// also for what TCP would not take up at all: a reset, a wrong checksum, a broken header.
#[cold]
pub fn reset(frame: &[u8], parsed: &Parsed, out: &mut [u8]) -> Option<usize> {
    let (destination, source, tos) = packet(frame, parsed)?;
    let is_tcp = parsed.kind == Kind::Flow && parsed.key.protocol == protocol::TCP;
    if !is_tcp || !to_one_station(frame) || !is_unicast(source) || !is_unicast(destination) {
        return None;
    }
    let segment = frame.get(usize::from(parsed.l4)..usize::from(parsed.end))?;
    let reset = tcp::Reset::answering(segment)?;
    let pseudo = pseudo(destination, source, protocol::TCP, u32::from(parsed.end - parsed.l4));
    let field = u16_at(segment.first_chunk::<{ tcp::LEN }>()?, tcp::CHECKSUM_AT);
    if !Sum::of(segment).plus(pseudo).is_valid() && !is_unfinished(field, pseudo) {
        return None;
    }
    let out = link_back(frame, parsed, out)?;
    let (protocol, tos) = (protocol::TCP, tos & 0xfc);
    let envelope = Envelope { source, destination, protocol, tos, id: None };
    let (length, segment) = envelope.open(tcp::LEN, out)?;
    reset.emit(source, destination, segment.first_chunk_mut()?);
    Some(usize::from(parsed.l3) + length + tcp::LEN)
}

#[cfg(test)]
mod tests;
