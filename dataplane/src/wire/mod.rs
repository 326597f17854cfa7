//! Octets to headers and back: the only place where network byte order exists.
//!
//! `parse` reads, `emit` writes, nothing here decides what becomes of a packet. Every length is
//! checked once, in [`frame::parse`]; what it found is in [`frame::Parsed`].

/// IP protocol numbers (IANA).
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP (RFC 2003).
    pub const IPIP: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP (RFC 2473, RFC 4213).
    pub const IPV6: u8 = 41;
    /// GRE (RFC 2784).
    pub const GRE: u8 = 47;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

pub mod arp;
pub mod checksum;
pub mod crc32c;
pub mod ethernet;
pub mod extension;
pub mod frame;
pub mod gre;
pub mod gue;
pub mod icmp;
pub mod ipv4;
pub mod ipv4_options;
pub mod ipv6;
pub mod outer;
pub mod quote;
pub mod reply;
pub mod sctp;
pub mod sip;
pub mod split;
pub mod tcp;
pub mod udp;
pub mod vlan;

/// The `N` octets of a frame at `offset`, where a header was found; `None` if they are not there.
#[inline]
pub fn at<const N: usize>(frame: &[u8], offset: usize) -> Option<&[u8; N]> {
    frame.get(offset..)?.first_chunk()
}

/// The same, to be written.
#[inline]
pub fn at_mut<const N: usize>(frame: &mut [u8], offset: usize) -> Option<&mut [u8; N]> {
    frame.get_mut(offset..)?.first_chunk_mut()
}

/// The two octets at `at`, which must lie within.
#[inline]
fn u16_at<const N: usize>(octets: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes(array_at(octets, at))
}

/// The four octets at `at`.
#[inline]
fn u32_at<const N: usize>(octets: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes(array_at(octets, at))
}

/// The four octets at `at` as they lie, for sums: swapping the octets of every word swaps those of
/// the sum (RFC 1071, section 2 B).
#[inline]
fn word_at<const N: usize>(octets: &[u8; N], at: usize) -> u64 {
    u64::from(u32::from_ne_bytes(array_at(octets, at)))
}

/// The sixteen octets at `at`.
#[inline]
fn u128_at<const N: usize>(octets: &[u8; N], at: usize) -> u128 {
    u128::from_be_bytes(array_at(octets, at))
}

/// `M` octets at `at`. Lengths and offsets are constants, so that no check is left.
#[inline]
fn array_at<const N: usize, const M: usize>(octets: &[u8; N], at: usize) -> [u8; M] {
    let mut out = [0; M];
    out.copy_from_slice(&octets[at..at + M]);
    out
}

/// Writes `field` at `at`.
#[inline]
fn put<const N: usize, const M: usize>(out: &mut [u8; N], at: usize, field: [u8; M]) {
    out[at..at + M].copy_from_slice(&field);
}
