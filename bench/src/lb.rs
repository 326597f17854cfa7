//! A load balancer in memory: director, flow table, workers.
//!
//! The parts are the daemon's own; only devices and clock are others. Workers take their turns in one
//! thread, one after the other, so that a run is the same every time.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::Context as _;
use crossbeam_channel::{Receiver, Sender, bounded};
use dataplane::{
    addr::Addr,
    clock::{Clock as _, ManualClock, TICKS_PER_SECOND, Tick},
    director::{
        Director,
        network::Network,
        spec::{DirectorError, FlowInfo, ServiceInfo, ServiceKey, TimeoutSpec},
    },
    endpoint::Endpoints,
    flow::{FlowTable, HashKey, TableConfig},
    io::Io,
    ipvsadm::{Backend, Command, Failure},
    pipeline::{Parts, Pipeline},
    service::Snapshot,
    stats::Stats,
    verdict::DeviceId,
    worker::{Worker, WorkerLink},
};

/// Where time begins: past zero, so that nothing that subtracts from it meets the origin.
const EPOCH: Duration = Duration::from_secs(1000);
/// Between two turns of an idle worker while time passes.
const TICK: Duration = Duration::from_nanos(1_000_000_000 / TICKS_PER_SECOND as u64);
/// Turns at each tick: enough to sweep a whole table of [`SWEPT`] flows.
const TURNS_PER_TICK: usize = 4;
/// Answers of our own per second: none of a recording's or a capture's is suppressed.
const ANSWERS_PER_SECOND: u32 = 1_000_000;

/// How big everything is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Flows at most.
    pub(crate) flows: usize,
    /// Services and real servers at most.
    pub(crate) endpoints: usize,
    /// Seeds the table's hash and every choice left to chance.
    pub(crate) seed: u64,
    /// What the head of listings says.
    pub(crate) table_size: u64,
}

/// Control's end of a worker.
#[derive(Debug)]
struct Remote {
    orders: Sender<Arc<Snapshot>>,
    retired: Receiver<Arc<Snapshot>>,
}

/// The load balancer.
#[derive(Debug)]
pub(crate) struct Lb<I> {
    pub(crate) director: Director,
    pub(crate) stats: Stats,
    pub(crate) table: Arc<FlowTable>,
    pub(crate) workers: Vec<Worker<I, ManualClock>>,
    remotes: Vec<Remote>,
    /// Link addresses that workers want; nobody asks for them here.
    _wanted: Receiver<(DeviceId, Addr)>,
    table_size: u64,
}

/// The shared parts of a load balancer, without workers.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) director: Director,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) stats: Stats,
    pub(crate) table: Arc<FlowTable>,
    resolve: Sender<(DeviceId, Addr)>,
    wanted: Receiver<(DeviceId, Addr)>,
    seed: u64,
}

impl Shared {
    /// Everything for `workers` workers, empty.
    ///
    /// # Errors
    ///
    /// There is not enough memory for the flow table.
    pub(crate) fn new(sizes: &Sizes, workers: usize) -> anyhow::Result<Self> {
        let key = HashKey::from_seed(sizes.seed);
        Self::over(&TableConfig::new(sizes.flows, workers, key), sizes)
    }

    /// The same over a table of this make.
    ///
    /// # Errors
    ///
    /// There is not enough memory for it.
    pub(crate) fn over(config: &TableConfig, sizes: &Sizes) -> anyhow::Result<Self> {
        let endpoints = Arc::new(Endpoints::new(sizes.endpoints));
        let stats = Stats::new(config.workers, sizes.endpoints);
        let table = FlowTable::new(config)
            .with_context(|| format!("a table for {} flows", config.capacity))?;
        let director = Director::new(Arc::clone(&endpoints), stats.clone());
        let (resolve, wanted) = bounded(1);
        let seed = sizes.seed;
        Ok(Self { director, endpoints, stats, table: Arc::new(table), resolve, wanted, seed })
    }

    /// The pipeline of worker `number`.
    pub(crate) fn pipeline(&self, number: usize) -> anyhow::Result<Pipeline> {
        Ok(Pipeline::new(Parts {
            flows: Arc::clone(&self.table),
            table: self.table.worker(number)?,
            endpoints: Arc::clone(&self.endpoints),
            stats: Arc::clone(self.stats.worker(number)),
            resolve: self.resolve.clone(),
            seed: self.seed.wrapping_add(number as u64),
            answers_per_second: ANSWERS_PER_SECOND,
        }))
    }
}

