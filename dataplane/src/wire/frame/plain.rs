//! A frame of hot shape, read and changed in place: every field at an offset known beforehand.
//!
//! [`PlainV4`] and [`PlainV6`] are one type with two sets of offsets. Nothing is decided here and
//! nothing checked but the frame's length: whoever makes one has seen the frame's [`super::shape`].
//! Which end of the packet is the client's is an offset and not a branch: the direction of the next
//! packet cannot be guessed.

use super::shape::{L3, L4_V4, L4_V6, tail};
use crate::{
    addr::Addr,
    wire::{checksum, protocol, put, u16_at, u32_at, u64_at, u128_at, word_at},
};

/// A frame whose transport header starts at `L4`; `HEAD` octets lie before the end of its ports.
#[derive(Debug)]
pub struct Plain<'a, const L4: usize, const HEAD: usize> {
    head: &'a mut [u8; HEAD],
    /// What follows the ports.
    rest: &'a mut [u8],
}

/// TCP or UDP over IPv4.
pub type PlainV4<'a> = Plain<'a, L4_V4, { L4_V4 + 4 }>;

/// TCP or UDP over IPv6.
pub type PlainV6<'a> = Plain<'a, L4_V6, { L4_V6 + 4 }>;

/// TCP's flags, behind the ports.
const FLAGS_AT: usize = 9;

/// UDP's checksum, behind the ports.
const UDP_CHECKSUM_AT: usize = 2;

/// How much farther TCP's is.
const TCP_FARTHER: usize = 10;

/// One hop less in the word that holds time to live and protocol, as octets lie.
const HOP_LESS: u16 = !0x0100u16.to_be();

/// A checksum that came out as 0: UDP keeps that for "none" (RFC 768).
#[cold]
#[inline(never)]
const fn zero(protocol: u8) -> u16 {
    if protocol == protocol::UDP { 0xffff } else { 0 }
}

impl<'a, const L4: usize, const HEAD: usize> Plain<'a, L4, HEAD> {
    /// Whether this is IPv6.
    const V6: bool = L4 == L4_V6;
    /// Length of an address.
    const ADDR: usize = if Self::V6 { 16 } else { 4 };
    /// Offset of the source address; the destination's follows.
    const SOURCE: usize = if Self::V6 { L3 + 8 } else { L3 + 12 };
    /// Offset of the octet that counts hops.
    const TTL: usize = if Self::V6 { L3 + 7 } else { L3 + 8 };
    /// Offset of the octet that names the transport protocol.
    const PROTOCOL: usize = if Self::V6 { L3 + 6 } else { L3 + 9 };
    /// Offset of IPv4's header checksum.
    const IP_CHECKSUM: usize = L3 + 10;

    /// The frame, of which [`super::shape::Shape::of`] was this shape.
    #[inline(always)]
    pub fn of(frame: &'a mut [u8]) -> Option<Self> {
        let (head, rest) = frame.split_first_chunk_mut()?;
        Some(Self { head, rest })
    }

    /// What the flow's hash is made of beside the addresses.
    #[inline(always)]
    pub fn tail(&self) -> u64 {
        tail(self.head, L4, Self::PROTOCOL)
    }

    /// IPv4 source and destination in one word, the former in its upper half.
    #[inline(always)]
    pub fn addresses_v4(&self) -> u64 {
        u64_at(self.head, L3 + 12)
    }

    /// IPv6 source and destination.
    #[inline(always)]
    pub fn addresses_v6(&self) -> (u128, u128) {
        (u128_at(self.head, L3 + 8), u128_at(self.head, L3 + 24))
    }

    #[inline(always)]
    fn addr(&self, at: usize) -> Addr {
        if Self::V6 { Addr::v6(u128_at(self.head, at)) } else { Addr::v4(u32_at(self.head, at)) }
    }

    /// Address and port of the source (end 0) or the destination (end 1).
    #[inline(always)]
    pub fn end(&self, end: usize) -> (Addr, u16) {
        let end = end & 1;
        (self.addr(Self::SOURCE + Self::ADDR * end), u16_at(self.head, L4 + 2 * end))
    }

