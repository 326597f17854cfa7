//! TOA: the client's address as a TCP option, for real servers that full NAT hides it from.
//!
//! Option 254 holds port and address: 8 octets for IPv4, 20 for IPv6, directly behind the fixed header.
//! Where the header has no room for it, or the packet would exceed the path's MTU, it goes without.
//! So that full segments have room too, the maximum segment size that the real server announces to
//! the client is lowered by as much.
//! Source: DPVS `src/ipvs/ip_vs_proto_tcp.c`, `tcp_in_add_toa` and `tcp_out_adjust_mss`; RFC 9293,
//! section 3.1; RFC 3692 for the experimental number.

use super::{chunk, fullnat::End};
use crate::{
    addr::Family,
    packet::Packet,
    verdict::DropReason,
    wire::{
        checksum::{self, Sum},
        ethernet,
        frame::Parsed,
        ipv4, ipv6, tcp,
    },
};

/// The option's kind.
const KIND: u8 = 254;

/// Octets of it, for each family.
const V4: usize = 8;
const V6: usize = 20;

/// Octets of the longest TCP header.
const HEADER_MAX: usize = 60;

/// TCP's options that have no length octet, and the maximum segment size.
const END: u8 = 0;
const NOTHING: u8 = 1;
const MSS: u8 = 2;

/// Octets of the option in packets of a family.
const fn size(family: Family) -> usize {
    match family {
        Family::V4 => V4,
        Family::V6 => V6,
    }
}

/// Puts the client's address into a finished frame, whose link header has no tag; `parsed` is what it
/// was when it came. Whether there was room.
pub fn insert(packet: &mut Packet<'_>, parsed: &Parsed, client: End, mtu: u16) -> bool {
    let size = size(parsed.family);
    let l4 = ethernet::LEN + usize::from(parsed.l4 - parsed.l3);
    let octets = packet.len() - ethernet::LEN;
    let Some(header) = packet.bytes().get(l4..).and_then(|segment| segment.first_chunk()) else {
        return false;
    };
    if tcp::header_len(header) + size > HEADER_MAX || octets + size > usize::from(mtu) {
        return false;
    }
    let room = match parsed.family {
        Family::V4 => packet.prepend::<V4>().is_ok(),
        Family::V6 => packet.prepend::<V6>().is_ok(),
    };
    room && write(packet.bytes_mut(), parsed.family, (l4, octets), client).is_ok()
}

/// Moves the headers to the front and fills the gap.
#[expect(clippy::cast_possible_truncation, reason = "lengths of headers; halves of an address")]
fn write(
    frame: &mut [u8],
    family: Family,
    (l4, octets): (usize, usize),
    (addr, port): End,
) -> Result<(), DropReason> {
    let size = size(family);
    let fixed = l4 + tcp::LEN;
    frame.copy_within(size..size + fixed, 0);
    let option = frame.get_mut(fixed..fixed + size).ok_or(DropReason::Truncated)?;
    option[..2].copy_from_slice(&[KIND, size as u8]);
    option[2..4].copy_from_slice(&port.to_be_bytes());
    match family {
        Family::V4 => option[4..].copy_from_slice(&addr.low32().to_be_bytes()),
        Family::V6 => option[4..].copy_from_slice(&addr.bits().to_be_bytes()),
    }
    // What the checksum covers more: the option, the length in the pseudo header, and the words of
    // the header that the data offset counts.
    let words = (size / 4) as u16;
    let more = Sum::of(option).word(size as u16).word(words << 12).fold();
    let l4 = l4 as u16;
    chunk::<1>(frame, l4 + 12)?[0] += (words as u8) << 4;
    let field = chunk::<2>(frame, l4 + tcp::CHECKSUM_AT as u16)?;
    let is = checksum::apply(u16::from_be_bytes(*field), checksum::delta(0, more));
    *field = is.to_be_bytes();
    let ip = ethernet::LEN as u16;
    match family {
        Family::V4 => ipv4::set_total_len(chunk(frame, ip)?, (octets + size) as u16),
        Family::V6 => {
            ipv6::set_payload_len(chunk(frame, ip)?, (octets + size - ipv6::LEN) as u16);
        }
    }
    Ok(())
}

/// Lowers the maximum segment size that a segment announces, so that the option fits beside it.
pub fn lower_mss(packet: &mut Packet<'_>, parsed: &Parsed) {
    let by = u16::try_from(size(parsed.family)).unwrap_or(0);
    let segment = usize::from(parsed.l4)..usize::from(parsed.end);
    let Some(segment) = packet.bytes_mut().get_mut(segment) else { return };
    let Some(at) = mss_at(segment) else { return };
    let Some(field) = segment.get_mut(at..at + 2) else { return };
    let old = u16::from_be_bytes([field[0], field[1]]);
    let new = old.saturating_sub(by);
    field.copy_from_slice(&new.to_be_bytes());
    // A field at an odd offset counts with its octets swapped.
    let (old, new) = if at % 2 == 0 { (old, new) } else { (old.swap_bytes(), new.swap_bytes()) };
    if let Some([high, low]) = segment.get_mut(tcp::CHECKSUM_AT..tcp::CHECKSUM_AT + 2) {
        let was = u16::from_be_bytes([*high, *low]);
        [*high, *low] = checksum::apply(was, checksum::delta(old, new)).to_be_bytes();
    }
}

/// Where a segment's maximum segment size stands.
fn mss_at(segment: &[u8]) -> Option<usize> {
    let end = tcp::header_len(segment.first_chunk()?);
    let options = segment.get(..end)?;
    let mut at = tcp::LEN;
    while at < options.len() {
        match (options[at], options.get(at + 1)) {
            (END, _) => return None,
            (NOTHING, _) => at += 1,
            (MSS, Some(4)) => return Some(at + 2),
            (_, Some(&length)) if length >= 2 => at += usize::from(length),
            _ => return None,
        }
    }
    None
}
