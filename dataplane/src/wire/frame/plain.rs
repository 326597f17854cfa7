//! A frame of hot shape, read and changed in place: every field at an offset known beforehand.
//!
//! [`PlainV4`] and [`PlainV6`] are one type with two sets of offsets. Nothing is decided here and
//! nothing checked but the frame's length: whoever makes one has seen the frame's [`super::shape`].
//! Which end of the packet is the client's is an offset and not a branch: the direction of the next
//! packet cannot be guessed.

use std::num::NonZeroU8;

use super::shape::{HEAD_V4, HEAD_V6, L3, L4_V4, L4_V6};
use crate::{
    addr::Addr,
    wire::{array_at, checksum, protocol, put, tcp, u16_at, u32_at, u128_at, udp, word_at},
};

/// A frame whose transport header starts at `L4`, up to where one of TCP would end.
#[derive(Debug)]
pub struct Plain<'a, const L4: usize, const HEAD: usize>(&'a mut [u8; HEAD]);

/// What an end of a packet becomes.
#[derive(Clone, Copy, Debug)]
pub struct NewEnd {
    /// Its address.
    pub addr: Addr,
    /// Its port; 0 if that stays.
    pub port: u16,
    /// By how much sums change with address and port, as octets lie; below 2^31.
    pub change: u32,
    /// By how much the sum of an IPv4 header does, with address and one hop less; likewise.
    pub header_change: u32,
}

/// TCP or UDP over IPv4.
pub type PlainV4<'a> = Plain<'a, L4_V4, HEAD_V4>;

/// TCP or UDP over IPv6.
pub type PlainV6<'a> = Plain<'a, L4_V6, HEAD_V6>;

