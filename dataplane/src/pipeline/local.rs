//! Real servers on the box itself, and what its own stack answers for them.
//!
//! A packet to a real server whose address is the host's own goes into the host's stack, rewritten if
//! the method is nat, else as it came: a tunnel to ourselves is none. No hop is taken off and no
//! MTU asked. What the stack answers comes in from [`DeviceId::HOST`]: of a nat real server to be
//! translated; of another as a copy, by which the flow's state is followed.
//! A nat real server at a loopback address gets nothing, as the kernel refuses to leave the loopback
//! device open to the network.
//! Source: Linux `ip_vs_xmit.c`, `__ip_vs_get_out_rt` (local routes), `ip_vs_nat_xmit`;
//! `ip_vs_core.c`, `ip_vs_out_hook` at `LOCAL_OUT`.

use std::net::IpAddr;

use super::{Context, Met, Outcome, Pipeline, send::Hop};
use crate::{
    addr::{Addr, Family},
    endpoint::Method,
    flow::{Direction, flag::ONE_WAY},
    forward::{self, Job},
    packet::Packet,
    route::Path,
    verdict::{DeviceId, DropReason, Verdict},
    wire::{
        frame::{self, Kind, Parsed},
        ipv4, ipv6,
    },
};

impl Pipeline {
    /// A packet to a real server that no route leads to: one on the box itself, or none.
    #[cold]
    pub(super) fn unrouted(
        &mut self,
        cx: &Context<'_>,
        packet: &mut Packet<'_>,
        parsed: &Parsed,
        hop: Hop,
    ) -> Outcome {
        let (virt, real) = (cx.endpoints.get(hop.virt), cx.endpoints.get(hop.real));
        let path = match hop.method {
            Method::Local => &Path::HOST,
            _ => cx.snapshot.path(hop.real),
        };
        if !path.is_host() {
            return Err(DropReason::NoRoute);
        }
        if hop.method.translates() {
            if is_loopback(real.addr()) {
                return Err(DropReason::MappedAddress);
            }
            packet.truncate(usize::from(parsed.end));
            forward::finish_checksum(packet, parsed);
            let pmtu_disc = cx.snapshot.settings.pmtu_disc;
            let job = Job { parsed, virt, real, path, id: self.next_id, pmtu_disc };
            forward::to_real(hop.method, packet, &job)?;
        }
        Ok(Verdict::Tx(DeviceId::HOST))
    }

    /// A packet that the host's stack sends from the address of a real server on the box.
    #[cold]
    pub(super) fn host_sent(&mut self, cx: &Context<'_>, packet: &mut Packet<'_>) -> Outcome {
        let parsed = &frame::parse(packet.bytes())?;
        let key = &parsed.key;
        // What is a copy has left already by itself.
        let copy = parsed.kind == Kind::Flow
            && !cx.snapshot.nat_reals.contains(&(key.protocol, key.source, key.source_port))
            && !cx.snapshot.nat_reals.contains(&(key.protocol, key.source, 0));
        if parsed.kind == Kind::Flow
            && let Some((flow, Direction::ToReal)) = cx.table.lookup(&key.reversed(), cx.endpoints)
            && flow.control().has(ONE_WAY)
        {
            self.passing_reply(cx, packet, parsed, flow);
        }
        if copy {
            return Ok(Verdict::Consumed);
        }
        // The hop that forwarding takes off: the host is no router on the packet's way.
        forward::increment_ttl(packet, parsed);
        let parsed = &frame::parse(packet.bytes())?;
        let met = Met::whole(parsed);
        let outcome = match parsed.kind {
            Kind::Flow => match cx.table.lookup(&parsed.key, cx.endpoints) {
                Some((flow, Direction::ToClient)) => {
                    return self.response(cx, packet, met, flow);
                }
                _ => Ok(Verdict::Host),
            },
            Kind::Fragment => self.gather(cx, packet, parsed),
            Kind::IcmpError => self.icmp(cx, packet, met),
            Kind::Echo | Kind::Other | Kind::NotIp => Ok(Verdict::Host),
        };
        match outcome {
            Ok(Verdict::Host) => self.onward(cx, packet, parsed),
            other => other,
        }
    }

    /// Sends what was taken from the host's stack, but belongs to no flow, on its way.
    fn onward(&mut self, cx: &Context<'_>, packet: &mut Packet<'_>, parsed: &Parsed) -> Outcome {
        if parsed.kind == Kind::NotIp {
            return Err(DropReason::NoRoute);
        }
        let destination = destination(packet, parsed).ok_or(DropReason::Truncated)?;
        let path = cx.snapshot.routes.path(destination);
        if !path.routed {
            return Err(DropReason::NoRoute);
        }
        forward::decrement_ttl(packet, parsed);
        forward::finish_checksum(packet, parsed);
        forward::relink(packet, parsed, &path)?;
        self.leave(cx, packet, &path, path.mtu)
    }
}

/// Where a packet goes, whatever it quotes.
fn destination(packet: &Packet<'_>, parsed: &Parsed) -> Option<Addr> {
    let ip = packet.bytes().get(usize::from(parsed.l3)..)?;
    Some(match parsed.family {
        Family::V4 => ipv4::destination(ip.first_chunk()?),
        Family::V6 => ipv6::destination(ip.first_chunk()?),
    })
}

/// Whether an address is one of the loopback device's.
fn is_loopback(addr: Addr) -> bool {
    match addr.to_ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback(),
    }
}
