//! The PROXY protocol, version 2: the client's address in front of its data, for real servers that full
//! NAT hides it from.
//!
//! A header is 28 octets for IPv4 and 52 for IPv6: signature 12, version and command 1, family and
//! transport 1, length 2, source and destination address, source and destination port. In front of a TCP
//! stream it takes the sequence numbers right before the client's first octet: the SYN is sent with a
//! number lower by the header's length, and so no other number of the flow needs to change. In UDP
//! it stands in every datagram.
//! Source: The PROXY protocol, versions 1 and 2 (HAProxy), section 2.2.

use arrayvec::ArrayVec;

use super::{checksum_at, chunk, fullnat::End};
use crate::{
    addr::{Addr, Family},
    packet::Packet,
    verdict::DropReason,
    wire::{
        checksum::{self, Sum},
        ethernet,
        frame::Parsed,
        ipv4, ipv6, protocol, tcp, udp,
    },
};

/// Octets of a header, for each family.
const V4: u16 = 28;
const V6: u16 = 52;

/// What a header begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2, command PROXY.
const VERSION_COMMAND: u8 = 0x21;

/// A finished header.
pub type Header = ArrayVec<u8, { V6 as usize }>;

/// Octets of a header.
#[must_use]
pub const fn size(family: Family) -> u16 {
    match family {
        Family::V4 => V4,
        Family::V6 => V6,
    }
}

/// The header of what goes from `client` to `virt`, both of one family.
#[must_use]
pub fn header(transport: u8, client: End, virt: End) -> Header {
    let family = client.0.family();
    let mut out = Header::new();
    let mut put = |octets: &[u8]| {
        out.try_extend_from_slice(octets).expect("a header is 52 octets at most");
    };
    let addr = |addr: Addr| match family {
        Family::V4 => (u128::from(addr.low32()) << 96).to_be_bytes(),
        Family::V6 => addr.bits().to_be_bytes(),
    };
    let (kind, length) = match family {
        Family::V4 => (0x10, 4),
        Family::V6 => (0x20, 16),
    };
    put(&SIGNATURE);
    put(&[VERSION_COMMAND, kind | if transport == protocol::UDP { 2 } else { 1 }]);
    put(&(size(family) - 16).to_be_bytes());
    put(&addr(client.0)[..length]);
    put(&addr(virt.0)[..length]);
    put(&client.1.to_be_bytes());
    put(&virt.1.to_be_bytes());
    out
}

/// Where the transport header of a finished frame starts, whose link header has no tag; `parsed` is
/// what it was when it came.
fn transport(parsed: &Parsed) -> usize {
    ethernet::LEN + usize::from(parsed.l4 - parsed.l3)
}

/// Length of its transport header.
fn transport_len(frame: &[u8], parsed: &Parsed) -> Option<usize> {
    let header = frame.get(transport(parsed)..)?;
    match parsed.key.protocol {
        protocol::UDP => Some(udp::LEN),
        _ => header.first_chunk().map(tcp::header_len).filter(|&length| length >= tcp::LEN),
    }
}

/// Whether a TCP segment carries data or a FIN.
#[must_use]
pub fn has_data(packet: &Packet<'_>, parsed: &Parsed) -> bool {
    let headers = transport_len(packet.bytes(), parsed).map(|length| transport(parsed) + length);
    parsed.flags & tcp::flags::FIN != 0 || headers.is_some_and(|length| length < packet.len())
}

/// The sequence number of a TCP segment.
#[must_use]
pub fn sequence(packet: &Packet<'_>, parsed: &Parsed) -> Option<u32> {
    packet.bytes().get(transport(parsed)..)?.first_chunk().map(tcp::sequence)
}

/// The number that a TCP segment acknowledges, if it does.
#[must_use]
pub fn acknowledged(packet: &Packet<'_>, parsed: &Parsed) -> Option<u32> {
    let header = packet.bytes().get(usize::from(parsed.l4)..)?.first_chunk()?;
    (parsed.flags & tcp::flags::ACK != 0).then(|| tcp::acknowledgement(header))
}

/// Puts a header in front of the data of a segment or datagram; a segment's sequence number becomes
/// lower by as much. Whether there was room: in the frame, and on a path that takes `mtu` octets.
pub fn insert(packet: &mut Packet<'_>, parsed: &Parsed, header: &Header, mtu: u16) -> bool {
    let octets = packet.len() - ethernet::LEN + header.len();
    let Some(l4) = transport_len(packet.bytes(), parsed) else { return false };
    // What an urgent pointer points to would have to be counted anew.
    let urgent = parsed.key.protocol == protocol::TCP && parsed.flags & tcp::flags::URG != 0;
    if urgent || octets > usize::from(mtu) || packet.prepend_slice(header).is_err() {
        return false;
    }
    let frame = packet.bytes_mut();
    let headers = transport(parsed) + l4;
    frame.copy_within(header.len()..header.len() + headers, 0);
    frame[headers..headers + header.len()].copy_from_slice(header);
    lengthen(frame, parsed, header, octets).is_ok()
}