    /// The transport protocol.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        self.head[Self::PROTOCOL]
    }

    /// Time to live or hop limit.
    #[inline(always)]
    pub fn ttl(&self) -> u8 {
        self.head[Self::TTL]
    }

    /// Length of the IP packet in octets.
    #[inline(always)]
    pub fn octets(&self) -> u16 {
        if Self::V6 { 40 + u16_at(self.head, L3 + 4) } else { u16_at(self.head, L3 + 2) }
    }

    /// TCP's flags; of UDP whatever lies there.
    #[inline(always)]
    pub fn flags(&self) -> u8 {
        self.rest.get(FLAGS_AT).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn checksum_at(&self) -> usize {
        UDP_CHECKSUM_AT + if self.protocol() == protocol::TCP { TCP_FARTHER } else { 0 }
    }

    #[inline(always)]
    fn checksum_field(&mut self) -> Option<&mut [u8; 2]> {
        let at = self.checksum_at();
        self.rest.get_mut(at..at + 2)?.first_chunk_mut()
    }

    /// The transport checksum as its octets lie, unless its sender left it to be finished or did
    /// without one.
    #[inline(always)]
    pub fn finished_checksum(&mut self) -> Option<u16> {
        let checksum = u16::from_ne_bytes(*self.checksum_field()?);
        // As the octets lie. IPv4 counts its header in, which is taken off again.
        let length = if Self::V6 {
            u64::from(u16_at(self.head, L3 + 4).to_be())
        } else {
            u64::from(u16_at(self.head, L3 + 2).to_be()) + u64::from(!20u16.to_be())
        };
        let protocol = u16::from(self.protocol()).to_be();
        let addresses = (0..Self::ADDR / 2).map(|i| word_at(self.head, Self::SOURCE + 4 * i));
        let pseudo = addresses.sum::<u64>() + length + u64::from(protocol);
        (checksum != 0 && checksum::is_finished(checksum, pseudo)).then_some(checksum)
    }

    /// Takes one hop off and nothing else.
    #[inline(always)]
    pub fn hop(&mut self) {
        self.head[Self::TTL] -= 1;
        if !Self::V6 {
            self.change_header(u64::from(HOP_LESS));
        }
    }

    /// Lets IPv4's header checksum follow a change of sums.
    #[inline(always)]
    fn change_header(&mut self, delta: u64) {
        let old = u16_at(self.head, Self::IP_CHECKSUM).to_be();
        put(self.head, Self::IP_CHECKSUM, checksum::change(old, delta).to_ne_bytes());
    }

    /// Takes one hop off and gives one end (0: source, 1: destination) another address and port.
    /// `checksum` is the transport's, finished; `change` is by how much sums change with address and
    /// port. Both as octets lie.
    #[inline(always)]
    pub fn translate(&mut self, end: usize, (addr, port): (Addr, u16), checksum: u16, change: u32) {
        let end = end & 1;
        let at = Self::SOURCE + Self::ADDR * end;
        self.head[Self::TTL] -= 1;
        if Self::V6 {
            put(self.head, at, addr.bits().to_be_bytes());
        } else {
            let (old, new) = (word_at(self.head, at), addr.low32().to_be());
            self.change_header((0xffff_ffff - old) + u64::from(new) + u64::from(HOP_LESS));
            put(self.head, at, new.to_ne_bytes());
        }
        put(self.head, L4 + 2 * end, port.to_be_bytes());
        let mut changed = checksum::change(checksum, change.into());
        if changed == 0 {
            changed = zero(self.protocol());
        }
        if let Some(field) = self.checksum_field() {
            *field = changed.to_ne_bytes();
        }
    }

    /// Gives the frame another link header; the ethertype stays.
    #[inline(always)]
    pub fn set_link(&mut self, link: &[u8; 12]) {
        put(self.head, 0, *link);
    }
}
