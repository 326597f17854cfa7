//! The loop each worker thread runs: one core, one queue of every interface, to completion.
//!
//! A turn: put a new snapshot in force if one waits, read the clock once, take at most one burst,
//! decide, transmit, then a bounded share of housekeeping. An idle worker spins for a while and
//! then sleeps in [`Io::wait`], so a quiet box costs nothing and a busy one never sleeps.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use arrayvec::ArrayVec;
use crossbeam_channel::{Receiver, Sender};

use crate::{
    capture::{CAPTURES_MAX, Captures},
    clock::{Clock, Tick},
    flow::TableWorker,
    io::Io,
    packet::Packet,
    pipeline::Pipeline,
    service::Snapshot,
    stats::WorkerStats,
};

/// Flow slots passed per turn: a table of 10 million flows is swept once a second at 2,500 turns
/// per second. An idle worker sleeps only when the second's sweep is done.
const SWEEP_SLOTS: usize = 4096;

/// How long an idle worker sleeps at most: flows expire and a stop is seen this late.
const IDLE_WAIT: Duration = Duration::from_millis(100);

/// Nanoseconds between two looks at packets that wait for a next hop, and at what the kernel dropped.
const LOOK_NANOS: u64 = 100_000_000;

/// The worker's end of what it exchanges with control.
#[derive(Debug)]
pub struct WorkerLink {
    /// Configurations to be put in force.
    pub incoming: Receiver<Arc<Snapshot>>,
    /// Configurations no longer in force, to be freed by control and not on the packet path.
    pub retired: Sender<Arc<Snapshot>>,
    /// Set by control to make the worker end.
    pub stop: Arc<AtomicBool>,
}

/// One worker: devices, a clock, and the pipeline between them.
#[derive(Debug)]
pub struct Worker<I, C> {
    /// Where packets come from and go to.
    io: I,
    /// The only source of time below this point.
    clock: C,
    /// What is done with each packet.
    pipeline: Pipeline,
    /// Control's orders.
    link: WorkerLink,
    /// Counters.
    stats: Arc<WorkerStats>,
    /// How long to spin before sleeping, in nanoseconds.
    spin_nanos: u64,
    /// When the last turn began that brought a packet.
    busy_at: u64,
    /// How long ago that was when the last turn ended.
    idle_nanos: u64,
    /// When the last of those looks was.
    looked_at: u64,
    /// Whether this second's sweep of the flow table is done: no sleep before, or flows would
    /// expire late by as many sleeps as the table has shares.
    swept: bool,
}

impl<I: Io, C: Clock> Worker<I, C> {
    /// A worker over these devices.
    pub fn new(io: I, clock: C, pipeline: Pipeline, link: WorkerLink, spin: Duration) -> Self {
        let busy_at = clock.nanos();
        let spin_nanos = u64::try_from(spin.as_nanos()).unwrap_or(u64::MAX);
        let stats = Arc::clone(pipeline.stats());
        Self {
            io,
            clock,
            pipeline,
            link,
            stats,
            spin_nanos,
            busy_at,
            idle_nanos: 0,
            looked_at: busy_at,
            swept: false,
        }
    }

    /// Takes turns until it is told to stop.
    ///
    /// # Errors
    ///
    /// A device is gone.
    pub fn run(&mut self) -> io::Result<()> {
        while !self.link.stop.load(Relaxed) {
            let idle = self.turn()? == 0;
            if idle && self.swept && self.idle_nanos >= self.spin_nanos {
                self.sleep()?;
            }
        }
        Ok(())
    }

