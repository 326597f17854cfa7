//! GUE headers, variant 0: what stands between UDP and the packet inside.
//!
//! | variant 2 bits, control 1, option words 5 | protocol inside 1 | flags 2 | options |
//!
//! The one option written is remote checksum offload: it tells the real server to finish a
//! transport checksum that the sender left to its hardware.
//!
//! | flags 0x0001: private 2 | private flags 0x80000000 4 | from where to sum 2 | where to put it 2 |
//!
//! Source: draft-ietf-intarea-gue-09; the option: draft-herbert-remotecsumoffload-02 as Linux
//! has it in `include/net/gue.h`.

use super::put;

/// The UDP port (IANA); a real server may have another.
pub const PORT: u16 = 6080;

/// Length of the header without options.
pub const LEN: usize = 4;

/// Length of the header with the option.
pub const LEN_REMOTE_CHECKSUM: usize = 12;

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Protocol number of the packet inside: IPIP, or IPv6.
    pub protocol: u8,
}

/// Where in the packet inside a checksum is to be finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteChecksum {
    /// Offset of the transport header from the inner IP header: the sum starts there.
    pub start: u16,
    /// Offset of the checksum field from the inner IP header.
    pub field: u16,
}

impl Header {
    /// Writes the header without options.
    #[inline]
    pub fn emit(self, out: &mut [u8; LEN]) {
        *out = [0, self.protocol, 0, 0];
    }

    /// Writes the header with the option.
    #[inline]
    pub fn emit_remote_checksum(self, option: RemoteChecksum, out: &mut [u8; LEN_REMOTE_CHECKSUM]) {
        put(out, 0, [2, self.protocol, 0, 1]);
        put(out, 4, [0x80, 0, 0, 0]);
        put(out, 8, option.start.to_be_bytes());
        put(out, 10, option.field.to_be_bytes());
    }
}

/// The protocol of the packet inside and the length of the GUE header in front of it, which may
/// be cut off; `None` for less than four octets, another variant or a control message.
pub fn parse(message: &[u8]) -> Option<(u8, usize)> {
    let &[first, protocol, ..] = message.first_chunk::<LEN>()?;
    (first & 0xe0 == 0).then(|| (protocol, LEN + 4 * usize::from(first & 0x1f)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::protocol;

    #[test]
    fn a_header_is_what_linux_writes() {
        let mut out = [0xff; LEN];
        Header { protocol: protocol::IPIP }.emit(&mut out);
        assert_eq!(out, [0, 4, 0, 0]);
        assert_eq!(parse(&out), Some((protocol::IPIP, 4)));
    }

    #[test]
    fn the_option_says_where_the_checksum_is() {
        let mut out = [0xff; LEN_REMOTE_CHECKSUM];
        let option = RemoteChecksum { start: 20, field: 36 };
        Header { protocol: protocol::IPV6 }.emit_remote_checksum(option, &mut out);
        assert_eq!(out, [2, 41, 0, 1, 0x80, 0, 0, 0, 0, 20, 0, 36]);
        assert_eq!(parse(&out), Some((protocol::IPV6, 12)));
    }

    #[test]
    fn other_variants_and_control_messages_carry_no_packet() {
        assert_eq!(parse(&[0x45, 4, 0, 0]), None);
        assert_eq!(parse(&[0x20, 4, 0, 0]), None);
        assert_eq!(parse(&[0, 4, 0]), None);
    }
}
