//! The last steps of a packet's way: is the path fit for it, rewrite, link header, out.
//!
//! Source of the order: Linux `ip_vs_xmit.c`, `__ip_vs_get_out_rt` (time to live, then MTU, both
//! before any rewriting, so that an ICMP error quotes the packet as the client knows it) and, for
//! replies, `net/ipv4/ip_forward.c`.

use std::sync::atomic::Ordering::Relaxed;

use super::{Context, Met, Outcome, Pipeline, answer::TooBig, tell::overhead};
use crate::{
    addr::{Addr, Family},
    clock::{TICKS_PER_SECOND, Tick},
    endpoint::{Endpoint, EndpointId, Method},
    flow::{ClientPath, Entry},
    forward::{self, Job},
    outbox::FRAME,
    packet::Packet,
    route::{NO_PATH, Path},
    verdict::{DeviceId, DropReason, Verdict},
    wire::{
        ethernet,
        frame::{Kind, Parsed},
        ipv4, ipv4_options, split,
    },
};

/// How long a learned path MTU is believed: 10 minutes, as `net.ipv4.route.mtu_expires`.
const MTU_BELIEVED: u32 = 600 * TICKS_PER_SECOND;

/// Where a packet of a flow goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hop {
    /// What the client sees.
    pub(super) virt: EndpointId,
    /// Who serves it.
    pub(super) real: EndpointId,
    /// How packets get there.
    pub(super) method: Method,
    /// The slot of its flow; 0 if it has none.
    pub(super) slot: u32,
    /// Length of the longest fragment, if the packet was put together from some; else 0.
    pub(super) longest: u16,
}

impl Pipeline {
    /// Sends a client's packet to its real server.
    pub(super) fn forward(
        &mut self,
        cx: &Context<'_>,
        packet: &mut Packet<'_>,
        parsed: &Parsed,
        hop: Hop,
    ) -> Outcome {
        let real = cx.endpoints.get(hop.real);
        let path = cx.snapshot.path(hop.real);
        if !path.routed || hop.method == Method::Local {
            return self.unrouted(cx, packet, parsed, hop);
        }
        if parsed.ttl <= 1 {
            self.time_exceeded(cx, packet, parsed, Some(hop));
            return Err(DropReason::TtlExceeded);
        }
        let outer = real.addr().family();
        let mtu = path_mtu(path, real, cx.now);
        let room = self.room(cx, hop);
        let octets = parsed.end - parsed.l3;
        packet.truncate(usize::from(parsed.end));
        if octets > room && !self.may_split(cx, packet, parsed, (room, hop.longest)) {
            forward::decrement_ttl(packet, parsed);
            self.too_big(cx, packet, parsed, TooBig { mtu: room, hop: Some(hop) });
            return Err(DropReason::TooBig);
        }
        forward::decrement_ttl(packet, parsed);
        if parsed.family == Family::V4 && parsed.l4 - parsed.l3 > 20 {
            self.options(cx, packet, parsed, own_destination(packet, parsed))?;
        }
        forward::finish_checksum(packet, parsed);
        let job = Job {
            parsed,
            virt: cx.endpoints.get(hop.virt),
            real,
            path,
            id: self.next_id,
            pmtu_disc: cx.snapshot.settings.pmtu_disc,
        };
        match hop.method {
            Method::FullNat => self.both_to_real(cx, packet, (parsed, path), hop)?,
            method => forward::to_real(method, packet, &job)?,
        }
        if is_tunnel(hop.method) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let limit = match (parsed.family, outer, hop.longest) {
            (Family::V4, Family::V4, 1..) => mtu.min(hop.longest),
            (Family::V6, Family::V6, 1..) if !is_tunnel(hop.method) => mtu.min(hop.longest),
            _ => mtu,
        };
        self.leave(cx, packet, path, limit)
    }