impl<I: Io> Lb<I> {
    /// A load balancer with one worker over each of `ios`.
    ///
    /// # Errors
    ///
    /// There is not enough memory for the flow table.
    pub(crate) fn new(sizes: &Sizes, network: Network, ios: Vec<I>) -> anyhow::Result<Self> {
        let shared = Shared::new(sizes, ios.len())?;
        let (mut workers, mut remotes) = (Vec::new(), Vec::new());
        for (number, io) in ios.into_iter().enumerate() {
            let pipeline = shared.pipeline(number)?;
            let (orders, incoming) = bounded(1);
            let (retire, retired) = bounded(1);
            let stop = Arc::new(AtomicBool::new(false));
            let link = WorkerLink { incoming, retired: retire, stop };
            let clock = ManualClock::default();
            clock.set_nanos(nanos(EPOCH));
            workers.push(Worker::new(io, clock, pipeline, link, Duration::ZERO));
            remotes.push(Remote { orders, retired });
        }
        let Shared { director, stats, table, wanted, .. } = shared;
        let table_size = sizes.table_size;
        let mut lb = Self { director, stats, table, workers, remotes, _wanted: wanted, table_size };
        lb.set_network(network);
        Ok(lb)
    }

    /// Replaces the network.
    pub(crate) fn set_network(&mut self, network: Network) {
        self.director.set_network(network);
        self.adopt();
    }

    /// Puts the director's state in force. Every worker takes a turn without packets for it, unless
    /// some wait.
    pub(crate) fn adopt(&mut self) {
        let snapshot = Arc::new(self.director.compile());
        for (worker, remote) in self.workers.iter_mut().zip(&self.remotes) {
            remote.orders.send(Arc::clone(&snapshot)).ok();
            worker.turn().expect("devices in memory do not fail");
            remote.retired.try_recv().ok();
        }
    }

    /// Now.
    pub(crate) fn now(&self) -> Tick {
        self.workers.first().map_or(Tick(0), |worker| worker.clock().now())
    }

    /// Sets every worker's clock, `time` after [`EPOCH`]; it never goes back.
    pub(crate) fn set_time(&self, time: Duration) {
        let then = nanos(EPOCH.saturating_add(time));
        for worker in &self.workers {
            if then > worker.clock().nanos() {
                worker.clock().set_nanos(then);
            }
        }
    }

    /// Lets time pass, with the housekeeping that belongs to it.
    pub(crate) fn advance(&mut self, time: Duration) {
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(TICK);
            left -= step;
            for worker in &mut self.workers {
                worker.clock().advance_nanos(nanos(step));
            }
            if step == TICK {
                self.idle();
            }
        }
    }

    /// Turns without packets: flows expire, endpoints nobody names are freed.
    pub(crate) fn idle(&mut self) {
        for worker in &mut self.workers {
            for _ in 0..TURNS_PER_TICK {
                worker.turn().expect("devices in memory do not fail");
            }
        }
        let generation = self.director.generation();
        self.director.reap(self.now(), generation);
    }

    /// All flows, templates among them, in the order of their slots.
    pub(crate) fn flows(&self) -> Vec<FlowInfo> {
        let now = self.now();
        self.table.flows(0).filter_map(|flow| self.director.flow_info(&flow, now)).collect()
    }
}

impl<I: Io> Backend for Lb<I> {
    fn change(&mut self, command: &Command) -> Result<(), Failure> {
        change(&mut self.director, command)?;
        self.adopt();
        Ok(())
    }

    fn services(&mut self) -> Result<Vec<ServiceInfo>, Failure> {
        Ok(self.director.services())
    }

    fn service(&mut self, key: &ServiceKey) -> Result<ServiceInfo, Failure> {
        Ok(self.director.get_service(key)?)
    }

    fn flows(&mut self, each: &mut dyn FnMut(&[FlowInfo])) -> Result<(), Failure> {
        each(&Self::flows(self));
        Ok(())
    }

    fn timeouts(&mut self) -> Result<TimeoutSpec, Failure> {
        Ok(self.director.timeouts())
    }

    fn table_size(&mut self) -> Result<u64, Failure> {
        Ok(self.table_size)
    }
}

/// Carries a command out on a director; commands that change nothing do nothing.
pub(crate) fn change(director: &mut Director, command: &Command) -> Result<(), DirectorError> {
    match command {
        Command::AddService(spec) => director.add_service(spec),
        Command::EditService(spec) => director.edit_service(spec),
        Command::DeleteService(key) => director.delete_service(key),
        Command::Flush => {
            director.flush();
            Ok(())
        }
        Command::AddReal { service, real } => director.add_real(service, real),
        Command::EditReal { service, real } => director.edit_real(service, real),
        Command::DeleteReal { service, addr, port } => director.delete_real(service, *addr, *port),
        Command::Zero(key) => director.zero(key.as_ref()),
        Command::SetTimeouts(spec) => {
            director.set_timeouts(*spec);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
