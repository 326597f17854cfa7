//! Frames that clients and real servers send: built by etherparse, not by the code under test.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    Ethernet2Header, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder, TcpHeader, ether_type,
    ip_number,
};

/// Link addresses of a frame: source, destination.
pub(super) type Link = ([u8; 6], [u8; 6]);

/// Time to live of every packet, as the recordings have it.
const TTL: u8 = 64;
const WINDOW: u16 = 64_240;
/// Data that flags announce: a segment with PSH carries some.
const DATA: &[u8] = b"0123456789";

/// SCTP chunks by the names the recordings use (RFC 9260, section 3.2).
const CHUNKS: &[(&str, u8)] = &[
    ("DATA", 0),
    ("INIT", 1),
    ("INIT_ACK", 2),
    ("ABORT", 6),
    ("SHUTDOWN", 7),
    ("SHUTDOWN_ACK", 8),
    ("ERROR", 9),
    ("COOKIE_ECHO", 10),
    ("COOKIE_ACK", 11),
    ("SHUTDOWN_COMPLETE", 14),
];

/// A TCP segment; `flags` are letters of `SAFRPUEC`. `None` if one of them is none.
pub(super) fn tcp(
    link: Link,
    from: SocketAddr,
    to: SocketAddr,
    flags: &str,
    numbers: (u32, u32),
) -> Option<Vec<u8>> {
    let data = if flags.contains('P') { DATA } else { &[] };
    segment(link, (from, to), flags, numbers, data)
}

/// A TCP segment with this data.
pub(super) fn segment(
    link: Link,
    (from, to): (SocketAddr, SocketAddr),
    flags: &str,
    numbers: (u32, u32),
    data: &[u8],
) -> Option<Vec<u8>> {
    let mut header = TcpHeader::new(from.port(), to.port(), numbers.0, WINDOW);
    header.acknowledgment_number = numbers.1;
    for flag in flags.chars() {
        let flag = match flag {
            'S' => &mut header.syn,
            'A' => &mut header.ack,
            'F' => &mut header.fin,
            'R' => &mut header.rst,
            'P' => &mut header.psh,
            'U' => &mut header.urg,
            'E' => &mut header.ece,
            'C' => &mut header.cwr,
            _ => return None,
        };
        *flag = true;
    }
    let builder = PacketBuilder::ethernet2(link.0, link.1);
    let builder = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), TTL),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), TTL),
        _ => return None,
    };
    let builder = builder.tcp_header(header);
    let mut frame = Vec::with_capacity(builder.size(data.len()));
    builder.write(&mut frame, data).ok()?;
    Some(frame)
}

/// A UDP datagram; `None` if the families differ.
pub(super) fn udp(link: Link, from: SocketAddr, to: SocketAddr) -> Option<Vec<u8>> {
    datagram(link, (from, to), DATA)
}

/// A UDP datagram with this data.
pub(super) fn datagram(
    link: Link,
    (from, to): (SocketAddr, SocketAddr),
    data: &[u8],
) -> Option<Vec<u8>> {
    let builder = PacketBuilder::ethernet2(link.0, link.1);
    let builder = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), TTL),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), TTL),
        _ => return None,
    };
    let builder = builder.udp(from.port(), to.port());
    let mut frame = Vec::with_capacity(builder.size(data.len()));
    builder.write(&mut frame, data).ok()?;
    Some(frame)
}

/// An SCTP packet with one chunk; `None` if the chunk's name is unknown or the families differ.
pub(super) fn sctp(link: Link, from: SocketAddr, to: SocketAddr, chunk: &str) -> Option<Vec<u8>> {
    // Twenty octets of value make every chunk long enough for its fixed fields.
    self::chunk(link, (from, to), chunk, 20)
}

/// An SCTP packet with one chunk that has a value of this length.
pub(super) fn chunk(
    link: Link,
    (from, to): (SocketAddr, SocketAddr),
    chunk: &str,
    value: usize,
) -> Option<Vec<u8>> {
    let &(_, kind) = CHUNKS.iter().find(|(name, _)| *name == chunk)?;
    let mut body = Vec::new();
    body.extend(from.port().to_be_bytes());
    body.extend(to.port().to_be_bytes());
    body.extend(0x0102_0304u32.to_be_bytes());
    body.extend([0; 4]);
    body.extend([kind, 0]);
    body.extend(u16::try_from(value + 4).ok()?.to_be_bytes());
    body.extend(std::iter::repeat_n(0, value));
    let sum = crc32c::crc32c(&body);
    body[8..12].copy_from_slice(&sum.to_le_bytes());

    let length = u16::try_from(body.len()).ok()?;
    let (source, destination) = link;
    let mut frame = Vec::new();
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let ether_type = ether_type::IPV4;
            Ethernet2Header { source, destination, ether_type }.write(&mut frame).ok()?;
            let sctp = ip_number::SCTP;
            let mut ip = Ipv4Header::new(length, TTL, sctp, from.octets(), to.octets()).ok()?;
            ip.header_checksum = ip.calc_header_checksum();
            ip.write(&mut frame).ok()?;
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let ether_type = ether_type::IPV6;
            Ethernet2Header { source, destination, ether_type }.write(&mut frame).ok()?;
            let ip = Ipv6Header {
                traffic_class: 0,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: length,
                next_header: ip_number::SCTP,
                hop_limit: TTL,
                source: from.octets(),
                destination: to.octets(),
            };
            ip.write(&mut frame).ok()?;
        }
        _ => return None,
    }
    frame.extend(body);
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link = ([2, 0, 0, 0, 0, 0xfe], [2, 0, 0, 0, 0, 1]);

    #[test]
    fn frames_are_what_etherparse_reads_back() {
        let v4 = ("10.9.0.7:41000".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
        let v6 = ("[2001:db8::7]:41000".parse().unwrap(), "[fd00::1]:80".parse().unwrap());
        for (from, to) in [v4, v6] {
            let frame = tcp(LINK, from, to, "SPU", (7, 0)).unwrap();
            let read = etherparse::PacketHeaders::from_ethernet_slice(&frame).unwrap();
            let tcp = read.transport.unwrap().tcp().unwrap();
            assert!(tcp.syn && tcp.psh && tcp.urg && !tcp.ack);
            assert_eq!((tcp.sequence_number, tcp.destination_port), (7, 80));
            let frame = udp(LINK, from, to).unwrap();
            let read = etherparse::PacketHeaders::from_ethernet_slice(&frame).unwrap();
            assert_eq!(read.transport.unwrap().udp().unwrap().source_port, 41_000);
            let frame = sctp(LINK, from, to, "COOKIE_ECHO").unwrap();
            let read = etherparse::PacketHeaders::from_ethernet_slice(&frame).unwrap();
            assert_eq!(read.payload.slice()[12], 10);
        }
        assert_eq!(tcp(LINK, v4.0, v4.1, "S?", (0, 0)), None);
        assert_eq!(sctp(LINK, v4.0, v4.1, "NONSENSE"), None);
        assert_eq!(udp(LINK, v4.0, v6.1), None);
    }
}
