//! A packet's way, from received frame to verdict.
//!
//! A burst goes through in stages, so that the memory latency of one packet hides behind the
//! others: hash all, prefetching buckets; probe all, prefetching entries; then forward one after
//! the other (`established`). Whatever is not an ordinary packet of an established flow takes the
//! long way, top to bottom in `Pipeline::decide`, with steps to the side: a new flow (`open`), an
//! ICMP message (`icmp`), a fragment (`gather`), an answer of our own (`answer`).
//!
//! No step allocates, locks, calls the system or reads a clock. Every packet ends in one verdict.

mod advance;
mod ahead;
mod answer;
mod call;
mod defence;
mod established;
pub mod evict;
pub mod explain;
mod fullnat;
mod gather;
mod housekeep;
mod icmp;
mod local;
mod open;
mod park;
mod send;
mod tell;
mod template;
#[cfg(test)]
mod tests;

use std::{num::NonZeroU8, sync::Arc};

use arrayvec::ArrayVec;

use crate::{
    addr::Addr,
    capture::Captures,
    clock::Tick,
    endpoint::Endpoints,
    flow::{
        Direction, Entry, FlowHash, FlowRef, FlowTable, Look, Primary, Probe, TableWorker, Wide,
        prefetch_head,
    },
    fragment::Fragments,
    outbox::Outbox,
    packet::Packet,
    rng::Rng,
    service::Snapshot,
    stats::WorkerStats,
    verdict::{DeviceId, DropReason, Verdict},
    wire::frame::{
        self, Kind, Parsed,
        plain::{PlainV4, PlainV6},
        shape::Shape,
    },
};

use self::{
    ahead::Picked, answer::Limiter, defence::Defence, established::Ordinary, fullnat::Ports,
    park::Parked,
};

/// Packets that go through the stages together. Measured: 16, 32 and 64 lie within 3 ns.
const GROUP: usize = 32;

/// What a pipeline is made of.
#[derive(Debug)]
pub struct Parts {
    /// The flow table, shared by all workers.
    pub flows: Arc<FlowTable>,
    /// This worker's hold on it.
    pub table: TableWorker,
    /// Shared by all workers.
    pub endpoints: Arc<Endpoints>,
    /// This worker's counters.
    pub stats: Arc<WorkerStats>,
    /// Where the addresses go whose link address is wanted; full means: asked for again later.
    pub resolve: crossbeam_channel::Sender<(DeviceId, Addr)>,
    /// Seeds what is left to chance.
    pub seed: u64,
    /// Answers of our own per second: ICMP errors, resets, echo replies.
    pub answers_per_second: u32,
}

/// Everything that decides about one worker's packets.
#[derive(Debug)]
pub struct Pipeline {
    /// What is shared; `None` only while a step has it.
    shared: Option<Box<Shared>>,
    /// This worker's hold on the flow table.
    table: TableWorker,
    /// Counters.
    stats: Arc<WorkerStats>,
    /// Frames of our own.
    outbox: Outbox,
    /// Datagrams being put together; `None` only while one is lent out.
    fragments: Option<Box<Fragments>>,
    /// Packets that wait for a next hop.
    parked: Parked,
    /// Wanted link addresses.
    resolve: crossbeam_channel::Sender<(DeviceId, Addr)>,
    /// Chance.
    rng: Rng,
    /// Bounds our own answers.
    limiter: Limiter,
    /// Full NAT's next ports.
    ports: Ports,
    /// What is done against floods.
    defence: Defence,
    /// Room for an answer that leaves in pieces.
    scratch: Box<[u8]>,
    /// Identification of the next IPv4 packet of our own.
    next_id: u16,
    /// What this CPU can do.
    wide: Option<Wide>,
    /// The real server that was picked ahead for the packet at hand, and bound; see [`ahead`].
    picked: Option<Picked>,
}

