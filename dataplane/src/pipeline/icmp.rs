//! ICMP messages that come in: echo requests to a VIP, errors about flows, errors about tunnels.
//!
//! An error about a flow goes where the flow's packets go, by the same method; it counts, but
//! changes neither state nor time-out. An error about one of our tunnel's outer packets is turned
//! into one about the packet inside and given to the client; "too big" also teaches us the path's
//! MTU. Differing from the kernel: it drops ICMPv6 errors from real servers (it verifies their
//! checksum without the pseudo header); we pass them on.
//! Source: Linux `ip_vs_core.c`, `ip_vs_in_icmp`, `ip_vs_out_icmp`.

use std::sync::atomic::Ordering::Relaxed;

use super::{Context, Met, Outcome, Pipeline, send::Hop};
use crate::{
    addr::{Addr, Family},
    endpoint::{EndpointId, Method},
    flow::{Direction, Entry, FlowRef},
    packet::Packet,
    verdict::{DropReason, Verdict},
    wire::{
        frame::{Kind, Parsed},
        gre, gue, icmp, protocol,
        quote::{self, Quote},
        udp,
    },
};

/// Least path MTU that an ICMP error can make us believe, as `net.ipv4.route.min_pmtu`.
const MTU_MIN: u32 = 552;

impl Pipeline {
    /// An ICMP message, or another packet that belongs to no flow.
    #[cold]
    pub(super) fn icmp(
        &mut self,
        cx: &Context<'_>,
        packet: &mut Packet<'_>,
        parsed: Met<'_>,
    ) -> Outcome {
        match parsed.kind {
            Kind::Echo if cx.snapshot.is_vip(parsed.key.destination) => {
                self.echo(cx, packet, &parsed)
            }
            Kind::IcmpError => self.flow_error(cx, packet, parsed),
            Kind::Other if parsed.quoted_l3 != 0 => self.tunnel_error(cx, packet, &parsed),
            _ => Ok(Verdict::Host),
        }
    }

    /// An error about a packet that travelled against it.
    fn flow_error(
        &mut self,
        cx: &Context<'_>,
        packet: &mut Packet<'_>,
        parsed: Met<'_>,
    ) -> Outcome {
        match cx.table.lookup(&parsed.key.reversed(), cx.endpoints) {
            Some((flow, Direction::ToReal)) => {
                let hop = hop(flow, parsed.longest);
                let octets = u64::from(parsed.end - parsed.l3);
                cx.stats.endpoint(hop.real).count_in(octets);
                self.forward(cx, packet, &parsed, hop)
            }
            Some((flow, Direction::ToClient)) => {
                let hop = hop(flow, parsed.longest);
                let path = self.client_path(cx, &flow);
                self.may_reply(cx, packet, parsed, &path)?;
                let octets = u64::from(parsed.end - parsed.l3);
                cx.stats.endpoint(hop.real).count_out(octets);
                self.reply(cx, packet, &parsed, (hop, &path))
            }
            None => {
                if cx.snapshot.settings.schedule_icmp
                    && let Some(outcome) = self.open_for_error(cx, packet, parsed)
                {
                    return outcome;
                }
                // UDP may be what our own GUE packets look like.
                self.tunnel_error(cx, packet, &parsed)
            }
        }
    }

