//! Forwarding methods: what is done to a packet on its way to a real server and back.
//!
//! A method is one file, its `mod` line and its line in [`to_real`] and [`overhead`]. It rewrites
//! a frame whose path, time to live and size have been found good; what it returns is a finished
//! frame from its Ethernet header on. It knows nothing of services, flow tables or devices.
//! Source: Linux `net/netfilter/ipvs/ip_vs_xmit.c`.

mod dr;
pub mod fullnat;
mod gre;
mod gue;
mod ipip;
mod link;
mod nat;
mod outer;
pub mod proxy;
pub mod toa;

use crate::{
    addr::Family,
    endpoint::{Endpoint, Method},
    packet::Packet,
    route::Path,
    verdict::DropReason,
    wire::{
        checksum, ethernet,
        frame::{Kind, Parsed},
        ipv4, ipv6, protocol, tcp, udp,
    },
};

/// A tunnel real server's UDP port, in the low 16 bits of [`Endpoint::tunnel`].
const TUNNEL_PORT: u32 = 0xffff;
/// Set if the tunnel carries a checksum.
pub const TUNNEL_CHECKSUM: u32 = 1 << 16;
/// Set if the tunnel carries remote checksum offload.
pub const TUNNEL_REMOTE_CHECKSUM: u32 = 1 << 17;

/// A packet to be forwarded and all that a method may look at.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// What it is; offsets still right.
    pub parsed: &'a Parsed,
    /// What the client sees.
    pub virt: &'a Endpoint,
    /// Who serves it.
    pub real: &'a Endpoint,
    /// The way it goes.
    pub path: &'a Path,
    /// Identification for an outer IPv4 header that may be fragmented.
    pub id: u16,
    /// Whether tunnels copy DF to the outer header.
    pub pmtu_disc: bool,
}

/// What a tunnel's outer headers are made of.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel<'a> {
    /// Family of the client's packet.
    pub family: Family,
    /// Where it starts in the frame.
    pub l3: usize,
    /// Who serves it.
    pub real: &'a Endpoint,
    /// The way it goes.
    pub path: &'a Path,
    /// Identification for an outer IPv4 header that may be fragmented.
    pub id: u16,
    /// Whether DF is copied to the outer header.
    pub pmtu_disc: bool,
}

impl<'a> Job<'a> {
    /// The packet as a tunnel sees it.
    #[inline]
    const fn tunnel(&self) -> Tunnel<'a> {
        let &Job { parsed, real, path, id, pmtu_disc, .. } = self;
        Tunnel { family: parsed.family, l3: parsed.l3 as usize, real, path, id, pmtu_disc }
    }
}

/// One method.
trait Forward {
    /// Rewrites a client's packet for its real server.
    fn to_real(packet: &mut Packet<'_>, job: &Job<'_>) -> Result<(), DropReason>;
}

/// Rewrites a client's packet for its real server.
///
/// # Errors
///
/// The reason why this packet cannot travel by this method.
#[inline]
pub fn to_real(method: Method, packet: &mut Packet<'_>, job: &Job<'_>) -> Result<(), DropReason> {
    match method {
        Method::Nat => nat::Nat::to_real(packet, job),
        Method::Dr => dr::Dr::to_real(packet, job),
        Method::Ipip => ipip::Ipip::to_real(packet, job),
        Method::Gue => gue::Gue::to_real(packet, job),
        Method::Gre => gre::Gre::to_real(packet, job),
        // Both have a way of their own: the pipeline's `local` and `fullnat`.
        Method::Local | Method::FullNat => Err(DropReason::HostUnavailable),
    }
}

/// Wraps a client's packet in IP: what [`to_real`] does for [`Method::Ipip`].
///
/// # Errors
///
/// As [`to_real`].
#[inline(always)]
pub fn ipip(packet: &mut Packet<'_>, tunnel: Tunnel<'_>) -> Result<(), DropReason> {
    if tunnel.l3 == ethernet::LEN && tunnel.path.outer().growth() != 0 {
        return outer::wrap_at_once(packet, &tunnel, outer::inner_protocol(tunnel.family));
    }
    ipip_in_steps(packet, tunnel)
}

/// The same where link headers have tags or the path has no headers ready.
#[inline(never)]
fn ipip_in_steps(packet: &mut Packet<'_>, tunnel: Tunnel<'_>) -> Result<(), DropReason> {
    let inherited = outer::unwrap(packet, &tunnel)?;
    outer::wrap(packet, &tunnel, outer::inner_protocol(tunnel.family), inherited)
}

