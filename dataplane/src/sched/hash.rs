//! The kernel's hash functions, bit for bit: equal clients go to equal real servers on a kernel
//! director and on this one.
//!
//! Not for hash tables that an attacker could fill: these have no secret.
//! Source: Linux `include/linux/hash.h`; `lib/siphash.c`; Aumasson, Bernstein, "SipHash: a fast
//! short-input PRF", 2012.

use crate::addr::Addr;

/// Folds an address to 32 bits: an IPv6 address by exclusive or of its words.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "folded word by word")]
pub(super) const fn fold(addr: Addr) -> u32 {
    if addr.is_v4() {
        return addr.low32();
    }
    let bits = addr.bits();
    (bits >> 96) as u32 ^ (bits >> 64) as u32 ^ (bits >> 32) as u32 ^ bits as u32
}

/// Multiplicative hash to `bits` bits, 1 to 32 (`hash_32`).
#[inline]
pub(super) const fn hash_32(value: u32, bits: u32) -> u32 {
    value.wrapping_mul(0x61c8_8647) >> (32 - bits)
}

/// SipHash-1-3 of four octets under a key whose halves are both `key`, cut to 32 bits: what
/// `hsiphash` is on 64-bit kernels.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the kernel keeps the low half")]
pub(super) const fn hsiphash(value: u32, key: u64) -> u32 {
    let block = 4 << 56 | value as u64;
    let mut v = [
        0x736f_6d65_7073_6575 ^ key,
        0x646f_7261_6e64_6f6d ^ key,
        0x6c79_6765_6e65_7261 ^ key,
        0x7465_6462_7974_6573 ^ key ^ block,
    ];
    v = round(v);
    v[0] ^= block;
    v[2] ^= 0xff;
    v = round(round(round(v)));
    (v[0] ^ v[1] ^ v[2] ^ v[3]) as u32
}

/// One SipRound.
const fn round([mut a, mut b, mut c, mut d]: [u64; 4]) -> [u64; 4] {
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    #[test]
    fn addresses_fold_word_by_word() {
        let addr: Ipv6Addr = "1:2:3:4:5:6:7:8".parse().unwrap();
        assert_eq!(fold(addr.into()), 0x1_0002 ^ 0x3_0004 ^ 0x5_0006 ^ 0x7_0008);
        assert_eq!(fold(Addr::v4(0x0a00_0001)), 0x0a00_0001);
    }

    #[test]
    fn multiplicative_hash_takes_the_high_bits() {
        assert_eq!(hash_32(1, 8), 0x61);
        assert_eq!(hash_32(1, 32), 0x61c8_8647);
        assert_eq!(hash_32(0x0a09_0007, 8), 0x0a09_0007u32.wrapping_mul(0x61c8_8647) >> 24);
    }

    #[test]
    #[expect(deprecated, reason = "the only SipHash in the standard library")]
    fn siphash_is_two_rounds_short_of_the_standard_librarys() {
        // SipHasher is SipHash-2-4; with its rounds counted down ours must differ, with the
        // same rounds it must agree. The reference for 1-3 are the recorded picks of mh.
        use std::hash::{Hasher as _, SipHasher};
        for value in [0u32, 1, 0xdead_beef] {
            let key = 2_654_435_761;
            let mut hasher = SipHasher::new_with_keys(key, key);
            hasher.write(&value.to_le_bytes());
            assert_eq!(siphash_2_4(value, key), hasher.finish());
            assert_ne!(u64::from(hsiphash(value, key)), hasher.finish() & 0xffff_ffff);
        }
    }

    fn siphash_2_4(value: u32, key: u64) -> u64 {
        let block = 4 << 56 | u64::from(value);
        let mut v = [
            0x736f_6d65_7073_6575 ^ key,
            0x646f_7261_6e64_6f6d ^ key,
            0x6c79_6765_6e65_7261 ^ key,
            0x7465_6462_7974_6573 ^ key ^ block,
        ];
        v = round(round(v));
        v[0] ^= block;
        v[2] ^= 0xff;
        v = round(round(round(round(v))));
        v[0] ^ v[1] ^ v[2] ^ v[3]
    }
}
