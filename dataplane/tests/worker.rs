//! What a worker does when no packet comes.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use xvs_dataplane::{
    addr::Addr,
    clock::{Clock, ManualClock, Tick},
    endpoint::{Description, EndpointId, Endpoints},
    flow::{FlowKey, FlowTable, HashKey, Inserted, NewFlow, Pages, TableConfig},
    io::Io,
    packet::Packet,
    pipeline::{Parts, Pipeline},
    service::Snapshot,
    stats::Stats,
    verdict::{DeviceId, Verdict},
    worker::{Worker, WorkerLink},
};

/// Devices on which nothing comes; the first sleep stops the worker.
struct Quiet {
    stop: Arc<AtomicBool>,
    /// How often it was asked what it missed.
    looks: u64,
}

impl Io for Quiet {
    fn burst(
        &mut self,
        _: impl FnOnce(&mut [Packet<'_>]),
        _: impl FnMut(DeviceId, usize, Verdict),
    ) -> io::Result<usize> {
        Ok(0)
    }

    fn send(&mut self, _: DeviceId, _: &[u8]) -> bool {
        false
    }

    fn to_host(&mut self, _: DeviceId, _: &[u8]) -> bool {
        false
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn missed(&mut self, mut tell: impl FnMut(DeviceId, u64)) -> io::Result<()> {
        self.looks += 1;
        tell(DeviceId(1), 10 * self.looks);
        Ok(())
    }

    fn wait(&mut self, _: Duration) -> io::Result<()> {
        self.stop.store(true, Relaxed);
        Ok(())
    }
}

/// A worker without packets, worker 0 of a table for `flows` flows and two workers.
fn quiet(flows: usize) -> (Worker<Quiet, ManualClock>, Arc<FlowTable>, Arc<Endpoints>, Stats) {
    let (_, incoming) = crossbeam_channel::bounded(1);
    quiet_by(ManualClock::default(), flows, incoming)
}

/// The same by any clock, with configurations to come.
fn quiet_by<C: Clock>(
    clock: C,
    flows: usize,
    incoming: crossbeam_channel::Receiver<Arc<Snapshot>>,
) -> (Worker<Quiet, C>, Arc<FlowTable>, Arc<Endpoints>, Stats) {
    let endpoints = Arc::new(Endpoints::new(8));
    let stats = Stats::new(1, 8);
    let mut config = TableConfig::new(flows, 2, HashKey::from_seed(1));
    config.pages = Pages::Small;
    let table = Arc::new(FlowTable::new(&config).unwrap());
    let (resolve, _) = crossbeam_channel::bounded(1);
    let pipeline = Pipeline::new(Parts {
        table: table.worker(0).unwrap(),
        flows: Arc::clone(&table),
        endpoints: Arc::clone(&endpoints),
        stats: Arc::clone(stats.worker(0)),
        resolve,
        seed: 1,
        answers_per_second: 1,
    });
    let stop = Arc::new(AtomicBool::new(false));
    let (retired, _) = crossbeam_channel::bounded(1);
    let link = WorkerLink { incoming, retired, stop: Arc::clone(&stop) };
    let worker = Worker::new(Quiet { stop, looks: 0 }, clock, pipeline, link, Duration::ZERO);
    (worker, table, endpoints, stats)
}

#[test]
fn an_idle_worker_sleeps_only_after_it_swept_the_whole_table() {
    let (mut worker, _, _, stats) = quiet(100_000);
    worker.run().unwrap();
    let turns = stats.worker(0).work.turns.get();
    assert!(turns > 100_000 / 4096, "slept after {turns} turns");
}

#[test]
fn what_the_kernel_dropped_is_asked_for_ten_times_a_second_and_added_up() {
    let (mut worker, _, _, stats) = quiet(10);
    let missed = |device| stats.worker(0).device(DeviceId(device)).missed.get();
    for tenth in 1..=3 {
        for _ in 0..1000 {
            worker.turn().unwrap();
        }
        worker.clock().advance_nanos(99_000_000);
        worker.turn().unwrap();
        assert_eq!(missed(1), 5 * tenth * (tenth - 1));
        worker.clock().advance_nanos(1_000_000);
        worker.turn().unwrap();
        assert_eq!(missed(1), 5 * tenth * (tenth + 1));
    }
    assert_eq!(missed(0), 0);
}

#[test]
fn a_worker_that_spins_without_packets_holds_up_no_slot_that_others_free() {
    let (mut worker, table, endpoints, _) = quiet(10);
    let (virt, real) = (EndpointId(1), EndpointId(2));
    let about = Description { addr: Addr::v4(1), port: 80, ..Description::default() };
    endpoints.get(virt).describe(&about);
    endpoints.get(real).describe(&Description { addr: Addr::v4(2), ..about });
    let mut other = table.worker(1).unwrap();
    let new = |client: u16| {
        let key = FlowKey {
            source: Addr::v4(3),
            destination: Addr::v4(1),
            source_port: client,
            destination_port: 80,
            protocol: 6,
            template: false,
        };
        NewFlow { key, virt, real, timeout: 1600, ..NewFlow::default() }
    };
    // Every slot there is goes into the other worker's limbo.
    let mut count = 0;
    while let Ok(Inserted::New(flow)) = other.insert(&new(count), &endpoints, Tick(0)) {
        assert!(other.remove(flow, &endpoints));
        count += 1;
    }
    assert!(count >= 10);
    for _ in 0..3 {
        other.quiesce();
        worker.turn().unwrap();
    }
    other.quiesce();
    assert!(other.insert(&new(0), &endpoints, Tick(0)).is_ok(), "{:?}", other.counters());
}

/// A clock that goes on by a microsecond each time it is read.
#[derive(Default)]
struct Stepping(std::cell::Cell<u64>);

impl Clock for Stepping {
    fn nanos(&self) -> u64 {
        self.0.set(self.0.get() + 1000);
        self.0.get()
    }
}

#[test]
fn the_longest_turn_and_what_a_change_took_of_it_are_kept() {
    let (changes, incoming) = crossbeam_channel::bounded(1);
    let (mut worker, _, _, stats) = quiet_by(Stepping::default(), 10, incoming);
    let longest = || {
        let work = &stats.worker(0).work;
        (work.longest_turn.get(), work.longest_adoption.get())
    };
    worker.turn().unwrap();
    assert_eq!(longest(), (1000, 0));
    changes.send(Arc::default()).unwrap();
    worker.turn().unwrap();
    assert_eq!(longest(), (2000, 1000));
    worker.turn().unwrap();
    assert_eq!(longest(), (2000, 1000));
}