/// Rewrites a real server's packet for the client.
///
/// # Errors
///
/// As [`to_real`].
#[inline]
pub fn to_client(method: Method, packet: &mut Packet<'_>, job: &Job<'_>) -> Result<(), DropReason> {
    debug_assert!(method.translates(), "only translated replies come back");
    nat::to_client(packet, job)
}

/// Octets that a method adds to the client's IP packet; `outer` is the family of the real server,
/// `tunnel` its [`Endpoint::tunnel`].
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "header lengths")]
pub const fn overhead(method: Method, outer: Family, tunnel: u32) -> u16 {
    let ip = match outer {
        Family::V4 => ipv4::LEN,
        Family::V6 => ipv6::LEN,
    };
    let octets = match method {
        Method::Nat | Method::FullNat | Method::Dr | Method::Local => 0,
        Method::Ipip => ip,
        Method::Gue => ip + gue::OVERHEAD,
        Method::Gre => ip + gre::overhead(tunnel),
    };
    octets as u16
}

/// `N` octets of a frame at `at`.
///
/// # Errors
///
/// [`DropReason::Truncated`] if they are not all there.
#[inline]
pub(crate) fn chunk<const N: usize>(frame: &mut [u8], at: u16) -> Result<&mut [u8; N], DropReason> {
    frame
        .get_mut(usize::from(at)..)
        .and_then(|rest| rest.first_chunk_mut())
        .ok_or(DropReason::Truncated)
}

/// Takes one from the time to live or hop limit, which must be at least 1.
#[inline]
pub fn decrement_ttl(packet: &mut Packet<'_>, parsed: &Parsed) {
    match parsed.family {
        Family::V4 => {
            if let Ok(header) = chunk(packet.bytes_mut(), parsed.l3) {
                ipv4::decrement_ttl(header);
            }
        }
        Family::V6 => {
            if let Ok(header) = chunk(packet.bytes_mut(), parsed.l3) {
                ipv6::decrement_hop_limit(header);
            }
        }
    }
}

/// Adds one to the time to live or hop limit, unless it is the greatest there is.
pub fn increment_ttl(packet: &mut Packet<'_>, parsed: &Parsed) {
    if parsed.ttl == u8::MAX {
        return;
    }
    match parsed.family {
        Family::V4 => {
            if let Ok(header) = chunk(packet.bytes_mut(), parsed.l3) {
                ipv4::increment_ttl(header);
            }
        }
        Family::V6 => {
            if let Ok(header) = chunk(packet.bytes_mut(), parsed.l3) {
                ipv6::increment_hop_limit(header);
            }
        }
    }
}

/// Sends a packet on as it is: only its link header becomes that of `path`.
///
/// # Errors
///
/// There is no room for the link header.
pub fn relink(packet: &mut Packet<'_>, parsed: &Parsed, path: &Path) -> Result<(), DropReason> {
    link::replace(packet, parsed.l3, path, parsed.ethertype)
}

/// Offset of the checksum in the transport header; `None` if incremental sums do not apply.
#[expect(clippy::cast_possible_truncation, reason = "offsets in a header")]
const fn checksum_at(protocol: u8) -> Option<u16> {
    match protocol {
        protocol::TCP => Some(tcp::CHECKSUM_AT as u16),
        protocol::UDP => Some(udp::CHECKSUM_AT as u16),
        _ => None,
    }
}

/// Computes a transport checksum that the sender left to its hardware: veth and virtio peers hand
/// such packets over, and no hardware of ours would finish it.
#[inline]
pub fn finish_checksum(packet: &mut Packet<'_>, parsed: &Parsed) {
    let key = &parsed.key;
    let Some(at) = checksum_at(key.protocol) else { return };
    if parsed.kind != Kind::Flow || parsed.short {
        return;
    }
    let length = u32::from(parsed.end - parsed.l4);
    let pseudo = checksum::pseudo(key.source, key.destination, key.protocol, length);
    let frame = packet.bytes_mut();
    let Ok(field) = chunk::<2>(frame, parsed.l4 + at) else { return };
    let is_udp = key.protocol == protocol::UDP;
    if !checksum::is_unfinished(u16::from_be_bytes(*field), pseudo) {
        return;
    }
    *field = [0, 0];
    let segment = &frame[usize::from(parsed.l4)..usize::from(parsed.end)];
    let sum = checksum::Sum::of(segment).plus(pseudo);
    let checksum = if is_udp { sum.udp_checksum() } else { sum.checksum() };
    if let Ok(field) = chunk::<2>(frame, parsed.l4 + at) {
        *field = checksum.to_be_bytes();
    }
}
