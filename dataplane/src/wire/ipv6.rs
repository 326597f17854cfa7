//! IPv6 headers: written whole, or changed in place.
//!
//! | version, class, flow label 4 | payload length 2 | next header 1 | hop limit 1 | source 16 | destination 16 |
//!
//! There is no header checksum; the addresses are in the transport's.
//! Source: RFC 8200, section 3.

use super::{put, u16_at, u32_at, u128_at};
use crate::addr::Addr;

/// Length of the header.
pub const LEN: usize = 40;

/// Every IPv6 link carries packets of this length (RFC 8200, section 5).
pub const MTU_MIN: usize = 1280;

/// The hop count a packet of our own starts with.
pub const HOP_LIMIT: u8 = 64;

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Source.
    pub source: Addr,
    /// Destination.
    pub destination: Addr,
    /// What follows.
    pub next_header: u8,
    /// Traffic class: DSCP and ECN.
    pub class: u8,
    /// Flow label, 20 bits.
    pub flow_label: u32,
    /// Hop limit.
    pub hop_limit: u8,
    /// Octets that follow, at most 65 535: the path's MTU has been held against them.
    pub payload: usize,
}

impl Header {
    /// Writes the header.
    #[inline]
    pub fn emit(self, out: &mut [u8; LEN]) {
        let first = 6 << 28 | u32::from(self.class) << 20 | self.flow_label & 0xf_ffff;
        let payload = u16::try_from(self.payload).unwrap_or(u16::MAX);
        put(out, 0, first.to_be_bytes());
        put(out, 4, payload.to_be_bytes());
        put(out, 6, [self.next_header, self.hop_limit]);
        put(out, 8, self.source.bits().to_be_bytes());
        put(out, 24, self.destination.bits().to_be_bytes());
    }
}

/// Traffic class.
#[inline]
pub const fn class(header: &[u8; LEN]) -> u8 {
    header[0] << 4 | header[1] >> 4
}

/// Flow label.
#[inline]
pub fn flow_label(header: &[u8; LEN]) -> u32 {
    u32_at(header, 0) & 0xf_ffff
}

/// Octets that follow the header.
#[inline]
pub fn payload_len(header: &[u8; LEN]) -> u16 {
    u16_at(header, 4)
}

/// What follows the header: a transport protocol or an extension header.
#[inline]
pub const fn next_header(header: &[u8; LEN]) -> u8 {
    header[6]
}

/// Source address.
#[inline]
pub fn source(header: &[u8; LEN]) -> Addr {
    Addr::v6(u128_at(header, 8))
}

/// Destination address.
#[inline]
pub fn destination(header: &[u8; LEN]) -> Addr {
    Addr::v6(u128_at(header, 24))
}

/// Changes the source address. The transport checksum is the caller's.
#[inline]
pub fn set_source(header: &mut [u8; LEN], new: Addr) {
    put(header, 8, new.bits().to_be_bytes());
}

/// Changes the destination address. The transport checksum is the caller's.
#[inline]
pub fn set_destination(header: &mut [u8; LEN], new: Addr) {
    put(header, 24, new.bits().to_be_bytes());
}

/// Changes the traffic class.
#[inline]
pub fn set_class(header: &mut [u8; LEN], class: u8) {
    header[0] = header[0] & 0xf0 | class >> 4;
    header[1] = header[1] & 0x0f | class << 4;
}

/// Changes the length of what follows.
#[inline]
pub fn set_payload_len(header: &mut [u8; LEN], payload: u16) {
    put(header, 4, payload.to_be_bytes());
}

/// Takes one from the hop limit, which must not be 0: a router asks first.
#[inline]
pub const fn decrement_hop_limit(header: &mut [u8; LEN]) {
    header[7] = header[7].wrapping_sub(1);
}

/// Adds one to the hop limit, which must not be 255.
pub const fn increment_hop_limit(header: &mut [u8; LEN]) {
    header[7] = header[7].wrapping_add(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_written_field_by_field_and_changed_in_place() {
        let mut out = [0xff; LEN];
        Header {
            source: Addr::v6(0xfd00 << 112 | 1),
            destination: Addr::v6(0xfd02 << 112 | 0x11),
            next_header: 47,
            class: 0xb9,
            flow_label: 0xfff_abcde,
            hop_limit: 63,
            payload: 0x1234,
        }
        .emit(&mut out);
        assert_eq!(out[..8], [0x6b, 0x9a, 0xbc, 0xde, 0x12, 0x34, 47, 63]);
        assert_eq!((out[8], out[23], out[24], out[39]), (0xfd, 1, 0xfd, 0x11));
        assert_eq!((class(&out), flow_label(&out)), (0xb9, 0xabcde));
        assert_eq!((payload_len(&out), next_header(&out)), (0x1234, 47));

        set_class(&mut out, 0x28);
        set_payload_len(&mut out, 20);
        decrement_hop_limit(&mut out);
        set_source(&mut out, Addr::v6(7));
        set_destination(&mut out, Addr::v6(8));
        assert_eq!(out[..8], [0x62, 0x8a, 0xbc, 0xde, 0, 20, 47, 62]);
        assert_eq!((source(&out), destination(&out)), (Addr::v6(7), Addr::v6(8)));
    }
}
