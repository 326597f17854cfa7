//! `pipeline`: what a packet costs over synthetic flows in random order.
//!
//! Three numbers from one run on one kind of memory: the packet at `--flows` flows, the same packet over
//! 1,000 flows (everything in cache), and the bound that the memory alone sets. Their ratio is
//! what can be compared between machines; nanoseconds cannot.

mod bound;
mod traffic;
mod windows;

use std::{
    io::Write,
    sync::{Arc, Barrier},
    thread,
    time::Instant,
};

use anyhow::Context as _;
use arrayvec::ArrayVec;
use clap::Parser;
use dataplane::{
    clock::Tick,
    endpoint::Method,
    packet::{BURST, HEADROOM, Packet},
    pipeline::Pipeline,
    rng::Rng,
    verdict::{DeviceId, Verdict},
};
use serde::Serialize;

use self::{
    traffic::{Flow, Frame, Traffic},
    windows::Windows,
};
use crate::{
    alloc,
    lb::{Shared, Sizes},
};

/// Flows of the run whose memory is all in cache.
const HOT_FLOWS: usize = 1000;
/// Windows that each worker is measured in.
const WINDOWS: usize = 4000;
/// Room for a frame: the longest synthetic one and what is around it.
const SLOT: usize = 512;
/// When everything happens: flows neither begin nor end by time.
const NOW: Tick = Tick(16_000);

/// Options of `pipeline`.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// Forwarding method: nat, dr, ipip.
    #[arg(long, default_value = "nat")]
    method: String,
    /// Established flows.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    flows: u32,
    /// Workers, each a thread of its own over one shared table.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Every packet opens a new flow.
    #[arg(long)]
    new: bool,
    /// Seeds the order of flows and the table's hash.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Windows of 256 packets that each worker is measured in.
    #[arg(long, default_value_t = WINDOWS)]
    windows: usize,
    /// Only the run over `--flows` flows: for callgrind.
    #[arg(long)]
    only: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    method: String,
    flows: u32,
    workers: u16,
    /// At `flows` flows.
    ns_per_packet: f64,
    /// Of all workers together.
    mpps: f64,
    /// At 1,000 flows.
    hot_ns: f64,
    /// Two dependent random lines of the same memory.
    bound_ns: f64,
    /// `ns_per_packet / (hot_ns + bound_ns)`.
    ratio: f64,
    /// Octets of table memory for each flow it has room for.
    bytes_per_flow: f64,
    /// Allocations while packets were processed.
    allocations: u64,
}

/// Measures and prints.
///
/// # Errors
///
/// The method is unknown, there is not enough memory, or `out` cannot be written.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<()> {
    let report = measure(args)?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
        return Ok(());
    }
    let Report { ns_per_packet, mpps, hot_ns, bound_ns, ratio, .. } = report;
    let kind = if args.new { "new flows" } else { "packets" };
    writeln!(
        out,
        "{} {kind}, {} flows, {} worker(s): {ns_per_packet:.1} ns per packet, {mpps:.2} Mpps",
        report.method, report.flows, report.workers
    )?;
    writeln!(
        out,
        "hot (1,000 flows) {hot_ns:.1} ns, memory bound {bound_ns:.1} ns, ratio {ratio:.2}"
    )?;
    writeln!(
        out,
        "{:.1} octets per flow, {} allocations while measuring",
        report.bytes_per_flow, report.allocations
    )?;
    Ok(())
}

fn measure(args: &Args) -> anyhow::Result<Report> {
    let method = method(&args.method)?;
    let flows = args.flows as usize;
    let (new, seed, windows) = (args.new, args.seed, args.windows);
    let hot = Setup { method, flows: HOT_FLOWS, workers: 1, new, seed, windows };
    let cold = Setup { flows, workers: args.workers.into(), ..hot };
    if args.only {
        let cold = cold.run()?;
        anyhow::bail!("{:.1} ns", cold.nanos);
    }
    let hot = hot.run()?;
    let cold = cold.run()?;
    let bound_ns = bound::measure(flows, cold.pages, args.seed, WINDOWS)?;
    Ok(Report {
        method: args.method.clone(),
        flows: args.flows,
        workers: args.workers,
        ns_per_packet: cold.nanos,
        mpps: f64::from(args.workers) * 1000.0 / cold.nanos,
        hot_ns: hot.nanos,
        bound_ns,
        ratio: cold.nanos / (hot.nanos + bound_ns),
        bytes_per_flow: cold.bytes_per_flow,
        allocations: cold.allocations + hot.allocations,
    })
}