    /// An error about a packet of one of our tunnels, or about something that is not ours.
    fn tunnel_error(
        &mut self,
        cx: &Context<'_>,
        packet: &mut Packet<'_>,
        parsed: &Parsed,
    ) -> Outcome {
        let bytes = packet.bytes();
        let end = usize::from(parsed.end);
        let outer = bytes.get(usize::from(parsed.quoted_l3)..end).and_then(quote::read);
        let Some((outer, inside)) = outer.and_then(|outer| {
            let payload = bytes.get(usize::from(parsed.quoted_l3) + outer.transport?..end)?;
            Some((outer, inner_packet(&outer, payload)?))
        }) else {
            return Ok(Verdict::Host);
        };
        let Some(inner) = quote::read(inside).filter(Quote::has_ports) else {
            return Ok(Verdict::Host);
        };
        let Some((flow, Direction::ToReal)) = cx.table.lookup(&inner.key, cx.endpoints) else {
            return Ok(Verdict::Host);
        };
        let hop = hop(flow, 0);
        // As with the kernel, errors between IPv6 addresses are the host's.
        let v4 = parsed.family == Family::V4 && inner.family == Family::V4;
        if !v4 || cx.endpoints.get(hop.real).addr() != outer.key.destination {
            return Ok(Verdict::Host);
        }
        let l4 = usize::from(parsed.l4);
        let header: &[u8; icmp::LEN] =
            bytes.get(l4..).and_then(|m| m.first_chunk()).ok_or(DropReason::Truncated)?;
        let message = icmp::Header::parse(header);
        self.relay(cx, (parsed.family, message), (&inner, inside), hop)
    }

    /// Learns from an error about a tunnel packet and tells the client, if it can be told.
    fn relay(
        &mut self,
        cx: &Context<'_>,
        (family, message): (Family, icmp::Header),
        (inner, inside): (&Quote, &[u8]),
        hop: Hop,
    ) -> Outcome {
        let before = self.mtu(cx, hop.real);
        let too_big = icmp::Header::too_big(family, 0);
        let is_too_big = (message.kind, message.code) == (too_big.kind, too_big.code);
        if is_too_big {
            learn(cx, hop.real, (message.rest & 0xffff).max(MTU_MIN));
        }
        // The kernel counts what it had stripped the error down to.
        cx.stats.endpoint(hop.real).count_out(inside.len() as u64);
        let rest = if is_too_big {
            // Less an IPv4 header, whatever the tunnel. For ipip with path MTU discovery the kernel
            // says what its cached route still says; the next packet gets the learned value.
            let stale = cx.snapshot.settings.pmtu_disc && hop.method == Method::Ipip;
            let mtu = if stale { before } else { self.mtu(cx, hop.real) };
            u32::from(mtu.saturating_sub(20))
        } else {
            message.rest
        };
        let (vip, client): (Addr, Addr) = (inner.key.destination, inner.key.source);
        self.report(cx, inside, (icmp::Header { rest, ..message }, vip, client), Some(hop));
        Ok(Verdict::Consumed)
    }
}

/// Notes the path MTU of every real server at this one's address: they share the path.
fn learn(cx: &Context<'_>, real: EndpointId, mtu: u32) {
    let addr = cx.endpoints.get(real).addr();
    let alone = [real];
    let sharing = cx.snapshot.by_addr.get(&addr).map_or(&alone[..], Vec::as_slice);
    for &id in sharing {
        let endpoint = cx.endpoints.get(id);
        endpoint.learned_mtu.store(mtu, Relaxed);
        endpoint.learned_at.store(cx.now.0, Relaxed);
    }
}

/// Where a flow's packets go.
pub(super) fn hop(flow: FlowRef<'_>, longest: u16) -> Hop {
    let entry: &Entry = &flow;
    Hop {
        virt: entry.virt(),
        real: entry.real(),
        method: super::advance::method(entry.control()),
        slot: flow.id().slot,
        longest,
    }
}

/// The client's packet inside a quoted tunnel packet, as far as it is quoted.
pub(super) fn inner_packet<'a>(outer: &Quote, payload: &'a [u8]) -> Option<&'a [u8]> {
    match outer.key.protocol {
        protocol::IPIP | protocol::IPV6 => Some(payload),
        protocol::GRE => payload.get(gre::parse(payload)?.1..),
        protocol::UDP => {
            let message = payload.get(udp::LEN..)?;
            message.get(gue::parse(message)?.1..)
        }
        _ => None,
    }
}