/// TCP's flags, from the transport header on.
const FLAGS_AT: usize = 13;

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
    /// Offset of the checksum by transport protocol; 0 of those other than TCP and UDP.
    #[expect(clippy::cast_possible_truncation, reason = "offsets below 72")]
    const CHECKSUM_AT: [u8; 256] = {
        let mut at = [0; 256];
        at[protocol::TCP as usize] = L4 as u8 + tcp::CHECKSUM_AT as u8;
        at[protocol::UDP as usize] = L4 as u8 + udp::CHECKSUM_AT as u8;
        at
    };
    /// Offset of IPv4's header checksum.
    const IP_CHECKSUM: usize = L3 + 10;

    /// The frame, of which [`super::shape::Shape::of`] was this shape.
    #[inline(always)]
    pub fn of(frame: &'a mut [u8]) -> Option<Self> {
        frame.first_chunk_mut().map(Self)
    }

    /// What the flow's hash is made of beside the addresses: ports as they lie, the protocol above them.
    #[inline(always)]
    pub fn tail(&self) -> u64 {
        word_at(self.0, L4) | u64::from(self.protocol()) << 32
    }

    /// IPv4 source and destination as their octets lie.
    #[inline(always)]
    pub fn addresses_v4(&self) -> u64 {
        u64::from_ne_bytes(array_at(self.0, L3 + 12))
    }

    /// IPv6 source and destination likewise.
    #[inline(always)]
    pub fn addresses_v6(&self) -> (u128, u128) {
        let at = |at| u128::from_ne_bytes(array_at(self.0, at));
        (at(L3 + 8), at(L3 + 24))
    }

    /// The address of the source (end 0) or the destination (end 1).
    #[inline(always)]
    pub fn addr(&self, end: usize) -> Addr {
        let at = Self::SOURCE + Self::ADDR * (end & 1);
        if Self::V6 { Addr::v6(u128_at(self.0, at)) } else { Addr::v4(u32_at(self.0, at)) }
    }

    /// Its port.
    #[inline(always)]
    pub fn port(&self, end: usize) -> u16 {
        u16_at(self.0, L4 + 2 * (end & 1))
    }

    /// The transport protocol.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        self.0[Self::PROTOCOL]
    }

    /// Time to live or hop limit.
    #[inline(always)]
    pub fn ttl(&self) -> u8 {
        self.0[Self::TTL]
    }

    /// Length of the IP packet in octets.
    #[inline(always)]
    pub fn octets(&self) -> u16 {
        if Self::V6 { 40 + u16_at(self.0, L3 + 4) } else { u16_at(self.0, L3 + 2) }
    }

    /// TCP's flags; of UDP whatever lies there.
    #[inline(always)]
    pub fn flags(&self) -> u8 {
        self.0[L4 + FLAGS_AT]
    }

    /// Where the transport checksum is, if nothing about the packet itself keeps it from being sent on:
    /// it is TCP or UDP, a hop is left, the transport header is whole (and two octets follow one of UDP),
    /// its checksum neither left to be finished by hardware nor left out.
    #[inline(always)]
    pub fn ready_checksum(&self) -> Option<NonZeroU8> {
        let at = NonZeroU8::new(Self::CHECKSUM_AT[usize::from(self.protocol())])?;
        // Behind TCP's checksum come two octets more.
        let is_whole = L3 + usize::from(self.octets()) >= usize::from(at.get()) + 4;
        (is_whole && self.ttl() > 1 && self.is_finished(at.get().into())).then_some(at)
    }

    /// Whether the checksum at `at` is neither left to be finished nor left out.
    #[inline(always)]
    fn is_finished(&self, at: usize) -> bool {
        let checksum = self.checksum(at);
        // As the octets lie. IPv4 counts its header in, which is taken off again.
        let length = if Self::V6 {
            u64::from(u16_at(self.0, L3 + 4).to_be())
        } else {
            u64::from(u16_at(self.0, L3 + 2).to_be()) + u64::from(!20u16.to_be())
        };
        let protocol = u16::from(self.protocol()).to_be();
        let addresses = (0..Self::ADDR / 2).map(|i| word_at(self.0, Self::SOURCE + 4 * i));
        let pseudo = addresses.sum::<u64>() + length + u64::from(protocol);
        checksum != 0 && checksum::is_finished(checksum, pseudo)
    }

    /// The checksum at `at`, as its octets lie.
    #[inline(always)]
    fn checksum(&self, at: usize) -> u16 {
        u16::from_ne_bytes(array_at(self.0, at))
    }

    /// Takes one hop off and nothing else.
    #[inline(always)]
    pub fn hop(&mut self) {
        self.0[Self::TTL] -= 1;
        if !Self::V6 {
            let checksum = self.checksum(Self::IP_CHECKSUM);
            put(self.0, Self::IP_CHECKSUM, checksum::one_less(checksum).to_ne_bytes());
        }
    }

    /// Lets IPv4's header checksum follow a change of sums.
    #[inline(always)]
    fn change_header(&mut self, delta: u32) {
        let old = self.checksum(Self::IP_CHECKSUM);
        put(self.0, Self::IP_CHECKSUM, checksum::change(old, delta).to_ne_bytes());
    }

    /// Takes one hop off and makes one end (0: source, 1: destination) another. `checksum_at` is
    /// [`Self::ready_checksum`].
    #[inline(always)]
    pub fn translate(&mut self, end: usize, new: NewEnd, checksum_at: NonZeroU8) {
        let end = end & 1;
        let at = Self::SOURCE + Self::ADDR * end;
        self.0[Self::TTL] -= 1;
        if Self::V6 {
            put(self.0, at, new.addr.bits().to_be_bytes());
        } else {
            self.change_header(new.header_change);
            put(self.0, at, new.addr.low32().to_be_bytes());
        }
        if new.port != 0 {
            put(self.0, L4 + 2 * end, new.port.to_be_bytes());
        }
        let at = usize::from(checksum_at.get());
        let mut changed = checksum::change(self.checksum(at), new.change);
        if changed == 0 {
            changed = zero(self.protocol());
        }
        put(self.0, at, changed.to_ne_bytes());
    }

    /// Gives the frame another link header; the ethertype stays.
    #[inline(always)]
    pub fn set_link(&mut self, link: &[u8; 12]) {
        put(self.0, 0, *link);
    }
}
