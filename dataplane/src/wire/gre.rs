//! GRE headers, version 0, with or without a checksum.
//!
//! | checksum present 1 bit, reserved 12, version 3 | ethertype 2 | checksum 2 | 0 2 |
//!
//! The last four octets are there with the checksum only. Keys and sequence numbers are never
//! written; they are read over.
//! Source: RFC 2784; keys and sequence numbers: RFC 2890.

use super::{checksum::Sum, put, u16_at};

/// Length of the header without a checksum.
pub const LEN: usize = 4;

/// Length of the header with a checksum.
pub const LEN_CHECKSUM: usize = 8;

/// A checksum is there.
const CHECKSUM: u16 = 0x8000;
/// A key is there.
const KEY: u16 = 0x2000;
/// A sequence number is there.
const SEQUENCE: u16 = 0x1000;

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Ethertype of the packet inside.
    pub ethertype: u16,
}

impl Header {
    /// Writes the header without a checksum.
    #[inline]
    pub fn emit(self, out: &mut [u8; LEN]) {
        put(out, 0, [0, 0]);
        put(out, 2, self.ethertype.to_be_bytes());
    }

    /// Writes the header with room for a checksum: [`seal`] adds it.
    #[inline]
    pub fn emit_with_checksum(self, out: &mut [u8; LEN_CHECKSUM]) {
        *out = [0; LEN_CHECKSUM];
        put(out, 0, CHECKSUM.to_be_bytes());
        put(out, 2, self.ethertype.to_be_bytes());
    }
}

/// Writes the checksum over header and payload, which lie in `message`; the header must have room
/// for it. Does nothing to less than such a header.
#[inline]
pub fn seal(message: &mut [u8]) {
    if let Some(header) = message.first_chunk_mut::<LEN_CHECKSUM>() {
        put(header, 4, [0, 0]);
        let checksum = Sum::of(message).checksum();
        message[4..6].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// The ethertype of the packet inside and the length of the GRE header in front of it, which may
/// be cut off; `None` for less than four octets, another version or routing (RFC 1701).
pub fn parse(message: &[u8]) -> Option<(u16, usize)> {
    let header: &[u8; LEN] = message.first_chunk()?;
    let flags = u16_at(header, 0);
    if flags & !(CHECKSUM | KEY | SEQUENCE) != 0 {
        return None;
    }
    let options = [CHECKSUM, KEY, SEQUENCE].into_iter().filter(|option| flags & option != 0);
    Some((u16_at(header, 2), LEN + 4 * options.count()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_what_linux_writes() {
        let mut out = [0xff; LEN];
        Header { ethertype: 0x86dd }.emit(&mut out);
        assert_eq!(out, [0, 0, 0x86, 0xdd]);
        assert_eq!(parse(&out), Some((0x86dd, 4)));
    }

    #[test]
    fn the_checksum_covers_header_and_payload() {
        // A SYN in GRE as Linux IPVS sent it.
        let inner = [
            0x45, 0, 0, 0x3c, 0x12, 0x34, 0x40, 0, 0x3f, 0x06, 0x15, 0x78, 10, 9, 0, 7, 10, 0, 0,
            1, 0x9c, 0x41, 0, 80, 0, 0, 3, 0xe8, 0, 0, 0, 0, 0xa0, 2, 0xfa, 0xf0, 0x98, 0x84, 0, 0,
            2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7,
        ];
        let mut message = [0xff; LEN_CHECKSUM + 60];
        let (header, payload) = message.split_first_chunk_mut().unwrap();
        Header { ethertype: 0x0800 }.emit_with_checksum(header);
        payload.copy_from_slice(&inner);
        seal(&mut message);
        assert_eq!(message[..8], [0x80, 0, 8, 0, 0x8c, 0x3e, 0, 0]);
        assert_eq!(parse(&message), Some((0x0800, 8)));
    }

    #[test]
    fn keys_and_sequence_numbers_are_read_over_and_routing_is_not() {
        assert_eq!(parse(&[0xb0, 0, 8, 0]), Some((0x0800, 16)));
        assert_eq!(parse(&[0x40, 0, 8, 0]), None);
        assert_eq!(parse(&[0, 1, 8, 0]), None, "version 1");
        assert_eq!(parse(&[0, 0, 8]), None);
    }
}