fn method(name: &str) -> anyhow::Result<Method> {
    Ok(match name {
        "nat" => Method::Nat,
        "dr" => Method::Dr,
        "ipip" => Method::Ipip,
        other => anyhow::bail!("method `{other}` is not one of nat, dr, ipip"),
    })
}

/// One run.
#[derive(Clone, Copy, Debug)]
struct Setup {
    method: Method,
    flows: usize,
    workers: usize,
    new: bool,
    seed: u64,
    /// How many windows each worker is measured in.
    windows: usize,
}

/// What a run gave.
#[derive(Debug)]
struct Run {
    nanos: f64,
    allocations: u64,
    bytes_per_flow: f64,
    pages: dataplane::flow::Pages,
}

impl Setup {
    fn run(self) -> anyhow::Result<Run> {
        let sizes = Sizes { flows: self.flows, endpoints: 64, seed: self.seed, table_size: 0 };
        let mut shared = Shared::new(&sizes, self.workers)?;
        let traffic = Traffic::new(&mut shared.director, self.method)?;
        let snapshot = Arc::new(shared.director.compile());
        let mut workers = Vec::new();
        for number in 0..self.workers {
            let mut pipeline = shared.pipeline(number)?;
            pipeline.adopt(Arc::clone(&snapshot), NOW);
            // Nobody waits for a worker that has not begun.
            pipeline.table_mut().offline();
            workers.push(pipeline);
        }
        let flows = if self.new { Vec::new() } else { self.establish(&traffic, &mut workers[0])? };
        let memory = shared.table.memory();
        let (windows, allocations) = self.measured(&traffic, &flows, workers)?;
        let nanos = windows.nanos_per_packet();
        let bytes_per_flow = memory.per_flow;
        Ok(Run { nanos, allocations, bytes_per_flow, pages: memory.pages })
    }

    /// Opens every flow with its handshake; returns which real server each went to.
    fn establish(self, traffic: &Traffic, pipeline: &mut Pipeline) -> anyhow::Result<Vec<Flow>> {
        pipeline.table_mut().online();
        let mut flows = Vec::with_capacity(self.flows);
        let mut ring = Ring::new();
        let mut next = 0;
        while next < self.flows {
            let count = (self.flows - next).min(BURST);
            let batch = next..next + count;
            ring.fill(batch.clone().map(|number| traffic.opening(number)));
            ring.process(pipeline, count);
            for (at, number) in batch.clone().enumerate() {
                let flow = traffic.opened(ring.frame(at));
                flows.push(flow.with_context(|| format!("flow {number} was not forwarded"))?);
            }
            if traffic.translates() {
                ring.fill(batch.clone().map(|number| traffic.accept(number, flows[number])));
                ring.process(pipeline, count);
            }
            ring.fill(batch.map(|number| traffic.confirm(number)));
            ring.process(pipeline, count);
            next += count;
        }
        pipeline.table_mut().offline();
        Ok(flows)
    }

