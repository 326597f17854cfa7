//! The kernel's own stack: which recorded answers are its and not IPVS's.
//!
//! Where xvs gives a packet to the host, the recording shows what the host did with it: a RST, an ICMP
//! error, an echo reply, or the packet itself, routed. Such a step counts as equal, and the line says
//! `host`. A packet that IPVS forwarded never does.

use std::net::IpAddr;

use super::packet::Ip;

/// Whether `out`, which left by the interface `input` came in by (or another one), can be what the
/// host's stack made of `input`. `local` tells the host's own addresses.
pub(super) fn answered(
    input: &[u8],
    out: &[u8],
    same_interface: bool,
    local: impl Fn(IpAddr) -> bool,
) -> bool {
    let (Some(input), Some(out)) = (Ip::in_frame(input), Ip::in_frame(out)) else {
        return false;
    };
    if local(input.destination) {
        same_interface && answer(&input, &out)
    } else {
        routed(&input, &out) || (same_interface && local(out.source) && about(&input, &out))
    }
}

/// A RST, an echo reply or an ICMP error back to the sender, from the address it sent to.
fn answer(input: &Ip<'_>, out: &Ip<'_>) -> bool {
    let back = out.source == input.destination && out.destination == input.source;
    let reset = out.flags().is_some_and(|flags| flags.contains('R'))
        && input.ports().zip(out.ports()).is_some_and(|(i, o)| (i.1, i.0) == o);
    let echo = match (input.icmp(), out.icmp()) {
        (Some((8, 0)), Some((0, 0))) | (Some((128, 0)), Some((129, 0))) => {
            input.data().get(4..) == out.data().get(4..)
        }
        _ => false,
    };
    back && (reset || echo || out.is_icmp_error())
}

/// An ICMP error to the sender.
fn about(input: &Ip<'_>, out: &Ip<'_>) -> bool {
    out.destination == input.source && out.is_icmp_error()
}

/// The packet itself, one hop older.
fn routed(input: &Ip<'_>, out: &Ip<'_>) -> bool {
    let same_ends = (input.source, input.destination) == (out.source, out.destination);
    same_ends
        && input.protocol == out.protocol
        && input.ttl().checked_sub(1) == Some(out.ttl())
        && input.data() == out.data()
}

#[cfg(test)]
mod tests {
    use super::super::frames;
    use super::*;

    const LINK: frames::Link = ([2; 6], [4; 6]);

    fn tcp(from: &str, to: &str, flags: &str) -> Vec<u8> {
        frames::tcp(LINK, from.parse().unwrap(), to.parse().unwrap(), flags, (1, 0)).unwrap()
    }

    /// `out`, one hop older; the header checksum is not looked at.
    fn older(mut out: Vec<u8>) -> Vec<u8> {
        out[22] -= 1;
        out
    }

    #[test]
    fn the_hosts_answers_are_told_from_forwarded_packets() {
        let local = |addr| addr == "10.0.0.1".parse::<IpAddr>().unwrap();
        let (client, vip, real) = ("10.9.0.7:1000", "10.0.0.1:80", "10.2.0.11:80");
        let ack = tcp(client, vip, "A");
        assert!(answered(&ack, &tcp(vip, client, "R"), true, local));
        assert!(!answered(&ack, &tcp(vip, client, "R"), false, local), "the wrong interface");
        assert!(!answered(&ack, &tcp(vip, client, "SA"), true, local), "a host does not accept");
        assert!(!answered(&ack, &older(ack.clone()), true, local), "a local packet is not routed");
        let forwarded = older(tcp(client, real, "A"));
        assert!(!answered(&ack, &forwarded, false, local), "IPVS's work");
        let reply = tcp(real, client, "A");
        assert!(answered(&reply, &older(reply.clone()), false, local));
        assert!(!answered(&reply, &older(tcp(vip, client, "A")), false, local), "IPVS's work");
    }
}
