//! What a flood of new flows costs those that are established, and what a whole sweep of the table costs.
//!
//! The flood comes to the same worker: before each window of established flows' packets, whose time is
//! taken, it opens as many flows as that window has packets, all of them SYNs that nobody ever follows,
//! so that the half-open quota lets the oldest go. So the time tells what the flood does to caches, to the table
//! and to the order of things; that a core shares its time between both is not in it.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Instant,
};

use dataplane::{
    clock::{TICKS_PER_SECOND, Tick},
    pipeline::Pipeline,
    rng::Rng,
};

use super::{
    ring::{NOW, Ring},
    setup::{Setup, fresh},
    traffic::Flow,
    windows::Windows,
};

/// Sweeps that are timed, one a second: in so many every flow is looked at once, and none expires.
const SWEEPS: u32 = 250;

/// Slots passed at a time, as a worker does.
const SLOTS: usize = 4096;

/// What was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flooded {
    /// Nanoseconds for a packet of an established flow without the flood.
    pub(super) quiet: f64,
    /// With as many new flows at the same worker.
    pub(super) same: f64,
    /// With new flows at another worker, as fast as it can.
    pub(super) other: f64,
    /// Share of a core that sweeping the table each second takes.
    pub(super) sweep: f64,
}

impl Setup {
    /// Measures all four.
    ///
    /// # Errors
    ///
    /// There is not enough memory, or packets were not forwarded.
    pub(super) fn flooded(self) -> anyhow::Result<Flooded> {
        // Two workers, of whom the second only floods, where it does anything.
        let mut side = Self { workers: 2, spare: (self.flows / 16).max(1024), ..self }.side(1)?;
        let flows = std::mem::take(&mut side.flows);
        let mut second = side.workers.pop();
        let first = &mut side.workers[0];
        first.table_mut().online();
        let mut numbers = fresh(0, 2).skip(self.flows + Windows::PACKETS);
        let quiet = self.hits(first, &flows, None)?;
        let same = self.hits(first, &flows, Some(&mut numbers))?;
        let stop = AtomicBool::new(false);
        let other = std::thread::scope(|scope| {
            if let Some(second) = &mut second {
                let stop = &stop;
                scope.spawn(move || self.flood(second, stop));
            }
            let other = self.hits(first, &flows, None);
            stop.store(true, Relaxed);
            first.table_mut().offline();
            other
        })?;
        drop(side);
        let mut side = Self { workers: 1, ..self }.side(1)?;
        let first = &mut side.workers[0];
        first.table_mut().online();
        let sweep = sweep(first);
        first.table_mut().offline();
        Ok(Flooded { quiet, same, other, sweep })
    }

    /// Times windows of established flows' packets, each behind one of new flows if there are numbers for
    /// them.
    fn hits(
        self,
        pipeline: &mut Pipeline,
        flows: &[Flow],
        mut numbers: Option<&mut dyn Iterator<Item = usize>>,
    ) -> anyhow::Result<f64> {
        let mut rng = Rng::from_seed(self.seed);
        let mut ring = Ring::new(1, self.traffic.slot());
        let mut windows = Windows::with_capacity(self.windows);
        let mut sent = 0;
        for _ in 0..self.windows {
            if let Some(numbers) = &mut numbers {
                self.open(&mut ring, pipeline, numbers);
            }
            let any = |_| self.traffic.any(flows, (0, 1), &mut rng);
            ring.fill(0, (0..Windows::PACKETS).map(any));
            let start = Instant::now();
            sent += ring.measure(0, pipeline);
            windows.add(Windows::PACKETS, start.elapsed());
        }
        let packets = self.windows * Windows::PACKETS;
        anyhow::ensure!(sent == packets, "{} of {packets} were not forwarded", packets - sent);
        Ok(windows.nanos_per_packet())
    }

    /// Opens a window of new flows.
    fn open(
        self,
        ring: &mut Ring,
        pipeline: &mut Pipeline,
        numbers: &mut dyn Iterator<Item = usize>,
    ) {
        let fresh = numbers.take(Windows::PACKETS);
        ring.fill(0, fresh.map(|number| self.traffic.fresh(number)));
        ring.process(pipeline, Windows::PACKETS);
    }

    /// Opens new flows as fast as it can until it is told to stop.
    fn flood(self, pipeline: &mut Pipeline, stop: &AtomicBool) {
        pipeline.table_mut().online();
        let mut ring = Ring::new(1, self.traffic.slot());
        let mut numbers = fresh(1, 2).skip(self.flows + Windows::PACKETS);
        while !stop.load(Relaxed) {
            self.open(&mut ring, pipeline, &mut numbers);
        }
        pipeline.table_mut().offline();
    }
}

/// The share of a core that the sweep of each second takes, while nothing expires.
fn sweep(pipeline: &mut Pipeline) -> f64 {
    let start = Instant::now();
    for second in 1..=SWEEPS {
        let now = Tick(NOW.0 + second * TICKS_PER_SECOND);
        while !pipeline.housekeep(now, SLOTS) {}
    }
    start.elapsed().as_secs_f64() / f64::from(SWEEPS)
}
