//! Ethernet II, with up to two VLAN tags in front of the payload.
//!
//! | destination 6 | source 6 | ethertype 2 |
//!
//! Source: IEEE 802.3, clause 3; tags: IEEE 802.1Q, clause 9.

use super::{put, u16_at, vlan};

/// Length of the header without tags.
pub const LEN: usize = 14;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// To everybody on the link.
pub const BROADCAST: Mac = [0xff; 6];

/// What follows the header.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// A VLAN tag (customer).
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// A VLAN tag (service provider, 802.1ad).
    pub const SERVICE_VLAN: u16 = 0x88a8;
}

/// An untagged header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who sends it.
    pub source: Mac,
    /// Who shall have it.
    pub destination: Mac,
    /// What follows.
    pub ethertype: u16,
}

impl Header {
    /// Writes the header.
    #[inline]
    pub fn emit(self, out: &mut [u8; LEN]) {
        put(out, 0, self.destination);
        put(out, 6, self.source);
        put(out, 12, self.ethertype.to_be_bytes());
    }

    /// Reads the header; the ethertype may be that of a tag.
    #[inline]
    pub const fn parse(octets: &[u8; LEN]) -> Self {
        let &[d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, high, low] = octets;
        Self {
            destination: [d0, d1, d2, d3, d4, d5],
            source: [s0, s1, s2, s3, s4, s5],
            ethertype: u16::from_be_bytes([high, low]),
        }
    }
}

/// The ethertype behind all tags, and the offset of what follows it; `None` if the frame is cut
/// short before. A third tag counts as payload.
#[inline]
pub fn payload(frame: &[u8]) -> Option<(u16, usize)> {
    let header: &[u8; LEN] = frame.first_chunk()?;
    let mut ethertype = u16_at(header, 12);
    let mut offset = LEN;
    for _ in 0..vlan::TAGS_MAX {
        if !matches!(ethertype, ethertype::VLAN | ethertype::SERVICE_VLAN) {
            break;
        }
        let tag: &[u8; vlan::LEN] = frame.get(offset..)?.first_chunk()?;
        ethertype = u16_at(tag, 2);
        offset += vlan::LEN;
    }
    Some((ethertype, offset))
}

/// Gives a frame new link addresses; tags and ethertype stay. Does nothing to a frame shorter
/// than its header.
#[inline]
pub fn readdress(frame: &mut [u8], source: Mac, destination: Mac) {
    if let Some(header) = frame.first_chunk_mut::<LEN>() {
        put(header, 0, destination);
        put(header, 6, source);
    }
}
