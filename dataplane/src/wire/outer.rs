//! A link header and the outer IP header of a tunnel, made beforehand for one destination.
//!
//! | Ethernet 14 | IPv4 20 or IPv6 40 |
//!
//! Both ends are known with the path; what depends on the packet is put in when it comes: its length,
//! type of service or traffic class, time to live, protocol, and of IPv4 identification, DF and the
//! checksum, of which the ends' share is summed up already.

use super::{
    array_at, checksum,
    ethernet::{self, ethertype},
    ipv4, ipv6, put,
};
use crate::addr::Addr;

/// Octets of both headers with IPv4.
pub const LEN_V4: usize = ethernet::LEN + ipv4::LEN;

/// Octets of both headers with IPv6.
pub const LEN_V6: usize = ethernet::LEN + ipv6::LEN;

/// The headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    octets: [u8; LEN_V6],
    /// Octets of the IP header; 0 if there are no headers.
    growth: u16,
    /// Sum of the ends of an IPv4 header, as octets lie; below 2^18.
    sum: u32,
}

/// What depends on the packet inside.
#[derive(Clone, Copy, Debug)]
pub struct Inside {
    /// The protocol number under which it travels.
    pub protocol: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Identification of an IPv4 header that routers may fragment.
    pub id: u16,
    /// Whether they may not.
    pub dont_fragment: bool,
    /// Octets of the packet inside, at most 65,515: the path's MTU has been held against them.
    pub payload: u16,
}

/// Sum of the ends of an IPv4 header, as octets lie.
fn ends_v4(octets: &[u8; LEN_V6]) -> u32 {
    (26..34).step_by(2).map(|at| u32::from(u16::from_ne_bytes(array_at(octets, at)))).sum()
}

#[expect(clippy::cast_possible_truncation, reason = "header lengths")]
impl Outer {
    /// No headers.
    pub const NONE: Self = Self { octets: [0; LEN_V6], growth: 0, sum: 0 };

    /// The headers of packets from `source` to `destination`, behind these link addresses (destination,
    /// source); none if the two are of different families.
    pub fn new(link: &[u8; 12], source: Addr, destination: Addr) -> Self {
        let mut octets = [0; LEN_V6];
        put(&mut octets, 0, *link);
        match (source.is_v4(), destination.is_v4()) {
            (true, true) => {
                put(&mut octets, 12, ethertype::IPV4.to_be_bytes());
                put(&mut octets, 26, source.low32().to_be_bytes());
                put(&mut octets, 30, destination.low32().to_be_bytes());
                let sum = ends_v4(&octets);
                Self { octets, growth: const { ipv4::LEN as u16 }, sum }
            }
            (false, false) => {
                put(&mut octets, 12, ethertype::IPV6.to_be_bytes());
                put(&mut octets, 22, source.bits().to_be_bytes());
                put(&mut octets, 38, destination.bits().to_be_bytes());
                Self { octets, growth: const { ipv6::LEN as u16 }, sum: 0 }
            }
            _ => Self::NONE,
        }
    }

    /// By how many octets packets grow; 0 if there are no headers.
    #[inline(always)]
    pub const fn growth(&self) -> u16 {
        self.growth
    }

    /// Whether the outer header is IPv4.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.growth as usize == ipv4::LEN
    }

    /// Writes the headers, which are of IPv4.
    #[inline(always)]
    pub fn emit_v4(&self, out: &mut [u8; LEN_V4], inside: Inside) {
        let Inside { protocol, tos, ttl, id, dont_fragment, payload } = inside;
        let (id, flags) = if dont_fragment { (0, ipv4::DONT_FRAGMENT) } else { (id, 0) };
        let total = payload.wrapping_add(const { ipv4::LEN as u16 });
        let words = [
            u16::from_ne_bytes([0x45, tos]),
            total.to_be(),
            id.to_be(),
            flags.to_be(),
            u16::from_ne_bytes([ttl, protocol]),
        ];
        let sum = self.sum + words.into_iter().map(u32::from).sum::<u32>();
        out.copy_from_slice(&self.octets[..LEN_V4]);
        for (at, word) in words.into_iter().enumerate() {
            put(out, ethernet::LEN + 2 * at, word.to_ne_bytes());
        }
        put(out, ethernet::LEN + 10, checksum::change(0xffff, sum).to_ne_bytes());
    }

    /// Writes the headers, which are of IPv6.
    #[inline(always)]
    pub fn emit_v6(&self, out: &mut [u8; LEN_V6], inside: Inside) {
        let Inside { protocol, tos, ttl, payload, .. } = inside;
        *out = self.octets;
        put(out, 14, (6 << 28 | u32::from(tos) << 20).to_be_bytes());
        put(out, 18, payload.to_be_bytes());
        put(out, 20, [protocol, ttl]);
    }
}
