//! IPv4 headers: written whole, or changed in place with the header checksum following.
//!
//! | version, length 1 | TOS 1 | total length 2 | id 2 | flags, fragment offset 2 | TTL 1 | protocol 1 | checksum 2 | source 4 | destination 4 |
//!
//! What is changed in place changes the checksum by the difference (RFC 1624), so options behind
//! the twenty octets do not matter and a wrong checksum stays wrong.
//! Source: RFC 791, section 3.1.

use super::{
    checksum::{self, Sum},
    put, u16_at, u32_at,
};
use crate::addr::Addr;

/// Length of the header without options.
pub const LEN: usize = 20;

/// Length of the header with the most options.
pub const LEN_MAX: usize = 60;

/// Do not fragment: a bit of [`fragment_field`].
pub const DONT_FRAGMENT: u16 = 0x4000;

/// More fragments follow: a bit of [`fragment_field`].
pub const MORE_FRAGMENTS: u16 = 0x2000;

/// The bits of [`fragment_field`] that hold the offset, in units of 8 octets.
pub const OFFSET: u16 = 0x1fff;

/// The hop count a packet of our own starts with (RFC 1700).
pub const TTL: u8 = 64;

/// By how much the header's sum changes with one hop less, as octets lie: one less in the upper half of
/// the word that time to live shares with the protocol.
pub const HOP_LESS: u16 = !0x0100u16.to_be();

/// A header without options, of a packet that is no fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Source; must be IPv4.
    pub source: Addr,
    /// Destination; must be IPv4.
    pub destination: Addr,
    /// What follows.
    pub protocol: u8,
    /// Type of service: DSCP and ECN.
    pub tos: u8,
    /// Time to live.
    pub ttl: u8,
    /// Identification; any, 0 too, if the packet may not be fragmented (RFC 6864).
    pub id: u16,
    /// Whether routers must refuse rather than fragment it.
    pub dont_fragment: bool,
    /// Octets that follow, at most 65 515: the path's MTU has been held against them.
    pub payload: usize,
}

impl Header {
    /// Writes the header with its checksum, which is summed up before anything is written.
    #[inline(always)]
    pub fn emit(self, out: &mut [u8; LEN]) {
        let total = u16::try_from(LEN + self.payload).unwrap_or(u16::MAX);
        let fragment = if self.dont_fragment { DONT_FRAGMENT } else { 0 };
        let mut words = [
            u32::from_be_bytes([0x45, self.tos, 0, 0]) | u32::from(total),
            u32::from(self.id) << 16 | u32::from(fragment),
            u32::from_be_bytes([self.ttl, self.protocol, 0, 0]),
            self.source.low32(),
            self.destination.low32(),
        ];
        words[2] |= u32::from(Sum::of_words(words).checksum());
        for (at, word) in words.into_iter().enumerate() {
            put(out, 4 * at, word.to_be_bytes());
        }
    }
}

/// Length of the header with its options in octets; 20 to 60 in a header that was parsed.
#[inline]
pub const fn header_len(header: &[u8; LEN]) -> usize {
    (header[0] & 0x0f) as usize * 4
}

/// Type of service.
#[inline]
pub const fn tos(header: &[u8; LEN]) -> u8 {
    header[1]
}

/// Length of the packet in octets.
#[inline]
pub fn total_len(header: &[u8; LEN]) -> u16 {
    u16_at(header, 2)
}

/// Identification.
#[inline]
pub fn id(header: &[u8; LEN]) -> u16 {
    u16_at(header, 4)
}

/// Flags and fragment offset in one: [`DONT_FRAGMENT`], [`MORE_FRAGMENTS`], [`OFFSET`].
#[inline]
pub fn fragment_field(header: &[u8; LEN]) -> u16 {
    u16_at(header, 6)
}

/// Whether the packet must not be fragmented.
#[inline]
pub fn dont_fragment(header: &[u8; LEN]) -> bool {
    fragment_field(header) & DONT_FRAGMENT != 0
}

/// Source address.
#[inline]
pub fn source(header: &[u8; LEN]) -> Addr {
    Addr::v4(u32_at(header, 12))
}

/// Destination address.
#[inline]
pub fn destination(header: &[u8; LEN]) -> Addr {
    Addr::v4(u32_at(header, 16))
}

/// Writes a word in place.
#[inline]
fn set_word(header: &mut [u8; LEN], at: usize, new: u16) {
    let delta = checksum::delta(u16_at(header, at), new);
    put(header, at, new.to_be_bytes());
    change_checksum(header, delta);
}

/// Lets the header checksum follow a change of sums by `delta`.
#[inline]
fn change_checksum(header: &mut [u8; LEN], delta: u16) {
    let checksum = checksum::apply(u16_at(header, 10), delta);
    put(header, 10, checksum.to_be_bytes());
}

