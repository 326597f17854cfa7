//! SCTP packets: chunk types and the CRC32c that covers all of it.
//!
//! | source port 2 | destination port 2 | verification tag 4 | CRC32c 4 | chunks |
//!
//! Ports are under the CRC, which has no incremental form worth having: a packet whose ports
//! change is summed anew.
//! Source: RFC 9260, sections 3.1, 3.2 and 6.8.

use super::crc32c;

/// Length of the common header.
pub const LEN: usize = 12;

/// Offset of the CRC in the common header.
const CRC_AT: usize = 8;

/// Types of chunks, as far as a flow's state depends on them.
pub mod chunk {
    /// Payload.
    pub const DATA: u8 = 0;
    /// Opens an association.
    pub const INIT: u8 = 1;
    /// Answers [`INIT`].
    pub const INIT_ACK: u8 = 2;
    /// Selective acknowledgement.
    pub const SACK: u8 = 3;
    /// Asks whether the peer is there.
    pub const HEARTBEAT: u8 = 4;
    /// Answers [`HEARTBEAT`].
    pub const HEARTBEAT_ACK: u8 = 5;
    /// Ends an association at once.
    pub const ABORT: u8 = 6;
    /// Ends an association.
    pub const SHUTDOWN: u8 = 7;
    /// Answers [`SHUTDOWN`].
    pub const SHUTDOWN_ACK: u8 = 8;
    /// Reports an error.
    pub const ERROR: u8 = 9;
    /// Returns the cookie of [`INIT_ACK`].
    pub const COOKIE_ECHO: u8 = 10;
    /// Answers [`COOKIE_ECHO`].
    pub const COOKIE_ACK: u8 = 11;
    /// Answers [`SHUTDOWN_ACK`].
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// The CRC that a packet should carry; `None` for less than a common header.
#[inline]
fn crc(packet: &[u8]) -> Option<u32> {
    let (header, chunks) = packet.split_first_chunk::<LEN>()?;
    let crc = crc32c::crc32c(&header[..CRC_AT]);
    Some(crc32c::append(crc32c::append(crc, &[0; 4]), chunks))
}

/// Whether a packet, which must end where the IP packet does, carries the right CRC.
#[inline]
pub fn is_valid(packet: &[u8]) -> bool {
    // The CRC travels least significant octet first (RFC 9260, appendix A).
    crc(packet).is_some_and(|crc| packet[CRC_AT..LEN] == crc.to_le_bytes())
}

/// Writes the right CRC. Does nothing to less than a common header.
#[inline]
pub fn seal(packet: &mut [u8]) {
    if let Some(crc) = crc(packet) {
        packet[CRC_AT..LEN].copy_from_slice(&crc.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// COOKIE ACK from port 3869 to 40010, as a Linux real server sent it.
    const COOKIE_ACK: [u8; 16] =
        [0x0f, 0x1d, 0x9c, 0x4a, 0x11, 0x11, 0x11, 0x11, 0x52, 0x4a, 0x47, 0x1a, 0x0b, 0, 0, 4];

    #[test]
    fn what_linux_sent_is_valid() {
        assert!(is_valid(&COOKIE_ACK));
    }

    #[test]
    fn a_sealed_packet_is_valid_until_an_octet_changes() {
        let mut packet = COOKIE_ACK;
        packet[0..2].copy_from_slice(&3868u16.to_be_bytes());
        assert!(!is_valid(&packet));
        seal(&mut packet);
        assert!(is_valid(&packet));
        for at in 0..packet.len() {
            let mut changed = packet;
            changed[at] ^= 1;
            assert!(!is_valid(&changed), "octet {at}");
        }
    }

    #[test]
    fn less_than_a_header_is_never_valid() {
        assert!(!is_valid(&COOKIE_ACK[..11]));
        seal(&mut []);
    }
}
