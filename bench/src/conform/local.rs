//! The host's own stack as a real server: from an answer as it left the director back to the answer as
//! the stack sent it.
//!
//! A recording shows only what left. Where the method is nat the stack was given a rewritten packet and
//! answered from the address and port in it; IPVS put the VIP in their place. Built by etherparse, not
//! by the code under test.

use std::net::IpAddr;

use etherparse::{
    Icmpv4Header, Icmpv6Header, IpHeaders, NetHeaders, PacketHeaders, TransportHeader,
};

use super::packet::{ETHERNET, Ip};

/// What the host's stack sent, given a packet, where `left` is what left the director; `None` if that
/// is no answer to it.
pub(super) fn as_sent(given: &[u8], left: &[u8]) -> Option<Vec<u8>> {
    let (asked, answer) = (Ip::in_frame(given)?, Ip::in_frame(left)?);
    if answer.destination != asked.source {
        return None;
    }
    let headers = PacketHeaders::from_ethernet_slice(left).ok()?;
    let mut ip = match headers.net? {
        NetHeaders::Ipv4(header, extensions) => IpHeaders::Ipv4(header, extensions),
        NetHeaders::Ipv6(header, extensions) => IpHeaders::Ipv6(header, extensions),
        NetHeaders::Arp(_) => return None,
    };
    let payload = headers.payload.slice();
    let mut out = Vec::from(left.get(..ETHERNET)?);
    set_source(&mut ip, asked.destination)?;
    match headers.transport? {
        TransportHeader::Tcp(mut tcp) => {
            (tcp.source_port, _) = swapped(&asked, &answer)?;
            tcp.checksum = match &ip {
                IpHeaders::Ipv4(ip, _) => tcp.calc_checksum_ipv4(ip, payload).ok()?,
                IpHeaders::Ipv6(ip, _) => tcp.calc_checksum_ipv6(ip, payload).ok()?,
            };
            ip.write(&mut out).ok()?;
            tcp.write(&mut out).ok()?;
        }
        TransportHeader::Udp(mut udp) => {
            (udp.source_port, _) = swapped(&asked, &answer)?;
            udp.checksum = match &ip {
                IpHeaders::Ipv4(ip, _) => udp.calc_checksum_ipv4(ip, payload).ok()?,
                IpHeaders::Ipv6(ip, _) => udp.calc_checksum_ipv6(ip, payload).ok()?,
            };
            ip.write(&mut out).ok()?;
            udp.write(&mut out).ok()?;
        }
        TransportHeader::Icmpv4(icmp) => {
            let quote = asked.bytes.get(..payload.len())?;
            ip.write(&mut out).ok()?;
            Icmpv4Header::with_checksum(icmp.icmp_type, quote).write(&mut out).ok()?;
            out.extend_from_slice(quote);
            return Some(out);
        }
        TransportHeader::Icmpv6(icmp) => {
            let quote = asked.bytes.get(..payload.len())?;
            let IpHeaders::Ipv6(header, _) = &ip else { return None };
            let (from, to) = (header.source, header.destination);
            let icmp = Icmpv6Header::with_checksum(icmp.icmp_type, from, to, quote).ok()?;
            ip.write(&mut out).ok()?;
            icmp.write(&mut out).ok()?;
            out.extend_from_slice(quote);
            return Some(out);
        }
        TransportHeader::Igmp(_) => return None,
    }
    out.extend_from_slice(payload);
    Some(out)
}

/// The ports of an answer to `asked`, if `answer` goes back to the port that asked.
fn swapped(asked: &Ip<'_>, answer: &Ip<'_>) -> Option<(u16, u16)> {
    let (client, server) = asked.ports()?;
    (answer.ports()?.1 == client).then_some((server, client))
}

fn set_source(ip: &mut IpHeaders, source: IpAddr) -> Option<()> {
    match (ip, source) {
        (IpHeaders::Ipv4(header, _), IpAddr::V4(source)) => {
            header.source = source.octets();
            header.header_checksum = header.calc_header_checksum();
        }
        (IpHeaders::Ipv6(header, _), IpAddr::V6(source)) => header.source = source.octets(),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::frames;
    use super::*;

    const LINK: frames::Link = ([2; 6], [4; 6]);

    #[test]
    fn an_answer_is_told_as_the_stack_sent_it() {
        let tcp = |from: &str, to: &str, flags| {
            frames::tcp(LINK, from.parse().unwrap(), to.parse().unwrap(), flags, (0, 1001)).unwrap()
        };
        let (client, vip, real) = ("10.9.0.7:1002", "10.0.0.2:80", "10.2.0.1:8080");
        let given = tcp(client, real, "S");
        let raw = as_sent(&given, &tcp(vip, client, "RA")).unwrap();
        assert_eq!(raw, tcp(real, client, "RA"));
        let direct = tcp(vip, client, "RA");
        assert_eq!(as_sent(&tcp(client, vip, "S"), &direct), Some(direct.clone()));
        assert_eq!(as_sent(&given, &tcp(vip, "10.9.0.7:1003", "RA")), None, "another connection's");
        assert_eq!(as_sent(&given, &tcp(vip, "10.9.0.8:1002", "RA")), None, "another client's");
    }
}