/// Writes an address in place.
#[inline]
fn set_addr(header: &mut [u8; LEN], at: usize, new: Addr) {
    let old = checksum::sum_v4(u32_at(header, at)).fold();
    let delta = checksum::delta(old, checksum::sum_v4(new.low32()).fold());
    put(header, at, new.low32().to_be_bytes());
    change_checksum(header, delta);
}

/// Changes the source address, which must be IPv4. The transport checksum is the caller's.
#[inline]
pub fn set_source(header: &mut [u8; LEN], new: Addr) {
    set_addr(header, 12, new);
}

/// Changes the destination address, which must be IPv4. The transport checksum is the caller's.
#[inline]
pub fn set_destination(header: &mut [u8; LEN], new: Addr) {
    set_addr(header, 16, new);
}

/// Changes the type of service.
#[inline]
pub fn set_tos(header: &mut [u8; LEN], tos: u8) {
    set_word(header, 0, u16::from_be_bytes([header[0], tos]));
}

/// Changes the length of the packet.
#[inline]
pub fn set_total_len(header: &mut [u8; LEN], total: u16) {
    set_word(header, 2, total);
}

/// Changes the identification.
#[inline]
pub fn set_id(header: &mut [u8; LEN], id: u16) {
    set_word(header, 4, id);
}

/// Changes flags and fragment offset.
#[inline]
pub fn set_fragment_field(header: &mut [u8; LEN], field: u16) {
    set_word(header, 6, field);
}

/// Takes one from the time to live, which must not be 0: a router asks first (RFC 1812,
/// section 5.3.1).
#[inline]
pub fn decrement_ttl(header: &mut [u8; LEN]) {
    header[8] = header[8].wrapping_sub(1);
    // The high half of a word, one less.
    change_checksum(header, !0x0100);
}

/// Adds one to the time to live, which must not be 255.
pub fn increment_ttl(header: &mut [u8; LEN]) {
    header[8] = header[8].wrapping_add(1);
    change_checksum(header, 0x0100);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn header() -> Header {
        Header {
            source: Ipv4Addr::new(10, 2, 0, 1).into(),
            destination: Ipv4Addr::new(10, 2, 0, 11).into(),
            protocol: super::super::protocol::IPIP,
            tos: 0xb9,
            ttl: 63,
            id: 0x1234,
            dont_fragment: true,
            payload: 60,
        }
    }

    #[test]
    fn a_header_is_written_field_by_field() {
        let mut out = [0xff; LEN];
        header().emit(&mut out);
        assert_eq!(out[..10], [0x45, 0xb9, 0, 80, 0x12, 0x34, 0x40, 0, 63, 4]);
        assert_eq!(out[12..], [10, 2, 0, 1, 10, 2, 0, 11]);
        assert!(Sum::of(&out).is_valid());
        assert_eq!(
            (header_len(&out), total_len(&out), tos(&out), id(&out)),
            (20, 80, 0xb9, 0x1234)
        );
        assert_eq!((source(&out), destination(&out)), (header().source, header().destination));
        assert!(dont_fragment(&out));
    }

    #[test]
    fn changes_in_place_give_what_would_have_been_written() {
        for ttl in 1..=255 {
            let mut changed = [0; LEN];
            Header { ttl: ttl - 1, ..header() }.emit(&mut changed);
            increment_ttl(&mut changed);
            decrement_ttl(&mut changed);
            set_source(&mut changed, Ipv4Addr::new(192, 0, 2, 255).into());
            set_destination(&mut changed, Ipv4Addr::new(10, 0, 0, 1).into());
            set_tos(&mut changed, ttl);
            set_total_len(&mut changed, 20 + u16::from(ttl));
            set_id(&mut changed, 0xfffe);
            set_fragment_field(&mut changed, 0);
            let mut written = [0; LEN];
            Header {
                source: Ipv4Addr::new(192, 0, 2, 255).into(),
                destination: Ipv4Addr::new(10, 0, 0, 1).into(),
                tos: ttl,
                ttl: ttl - 1,
                id: 0xfffe,
                dont_fragment: false,
                payload: usize::from(ttl),
                ..header()
            }
            .emit(&mut written);
            assert_eq!(changed, written);
        }
    }

    #[test]
    fn a_wrong_checksum_stays_wrong_by_the_same_amount() {
        let mut out = [0; LEN];
        header().emit(&mut out);
        let mut wrong = out;
        wrong[11] ^= 0x10;
        decrement_ttl(&mut out);
        decrement_ttl(&mut wrong);
        wrong[11] ^= 0x10;
        assert_eq!(out, wrong);
    }
}
