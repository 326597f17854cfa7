//! One measurement: a table filled with flows, workers in threads of their own, windows of packets.

use std::{
    sync::{Arc, Barrier},
    thread,
    time::Instant,
};

use anyhow::Context as _;
use dataplane::{
    flow::{HashKey, Pages, TableConfig},
    packet::BURST,
    pipeline::Pipeline,
    rng::Rng,
};

use super::{
    ring::{NOW, Ring},
    traffic::{Flow, Traffic},
    windows::Windows,
};
use crate::{
    alloc,
    lb::{Shared, Sizes},
};

/// Windows of frames that lie in memory at once where frames are to be cold: 32 MB of short ones, of
/// which no core's own cache holds much.
const COLD_WINDOWS: usize = 256;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) traffic: Traffic,
    /// Live flows, over all tables.
    pub(super) flows: usize,
    pub(super) workers: usize,
    /// Every packet opens a flow, for which the oldest makes room.
    pub(super) new: bool,
    /// Frames come from memory and not from the cache.
    pub(super) cold: bool,
    /// Every worker has a table of its own, with its share of the flows.
    pub(super) private: bool,
    /// Slots for half-open flows beside those of `flows`.
    pub(super) spare: usize,
    pub(super) seed: u64,
    /// How many windows each worker is measured in.
    pub(super) windows: usize,
}

/// What a measurement gave.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) nanos: f64,
    pub(super) allocations: u64,
    pub(super) bytes_per_flow: f64,
    pub(super) pages: Pages,
}

/// One table with its flows and the workers over it.
pub(super) struct Side {
    pub(super) flows: Vec<Flow>,
    pub(super) workers: Vec<Pipeline>,
    bytes_per_flow: f64,
    pages: Pages,
}

impl Setup {
    /// Measures.
    ///
    /// # Errors
    ///
    /// There is not enough memory, or packets were not forwarded.
    pub(super) fn run(self) -> anyhow::Result<Run> {
        let sides = if self.private { self.workers } else { 1 };
        let sides: Vec<_> = (0..sides).map(|_| self.side(sides)).collect::<anyhow::Result<_>>()?;
        let (bytes_per_flow, pages) = (sides[0].bytes_per_flow, sides[0].pages);
        let (windows, allocations) = self.measured(sides)?;
        Ok(Run { nanos: windows.nanos_per_packet(), allocations, bytes_per_flow, pages })
    }

    /// One of `sides` tables.
    pub(super) fn side(self, sides: usize) -> anyhow::Result<Side> {
        let (flows, workers) = (self.flows / sides, self.workers / sides);
        let sizes = Sizes { flows, endpoints: 64, seed: self.seed, table_size: 0 };
        let mut config = TableConfig::new(flows, workers, HashKey::from_seed(self.seed));
        if self.new {
            // As many live flows as asked for, all of them half-open; some slots more for those
            // that are just ending.
            config.half_open = flows;
            config.capacity = flows + flows / 8 + 4096 * workers;
        } else if self.spare > 0 {
            config.half_open = self.spare;
            config.capacity = flows + 2 * self.spare + 4096 * workers;
        }
        let mut shared = Shared::over(&config, &sizes)?;
        self.traffic.describe(&mut shared.director, "rr")?;
        let snapshot = Arc::new(shared.director.compile());
        let mut pipelines = Vec::new();
        for number in 0..workers {
            let mut pipeline = shared.pipeline(number)?;
            pipeline.adopt(Arc::clone(&snapshot), NOW);
            // Nobody waits for a worker that has not begun.
            pipeline.table_mut().offline();
            pipelines.push(pipeline);
        }
        let memory = shared.table.memory();
        let mut side = Side {
            flows: Vec::new(),
            workers: pipelines,
            bytes_per_flow: memory.per_flow,
            pages: memory.pages,
        };
        if self.new {
            self.fill(&mut side, flows);
        } else {
            side.flows = self.establish(flows, &mut side.workers[0])?;
        }
        Ok(side)
    }

