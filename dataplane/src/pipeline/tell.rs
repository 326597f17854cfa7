//! Full NAT hides clients from real servers; here they are told, as their service asks for.
//!
//! **TOA** ([`toa`]): an option of the client's packets until the real server has sent [`TOLD_UNTIL`].
//! What has no room goes without and is counted.
//!
//! **PROXY protocol** ([`proxy`]): in UDP a header in each datagram, whose room the path's MTU is
//! held against beforehand. In TCP one header, right before the client's first octet of data. The SYN is
//! sent with a sequence number lower by the header's length, what the real server acknowledges of
//! the header the client sees as an acknowledgement of its SYN, and the header goes with the
//! client's first segment, a handshake's last one. Until the real server acknowledges it, it goes again with
//! what a client sends again from its first octet on; so it gets there however packets are lost, doubled
//! or overtaken. A segment with no room for it gets one of its own behind it. Once it is
//! acknowledged, the flow is like any other. A flow whose SYN was not seen (`sloppy_tcp`) goes
//! without and is counted.
//! Source of the order: none; DPVS `ip_vs_proxy_proto.c` shifts all of a flow's numbers instead.

use super::{Context, Pipeline, send::Hop};
use crate::{
    addr::Family,
    endpoint::{Method, PROXY, TOA},
    flow::{Direction, Entry, Telling},
    forward::{proxy, toa},
    packet::Packet,
    route::Path,
    verdict::DropReason,
    wire::{
        frame::{Kind, Parsed},
        protocol, tcp,
    },
};

/// A client's address goes with its packets until the real server has sent this many: its SYN+ACK,
/// perhaps twice, and what follows the client's first data.
const TOLD_UNTIL: u32 = 4;

impl Pipeline {
    /// Tells a real server its client in a packet that is finished but for that.
    pub(super) fn tell_real(
        &mut self,
        cx: &Context<'_>,
        packet: &mut Packet<'_>,
        (parsed, path): (&Parsed, &Path),
        (flow, hop): (&Entry, Hop),
    ) -> Result<(), DropReason> {
        let asked = cx.endpoints.get(hop.real).flags();
        if parsed.kind != Kind::Flow {
            return Ok(());
        }
        match parsed.key.protocol {
            protocol::TCP if flow.telling().0 != Telling::Over || asked & PROXY != 0 => {
                self.begin_stream(cx, packet, (parsed, path), (flow, hop))?;
            }
            protocol::UDP if asked & PROXY != 0 => {
                let header = header(cx, parsed, (flow, hop));
                // The room was made sure, but for what is split on its way.
                if !proxy::insert(packet, parsed, &header, u16::MAX) {
                    return Err(DropReason::NoHeadroom);
                }
            }
            protocol::TCP
                if asked & TOA != 0
                    && parsed.flags & tcp::flags::RST == 0
                    && flow.packets(Direction::ToClient) < TOLD_UNTIL =>
            {
                let client = (flow.client(), flow.client_port());
                if !toa::insert(packet, parsed, client, self.mtu(cx, hop.real)) {
                    cx.stats.work.clients_untold.add(1);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A client's segment while its real server does not know it yet, or of a flow that is to begin so.
    fn begin_stream(
        &mut self,
        cx: &Context<'_>,
        packet: &mut Packet<'_>,
        (parsed, path): (&Parsed, &Path),
        (flow, hop): (&Entry, Hop),
    ) -> Result<(), DropReason> {
        let sequence = proxy::sequence(packet, parsed).ok_or(DropReason::ShortTransport)?;
        if parsed.flags & (tcp::flags::SYN | tcp::flags::RST) == tcp::flags::SYN {
            flow.begin_telling(sequence.wrapping_add(1));
            return proxy::make_room(packet, parsed);
        }
        let (step, start) = flow.telling();
        if step == Telling::Over {
            // Either the real server knows, or the flow's beginning was not seen.
            if flow.packets(Direction::ToClient) == 0 {
                cx.stats.work.clients_untold.add(1);
            }
            return Ok(());
        }
        if sequence != start {
            return Ok(());
        }
        if parsed.flags & tcp::flags::RST != 0 {
            // It must have the number that the real server waits for.
            return if step == Telling::Untold { proxy::make_room(packet, parsed) } else { Ok(()) };
        }
        let has_data = proxy::has_data(packet, parsed);
        if has_data && step == Telling::Told {
            // The header went just now, with the handshake's last segment.
            flow.tell(Telling::Followed);
            return Ok(());
        }
        flow.tell(if has_data { Telling::Followed } else { Telling::Told });
        let header = header(cx, parsed, (flow, hop));
        if !proxy::insert(packet, parsed, &header, self.mtu(cx, hop.real)) && path.resolved {
            let frame = packet.bytes();
            // If it is lost on the way out, the client sends again, and so does the header.
            self.outbox.push(path.device, |slot| proxy::emit(frame, parsed, &header, slot));
        }
        Ok(())
    }

    /// A real server's packet, as it came: its client must not see what was told.
    pub(super) fn hide_telling(
        &self,
        cx: &Context<'_>,
        packet: &mut Packet<'_>,
        parsed: &Parsed,
        (flow, hop): (&Entry, Hop),
    ) -> Result<(), DropReason> {
        if parsed.kind != Kind::Flow || parsed.key.protocol != protocol::TCP {
            return Ok(());
        }
        if cx.endpoints.get(hop.real).flags() & TOA != 0 && parsed.flags & tcp::flags::SYN != 0 {
            toa::lower_mss(packet, parsed);
        }
        let (step, start) = flow.telling();
        if step == Telling::Over {
            return Ok(());
        }
        let Some(number) = proxy::acknowledged(packet, parsed) else { return Ok(()) };
        let missing = start.wrapping_sub(number);
        if missing == 0 || missing > proxy::size(parsed.family).into() {
            flow.tell(Telling::Over);
            return Ok(());
        }
        if step != Telling::Untold {
            flow.tell(Telling::Untold);
        }
        proxy::acknowledge(packet, parsed, start)
    }
}

/// The header for a packet of a flow.
fn header(cx: &Context<'_>, parsed: &Parsed, (flow, hop): (&Entry, Hop)) -> proxy::Header {
    let virt = cx.endpoints.get(hop.virt);
    let port = if virt.port() == 0 { parsed.key.destination_port } else { virt.port() };
    let client = (flow.client(), flow.client_port());
    proxy::header(parsed.key.protocol, client, (virt.addr(), port))
}

/// Octets that telling adds to each of a flow's packets.
pub(super) fn overhead(cx: &Context<'_>, hop: Hop, family: Family) -> u16 {
    let is_told = || {
        cx.endpoints.get(hop.real).flags() & PROXY != 0
            && cx.table.at(hop.slot).is_some_and(|flow| flow.protocol() == protocol::UDP)
    };
    if hop.method == Method::FullNat && is_told() { proxy::size(family) } else { 0 }
}
