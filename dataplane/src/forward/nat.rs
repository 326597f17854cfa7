//! Network address translation: destination address and port rewritten on the way in, source on
//! the way back.
//!
//! Checksums change by the difference (RFC 1624), so a wrong one stays wrong by the same amount;
//! a UDP datagram without one gets one; SCTP's CRC32c is made anew.
//! An endpoint with port 0 takes every port: the port stays.
//! Source: Linux `ip_vs_xmit.c`, `ip_vs_nat_xmit`; `ip_vs_core.c`, `ip_vs_nat_icmp`.

use super::{Forward, Job, checksum_at, chunk, link};
use crate::{
    addr::{Addr, Family},
    endpoint::Endpoint,
    packet::Packet,
    verdict::DropReason,
    wire::{
        checksum,
        frame::{Kind, Parsed},
        icmp, ipv4, ipv6, protocol, sctp, udp,
    },
};

/// IPVS masquerading, `-m`.
#[derive(Debug)]
pub(super) struct Nat;

/// Which end of a packet is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Source address and port.
    Source,
    /// Destination address and port.
    Destination,
}

impl Forward for Nat {
    #[inline]
    fn to_real(packet: &mut Packet<'_>, job: &Job<'_>) -> Result<(), DropReason> {
        translate(packet, job.parsed, Side::Destination, (job.virt, job.real))?;
        link::replace(packet, job.parsed.l3, job.path, job.parsed.ethertype)
    }
}

/// The way back.
#[inline]
pub(super) fn to_client(packet: &mut Packet<'_>, job: &Job<'_>) -> Result<(), DropReason> {
    translate(packet, job.parsed, Side::Source, (job.real, job.virt))?;
    link::replace(packet, job.parsed.l3, job.path, job.parsed.ethertype)
}

/// Makes one end of the packet, which is the first endpoint, the second.
#[inline]
fn translate(
    packet: &mut Packet<'_>,
    parsed: &Parsed,
    side: Side,
    (old, new): (&Endpoint, &Endpoint),
) -> Result<(), DropReason> {
    if parsed.kind == Kind::IcmpError {
        return translate_error(packet, parsed, side, new);
    }
    if parsed.short {
        return Err(DropReason::ShortTransport);
    }
    let frame = packet.bytes_mut();
    set_addr(frame, (parsed.family, parsed.l3), side, new.addr())?;
    let port_at = parsed.l4 + if side == Side::Source { 0 } else { 2 };
    if new.port() != 0 {
        *chunk::<2>(frame, port_at)? = new.port().to_be_bytes();
    }
    let protocol = parsed.key.protocol;
    let Some(at) = checksum_at(protocol) else {
        sctp::seal(&mut frame[usize::from(parsed.l4)..usize::from(parsed.end)]);
        return Ok(());
    };
    let field = chunk::<2>(frame, parsed.l4 + at)?;
    let was = u16::from_be_bytes(*field);
    let delta = checksum::delta(old.sum(), new.sum());
    let is = match (protocol, was) {
        (protocol::UDP, 0) => return seal_udp(frame, parsed, (side, new.addr())),
        (protocol::UDP, _) => checksum::apply_udp(was, delta),
        _ => checksum::apply(was, delta),
    };
    *field = is.to_be_bytes();
    Ok(())
}

/// A datagram without a checksum gets one, as the kernel gives it (`udp_dnat_handler`).
#[cold]
fn seal_udp(
    frame: &mut [u8],
    parsed: &Parsed,
    (side, addr): (Side, Addr),
) -> Result<(), DropReason> {
    let (source, destination) = match side {
        Side::Source => (addr, parsed.key.destination),
        Side::Destination => (parsed.key.source, addr),
    };
    let datagram = usize::from(parsed.l4)..usize::from(parsed.end);
    udp::seal(frame.get_mut(datagram).ok_or(DropReason::Truncated)?, source, destination);
    Ok(())
}

/// Writes an address into the IP header at `l3`; an IPv4 header's checksum follows.
#[inline]
pub(super) fn set_addr(
    frame: &mut [u8],
    (family, l3): (Family, u16),
    side: Side,
    addr: Addr,
) -> Result<(), DropReason> {
    match (family, side) {
        (Family::V4, Side::Source) => ipv4::set_source(chunk(frame, l3)?, addr),
        (Family::V4, Side::Destination) => ipv4::set_destination(chunk(frame, l3)?, addr),
        (Family::V6, Side::Source) => ipv6::set_source(chunk(frame, l3)?, addr),
        (Family::V6, Side::Destination) => ipv6::set_destination(chunk(frame, l3)?, addr),
    }
    Ok(())
}

/// Translates an ICMP error about a flow: the packet's own address on `side`, and in the quoted
/// packet, which travelled the other way, address and port of the opposite side. The quoted
/// transport checksum stays as it is, as the kernel leaves it; the ICMP checksum is made anew.
#[cold]
fn translate_error(
    packet: &mut Packet<'_>,
    parsed: &Parsed,
    side: Side,
    new: &Endpoint,
) -> Result<(), DropReason> {
    let family = parsed.family;
    let frame = packet.bytes_mut();
    set_addr(frame, (family, parsed.l3), side, new.addr())?;
    let (opposite, port_offset) = match side {
        Side::Source => (Side::Destination, 2),
        Side::Destination => (Side::Source, 0),
    };
    set_addr(frame, (family, parsed.quoted_l3), opposite, new.addr())?;
    if new.port() != 0 {
        *chunk::<2>(frame, parsed.quoted_l4 + port_offset)? = new.port().to_be_bytes();
    }
    seal_error(frame, parsed)
}

/// Makes the checksum of a rewritten ICMP error anew.
pub(super) fn seal_error(frame: &mut [u8], parsed: &Parsed) -> Result<(), DropReason> {
    let (source, destination) = match parsed.family {
        Family::V4 => (Addr::UNSPECIFIED, Addr::UNSPECIFIED),
        Family::V6 => {
            let header = chunk(frame, parsed.l3)?;
            (ipv6::source(header), ipv6::destination(header))
        }
    };
    let message = &mut frame[usize::from(parsed.l4)..usize::from(parsed.end)];
    match parsed.family {
        Family::V4 => icmp::seal_v4(message),
        Family::V6 => icmp::seal_v6(message, source, destination),
    }
    Ok(())
}