    /// Every worker measures in a thread of its own, all at the same time.
    fn measured(
        self,
        traffic: &Traffic,
        flows: &[Flow],
        workers: Vec<Pipeline>,
    ) -> anyhow::Result<(Windows, u64)> {
        let barrier = Barrier::new(workers.len());
        let measured: Vec<_> = thread::scope(|scope| {
            let handles: Vec<_> = workers
                .into_iter()
                .enumerate()
                .map(|(number, pipeline)| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        barrier.wait();
                        self.work(number, traffic, flows, pipeline)
                    })
                })
                .collect();
            handles.into_iter().map(|handle| handle.join().expect("a worker panicked")).collect()
        });
        let (mut all, mut allocations) = (Windows::with_capacity(0), 0);
        for worker in measured {
            let (windows, allocated) = worker?;
            all.append(windows);
            allocations += allocated;
        }
        Ok((all, allocations))
    }

    /// One worker: frames of random flows are written, which takes no time, and then processed.
    fn work(
        self,
        number: usize,
        traffic: &Traffic,
        flows: &[Flow],
        mut pipeline: Pipeline,
    ) -> anyhow::Result<(Windows, u64)> {
        let mut rng = Rng::from_seed(self.seed.wrapping_add(number as u64));
        pipeline.table_mut().online();
        let mut ring = Ring::new();
        let mut windows = Windows::with_capacity(self.windows);
        let (mut allocations, mut refused) = (0, 0);
        // New flows of different workers must not be the same ones.
        let mut fresh = (number..).step_by(self.workers);
        for _ in 0..self.windows {
            ring.fill((0..Windows::PACKETS).map(|_| {
                if self.new {
                    traffic.fresh(fresh.next().unwrap_or(0))
                } else {
                    traffic.any(flows, &mut rng)
                }
            }));
            let before = alloc::count();
            let start = Instant::now();
            let sent = measured_window(&mut ring, &mut pipeline);
            let took = start.elapsed();
            allocations += alloc::count() - before;
            refused += Windows::PACKETS - sent;
            windows.add(Windows::PACKETS, took);
        }
        // The others must not wait for one that has finished.
        pipeline.table_mut().offline();
        let packets = self.windows * Windows::PACKETS;
        anyhow::ensure!(
            refused * 100 <= packets,
            "{refused} of {packets} packets were not forwarded"
        );
        Ok((windows, allocations))
    }
}

/// What is measured, under a name of its own that callgrind can tell from the rest.
#[inline(never)]
fn measured_window(ring: &mut Ring, pipeline: &mut Pipeline) -> usize {
    ring.process(pipeline, Windows::PACKETS)
}

/// Frames in memory, as a device's rings would hold them.
struct Ring {
    memory: Vec<u8>,
    frames: Vec<(DeviceId, usize)>,
    /// Where each frame was after processing.
    spans: Vec<(usize, usize)>,
}

impl Ring {
    fn new() -> Self {
        Self {
            memory: vec![0; Windows::PACKETS * SLOT],
            frames: Vec::with_capacity(Windows::PACKETS),
            spans: Vec::with_capacity(Windows::PACKETS),
        }
    }

    /// Puts frames in.
    fn fill(&mut self, frames: impl Iterator<Item = Frame>) {
        self.frames.clear();
        for (slot, frame) in self.memory.chunks_exact_mut(SLOT).zip(frames) {
            let octets = frame.octets();
            slot[HEADROOM..HEADROOM + octets.len()].copy_from_slice(octets);
            self.frames.push((frame.device(), octets.len()));
        }
    }

    /// Processes the first `count` frames in bursts; how many were sent on.
    fn process(&mut self, pipeline: &mut Pipeline, count: usize) -> usize {
        self.spans.clear();
        let mut sent = 0;
        let slots = self.memory.chunks_mut(SLOT * BURST).zip(self.frames[..count].chunks(BURST));
        for (memory, frames) in slots {
            let mut burst: ArrayVec<Packet<'_>, BURST> = ArrayVec::new();
            for (slot, &(device, length)) in memory.chunks_exact_mut(SLOT).zip(frames) {
                burst.push(Packet::new(slot, HEADROOM, HEADROOM + length, device));
            }
            pipeline.process(&mut burst, NOW);
            pipeline.outbox_mut().clear();
            pipeline.housekeep(NOW, BURST);
            for packet in &burst {
                sent += usize::from(matches!(packet.verdict, Verdict::Tx(_)));
                self.spans.push((packet.start(), packet.len()));
            }
        }
        sent
    }

    /// The frame at `place` as the pipeline left it.
    fn frame(&self, place: usize) -> &[u8] {
        let (start, length) = self.spans[place];
        &self.memory[place * SLOT + start..place * SLOT + start + length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn established_and_new_flows_are_forwarded_without_allocating() {
        for method in [Method::Nat, Method::Dr, Method::Ipip] {
            for new in [false, true] {
                // New flows need the others' slots back, which a worker that is not run holds up.
                let workers = if new { 1 } else { 2 };
                let setup = Setup { method, flows: 3000, workers, new, seed: 3, windows: 50 };
                let run = setup.run().unwrap();
                assert_eq!(run.allocations, 0, "{method:?}, new: {new}");
                assert!(run.nanos > 0.0 && run.bytes_per_flow > 64.0);
            }
        }
    }
}
