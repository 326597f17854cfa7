//! Link types: what stands in front of the IP packet in a capture, made into an Ethernet frame.
//!
//! The pipeline reads Ethernet. Captures of raw IP, of loopback devices, of Linux's "any" device, of
//! PPP, SLIP, frame relay and IP over InfiniBand get an Ethernet header in place of their own. Records of
//! any other link type (Wi-Fi, USB, ...) become frames that carry no IP, so that each of their
//! packets too ends in a verdict. Source: the `LINKTYPE_` registry of the tcpdump group; RFC 2427,
//! section 3 (frame relay); RFC 4391, section 6 (InfiniBand).

/// Octets of an Ethernet header.
pub const ETHERNET_HEADER: usize = 14;

/// Destination and source address of frames whose capture had none: locally administered.
const ADDRESSES: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Stands for what is not IP: a local experimental ethertype (IEEE 802).
const NOT_IP: u16 = 0x88b5;

/// How a record becomes a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// It is one.
    Ethernet,
    /// The first `strip` octets give way to this header.
    Header {
        /// Octets of the capture's own link header.
        strip: usize,
        /// What takes their place.
        header: [u8; ETHERNET_HEADER],
    },
}

/// Whether IP packets are found in records of this link type.
pub const fn is_read(link: u32) -> bool {
    matches!(
        link,
        0 | 1 | 8 | 9 | 12 | 14 | 50 | 51 | 101 | 104 | 107 | 108 | 113 | 228 | 229 | 242 | 276
    )
}

/// How a record of link type `link` becomes a frame; one of a link type that is not read
/// ([`is_read`]) stands whole behind a header that says it is not IP.
///
/// A record too short for its own link header becomes an Ethernet header with nothing behind it, so
/// that the pipeline counts it like any other cut packet.
pub fn framing(link: u32, data: &[u8]) -> Framing {
    let (strip, ethertype) = match link {
        // ETHERNET
        1 => return Framing::Ethernet,
        // NULL and LOOP: four octets of the host's address family, whose numbers differ by system
        0 | 108 => (4, by_version(data, 4)),
        // SLIP: a direction and the compressed header, of which nothing is used
        8 => (16, by_version(data, 16)),
        // PPP, PPP_HDLC, PPP_ETHER
        9 | 50 => ppp(data, 0),
        51 => ppp(data, 6),
        // RAW, and its numbers in old captures and on OpenBSD; IPV4, IPV6
        101 | 12 | 14 | 228 | 229 => (0, by_version(data, 0)),
        // C_HDLC
        104 => (4, ethertype_at(data, 2)),
        // FRELAY
        107 => (4, frame_relay(data)),
        // IPOIB: a global routing header, then ethertype and two octets of nothing
        242 => (44, ethertype_at(data, 40)),
        // LINUX_SLL, LINUX_SLL2
        113 => (16, ethertype_at(data, 14)),
        276 => (20, ethertype_at(data, 0)),
        _ => (0, NOT_IP),
    };
    let mut header = [0; ETHERNET_HEADER];
    header[..12].copy_from_slice(&ADDRESSES);
    header[12..].copy_from_slice(&ethertype.to_be_bytes());
    Framing::Header { strip: strip.min(data.len()), header }
}

/// Length of the PPP header at `offset` and the ethertype that its protocol number stands for
/// (RFC 1661, section 2; RFC 1332, RFC 5072).
fn ppp(data: &[u8], offset: usize) -> (usize, u16) {
    let compressed = data.get(offset..offset + 2) != Some(&[0xff, 0x03]);
    let protocol = if compressed { offset } else { offset + 2 };
    let ethertype = match ethertype_at(data, protocol) {
        0x0021 => IPV4,
        0x0057 => IPV6,
        _ => NOT_IP,
    };
    (protocol + 2, ethertype)
}

/// The ethertype for the network layer protocol identifier behind a Q.922 address of two octets and
/// the control octet of unnumbered information.
fn frame_relay(data: &[u8]) -> u16 {
    match data.get(2..4) {
        Some([0x03, 0xcc]) => IPV4,
        Some([0x03, 0x8e]) => IPV6,
        _ => NOT_IP,
    }
}

/// The ethertype for a packet that begins at `offset`, by its version.
fn by_version(data: &[u8], offset: usize) -> u16 {
    match data.get(offset).map(|octet| octet >> 4) {
        Some(4) => IPV4,
        Some(6) => IPV6,
        _ => NOT_IP,
    }
}

fn ethertype_at(data: &[u8], offset: usize) -> u16 {
    data.get(offset..offset + 2).map_or(NOT_IP, |octets| u16::from_be_bytes([octets[0], octets[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(link: u32, data: &[u8]) -> (usize, u16) {
        match framing(link, data) {
            Framing::Ethernet => (0, 0),
            Framing::Header { strip, header } => {
                (strip, u16::from_be_bytes([header[12], header[13]]))
            }
        }
    }

    #[test]
    fn every_ip_link_type_finds_the_packet() {
        let ip = [0x45, 0x60];
        for (octet, ethertype) in [(ip[0], IPV4), (ip[1], IPV6), (0xff, NOT_IP)] {
            for (link, strip) in [(0, 4), (108, 4), (101, 0), (12, 0), (228, 0), (229, 0), (8, 16)]
            {
                let mut data = vec![0; strip];
                data.push(octet);
                assert_eq!(stripped(link, &data), (strip, ethertype));
            }
        }
        let mut cooked = [0; 20];
        cooked[14..16].copy_from_slice(&[0x86, 0xdd]);
        assert_eq!(stripped(113, &cooked), (16, IPV6));
        let mut cooked = [0; 24];
        cooked[..2].copy_from_slice(&[0x08, 0x00]);
        assert_eq!(stripped(276, &cooked), (20, IPV4));
        let mut infiniband = [0; 48];
        infiniband[40..42].copy_from_slice(&[0x08, 0x00]);
        assert_eq!(stripped(242, &infiniband), (44, IPV4));
        assert_eq!(stripped(107, &[0x18, 0x41, 3, 0xcc, 0x45]), (4, IPV4));
        assert_eq!(stripped(107, &[0x18, 0x41, 3, 0x8e, 0x60]), (4, IPV6));
        assert_eq!(stripped(107, &[0x18, 0x41, 3, 0x80, 0]), (4, NOT_IP));
        assert_eq!(stripped(104, &[0x0f, 0, 0x08, 0, 0x45]), (4, IPV4));
        assert_eq!(stripped(9, &[0xff, 3, 0, 0x21, 0x45]), (4, IPV4));
        assert_eq!(stripped(9, &[0, 0x57, 0x60]), (2, IPV6));
        assert_eq!(stripped(51, &[0x11, 0, 0, 1, 0, 9, 0xc0, 0x21]), (8, NOT_IP));
        assert_eq!(stripped(1, &[]), (0, 0));
    }

    #[test]
    fn a_record_shorter_than_its_link_header_is_stripped_to_nothing() {
        for link in (0..300).filter(|&link| link != 1) {
            for length in 0..48 {
                let data = vec![0; length];
                let Framing::Header { strip, .. } = framing(link, &data) else {
                    panic!("link type {link} is not Ethernet");
                };
                assert!(strip <= length);
            }
        }
    }

    #[test]
    fn records_of_other_link_types_stay_whole_and_are_no_ip() {
        for link in [105, 127, 189, 247, 65_535] {
            assert!(!is_read(link));
            assert_eq!(stripped(link, &[0x45; 64]), (0, NOT_IP));
        }
        assert!([0, 1, 8, 101, 113, 242, 276].into_iter().all(is_read));
    }
}
