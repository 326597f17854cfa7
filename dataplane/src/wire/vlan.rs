//! VLAN tags: four octets between the Ethernet addresses' end and the payload.
//!
//! | ethertype of the tag 2 | priority 3 bits, drop eligible 1, VLAN id 12 | ethertype of the payload 2 |
//!
//! The tag's own ethertype stands where the payload's would, so a tag is counted here from the
//! octet behind that: two octets of control, then the next ethertype.
//! Source: IEEE 802.1Q, clause 9; two tags: IEEE 802.1ad.

use super::{ethernet, put, u16_at};

/// Length of a tag.
pub const LEN: usize = 4;

/// Tags read over at most; a frame with more is not IP to us.
pub const TAGS_MAX: usize = 2;

/// A tag, counted from behind its own ethertype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Priority code point, 0 to 7.
    pub priority: u8,
    /// May be dropped first.
    pub drop_eligible: bool,
    /// VLAN id, 0 to 4094; 0 says that only the priority counts.
    pub id: u16,
    /// The ethertype that follows: of the payload, or of another tag.
    pub ethertype: u16,
}

impl Tag {
    /// Reads a tag.
    #[inline]
    pub fn parse(octets: &[u8; LEN]) -> Self {
        let control = u16_at(octets, 0);
        Self {
            priority: octets[0] >> 5,
            drop_eligible: control & 0x1000 != 0,
            id: control & 0x0fff,
            ethertype: u16_at(octets, 2),
        }
    }

    /// Writes the tag; bits beyond a field's width are lost.
    #[inline]
    pub fn emit(self, out: &mut [u8; LEN]) {
        let control = u16::from(self.priority & 7) << 13
            | u16::from(self.drop_eligible) << 12
            | self.id & 0x0fff;
        put(out, 0, control.to_be_bytes());
        put(out, 2, self.ethertype.to_be_bytes());
    }
}

/// The outermost tag of a frame, if it has one.
pub fn outermost(frame: &[u8]) -> Option<Tag> {
    let ethertype = u16_at(frame.first_chunk::<{ ethernet::LEN }>()?, 12);
    if !matches!(ethertype, ethernet::ethertype::VLAN | ethernet::ethertype::SERVICE_VLAN) {
        return None;
    }
    frame[ethernet::LEN..].first_chunk().map(Tag::parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_comes_back_as_it_was_written() {
        let tag = Tag { priority: 5, drop_eligible: true, id: 0xabc, ethertype: 0x86dd };
        let mut out = [0; LEN];
        tag.emit(&mut out);
        assert_eq!(out, [0xba, 0xbc, 0x86, 0xdd]);
        assert_eq!(Tag::parse(&out), tag);
    }

    #[test]
    fn the_outermost_tag_is_the_first() {
        let mut frame = [0; 22];
        frame[12..20].copy_from_slice(&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8]);
        assert_eq!(outermost(&frame).map(|tag| tag.id), Some(7));
        assert_eq!(outermost(&frame[..17]), None);
        frame[12..14].copy_from_slice(&[8, 0]);
        assert_eq!(outermost(&frame), None);
    }
}
