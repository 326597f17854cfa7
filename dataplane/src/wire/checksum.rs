//! The Internet checksum: whole, incremental, and left unfinished by an offloading peer.
//!
//! A checksum is the inverted one's complement sum of 16-bit words (RFC 1071). Sums are taken
//! over wide words, which the one's complement allows, and turned to host order at the end.
//! A rewritten field changes a checksum by the difference of the field alone (RFC 1624,
//! equation 3), so that a packet that came with a wrong checksum leaves with one wrong by the same
//! amount, and no payload is read.
//!
//! The sums 0x0000 and 0xffff are one number. An incremental change keeps to 0xffff where a
//! whole computation would, so both give the same octets.

use crate::addr::Addr;

/// A one's complement sum that is still growing, in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The sum of `octets` as big-endian 16-bit words. An odd last octet counts as if a zero
    /// followed, so only the last piece of a message may be odd.
    ///
    /// Exact for up to 2^33 octets.
    #[inline]
    pub fn of(octets: &[u8]) -> Self {
        let (words, rest) = octets.as_chunks::<4>();
        let mut sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        sum += u64::from(u32::from_ne_bytes(last));
        // Swapping the octets of every word swaps those of the sum (RFC 1071, section 2 B).
        Self(u64::from(u16::from_be_bytes(fold(sum).to_ne_bytes())))
    }

    /// The sum of words of 32 bits, each of which folds to the same 16 bits as its halves.
    #[inline]
    pub fn of_words<const N: usize>(words: [u32; N]) -> Self {
        Self(words.into_iter().map(u64::from).sum())
    }

    /// The sum with one more word.
    #[inline]
    #[must_use]
    pub const fn word(self, word: u16) -> Self {
        Self(self.0 + word as u64)
    }

    /// The sum of two pieces, the first of even length.
    #[inline]
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The sum in 16 bits, not inverted: what goes on in [`delta`] and stands in an unfinished
    /// checksum field. A message whose checksum is right, that field included, sums to 0xffff.
    #[inline]
    pub const fn fold(self) -> u16 {
        fold(self.0)
    }

    /// The checksum of what was summed, whose own checksum field was 0.
    #[inline]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }

    /// The same for UDP, where 0 means that there is none and 0xffff stands for it (RFC 768).
    #[inline]
    pub const fn udp_checksum(self) -> u16 {
        match self.checksum() {
            0 => 0xffff,
            checksum => checksum,
        }
    }

    /// Whether the summed message, its checksum included, is intact.
    #[inline]
    pub const fn is_valid(self) -> bool {
        self.fold() == 0xffff
    }
}

