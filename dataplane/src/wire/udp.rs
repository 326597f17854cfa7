//! UDP headers.
//!
//! | source port 2 | destination port 2 | length 2 | checksum 2 |
//!
//! Source: RFC 768; a missing checksum over IPv6 only in tunnels (RFC 6935).

use super::{
    checksum::{Sum, pseudo},
    protocol, put, u16_at,
};
use crate::addr::Addr;

/// Length of the header.
pub const LEN: usize = 8;

/// Offset of the checksum in the header.
pub const CHECKSUM_AT: usize = 6;

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Octets that follow, at most 65 527: the path's MTU has been held against them.
    pub payload: usize,
}

impl Header {
    /// Writes the header without a checksum: [`seal`] adds it.
    #[inline]
    pub fn emit(self, out: &mut [u8; LEN]) {
        let length = u16::try_from(LEN + self.payload).unwrap_or(u16::MAX);
        put(out, 0, self.source.to_be_bytes());
        put(out, 2, self.destination.to_be_bytes());
        put(out, 4, length.to_be_bytes());
        put(out, CHECKSUM_AT, [0, 0]);
    }
}

/// Writes the checksum into a datagram, which lies in `datagram` from its header to its end.
/// Does nothing to less than a header.
#[inline]
pub fn seal(datagram: &mut [u8], source: Addr, destination: Addr) {
    let length = u32::try_from(datagram.len()).unwrap_or(u32::MAX);
    if let Some(header) = datagram.first_chunk_mut::<LEN>() {
        put(header, CHECKSUM_AT, [0, 0]);
        let sum = Sum::of(datagram).plus(pseudo(source, destination, protocol::UDP, length));
        datagram[CHECKSUM_AT..LEN].copy_from_slice(&sum.udp_checksum().to_be_bytes());
    }
}

/// The checksum; 0 if there is none.
#[inline]
pub fn checksum(header: &[u8; LEN]) -> u16 {
    u16_at(header, CHECKSUM_AT)
}

/// Length of header and payload in octets, as the header says.
#[inline]
pub fn length(header: &[u8; LEN]) -> u16 {
    u16_at(header, 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn a_header_is_written_and_sealed_as_linux_does() {
        // GUE with a UDP checksum from 10.2.0.1 to 10.2.0.11, as Linux IPVS sent it.
        let payload = [
            0, 4, 0, 0, 0x45, 0, 0, 0x3c, 0x12, 0x34, 0x40, 0, 0x3f, 0x06, 0x15, 0x78, 10, 9, 0, 7,
            10, 0, 0, 1, 0x9c, 0x41, 0, 80, 0, 0, 3, 0xe8, 0, 0, 0, 0, 0xa0, 2, 0xfa, 0xf0, 0x98,
            0x84, 0, 0, 2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7,
        ];
        let mut datagram = [0xff; LEN + 64];
        let (header, rest) = datagram.split_first_chunk_mut().unwrap();
        Header { source: 0xabaa, destination: 6080, payload: 64 }.emit(header);
        assert_eq!((checksum(header), length(header)), (0, 72));
        rest.copy_from_slice(&payload);
        let [source, destination] = [1, 11].map(|last| Ipv4Addr::new(10, 2, 0, last).into());
        seal(&mut datagram, source, destination);
        assert_eq!(datagram[..LEN], [0xab, 0xaa, 0x17, 0xc0, 0, 72, 0x3c, 0x1f]);
    }
}
