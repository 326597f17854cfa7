//! The packet work without a table: what the pipeline would cost if flows were known beforehand.
//!
//! Shape and hash, then the ordinary tests and changes of nat: state, service, path MTU, time to live,
//! checksums, time, counters of flow and real server, link header. What is left out is the index, the
//! comparison of keys, and that flows, endpoints and paths differ from packet to packet.

use std::{
    hint::black_box,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use anyhow::Context as _;
use dataplane::{
    addr::{Addr, Family},
    endpoint::{AVAILABLE, Description, Endpoint, EndpointId, Endpoints},
    flow::{
        Direction, FlowKey, FlowRef, FlowTable, HashKey, Inserted, Look, NewFlow, Steady,
        TableConfig, TableWorker, timeout,
    },
    packet::Packet,
    rng::Rng,
    stats::EndpointStats,
    verdict::{DeviceId, Verdict},
    wire::{
        frame::{
            plain::Plain,
            shape::{HEAD_V4, HEAD_V6, L3, L4_V4, L4_V6, Shape},
        },
        protocol,
    },
};

use super::{
    ring::{NOW, Ring},
    traffic::{CLIENT, Traffic},
    windows::Windows,
};

/// The path's.
const MTU: u16 = 9000;

/// Nanoseconds of a packet's work without a table.
///
/// # Errors
///
/// There is not enough memory.
pub(super) fn measure(traffic: Traffic, seed: u64, windows: usize) -> anyhow::Result<f64> {
    let table = Arc::new(FlowTable::new(&TableConfig::new(1, 1, HashKey::from_seed(seed)))?);
    let (worker, endpoints) = (table.worker(0)?, Endpoints::new(3));
    let bare = Bare::new(traffic, &worker, &endpoints).context("no flow")?;
    let flows: Vec<u8> = (0..8).cycle().take(1000).collect();
    let mut rng = Rng::from_seed(seed);
    let mut ring = Ring::new(1, traffic.slot());
    let mut measured = Windows::with_capacity(windows);
    for _ in 0..windows {
        let frames = (0..Windows::PACKETS).map(|_| traffic.any(&flows, (0, 1), &mut rng));
        ring.fill(0, frames);
        let look = table.look();
        let start = Instant::now();
        let sent = ring.each_burst(0, Windows::PACKETS, |burst| bare.work(&look, burst));
        let took = start.elapsed();
        anyhow::ensure!(sent == Windows::PACKETS, "only {sent} packets were sent");
        measured.add(Windows::PACKETS, took);
    }
    Ok(measured.nanos_per_packet())
}

/// The one flow, and the counters of its real server.
struct Bare<'t> {
    flow: FlowRef<'t>,
    ends: [&'t Endpoint; 2],
    steady: Steady,
    stats: EndpointStats,
    link: [u8; 12],
}

impl<'t> Bare<'t> {
    fn new(traffic: Traffic, worker: &'t TableWorker, endpoints: &'t Endpoints) -> Option<Self> {
        let end = |id, addr: Addr| {
            let endpoint = endpoints.get(EndpointId(id));
            let (port, flags) = (80, AVAILABLE);
            endpoint.describe(&Description { addr, port, flags, ..Description::default() });
            endpoint
        };
        let ends = [end(1, traffic.vip()), end(2, traffic.real(0))];
        let key = FlowKey {
            source: traffic.vip(),
            destination: traffic.vip(),
            destination_port: 80,
            protocol: protocol::UDP,
            ..FlowKey::default()
        };
        let (virt, real, class) = (EndpointId(1), EndpointId(2), timeout::UDP);
        let new = NewFlow { key, virt, real, class, timeout: 16, ..NewFlow::default() };
        let Ok(Inserted::New(flow)) = worker.insert(&new, endpoints, NOW) else { return None };
        let (steady, stats) = (Steady::new(false), EndpointStats::default());
        Some(Self { flow, ends, steady, stats, link: [2; 12] })
    }

    #[inline(never)]
    fn work(&self, look: &Look<'_>, burst: &mut [Packet<'_>]) {
        for packet in burst {
            let sent = match Shape::of(packet.bytes()) {
                Shape::V4 => self.packet::<L4_V4, HEAD_V4>(look, packet),
                Shape::V6 => self.packet::<L4_V6, HEAD_V6>(look, packet),
                Shape::Other => None,
            };
            if sent.is_some() {
                packet.verdict = Verdict::Tx(DeviceId(1));
            }
        }
    }

    #[inline(always)]
    fn packet<const L4: usize, const HEAD: usize>(
        &self,
        look: &Look<'_>,
        packet: &mut Packet<'_>,
    ) -> Option<()> {
        let direction =
            if packet.device == CLIENT { Direction::ToReal } else { Direction::ToClient };
        let d = direction as usize;
        let mut frame = Plain::<L4, HEAD>::of(packet.bytes_mut())?;
        black_box(match family::<L4>() {
            Family::V4 => look.hash_v4(frame.addresses_v4(), frame.tail()),
            Family::V6 => look.hash_v6(frame.addresses_v6(), frame.tail()),
        });
        let [old, new] = [self.ends[d], self.ends[1 - d]];
        let control = self.flow.control();
        let octets = frame.octets();
        if !self.steady.holds(control, direction, frame.flags())
            || self.ends[1].flags() & AVAILABLE == 0
            || self.ends[1].learned_mtu.load(Relaxed) != 0
            || octets > MTU
        {
            return None;
        }
        let checksum_at = frame.ready_checksum()?;
        frame.translate(1 - d, old.becomes(new, L4 == L4_V6), checksum_at);
        self.flow.touch(NOW);
        self.flow.count(direction, octets.into());
        self.stats.count(direction, octets.into());
        frame.set_link(&self.link);
        packet.truncate(L3 + usize::from(octets));
        Some(())
    }
}

const fn family<const L4: usize>() -> Family {
    if L4 == L4_V6 { Family::V6 } else { Family::V4 }
}