    /// Octets of a client's packet that the way to its real server takes, as far as we know.
    pub(super) fn room(&self, cx: &Context<'_>, hop: Hop) -> u16 {
        let real = cx.endpoints.get(hop.real);
        let mtu = self.mtu(cx, hop.real);
        let family = real.addr().family();
        let told = overhead(cx, hop, family);
        mtu.saturating_sub(told + forward::overhead(hop.method, family, real.tunnel()))
    }

    /// The largest packet that the path to a real server takes, as far as we know.
    pub(super) fn mtu(&self, cx: &Context<'_>, real: EndpointId) -> u16 {
        path_mtu(cx.snapshot.path(real), cx.endpoints.get(real), cx.now)
    }

    /// Whether a packet longer than the path has room for may be split: IPv4 without DF; with it
    /// if path MTU discovery is off; IPv6 if it came in pieces that fit (`__mtu_check_toobig_v6`,
    /// `ensure_mtu_is_adequate`).
    fn may_split(
        &self,
        cx: &Context<'_>,
        packet: &Packet<'_>,
        parsed: &Parsed,
        (room, longest): (u16, u16),
    ) -> bool {
        match parsed.family {
            Family::V4 => {
                !cx.snapshot.settings.pmtu_disc || is_icmp(parsed) || !dont_fragment(packet, parsed)
            }
            Family::V6 => longest != 0 && longest <= room,
        }
    }

    /// Whether a reply may go on, before it counts for anything.
    pub(super) fn may_reply(
        &mut self,
        cx: &Context<'_>,
        packet: &mut Packet<'_>,
        parsed: Met<'_>,
        path: &Path,
    ) -> Result<(), DropReason> {
        if !path.routed {
            return Err(DropReason::NoRoute);
        }
        if parsed.ttl <= 1 {
            self.time_exceeded(cx, packet, &parsed, None);
            return Err(DropReason::TtlExceeded);
        }
        packet.truncate(usize::from(parsed.end));
        let octets = parsed.end - parsed.l3;
        let fits = match parsed.family {
            _ if octets <= path.mtu => true,
            Family::V4 => !dont_fragment(packet, &parsed),
            Family::V6 => parsed.longest != 0 && parsed.longest <= path.mtu,
        };
        if !fits {
            self.too_big(cx, packet, &parsed, TooBig { mtu: path.mtu, hop: None });
            return Err(DropReason::TooBig);
        }
        Ok(())
    }

    /// Sends a real server's packet to the client.
    pub(super) fn reply(
        &mut self,
        cx: &Context<'_>,
        packet: &mut Packet<'_>,
        parsed: &Parsed,
        (hop, path): (Hop, &Path),
    ) -> Outcome {
        forward::decrement_ttl(packet, parsed);
        if parsed.family == Family::V4 && parsed.l4 - parsed.l3 > 20 {
            self.options(cx, packet, parsed, path.local)?;
        }
        forward::finish_checksum(packet, parsed);
        let job = Job {
            parsed,
            virt: cx.endpoints.get(hop.virt),
            real: cx.endpoints.get(hop.real),
            path,
            id: self.next_id,
            pmtu_disc: cx.snapshot.settings.pmtu_disc,
        };
        match hop.method {
            Method::FullNat => self.both_to_client(cx, packet, (parsed, path), hop)?,
            method => forward::to_client(method, packet, &job)?,
        }
        let limit = if hop.longest == 0 { path.mtu } else { path.mtu.min(hop.longest) };
        self.leave(cx, packet, path, limit)
    }

    /// Sends a finished frame, in pieces if its IP packet is longer than `limit`; keeps it if the
    /// next hop's link address is not known yet.
    pub(super) fn leave(
        &mut self,
        cx: &Context<'_>,
        packet: &Packet<'_>,
        path: &Path,
        limit: u16,
    ) -> Outcome {
        let octets = packet.len() - ethernet::LEN;
        if octets <= usize::from(limit) {
            if !path.resolved {
                return self.park(cx, packet, path);
            }
            return Ok(Verdict::Tx(path.device));
        }
        if !path.resolved {
            self.want(path);
            return Err(DropReason::NextHopUnresolved);
        }
        self.send_pieces(path.device, packet.bytes(), limit)
    }