    /// One turn; returns how many packets came. A simulation calls this instead of
    /// [`Worker::run`].
    ///
    /// # Errors
    ///
    /// A device is gone.
    pub fn turn(&mut self) -> io::Result<usize> {
        let began = self.clock.nanos();
        let now = Tick::from_nanos(began);
        if let Ok(snapshot) = self.link.incoming.try_recv() {
            self.adopt(snapshot, began);
        }
        let Self { io, pipeline, stats, .. } = self;
        let captures = pipeline.captures();
        let received = io.burst(
            |burst| {
                if captures.is_empty() {
                    pipeline.process(burst, now);
                } else {
                    captured(&captures, burst, began, |burst| pipeline.process(burst, now));
                }
            },
            |device, octets, verdict| stats.device(device).settle(octets, verdict),
        )?;
        if !pipeline.outbox_mut().is_empty() {
            captures.iter().for_each(|to| to.originated(pipeline.outbox_mut().frames(), began));
            send_own(io, pipeline, stats);
        }
        io.flush()?;
        self.swept = self.pipeline.housekeep(now, SWEEP_SLOTS);
        let ended = self.clock.nanos();
        if ended.saturating_sub(self.looked_at) >= LOOK_NANOS {
            self.looked_at = ended;
            self.pipeline.give_up_parked(now);
            let Self { io, stats, .. } = self;
            io.missed(|device, packets| stats.device(device).missed.add(packets))?;
        }
        if received > 0 {
            self.busy_at = began;
        }
        self.idle_nanos = ended.saturating_sub(self.busy_at);
        self.stats.work.longest_turn.raise(ended.saturating_sub(began));
        stats_of(&self.stats, received);
        Ok(received)
    }

    /// Puts a snapshot in force, in a turn that began at `began`.
    #[cold]
    fn adopt(&mut self, snapshot: Arc<Snapshot>, began: u64) {
        let old = self.pipeline.adopt(snapshot, Tick::from_nanos(began));
        // Control has gone away if nobody takes it: then it is freed here.
        self.link.retired.try_send(old).ok();
        let took = self.clock.nanos().saturating_sub(began);
        self.stats.work.longest_adoption.raise(took);
    }

    /// Sleeps until there is something to do; other workers need not wait for this one meanwhile.
    fn sleep(&mut self) -> io::Result<()> {
        self.stats.work.sleeps.add(1);
        self.table().offline();
        let woken = self.io.wait(IDLE_WAIT);
        self.table().online();
        woken
    }

    /// This worker's hold on the flow table.
    const fn table(&mut self) -> &mut TableWorker {
        self.pipeline.table_mut()
    }

    /// The devices.
    pub const fn io_mut(&mut self) -> &mut I {
        &mut self.io
    }

    /// The clock.
    pub const fn clock(&self) -> &C {
        &self.clock
    }

    /// The pipeline.
    pub const fn pipeline_mut(&mut self) -> &mut Pipeline {
        &mut self.pipeline
    }
}

/// Decides about a burst under the eyes of captures.
#[cold]
fn captured(
    captures: &Captures,
    burst: &mut [Packet<'_>],
    began: u64,
    process: impl FnOnce(&mut [Packet<'_>]),
) {
    let held = captures.iter().map(|capture| capture.hold(burst, began));
    let held: ArrayVec<_, CAPTURES_MAX> = held.collect();
    process(burst);
    for (capture, held) in captures.iter().zip(held) {
        capture.keep(held, burst);
    }
}

/// Sends what the pipeline made itself.
fn send_own(io: &mut impl Io, pipeline: &mut Pipeline, stats: &WorkerStats) {
    let outbox = pipeline.outbox_mut();
    for (device, frame) in outbox.frames() {
        let counters = stats.device(device);
        if io.send(device, frame) {
            counters.originated.add(1);
        } else {
            counters.originated_lost.add(1);
        }
    }
    let lost = outbox.clear();
    stats.device(crate::verdict::DeviceId(0)).originated_lost.add(u64::from(lost));
}

/// Counts a turn.
fn stats_of(stats: &WorkerStats, received: usize) {
    stats.work.turns.add(1);
    if received == 0 {
        stats.work.idle_turns.add(1);
    }
}