/// Mends lengths, sequence number and checksum of a frame that has a header in it by now.
fn lengthen(
    frame: &mut [u8],
    parsed: &Parsed,
    header: &Header,
    octets: usize,
) -> Result<(), DropReason> {
    let more = u16::try_from(header.len()).unwrap_or(0);
    set_length(frame, parsed, octets)?;
    let l4 = u16::try_from(transport(parsed)).unwrap_or(u16::MAX);
    let mut change = checksum::delta(0, Sum::of(header).word(more).fold());
    let at = checksum_at(parsed.key.protocol).ok_or(DropReason::Truncated)?;
    if parsed.key.protocol == protocol::UDP {
        let field = chunk::<2>(frame, l4 + 4)?;
        *field = u16::from_be_bytes(*field).saturating_add(more).to_be_bytes();
        change = checksum::both(change, checksum::delta(0, more));
    } else {
        change = checksum::both(change, lower(frame, l4 + 4, more.into())?);
    }
    let field = chunk::<2>(frame, l4 + at)?;
    let was = u16::from_be_bytes(*field);
    let is = match parsed.key.protocol {
        protocol::UDP => checksum::apply_udp(was, change),
        _ => checksum::apply(was, change),
    };
    *field = is.to_be_bytes();
    Ok(())
}

/// Sets the IP packet's length, in octets.
fn set_length(frame: &mut [u8], parsed: &Parsed, octets: usize) -> Result<(), DropReason> {
    let ip = u16::try_from(ethernet::LEN).unwrap_or(0);
    let length = |octets: usize| u16::try_from(octets).unwrap_or(u16::MAX);
    match parsed.family {
        Family::V4 => ipv4::set_total_len(chunk(frame, ip)?, length(octets)),
        Family::V6 => ipv6::set_payload_len(chunk(frame, ip)?, length(octets - ipv6::LEN)),
    }
    Ok(())
}

/// Lowers the 32-bit number at `at`; by how much the sum changes.
fn lower(frame: &mut [u8], at: u16, by: u32) -> Result<u16, DropReason> {
    let field = chunk::<4>(frame, at)?;
    let old = Sum::of(field).fold();
    *field = u32::from_be_bytes(*field).wrapping_sub(by).to_be_bytes();
    Ok(checksum::delta(old, Sum::of(field).fold()))
}

/// Lowers the sequence number of a finished TCP segment by a header's length, and cuts its data off if it
/// is a SYN: what a client sends with it (RFC 7413) it sends again.
///
/// # Errors
///
/// The segment is cut short.
pub fn make_room(packet: &mut Packet<'_>, parsed: &Parsed) -> Result<(), DropReason> {
    let l4 = transport(parsed);
    let length = transport_len(packet.bytes(), parsed).ok_or(DropReason::ShortTransport)?;
    let at = u16::try_from(l4).unwrap_or(u16::MAX);
    let mut change = lower(packet.bytes_mut(), at + 4, size(parsed.family).into())?;
    let data = packet.bytes().get(l4 + length..).unwrap_or_default();
    if parsed.flags & tcp::flags::SYN != 0 && !data.is_empty() {
        let octets = u16::try_from(data.len()).unwrap_or(u16::MAX);
        let gone = checksum::delta(Sum::of(data).word(octets).fold(), 0);
        change = checksum::both(change, gone);
        packet.truncate(l4 + length);
        set_length(packet.bytes_mut(), parsed, l4 + length - ethernet::LEN)?;
    }
    let checksum = checksum_at(protocol::TCP).unwrap_or(0);
    let field = chunk::<2>(packet.bytes_mut(), at + checksum)?;
    *field = checksum::apply(u16::from_be_bytes(*field), change).to_be_bytes();
    Ok(())
}

/// Makes a segment, as it came, acknowledge `number`.
///
/// # Errors
///
/// The segment is cut short.
pub fn acknowledge(
    packet: &mut Packet<'_>,
    parsed: &Parsed,
    number: u32,
) -> Result<(), DropReason> {
    let frame = packet.bytes_mut();
    let field = chunk::<4>(frame, parsed.l4 + 8)?;
    let old = Sum::of(field).fold();
    *field = number.to_be_bytes();
    let change = checksum::delta(old, Sum::of(field).fold());
    let checksum = checksum_at(protocol::TCP).unwrap_or(0);
    let field = chunk::<2>(frame, parsed.l4 + checksum)?;
    *field = checksum::apply(u16::from_be_bytes(*field), change).to_be_bytes();
    Ok(())
}

/// Writes a segment that carries nothing but a header into `out`: that of the finished frame of a
/// segment for which [`insert`] had no room, with the same options. Its length.
pub fn emit(frame: &[u8], parsed: &Parsed, header: &Header, out: &mut [u8]) -> Option<usize> {
    let l4 = transport(parsed);
    let headers = l4 + transport_len(frame, parsed)?;
    let length = headers + header.len();
    let out = out.get_mut(..length)?;
    out[..headers].copy_from_slice(frame.get(..headers)?);
    out[headers..].copy_from_slice(header);
    set_length(out, parsed, length - ethernet::LEN).ok()?;
    let at = u16::try_from(l4).ok()?;
    lower(out, at + 4, u32::try_from(header.len()).ok()?).ok()?;
    out[l4 + tcp::FLAGS_AT] = tcp::flags::ACK | tcp::flags::PSH;
    out[l4 + 18..l4 + 20].fill(0);
    let (source, destination) = ends(out, parsed.family)?;
    tcp::seal(&mut out[l4..], source, destination);
    Some(length)
}

/// Source and destination of a finished frame.
fn ends(frame: &[u8], family: Family) -> Option<(Addr, Addr)> {
    let ip = frame.get(ethernet::LEN..)?;
    Some(match family {
        Family::V4 => {
            let header = ip.first_chunk()?;
            (ipv4::source(header), ipv4::destination(header))
        }
        Family::V6 => {
            let header = ip.first_chunk()?;
            (ipv6::source(header), ipv6::destination(header))
        }
    })
}
