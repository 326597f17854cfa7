//! What a packet is, in the words of the recordings: read off the octets, for comparison and for people.

use std::net::{IpAddr, SocketAddr};

use dataplane::wire::protocol;

/// Octets of an Ethernet header.
pub(super) const ETHERNET: usize = 14;
/// IPv6's fragment header.
const FRAGMENT: u8 = 44;
/// Letters of TCP's flags, in the order in which the recordings write them.
const FLAGS: [(u8, char); 8] = [
    (0x01, 'F'),
    (0x02, 'S'),
    (0x04, 'R'),
    (0x08, 'P'),
    (0x20, 'U'),
    (0x10, 'A'),
    (0x40, 'E'),
    (0x80, 'C'),
];

/// The IP header of a packet, and where the rest is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ip<'a> {
    /// From the IP header on.
    pub(super) bytes: &'a [u8],
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    /// Offset of what follows the IP header and, for IPv6, a fragment header.
    pub(super) payload: usize,
    /// Whether it is a fragment, and not the first.
    pub(super) later_fragment: bool,
}

impl<'a> Ip<'a> {
    /// The IP packet in an Ethernet frame; `None` if there is none.
    pub(super) fn in_frame(frame: &'a [u8]) -> Option<Self> {
        match frame.get(12..ETHERNET)? {
            [0x08, 0x00] | [0x86, 0xdd] => Self::parse(frame.get(ETHERNET..)?),
            _ => None,
        }
    }

    fn parse(bytes: &'a [u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => {
                let header: &[u8; 20] = bytes.first_chunk()?;
                Some(Self {
                    bytes,
                    source: <[u8; 4]>::try_from(&header[12..16]).ok()?.into(),
                    destination: <[u8; 4]>::try_from(&header[16..20]).ok()?.into(),
                    protocol: header[9],
                    payload: usize::from(header[0] & 0xf) * 4,
                    later_fragment: u16_at(bytes, 6)? & 0x1fff != 0,
                })
            }
            6 => {
                let header: &[u8; 40] = bytes.first_chunk()?;
                let fragment = header[6] == FRAGMENT;
                Some(Self {
                    bytes,
                    source: <[u8; 16]>::try_from(&header[8..24]).ok()?.into(),
                    destination: <[u8; 16]>::try_from(&header[24..40]).ok()?.into(),
                    protocol: if fragment { *bytes.get(40)? } else { header[6] },
                    payload: if fragment { 48 } else { 40 },
                    later_fragment: fragment && u16_at(bytes, 42)? & 0xfff8 != 0,
                })
            }
            _ => None,
        }
    }

    /// Whether it is IPv4.
    pub(super) const fn is_v4(&self) -> bool {
        self.source.is_ipv4()
    }

    /// Time to live or hop limit.
    pub(super) fn ttl(&self) -> u8 {
        self.bytes[if self.is_v4() { 8 } else { 7 }]
    }

    /// What follows the IP header.
    pub(super) fn data(&self) -> &'a [u8] {
        self.bytes.get(self.payload..).unwrap_or_default()
    }

    /// The packet inside an IP-in-IP tunnel; itself if it is none.
    pub(super) fn innermost(self) -> Self {
        match self.protocol {
            protocol::IPIP | protocol::IPV6 if !self.later_fragment => {
                Self::parse(self.data()).map_or(self, Self::innermost)
            }
            _ => self,
        }
    }

    /// Source and destination ports; `None` if it has none.
    pub(super) fn ports(&self) -> Option<(u16, u16)> {
        let known = matches!(self.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
        let data = self.data();
        (known && !self.later_fragment).then(|| Some((u16_at(data, 0)?, u16_at(data, 2)?)))?
    }

    /// Both ends with their ports, of TCP, UDP and SCTP.
    pub(super) fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        let (from, to) = self.ports()?;
        Some(((self.source, from).into(), (self.destination, to).into()))
    }

    /// TCP's flags as letters; `None` if it is not TCP.
    pub(super) fn flags(&self) -> Option<String> {
        let octet = (self.protocol == protocol::TCP).then(|| self.data().get(13)).flatten()?;
        let set = FLAGS.iter().filter(|(bit, _)| octet & bit != 0);
        Some(set.map(|&(_, letter)| letter).collect())
    }

    /// Type and code of an ICMP or ICMPv6 message.
    pub(super) fn icmp(&self) -> Option<(u8, u8)> {
        let icmp = matches!(self.protocol, protocol::ICMP | protocol::ICMPV6);
        let data = self.data();
        (icmp && !self.later_fragment).then(|| Some((*data.first()?, *data.get(1)?)))?
    }

    /// Whether it is an ICMP or ICMPv6 error (RFC 4443, section 2.1: types below 128).
    pub(super) fn is_icmp_error(&self) -> bool {
        match (self.protocol, self.icmp()) {
            (protocol::ICMP, Some((kind, _))) => matches!(kind, 3 | 4 | 5 | 11 | 12),
            (protocol::ICMPV6, Some((kind, _))) => kind < 128,
            _ => false,
        }
    }
}

/// A frame in a few words, for the line of a failed step.
pub(super) fn summary(frame: &[u8]) -> String {
    let length = frame.len();
    let Some(ip) = Ip::in_frame(frame) else {
        return format!("a frame of {length} octets that is not IP");
    };
    let what = match (ip.flags(), ip.icmp()) {
        (Some(flags), _) => format!("TCP {flags}"),
        (None, Some((kind, code))) => format!("ICMP {kind}/{code}"),
        (None, None) if ip.later_fragment => format!("fragment of {}", ip.protocol),
        (None, None) => format!("protocol {}", ip.protocol),
    };
    match ip.ends() {
        Some((from, to)) => format!("{from}>{to} {what}, {length} octets"),
        None => format!("{}>{} {what}, {length} octets", ip.source, ip.destination),
    }
}

pub(super) fn u16_at(octets: &[u8], offset: usize) -> Option<u16> {
    octets.get(offset..offset + 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
}

#[cfg(test)]
mod tests {
    use super::super::frames;
    use super::*;

    #[test]
    fn a_packet_is_told_in_the_words_of_the_recordings() {
        let link = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let (from, to) = ("10.9.0.7:41000".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
        let frame = frames::tcp(link, from, to, "AP", (1, 2)).unwrap();
        assert_eq!(summary(&frame), "10.9.0.7:41000>10.0.0.1:80 TCP PA, 64 octets");
        assert_eq!(Ip::in_frame(&frame).unwrap().ttl(), 64);
        let (from, to) = ("[2001:db8::7]:9".parse().unwrap(), "[fd00::1]:53".parse().unwrap());
        let frame = frames::udp(link, from, to).unwrap();
        assert_eq!(summary(&frame), "[2001:db8::7]:9>[fd00::1]:53 protocol 17, 72 octets");
        assert!(summary(&frame[..20]).contains("not IP"));
        for length in 0..frame.len() {
            summary(&frame[..length]);
        }
    }
}