    /// Has every worker open its share of flows and as many more as make the oldest go.
    fn fill(self, side: &mut Side, flows: usize) {
        let workers = side.workers.len();
        let mut ring = Ring::new(1, self.traffic.slot());
        for (number, pipeline) in side.workers.iter_mut().enumerate() {
            pipeline.table_mut().online();
            let mut fresh = fresh(number, workers).take(flows.div_ceil(workers) + BURST);
            loop {
                let numbers: Vec<_> = fresh.by_ref().take(BURST).collect();
                if numbers.is_empty() {
                    break;
                }
                let count = numbers.len();
                ring.fill(0, numbers.into_iter().map(|number| self.traffic.fresh(number)));
                ring.process(pipeline, count);
            }
            pipeline.table_mut().offline();
        }
    }

    /// Opens every flow with its handshake; returns which real server each went to.
    fn establish(self, flows: usize, pipeline: &mut Pipeline) -> anyhow::Result<Vec<Flow>> {
        let traffic = &self.traffic;
        pipeline.table_mut().online();
        let mut opened = Vec::with_capacity(flows);
        let mut ring = Ring::new(1, traffic.slot());
        let mut next = 0;
        while next < flows {
            let count = (flows - next).min(BURST);
            let batch = next..next + count;
            ring.fill(0, batch.clone().map(|number| traffic.opening(number)));
            ring.process(pipeline, count);
            for (at, number) in batch.clone().enumerate() {
                let flow = traffic.opened(ring.frame(at));
                opened.push(flow.with_context(|| format!("flow {number} was not forwarded"))?);
            }
            if traffic.translates() {
                ring.fill(0, batch.clone().map(|number| traffic.accept(number, opened[number])));
                ring.process(pipeline, count);
            }
            ring.fill(0, batch.map(|number| traffic.confirm(number)));
            ring.process(pipeline, count);
            next += count;
        }
        pipeline.table_mut().offline();
        Ok(opened)
    }

    /// Every worker measures in a thread of its own, all at the same time.
    fn measured(self, sides: Vec<Side>) -> anyhow::Result<(Windows, u64)> {
        let barrier = Barrier::new(self.workers);
        let measured: Vec<_> = thread::scope(|scope| {
            let mut handles = Vec::new();
            for side in sides {
                let workers = side.workers.len();
                let flows: Arc<[Flow]> = side.flows.into();
                for (number, pipeline) in side.workers.into_iter().enumerate() {
                    let (barrier, flows) = (&barrier, Arc::clone(&flows));
                    handles.push(scope.spawn(move || {
                        barrier.wait();
                        self.work((number, workers), &flows, pipeline)
                    }));
                }
            }
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
        (number, workers): (usize, usize),
        flows: &[Flow],
        mut pipeline: Pipeline,
    ) -> anyhow::Result<(Windows, u64)> {
        let mut rng = Rng::from_seed(self.seed.wrapping_add(number as u64));
        pipeline.table_mut().online();
        let lying = if self.cold { COLD_WINDOWS } else { 1 };
        let mut ring = Ring::new(lying, self.traffic.slot());
        let mut windows = Windows::with_capacity(self.windows);
        let (mut allocations, mut sent) = (0, 0);
        // Behind those that the table was filled with.
        let mut fresh = fresh(number, workers).skip(self.flows.div_ceil(workers) + BURST);
        for window in 0..self.windows {
            let at = window % lying;
            if at == 0 {
                for window in 0..lying {
                    let frame = |_| match self.new {
                        true => self.traffic.fresh(fresh.next().unwrap_or(0)),
                        false => self.traffic.any(flows, (number, workers), &mut rng),
                    };
                    ring.fill(window, (0..Windows::PACKETS).map(frame));
                }
            }
            let before = alloc::count();
            let start = Instant::now();
            sent += ring.measure(at, &mut pipeline);
            let took = start.elapsed();
            allocations += alloc::count() - before;
            windows.add(Windows::PACKETS, took);
        }
        // The others must not wait for one that has finished.
        pipeline.table_mut().offline();
        let packets = self.windows * Windows::PACKETS;
        anyhow::ensure!(sent == packets, "{} of {packets} were not forwarded", packets - sent);
        Ok((windows, allocations))
    }
}

/// Numbers of flows that one of `workers` workers opens: those of different workers differ.
pub(super) fn fresh(number: usize, workers: usize) -> impl Iterator<Item = usize> {
    (number..).step_by(workers)
}