    /// Puts a frame whose IP packet is too long into the outbox in pieces of at most `limit`
    /// octets; all of them or none.
    pub(super) fn send_pieces(&mut self, device: DeviceId, frame: &[u8], limit: u16) -> Outcome {
        let [a, b, c, d, ..] = self.rng.next_u64().to_le_bytes();
        let id = u32::from_le_bytes([a, b, c, d]);
        let pieces = split::pieces(frame, limit).ok_or(DropReason::TooBig)?;
        if pieces.count() > self.outbox.room() || usize::from(limit) + ethernet::LEN > FRAME {
            return Err(DropReason::TxRingFull);
        }
        for at in 0..pieces.count() {
            self.outbox.push(device, |slot| pieces.emit(at, id, frame, slot));
        }
        Ok(Verdict::Consumed)
    }

    /// Does what IPv4 options ask of a router.
    #[cold]
    fn options(
        &self,
        cx: &Context<'_>,
        packet: &mut Packet<'_>,
        parsed: &Parsed,
        own: Addr,
    ) -> Result<(), DropReason> {
        // Not the time of day, and so marked by the highest bit (RFC 791).
        let stamp = 1 << 31 | cx.now.0.wrapping_mul(1000 / TICKS_PER_SECOND) & 0x7fff_ffff;
        let header = match parsed.kind {
            Kind::Flow => usize::from(parsed.l3)..usize::from(parsed.l4),
            _ => {
                let l3 = usize::from(parsed.l3);
                l3..l3 + 4 * usize::from(packet.bytes()[l3] & 0x0f)
            }
        };
        let header = packet.bytes_mut().get_mut(header).ok_or(DropReason::Truncated)?;
        ipv4_options::forward(header, own, stamp)
    }

    /// The path to a flow's client: the one its entry remembers, unless routes have changed.
    #[inline]
    pub(super) fn client_path(&self, cx: &Context<'_>, entry: &Entry) -> Path {
        let routes = &cx.snapshot.routes;
        let id = entry.client_path().number(routes.generation);
        if id <= u32::from(u16::MAX) && id != NO_PATH {
            return *routes.get(id);
        }
        let (id, path) = routes.find(entry.client());
        if let Ok(id) = u16::try_from(id) {
            entry.set_client_path(ClientPath::new(id, routes.generation));
        }
        path
    }
}

/// The address that a router writes into IP options of a packet to a real server: the one it came
/// to, as the director's local input path does.
fn own_destination(packet: &Packet<'_>, parsed: &Parsed) -> Addr {
    let header = packet.bytes().get(usize::from(parsed.l3)..).and_then(|ip| ip.first_chunk());
    header.map_or(Addr::UNSPECIFIED, ipv4::destination)
}

/// Whether an IPv4 packet carries DF.
fn dont_fragment(packet: &Packet<'_>, parsed: &Parsed) -> bool {
    let header = packet.bytes().get(usize::from(parsed.l3)..).and_then(|ip| ip.first_chunk());
    header.is_some_and(ipv4::dont_fragment)
}

/// Whether this is an ICMP message about a flow: its key is not the packet's own.
fn is_icmp(parsed: &Parsed) -> bool {
    parsed.kind == Kind::IcmpError
}

/// Whether the method wraps packets.
const fn is_tunnel(method: Method) -> bool {
    matches!(method, Method::Ipip | Method::Gue | Method::Gre)
}

/// The largest packet that the path to a real server takes, as far as we know.
#[inline]
fn path_mtu(path: &Path, real: &Endpoint, now: Tick) -> u16 {
    let learned = real.learned_mtu.load(Relaxed);
    if learned == 0 || now.since(Tick(real.learned_at.load(Relaxed))) > MTU_BELIEVED {
        return path.mtu;
    }
    path.mtu.min(u16::try_from(learned).unwrap_or(u16::MAX))
}