/// One packet between the stages.
#[derive(Debug)]
struct Staged<'p, 'm, 't> {
    packet: &'p mut Packet<'m>,
    /// The hash of its key; of no meaning unless it is [`Kind::Flow`].
    hash: FlowHash,
    /// Where the index is looked at first.
    primary: Primary<'t>,
    /// What the index said.
    probe: Probe,
    /// The entry that it named.
    entry: Option<&'t Entry>,
    /// Where its transport checksum is, if it has a hot shape and nothing about it is special.
    checksum_at: Option<NonZeroU8>,
    /// Its place among those that are looked after ahead.
    ahead: Option<u8>,
}

/// A group of packets between the stages.
type Group<'p, 'm, 't> = ArrayVec<Staged<'p, 'm, 't>, GROUP>;

impl Pipeline {
    /// A pipeline without services: every packet goes to the host.
    pub fn new(parts: Parts) -> Self {
        let mut rng = Rng::from_seed(parts.seed);
        let [id, _, _, _, port @ ..] = rng.next_u64().to_le_bytes();
        let worker = u32::try_from(parts.table.id()).unwrap_or(0);
        let workers = u32::try_from(parts.flows.workers()).unwrap_or(1);
        Self {
            shared: Some(Box::new(Shared {
                table: parts.flows,
                endpoints: parts.endpoints,
                snapshot: Arc::default(),
                stats: Arc::clone(&parts.stats),
            })),
            table: parts.table,
            stats: parts.stats,
            outbox: Outbox::new(),
            fragments: Some(Box::new(Fragments::new())),
            parked: Parked::default(),
            resolve: parts.resolve,
            rng,
            limiter: Limiter::new(parts.answers_per_second),
            ports: Ports::new(worker, workers, u32::from_le_bytes(port)),
            defence: Defence::default(),
            scratch: vec![0; 1 << 16].into_boxed_slice(),
            next_id: u16::from(id),
            wide: Wide::detect(),
            picked: None,
        }
    }

    /// Puts another configuration in force, between two bursts; returns the one it replaces.
    pub fn adopt(&mut self, snapshot: Arc<Snapshot>, now: Tick) -> Arc<Snapshot> {
        self.stats.work.generation.set(snapshot.generation);
        let old = match &mut self.shared {
            Some(shared) => std::mem::replace(&mut shared.snapshot, snapshot),
            None => snapshot,
        };
        self.with(now, |pipeline, cx| {
            pipeline.defence.look(cx);
            pipeline.release_parked(cx);
        });
        old
    }

    /// Who wants to see packets.
    pub fn captures(&self) -> Captures {
        match &self.shared {
            Some(shared) if !shared.snapshot.captures.is_empty() => {
                shared.snapshot.captures.clone()
            }
            _ => Captures::new_const(),
        }
    }

    /// This worker's counters.
    pub const fn stats(&self) -> &Arc<WorkerStats> {
        &self.stats
    }

    /// This worker's hold on the flow table.
    pub const fn table_mut(&mut self) -> &mut TableWorker {
        &mut self.table
    }

