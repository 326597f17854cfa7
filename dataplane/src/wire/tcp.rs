//! TCP headers: their fields, changes in place, and the reset that answers a stray segment.
//!
//! | source port 2 | destination port 2 | sequence 4 | acknowledgement 4 | data offset, flags 2 | window 2 | checksum 2 | urgent 2 |
//!
//! Source: RFC 9293, sections 3.1 and 3.10.7.1; Linux `tcp_v4_send_reset`.

use super::{
    checksum::{Sum, pseudo},
    protocol, put, u16_at, u32_at,
};
use crate::addr::Addr;

/// Length of the header without options.
pub const LEN: usize = 20;

/// Offset of the flag octet in the header.
pub const FLAGS_AT: usize = 13;

/// Offset of the checksum in the header.
pub const CHECKSUM_AT: usize = 16;

/// The flag octet's bits.
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Ends it at once.
    pub const RST: u8 = 0x04;
    /// Data to be delivered without delay.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
}

/// Source port.
#[inline]
pub fn source_port(header: &[u8; LEN]) -> u16 {
    u16_at(header, 0)
}

/// Destination port.
#[inline]
pub fn destination_port(header: &[u8; LEN]) -> u16 {
    u16_at(header, 2)
}

/// Sequence number.
#[inline]
pub fn sequence(header: &[u8; LEN]) -> u32 {
    u32_at(header, 4)
}

/// Acknowledgement number, whether it counts or not.
#[inline]
pub fn acknowledgement(header: &[u8; LEN]) -> u32 {
    u32_at(header, 8)
}

/// Length of the header with its options in octets, as it says: 0 to 60.
#[inline]
pub const fn header_len(header: &[u8; LEN]) -> usize {
    (header[12] >> 4) as usize * 4
}

/// The flag octet.
#[inline]
pub const fn flag_octet(header: &[u8; LEN]) -> u8 {
    header[FLAGS_AT]
}

/// Writes the checksum into a segment, which lies in `segment` from its header to its end. Does
/// nothing to less than a header.
pub fn seal(segment: &mut [u8], source: Addr, destination: Addr) {
    let length = u32::try_from(segment.len()).unwrap_or(u32::MAX);
    if let Some(header) = segment.first_chunk_mut::<LEN>() {
        put(header, CHECKSUM_AT, [0, 0]);
        let sum = Sum::of(segment).plus(pseudo(source, destination, protocol::TCP, length));
        segment[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&sum.checksum().to_be_bytes());
    }
}

/// What a reset says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Port of the one that resets.
    pub source_port: u16,
    /// Port of the one that shall give up.
    pub destination_port: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number, if it is to count.
    pub acknowledgement: Option<u32>,
}

impl Reset {
    /// The reset that answers `segment`, which lies there from its header to the end of its IP
    /// packet, where no connection is: what the segment acknowledges becomes the sequence number;
    /// a segment that acknowledges nothing is acknowledged itself.
    ///
    /// `None` for a reset, which is never answered, and for a header cut short or longer than the
    /// segment.
    pub fn answering(segment: &[u8]) -> Option<Self> {
        let header: &[u8; LEN] = segment.first_chunk()?;
        let flags = flag_octet(header);
        let length = header_len(header);
        if flags & flags::RST != 0 || length < LEN {
            return None;
        }
        let payload = u32::try_from(segment.len().checked_sub(length)?).ok()?;
        let reset = Self {
            source_port: destination_port(header),
            destination_port: source_port(header),
            sequence: acknowledgement(header),
            acknowledgement: None,
        };
        if flags & flags::ACK != 0 {
            return Some(reset);
        }
        let octets =
            payload + u32::from(flags & flags::SYN != 0) + u32::from(flags & flags::FIN != 0);
        Some(Self {
            sequence: 0,
            acknowledgement: Some(sequence(header).wrapping_add(octets)),
            ..reset
        })
    }

    /// Writes the reset with its checksum.
    pub fn emit(self, source: Addr, destination: Addr, out: &mut [u8; LEN]) {
        let ack = if self.acknowledgement.is_some() { flags::ACK } else { 0 };
        *out = [0; LEN];
        put(out, 0, self.source_port.to_be_bytes());
        put(out, 2, self.destination_port.to_be_bytes());
        put(out, 4, self.sequence.to_be_bytes());
        put(out, 8, self.acknowledgement.unwrap_or(0).to_be_bytes());
        put(out, 12, [0x50, flags::RST | ack]);
        let sum = Sum::of(out).plus(pseudo(source, destination, protocol::TCP, 20));
        put(out, CHECKSUM_AT, sum.checksum().to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(flags: u8, payload: usize) -> Vec<u8> {
        let mut segment = vec![0; LEN + payload];
        segment[..4].copy_from_slice(&[0x9c, 0x54, 0, 80]);
        segment[4..8].copy_from_slice(&1000u32.to_be_bytes());
        segment[8..12].copy_from_slice(&77u32.to_be_bytes());
        segment[12..14].copy_from_slice(&[0x50, flags]);
        segment
    }

    #[test]
    fn a_reset_takes_its_numbers_from_what_it_answers() {
        let numbers = |flags, payload| {
            let reset = Reset::answering(&segment(flags, payload)).unwrap();
            assert_eq!((reset.source_port, reset.destination_port), (80, 40020));
            (reset.sequence, reset.acknowledgement)
        };
        use flags::{ACK, FIN, SYN};
        assert_eq!(numbers(ACK, 5), (77, None));
        assert_eq!(numbers(SYN | ACK, 0), (77, None));
        assert_eq!(numbers(SYN, 0), (0, Some(1001)));
        assert_eq!(numbers(SYN, 7), (0, Some(1008)));
        assert_eq!(numbers(FIN, 7), (0, Some(1008)));
        assert_eq!(numbers(0, 0), (0, Some(1000)));
    }

    #[test]
    fn resets_and_broken_headers_are_not_answered() {
        assert_eq!(Reset::answering(&segment(flags::RST, 0)), None);
        assert_eq!(Reset::answering(&segment(flags::RST | flags::ACK, 0)), None);
        assert_eq!(Reset::answering(&segment(flags::ACK, 0)[..19]), None);
        let mut long = segment(flags::ACK, 3);
        long[12] = 0x60;
        assert_eq!(Reset::answering(&long), None);
        long[12] = 0x40;
        assert_eq!(Reset::answering(&long), None);
    }
}
