//! Full NAT: where a flow's source address and port come from, and what its packets become.
//!
//! Every worker takes ports from a share of its own: of all ports of all local addresses those whose
//! number leaves the worker's own as remainder by the count of workers. So two workers never take
//! the same, without a lock. It takes them in turn, so that the one taken longest ago comes next,
//! and passes those by that a living flow to the same real server still has. A port is free again
//! once its flow has left the table, TIME_WAIT included; for another real server it always is.
//! Bounded: [`TRIES`] looks for one flow; beyond, the packet that would have opened it is dropped
//! with [`DropReason::LocalPorts`].
//!
//! Hairpin: a nat real server that calls a service of its own would be answered past the box, by
//! itself or by its neighbour. Such a flow gets a local address too, where there is one; see
//! [`crate::service::Settings::hairpin`].
//! What real servers are told of their clients: [`super::tell`].
//! Differing from the kernel, which has none of this.

use super::{Context, Pipeline, send::Hop};
use crate::{
    addr::Family,
    endpoint::{EndpointId, Method},
    flow::{Entry, flag::FULLNAT},
    forward::fullnat::{self, Ends},
    key::FlowKey,
    packet::Packet,
    route::Path,
    verdict::DropReason,
    wire::frame::Parsed,
};

/// Ports looked at for one flow. With 99 of 100 in use by flows to the same real server a search
/// fails in a quarter of all cases; a pool is meant to be larger than that.
const TRIES: u32 = 128;

/// The endpoint of a local address, and a port.
pub(super) type Local = (EndpointId, u16);

/// Whose turn it is among a worker's ports.
#[derive(Debug)]
pub(super) struct Ports {
    /// This worker's number.
    worker: u32,
    /// How many there are.
    workers: u32,
    /// For each family, the place of the next port in the worker's share.
    next: [u32; 2],
}

impl Ports {
    /// The ports of a worker; the first comes from `start`, which nobody should know (RFC 6056).
    pub(super) const fn new(worker: u32, workers: u32, start: u32) -> Self {
        Self { worker, workers, next: [start; 2] }
    }

    /// How many of `total` ports are this worker's.
    const fn share(&self, total: u32) -> u32 {
        total.saturating_sub(self.worker).div_ceil(self.workers)
    }

    /// The next of this worker's ports, of which there is at least one.
    const fn turn(&mut self, family: Family, share: u32) -> u32 {
        let next = &mut self.next[family as usize];
        let place = *next % share;
        *next = place + 1;
        self.worker + place * self.workers
    }
}

impl Pipeline {
    /// By which method a new flow's packets travel, and the local end it gets.
    pub(super) fn local_end(
        &mut self,
        cx: &Context<'_>,
        key: &FlowKey,
        real: EndpointId,
    ) -> Result<(Method, Option<Local>), DropReason> {
        let endpoint = cx.endpoints.get(real);
        let method = endpoint.method();
        let wanted = match method {
            // The host's own stack would answer a local address past us.
            Method::FullNat if cx.snapshot.path(real).is_host() || endpoint.port() == 0 => {
                return Ok((Method::Nat, None));
            }
            Method::FullNat => true,
            Method::Nat => endpoint.port() != 0 && is_hairpin(cx, key, real),
            _ => false,
        };
        if !wanted {
            return Ok((method, None));
        }
        self.take_port(cx, key, real).map(|local| (Method::FullNat, Some(local)))
    }

    /// Takes a port that no living flow to this real server has.
    fn take_port(
        &mut self,
        cx: &Context<'_>,
        key: &FlowKey,
        real: EndpointId,
    ) -> Result<Local, DropReason> {
        let real = cx.endpoints.get(real);
        let family = key.source.family();
        let locals = &cx.snapshot.locals;
        let addrs = locals.addrs(family);
        let count = u32::try_from(addrs.len()).unwrap_or(0);
        let share = self.ports.share(count * locals.ports());
        for _ in 0..share.min(TRIES) {
            let number = self.ports.turn(family, share);
            let addr = addrs[(number % count) as usize];
            let port = locals.port(number / count);
            let reply = FlowKey {
                source: real.addr(),
                source_port: real.port(),
                destination: cx.endpoints.get(addr).addr(),
                destination_port: port,
                ..*key
            };
            if cx.table.lookup(&reply, cx.endpoints).is_none() {
                return Ok((addr, port));
            }
        }
        Err(DropReason::LocalPorts)
    }

    /// Rewrites both ends of a client's packet.
    #[cold]
    pub(super) fn both_to_real(
        &mut self,
        cx: &Context<'_>,
        packet: &mut Packet<'_>,
        (parsed, path): (&Parsed, &Path),
        hop: Hop,
    ) -> Result<(), DropReason> {
        let flow = cx.table.at(hop.slot).ok_or(DropReason::NoDestination)?;
        let real = cx.endpoints.get(hop.real);
        let ends = Ends {
            source: (cx.endpoints.get(flow.local()).addr(), flow.local_port()),
            destination: (real.addr(), real.port()),
        };
        fullnat::rewrite(packet, parsed, &ends, path)?;
        self.tell_real(cx, packet, (parsed, path), (&flow, hop))
    }

    /// Rewrites both ends of a real server's packet.
    #[cold]
    pub(super) fn both_to_client(
        &self,
        cx: &Context<'_>,
        packet: &mut Packet<'_>,
        (parsed, path): (&Parsed, &Path),
        hop: Hop,
    ) -> Result<(), DropReason> {
        let flow = cx.table.at(hop.slot).ok_or(DropReason::NoDestination)?;
        let virt = cx.endpoints.get(hop.virt);
        let port = if virt.port() == 0 { parsed.key.source_port } else { virt.port() };
        let ends =
            Ends { source: (virt.addr(), port), destination: (flow.client(), flow.client_port()) };
        self.hide_telling(cx, packet, parsed, (&flow, hop))?;
        fullnat::rewrite(packet, parsed, &ends, path)
    }
}

/// Whether a client of a nat service would be answered past the box.
fn is_hairpin(cx: &Context<'_>, key: &FlowKey, real: EndpointId) -> bool {
    let snapshot = cx.snapshot;
    if snapshot.settings.hairpin == 0 || snapshot.locals.addrs(key.source.family()).is_empty() {
        return false;
    }
    let on_link = || {
        let (path, back) = (snapshot.path(real), snapshot.routes.path(key.source));
        path.routed
            && back.routed
            && path.device == back.device
            && back.next_hop == key.source
            && path.next_hop == cx.endpoints.get(real).addr()
    };
    snapshot.nat_addrs.contains(&key.source) || snapshot.settings.hairpin == 2 && on_link()
}

/// The local end of a flow, if it has one.
pub(super) fn local_of(entry: &Entry) -> Option<EndpointId> {
    entry.control().has(FULLNAT).then(|| entry.local())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_all_ports_and_each_takes_its_own_in_turn() {
        let (total, workers) = (11, 3);
        let mut seen = Vec::new();
        for worker in 0..workers {
            let mut ports = Ports::new(worker, workers, 7_000_001);
            let share = ports.share(total);
            let round: Vec<_> = (0..share).map(|_| ports.turn(Family::V4, share)).collect();
            let again: Vec<_> = (0..share).map(|_| ports.turn(Family::V4, share)).collect();
            assert_eq!(round, again, "the one taken longest ago comes next");
            seen.extend(round);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..total).collect::<Vec<_>>());
        assert_eq!(Ports::new(2, 3, 0).share(2), 0, "fewer ports than workers");
    }
}