/// Folds carries back in until 16 bits are left.
///
/// Halves change places and are added: the upper half of the result is their sum with the carry of the
/// lower halves, which is the carry that goes around the end.
#[inline]
const fn fold(sum: u64) -> u16 {
    fold32((sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32)
}

/// [`fold`] for sums below 2^32.
#[inline]
const fn fold32(sum: u32) -> u16 {
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// Sum of an IPv4 address.
#[inline]
pub const fn sum_v4(address: u32) -> Sum {
    // A word of 32 bits folds to the same 16 bits as its halves.
    Sum(address as u64)
}

/// Sum of an IPv6 address.
#[inline]
pub const fn sum_v6(address: u128) -> Sum {
    Sum((address >> 96) as u64
        + (address >> 64 & 0xffff_ffff) as u64
        + (address >> 32 & 0xffff_ffff) as u64
        + (address & 0xffff_ffff) as u64)
}

/// Sum of an address of either family.
#[inline]
pub const fn sum_addr(address: Addr) -> Sum {
    if address.is_v4() { sum_v4(address.low32()) } else { sum_v6(address.bits()) }
}

/// Sum of the pseudo header that TCP, UDP and ICMPv6 put in front of their messages (RFC 9293,
/// section 3.1; RFC 8200, section 8.1). `length` is that of the transport header and payload.
#[inline]
pub const fn pseudo(source: Addr, destination: Addr, protocol: u8, length: u32) -> Sum {
    Sum(sum_addr(source).0 + sum_addr(destination).0 + protocol as u64 + length as u64)
}

/// Folded sum of an address and a port: one end of what an incremental change starts from and
/// leads to.
#[inline]
pub const fn endpoint(address: Addr, port: u16) -> u16 {
    sum_addr(address).word(port).fold()
}

/// By how much sums change where a field whose folded sum was `old` becomes `new`.
#[inline]
pub const fn delta(old: u16, new: u16) -> u16 {
    fold(!old as u64 + new as u64)
}

/// Two changes at once.
#[inline]
pub const fn both(first: u16, second: u16) -> u16 {
    fold(first as u64 + second as u64)
}

/// A checksum after a change by `delta` (RFC 1624, equation 3).
#[inline]
pub const fn apply(checksum: u16, delta: u16) -> u16 {
    !fold(!checksum as u64 + delta as u64)
}

/// A checksum after a change of sums by `delta`, which need not be folded but is below 2^31; both in the
/// same order of octets.
#[inline]
pub const fn change(checksum: u16, delta: u32) -> u16 {
    !fold32(!checksum as u32 + delta)
}

/// A checksum, as its octets lie, after the first octet of a 16-bit word became one less: [`change`] for
/// this case alone (RFC 1141).
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the carry went around the end")]
pub const fn one_less(checksum: u16) -> u16 {
    let sum = checksum as u32 + 0x0100u16.to_be() as u32;
    (sum + (sum >= 0xffff) as u32) as u16
}

/// A UDP checksum after a change: 0, "none", stays 0, and no other becomes 0 (RFC 768).
#[inline]
pub const fn apply_udp(checksum: u16, delta: u16) -> u16 {
    if checksum == 0 {
        return 0;
    }
    match apply(checksum, delta) {
        0 => 0xffff,
        changed => changed,
    }
}

/// Whether a transport checksum field was left for hardware to finish: it then holds the folded
/// sum of the pseudo header, not inverted (Linux's `CHECKSUM_PARTIAL`), as frames from a veth or
/// virtio peer do.
///
/// A packet with a finished checksum may hold the same number, once in 65 536; the checksum
/// computed whole is right for that one too, unless the packet was damaged on a link that did not
/// notice: that damage then goes unnoticed, as of one damaged packet in 65 536 it does anyway.
#[inline]
pub const fn is_unfinished(checksum: u16, pseudo: Sum) -> bool {
    checksum == pseudo.fold()
}

/// Whether a checksum is as good as certainly finished: never true of one that
/// [`is_unfinished`], and cheaper to ask. `pseudo` is the plain sum of the pseudo header's words of
/// 16 or 32 bits; all of it, the checksum too, may be in either order of octets.
#[inline]
pub const fn is_finished(checksum: u16, pseudo: u64) -> bool {
    !is_multiple(pseudo + !checksum as u64)
}

/// Whether a plain sum is a multiple of 0xffff, as that of an intact message is.
///
/// Multiplied by the inverse of 0xffff modulo 2^64 the multiples, and no others, become what they are
/// multiples by (Granlund, Montgomery, "Division by invariant integers", 1994, section 9).
#[inline]
pub(crate) const fn is_multiple(sum: u64) -> bool {
    const INVERSE: u64 = 0xfffe_fffe_fffe_ffff;
    const { assert!(INVERSE.wrapping_mul(0xffff) == 1) };
    sum.wrapping_mul(INVERSE) <= u64::MAX / 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ipv4::HOP_LESS;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr};

    #[test]
    fn one_hop_less_is_the_change_by_it() {
        for checksum in 0..=u16::MAX {
            assert_eq!(one_less(checksum), change(checksum, HOP_LESS.into()), "{checksum:#x}");
        }
    }

    #[test]
    fn a_header_sums_as_rfc_1071_shows() {
        let octets = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::of(&octets).fold(), 0xddf2);
        assert_eq!(Sum::of(&octets).checksum(), 0x220d);
    }

    #[test]
    fn an_odd_last_octet_is_the_high_half_of_a_word() {
        assert_eq!(Sum::of(&[0x12]).fold(), 0x1200);
        assert_eq!(Sum::of(&[0, 1, 0x12]).fold(), 0x1201);
        assert_eq!(Sum::of(&[]).fold(), 0);
    }

    #[test]
    fn the_example_of_rfc_1624_comes_out_right() {
        // Section 4: a field goes from 0x5555 to 0x3285 under the checksum 0xdd2f.
        assert_eq!(apply(0xdd2f, delta(0x5555, 0x3285)), 0x0000);
    }

    #[test]
    fn udp_has_no_checksum_or_one_that_is_not_zero() {
        assert_eq!(apply_udp(0, delta(1, 2)), 0);
        assert_eq!(apply_udp(0xdd2f, delta(0x5555, 0x3285)), 0xffff);
        assert_eq!(Sum::of(&[0xff, 0xff]).udp_checksum(), 0xffff);
    }

    #[test]
    fn an_unfinished_checksum_is_known_by_the_pseudo_header() {
        let [a, b] = [1, 2].map(|n| Addr::from(Ipv4Addr::new(10, 0, 0, n)));
        let sum = pseudo(a, b, 6, 20);
        assert!(is_unfinished(0x0a00 * 2 + 3 + 26, sum));
        assert!(!is_unfinished(sum.checksum(), sum));
    }

    fn addrs() -> impl Strategy<Value = Addr> {
        prop_oneof![any::<u32>().prop_map(Addr::v4), any::<u128>().prop_map(Addr::v6)]
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_16_bit_words(octets: Vec<u8>) {
            let slow: u64 = octets
                .chunks(2)
                .map(|c| u64::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or(0)])))
                .sum();
            let slow = (slow % 0xffff) as u16;
            let fast = Sum::of(&octets).fold();
            prop_assert!(fast == slow || (fast == 0xffff && slow == 0));
            prop_assert_eq!(fast == 0, octets.iter().all(|&octet| octet == 0));
        }

        #[test]
        fn a_checksum_changed_is_the_checksum_of_what_was_changed(
            mut message in proptest::collection::vec(any::<u8>(), 20..80),
            at in 1usize..8,
            new: u16,
        ) {
            message[0] |= 1;
            let checksum = Sum::of(&message).checksum();
            let field = at * 2..at * 2 + 2;
            let old = u16::from_be_bytes([message[field.start], message[field.start + 1]]);
            message[field].copy_from_slice(&new.to_be_bytes());
            let changed = Sum::of(&message).checksum();
            prop_assert_eq!(apply(checksum, delta(old, new)), changed);
            if checksum != 0 {
                let udp = if changed == 0 { 0xffff } else { changed };
                prop_assert_eq!(apply_udp(checksum, delta(old, new)), udp);
            }
        }

        #[test]
        fn two_changes_at_once_are_two_changes(checksum: u16, a: u16, b: u16, c: u16, d: u16) {
            let (first, second) = (delta(a, b), delta(c, d));
            let twice = apply(apply(checksum, first), second);
            let once = apply(checksum, both(first, second));
            prop_assert_eq!(twice % 0xffff, once % 0xffff);
        }

        #[test]
        fn an_end_sums_as_its_words_do(address in addrs(), port: u16) {
            let mut sum = u64::from(port);
            if address.is_v4() {
                sum += u64::from(address.low32() >> 16) + u64::from(address.low32() & 0xffff);
            } else {
                let words = address.bits().to_be_bytes();
                let words = words.as_chunks().0.iter().map(|&word| u16::from_be_bytes(word));
                sum += words.map(u64::from).sum::<u64>();
            }
            while sum >> 16 != 0 {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            prop_assert_eq!(u64::from(endpoint(address, port)), sum);
        }

        #[test]
        fn the_pseudo_header_sums_like_its_octets(a in addrs(), b in addrs(), length: u16) {
            prop_assume!(a.is_v4() == b.is_v4());
            let mut octets = Vec::new();
            for address in [a, b] {
                match address.to_ip() {
                    IpAddr::V4(ip) => octets.extend(ip.octets()),
                    IpAddr::V6(ip) => octets.extend(ip.octets()),
                }
            }
            octets.extend([0, 17]);
            octets.extend(length.to_be_bytes());
            prop_assert_eq!(pseudo(a, b, 17, length.into()).fold(), Sum::of(&octets).fold());
        }
    }
}