    /// The frames that the last burst made us send; the device takes and clears them.
    pub const fn outbox_mut(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Decides about a burst: sets every packet's verdict and rewrites what is sent on.
    #[inline(never)]
    pub fn process(&mut self, burst: &mut [Packet<'_>], now: Tick) {
        self.with(now, |pipeline, cx| {
            if burst.first().is_some_and(|packet| packet.device == DeviceId::HOST) {
                for packet in burst {
                    let verdict = pipeline.host_sent(cx, packet);
                    packet.verdict = verdict.unwrap_or_else(Verdict::Drop);
                }
                return;
            }
            if cx.snapshot.services.is_empty() {
                // As the kernel, which takes its hooks out with the last service.
                burst.iter_mut().for_each(|packet| packet.verdict = Verdict::Host);
                return;
            }
            match pipeline.wide {
                Some(wide) => wide.run(|| pipeline.groups(cx, burst)),
                None => pipeline.groups(cx, burst),
            }
        });
        self.table.quiesce();
    }

    /// Runs a step with what it may read. That is taken out meanwhile, so that the step may change
    /// everything else.
    fn with(&mut self, now: Tick, step: impl FnOnce(&mut Self, &Context<'_>)) {
        let Some(shared) = self.shared.take() else { return };
        let Shared { table, endpoints, snapshot, stats } = &*shared;
        step(self, &Context { table, endpoints, snapshot, stats, now });
        self.shared = Some(shared);
    }

    /// The burst, group after group.
    #[inline(always)]
    fn groups(&mut self, cx: &Context<'_>, burst: &mut [Packet<'_>]) {
        // A device may have left the headers in memory.
        for packet in burst.iter() {
            prefetch_head(packet.memory(), packet.start());
        }
        for group in burst.chunks_mut(GROUP) {
            self.group(cx, group);
        }
    }

    /// The three stages.
    #[inline(always)]
    fn group(&mut self, cx: &Context<'_>, group: &mut [Packet<'_>]) {
        let ordinary = Ordinary::new(cx, self.defence.secure_tcp());
        let mut staged: Group<'_, '_, '_> = ArrayVec::new();
        for packet in group {
            let (hash, checksum_at) = hash(&ordinary.look, packet);
            let primary = ordinary.look.prefetch(hash);
            let (probe, entry, ahead) = (Probe::default(), None, None);
            staged.push(Staged { packet, hash, primary, probe, entry, checksum_at, ahead });
        }
        let (mut elsewhere, mut missed) = (false, false);
        for staged in &mut staged {
            (staged.probe, staged.entry) = ordinary.look.probe(staged.hash, staged.primary);
            if !staged.probe.is_hit() {
                elsewhere |= staged.probe.needs_alternate();
                missed |= staged.probe.is_miss();
            }
        }
        if elsewhere {
            for staged in staged.iter_mut().filter(|staged| staged.probe.needs_alternate()) {
                (staged.probe, staged.entry) = ordinary.look.probe_again(staged.hash);
            }
        }
        let ahead = if missed { self.look_ahead(cx, &mut staged) } else { ArrayVec::new() };
        for staged in &mut staged {
            match ordinary.take(staged, &mut self.next_id) {
                Some(verdict) => staged.packet.verdict = verdict,
                None => match staged.ahead.and_then(|place| ahead.get(usize::from(place))) {
                    Some(ahead) => self.make_ahead(cx, &ordinary, staged, ahead),
                    None => self.long_way(cx, staged),
                },
            }
        }
    }

    /// Decides about a packet that is not an ordinary one of an established flow.
    #[inline(never)]
    fn long_way(&mut self, cx: &Context<'_>, staged: &mut Staged<'_, '_, '_>) {
        let &mut Staged { ref mut packet, hash, probe, .. } = staged;
        let parsed = match frame::parse(packet.bytes()) {
            Ok(parsed) => parsed,
            Err(reason) => {
                packet.verdict = Verdict::Drop(reason);
                return;
            }
        };
        let outcome = match parsed.kind {
            Kind::Flow => {
                let found = cx.table.find(&parsed.key, hash, probe, cx.endpoints);
                self.decide(cx, packet, &parsed, found)
            }
            Kind::Fragment => self.gather(cx, packet, &parsed),
            Kind::IcmpError | Kind::Echo | Kind::Other => {
                self.icmp(cx, packet, Met::whole(&parsed))
            }
            Kind::NotIp => Ok(Verdict::Host),
        };
        packet.verdict = outcome.unwrap_or_else(Verdict::Drop);
    }

    /// The straight line of a TCP, UDP or SCTP packet.
    #[inline]
    fn decide(
        &mut self,
        cx: &Context<'_>,
        packet: &mut Packet<'_>,
        parsed: &Parsed,
        found: Option<(FlowRef<'_>, Direction)>,
    ) -> Outcome {
        match found {
            Some((flow, Direction::ToReal)) => self.request(cx, packet, Met::whole(parsed), flow),
            Some((flow, Direction::ToClient)) => {
                self.response(cx, packet, Met::whole(parsed), flow)
            }
            None => self.miss(cx, packet, Met::whole(parsed)),
        }
    }

    /// The same for one packet outside of a burst: a datagram put together from fragments.
    /// `longest` is the length of its longest fragment.
    fn single(&mut self, cx: &Context<'_>, packet: &mut Packet<'_>, parsed: Met<'_>) -> Outcome {
        match parsed.kind {
            Kind::Flow => match cx.table.lookup(&parsed.key, cx.endpoints) {
                Some((flow, Direction::ToReal)) => self.request(cx, packet, parsed, flow),
                Some((flow, Direction::ToClient)) => self.response(cx, packet, parsed, flow),
                None => self.miss(cx, packet, parsed),
            },
            Kind::IcmpError | Kind::Echo | Kind::Other => self.icmp(cx, packet, parsed),
            Kind::Fragment => Err(DropReason::BadFragment),
            Kind::NotIp => Ok(Verdict::Host),
        }
    }
}

/// The hash of a packet's key, and where its transport checksum is, if it has a hot shape and nothing
/// about it is special.
#[inline(always)]
fn hash(look: &Look<'_>, packet: &mut Packet<'_>) -> (FlowHash, Option<NonZeroU8>) {
    let frame = packet.bytes_mut();
    match Shape::of(frame) {
        Shape::V4 => {
            if let Some(frame) = PlainV4::of(frame) {
                let hash = look.hash_v4(frame.addresses_v4(), frame.tail());
                return (hash, frame.ready_checksum());
            }
        }
        Shape::V6 => {
            if let Some(frame) = PlainV6::of(frame) {
                let hash = look.hash_v6(frame.addresses_v6(), frame.tail());
                return (hash, frame.ready_checksum());
            }
        }
        Shape::Other => {}
    }
    (hash_other(look, frame), None)
}

/// The hash of a frame of no hot shape; of no meaning if it is no packet of a flow.
#[cold]
#[inline(never)]
fn hash_other(look: &Look<'_>, frame: &[u8]) -> FlowHash {
    frame::parse(frame).map(|parsed| look.hash(&parsed.key)).unwrap_or_default()
}

/// A packet as it was met: what it is, and what it was put together from.
#[derive(Clone, Copy, Debug)]
struct Met<'a> {
    /// What it is.
    parsed: &'a Parsed,
    /// Length of its longest fragment as an IP packet; 0 if it came whole.
    longest: u16,
}

impl<'a> Met<'a> {
    /// A packet that came whole.
    const fn whole(parsed: &'a Parsed) -> Self {
        Self { parsed, longest: 0 }
    }
}

impl std::ops::Deref for Met<'_> {
    type Target = Parsed;

    #[inline]
    fn deref(&self) -> &Parsed {
        self.parsed
    }
}

/// What becomes of a packet, or why it is dropped.
type Outcome = Result<Verdict, DropReason>;

/// What a worker reads and others share.
#[derive(Debug)]
struct Shared {
    /// The flow table.
    table: Arc<FlowTable>,
    /// Virtual and real endpoints.
    endpoints: Arc<Endpoints>,
    /// The configuration in force.
    snapshot: Arc<Snapshot>,
    /// Counters.
    stats: Arc<WorkerStats>,
}

/// What every step may read.
#[derive(Clone, Copy)]
struct Context<'a> {
    /// The flow table.
    table: &'a FlowTable,
    /// Virtual and real endpoints.
    endpoints: &'a Endpoints,
    /// The configuration in force.
    snapshot: &'a Snapshot,
    /// Counters.
    stats: &'a WorkerStats,
    /// Now.
    now: Tick,
}
