//! Full NAT: both ends of a packet rewritten, on the way in and on the way back.
//!
//! The real server sees a local address of the box and answers it, whatever its routes say. Both
//! ends of the rewritten packet are known beforehand, so one function serves both directions.
//! Checksums change by the difference, as in `nat`; an ICMP error about a flow has both of
//! its own addresses rewritten, for no router between us and the real server can send to the
//! client, and both ends of the packet it quotes.

use super::{
    checksum_at, chunk, link,
    nat::{Side, seal_error, set_addr},
};
use crate::{
    addr::Addr,
    packet::Packet,
    route::Path,
    verdict::DropReason,
    wire::{
        checksum,
        frame::{Kind, Parsed},
        protocol, sctp, udp,
    },
};

/// Address and port of one end.
pub type End = (Addr, u16);

/// Both ends of a packet as they shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The source.
    pub source: End,
    /// The destination.
    pub destination: End,
}

/// Rewrites both ends of a packet, or of an ICMP error and of what it quotes, and sends it on `path`.
///
/// # Errors
///
/// The packet is cut short where it would have to be rewritten.
pub fn rewrite(
    packet: &mut Packet<'_>,
    parsed: &Parsed,
    ends: &Ends,
    path: &Path,
) -> Result<(), DropReason> {
    if parsed.kind == Kind::IcmpError {
        translate_error(packet, parsed, ends)?;
    } else {
        translate(packet, parsed, ends)?;
    }
    link::replace(packet, parsed.l3, path, parsed.ethertype)
}

fn translate(
    packet: &mut Packet<'_>,
    parsed: &Parsed,
    &Ends { source, destination }: &Ends,
) -> Result<(), DropReason> {
    if parsed.short {
        return Err(DropReason::ShortTransport);
    }
    let frame = packet.bytes_mut();
    set_addr(frame, (parsed.family, parsed.l3), Side::Source, source.0)?;
    set_addr(frame, (parsed.family, parsed.l3), Side::Destination, destination.0)?;
    set_ports(frame, parsed.l4, (source.1, destination.1))?;
    let key = &parsed.key;
    let segment = usize::from(parsed.l4)..usize::from(parsed.end);
    let Some(at) = checksum_at(key.protocol) else {
        sctp::seal(frame.get_mut(segment).ok_or(DropReason::Truncated)?);
        return Ok(());
    };
    let field = chunk::<2>(frame, parsed.l4 + at)?;
    let was = u16::from_be_bytes(*field);
    if (key.protocol, was) == (protocol::UDP, 0) {
        let datagram = frame.get_mut(segment).ok_or(DropReason::Truncated)?;
        udp::seal(datagram, source.0, destination.0);
        return Ok(());
    }
    let sum =
        |a: End, b: End| checksum::both(checksum::endpoint(a.0, a.1), checksum::endpoint(b.0, b.1));
    let old = sum((key.source, key.source_port), (key.destination, key.destination_port));
    let delta = checksum::delta(old, sum(source, destination));
    let is = match key.protocol {
        protocol::UDP => checksum::apply_udp(was, delta),
        _ => checksum::apply(was, delta),
    };
    *field = is.to_be_bytes();
    Ok(())
}

/// The quoted packet travelled the other way: its source is our destination. Its transport
/// checksum stays as it is, as with nat; the ICMP checksum is made anew.
fn translate_error(
    packet: &mut Packet<'_>,
    parsed: &Parsed,
    &Ends { source, destination }: &Ends,
) -> Result<(), DropReason> {
    let family = parsed.family;
    let frame = packet.bytes_mut();
    set_addr(frame, (family, parsed.l3), Side::Source, source.0)?;
    set_addr(frame, (family, parsed.l3), Side::Destination, destination.0)?;
    set_addr(frame, (family, parsed.quoted_l3), Side::Source, destination.0)?;
    set_addr(frame, (family, parsed.quoted_l3), Side::Destination, source.0)?;
    set_ports(frame, parsed.quoted_l4, (destination.1, source.1))?;
    seal_error(frame, parsed)
}

/// Writes the ports of a transport header at `at`.
fn set_ports(
    frame: &mut [u8],
    at: u16,
    (source, destination): (u16, u16),
) -> Result<(), DropReason> {
    *chunk::<2>(frame, at)? = source.to_be_bytes();
    *chunk::<2>(frame, at + 2)? = destination.to_be_bytes();
    Ok(())
}
