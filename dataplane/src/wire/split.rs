//! A packet in pieces: what a router does to one that is longer than the next link takes.
//!
//! IPv4: every piece has the packet's identification, only the first all options. IPv6: the part
//! in front of the fragment header is repeated; a router never does this to a packet of others,
//! only to one it made itself or put together from fragments.
//! Source: RFC 791, section 3.2; RFC 8200, section 4.5; options: Linux `ip_options_fragment`.

use super::{checksum::Sum, ethernet, extension, ipv4, ipv6};

/// How a frame falls into pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pieces {
    /// Octets repeated in front of each piece: link and IP header, unfragmentable extensions.
    header: usize,
    /// Octets of data in each piece but the last; a multiple of 8.
    each: usize,
    /// Octets of data in all.
    data: usize,
    /// IPv6: offset of the octet that is to name the fragment header.
    next_header_at: Option<usize>,
}

/// How the IP packet of `frame`, which starts behind an untagged Ethernet header and reaches to
/// the end, falls into pieces of at most `limit` octets. `None` if `limit` does not leave room for
/// 8 octets of data, or the packet is no IP packet.
pub fn pieces(frame: &[u8], limit: u16) -> Option<Pieces> {
    let ip = frame.get(ethernet::LEN..)?;
    let (header, extra, next_header_at) = match ip.first()? >> 4 {
        4 => (ipv4::header_len(ip.first_chunk()?), 0, None),
        6 => {
            let (length, names) = unfragmentable(ip)?;
            (length, extension::FRAGMENT_LEN, Some(ethernet::LEN + names))
        }
        _ => return None,
    };
    let each = usize::from(limit).checked_sub(header + extra)? & !7;
    if each == 0 {
        return None;
    }
    let data = ip.len().checked_sub(header)?;
    Some(Pieces { header: ethernet::LEN + header, each, data, next_header_at })
}

impl Pieces {
    /// How many pieces there are.
    pub const fn count(&self) -> usize {
        self.data.div_ceil(self.each)
    }

    /// Writes piece number `at` of `frame` into `out` and returns its length; `None` if `out` is
    /// too short. `id` is the identification of an IPv6 packet; IPv4 has its own.
    pub fn emit(&self, at: usize, id: u32, frame: &[u8], out: &mut [u8]) -> Option<usize> {
        let offset = at * self.each;
        let end = (offset + self.each).min(self.data);
        let more = end < self.data;
        let data = frame.get(self.header + offset..self.header + end)?;
        let mut length = self.header;
        out.get_mut(..length)?.copy_from_slice(frame.get(..length)?);
        if let Some(names) = self.next_header_at {
            let header = out.get_mut(length..length + extension::FRAGMENT_LEN)?;
            header.fill(0);
            header[0] = frame[names];
            let field = u16::try_from(offset).ok()? | u16::from(more);
            header[2..4].copy_from_slice(&field.to_be_bytes());
            header[4..8].copy_from_slice(&id.to_be_bytes());
            out[names] = extension::FRAGMENT;
            length += extension::FRAGMENT_LEN;
        }
        out.get_mut(length..length + data.len())?.copy_from_slice(data);
        length += data.len();
        self.finish(offset, more, &mut out[..length])?;
        Some(length)
    }

    /// Makes the header that of this piece.
    fn finish(&self, offset: usize, more: bool, piece: &mut [u8]) -> Option<()> {
        let total = u16::try_from(piece.len() - ethernet::LEN).ok()?;
        if self.next_header_at.is_some() {
            let header = piece.get_mut(ethernet::LEN..)?.first_chunk_mut()?;
            ipv6::set_payload_len(header, total - 40);
            return Some(());
        }
        let header = piece.get_mut(ethernet::LEN..self.header)?;
        if offset != 0 {
            drop_first_only_options(&mut header[ipv4::LEN..]);
        }
        let field = u16::try_from(offset / 8).ok()? | if more { ipv4::MORE_FRAGMENTS } else { 0 };
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[6..8].copy_from_slice(&field.to_be_bytes());
        header[10..12].fill(0);
        let checksum = Sum::of(header).checksum();
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        Some(())
    }
}

/// Replaces options that only the first fragment carries by no-operations.
fn drop_first_only_options(options: &mut [u8]) {
    const COPIED: u8 = 0x80;
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        let length = match kind {
            0 => return,
            1 => 1,
            _ => usize::from(options.get(at + 1).copied().unwrap_or(0)).max(1),
        };
        if kind & COPIED == 0 {
            let end = (at + length).min(options.len());
            options[at..end].fill(1);
        }
        at += length;
    }
}

/// Length of the part of an IPv6 packet that every fragment repeats, and the offset of the octet
/// that names what follows it: the header, hop-by-hop options, and everything up to a routing
/// header.
fn unfragmentable(ip: &[u8]) -> Option<(usize, usize)> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const DESTINATION: u8 = 60;
    let mut part = (ipv6::LEN, 6);
    let (mut at, mut names) = part;
    for _ in 0..extension::HEADERS_MAX {
        let next = *ip.get(names)?;
        if !matches!(next, HOP_BY_HOP | ROUTING | DESTINATION) {
            break;
        }
        names = at;
        at += 8 * (1 + usize::from(*ip.get(at + 1)?));
        if next != DESTINATION {
            part = (at, names);
        }
    }
    (part.0 < ip.len()).then_some(part)
}
