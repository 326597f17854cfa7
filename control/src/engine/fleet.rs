//! The fleet: the threads of the workers, what they are given, and what becomes of one that fails.
//!
//! The rule: a failure is seen, counted, told and mended. A worker that panics or loses its device
//! ends its thread; then all workers stop, their devices are opened afresh and all start again,
//! because the queues of an interface are opened together. Flows survive, they are in the shared
//! table. As long as devices cannot be opened the fleet tries again, ever less often.
//! While it is down a change counts as in force at once: whoever starts, starts with the newest.

use std::{
    any::Any,
    fmt::Debug,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use dataplane::{
    service::Snapshot,
    stats::{Stats, WorkerStats},
    steering::{SteeringError, rules::SteeringRules},
};

use super::report::{InterfaceReport, Report, WorkerReport};
use crate::cpus;

/// Snapshots that wait for a worker at most; more are merged, the newest wins.
const WAITING: usize = 2;

/// How long the first new try waits after a failure; each further one waits twice as long.
const RETRY_FIRST: Duration = Duration::from_millis(100);

/// How long a new try waits at most.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// How long a worker may take to stop before it is left alone.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// Opens the devices of all workers. The real one is [`crate::devices`]; tests have another.
pub trait Machine: Debug + Send {
    /// Opens everything, one element for each worker.
    ///
    /// # Errors
    ///
    /// What cannot be opened, and why; nothing stays open.
    fn open(&mut self) -> Result<Opened, OpenError>;

    /// Puts steering rules in force.
    ///
    /// # Errors
    ///
    /// There are too many, or the kernel refuses.
    fn steer(&mut self, rules: &SteeringRules) -> Result<(), SteeringError>;

    /// Closes what [`Machine::open`] opened, but what the workers hold.
    fn close(&mut self);
}

/// Why devices cannot be opened: one line that names the culprit.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(pub String);

/// Open devices.
#[derive(Debug)]
pub struct Opened {
    /// What was reached on each interface.
    pub interfaces: Vec<InterfaceReport>,
    /// What each worker runs.
    pub workers: Vec<Box<dyn Duty>>,
}

/// What one worker does.
pub trait Duty: Debug + Send {
    /// What ends the worker's sleep, from any thread.
    fn alarm(&self) -> Arc<dyn Fn() + Send + Sync>;

    /// Works until told to stop.
    ///
    /// # Errors
    ///
    /// A device is gone.
    fn run(self: Box<Self>, orders: Orders) -> io::Result<()>;
}

/// A worker's end of what it exchanges with the fleet.
#[derive(Debug)]
pub struct Orders {
    /// Snapshots to put in force.
    pub incoming: Receiver<Arc<Snapshot>>,
    /// Snapshots no longer in force, to be freed here.
    pub retired: Sender<Arc<Snapshot>>,
    /// Set when the worker shall end.
    pub stop: Arc<AtomicBool>,
}

/// A worker at work.
struct Running {
    thread: thread::JoinHandle<Result<(), String>>,
    snapshots: Sender<Arc<Snapshot>>,
    /// The newest, if there was no room for it.
    waiting: Option<Arc<Snapshot>>,
    retired: Receiver<Arc<Snapshot>>,
    stop: Arc<AtomicBool>,
    alarm: Arc<dyn Fn() + Send + Sync>,
}

impl Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("thread", &self.thread).finish_non_exhaustive()
    }
}

/// All workers.
#[derive(Debug)]
pub struct Fleet {
    machine: Box<dyn Machine>,
    stats: Stats,
    running: Vec<Running>,
    /// What whoever starts, starts with.
    newest: Arc<Snapshot>,
    rules: SteeringRules,
    /// When to try again, and how long to wait if that fails too; `None` while all work.
    retry: Option<(Instant, Duration)>,
    report: Report,
}

impl Fleet {
    /// A fleet that is not started, with a worker for each of `cpus`: the CPU to pin it to.
    pub fn new(machine: Box<dyn Machine>, stats: Stats, cpus: &[Option<u16>]) -> Self {
        let worker = |cpu: &Option<u16>| WorkerReport { cpu: *cpu, ..WorkerReport::default() };
        let workers = cpus.iter().map(worker).collect();
        Self {
            machine,
            stats,
            running: Vec::new(),
            newest: Arc::default(),
            rules: SteeringRules::default(),
            retry: None,
            report: Report { interfaces: Vec::new(), workers },
        }
    }

    /// Opens the devices and starts the workers.
    ///
    /// # Errors
    ///
    /// As [`Machine::open`]; no worker runs then.
    pub fn start(&mut self) -> Result<(), OpenError> {
        let opened = self.machine.open()?;
        self.report.interfaces = opened.interfaces;
        for (number, duty) in opened.workers.into_iter().enumerate() {
            let worker = &mut self.report.workers[number];
            let stats = self.stats.worker(number);
            match Running::start(number, worker.cpu, duty, &self.newest, stats) {
                Ok(running) => self.running.push(running),
                Err(error) => {
                    self.stop();
                    return Err(OpenError(format!("cannot start worker {number}: {error}")));
                }
            }
            worker.running = true;
        }
        self.retry = None;
        Ok(())
    }

    /// Hands a snapshot to every worker and wakes it.
    pub fn hand_out(&mut self, snapshot: &Arc<Snapshot>) {
        self.newest = Arc::clone(snapshot);
        for running in &mut self.running {
            running.waiting = Some(Arc::clone(snapshot));
            running.hand_over();
        }
    }

    /// The generation that every running worker has reached; all there are if none runs.
    pub fn reached(&self) -> u64 {
        let workers = self.stats.workers().iter().take(self.running.len());
        workers.map(|stats| stats.work.generation.get()).min().unwrap_or(u64::MAX)
    }

    /// Puts steering rules in force, now and after each restart.
    ///
    /// # Errors
    ///
    /// As [`Machine::steer`]; the rules before stay in force.
    pub fn steer(&mut self, rules: &SteeringRules) -> Result<(), SteeringError> {
        if !self.running.is_empty() {
            self.machine.steer(rules)?;
        }
        self.rules = rules.clone();
        Ok(())
    }

    /// Looks after the workers: frees old snapshots, hands over what waited, finds failures and
    /// starts again what is due.
    pub fn tend(&mut self) {
        for running in &mut self.running {
            running.free_retired();
            running.hand_over();
        }
        if self.running.iter().any(|running| running.thread.is_finished()) {
            self.stop();
            self.retry = Some((Instant::now() + RETRY_FIRST, RETRY_FIRST * 2));
        }
        match self.retry {
            Some((due, delay)) if due <= Instant::now() => self.restart(delay),
            _ => {}
        }
    }

    /// Opens and starts everything afresh after a failure.
    fn restart(&mut self, delay: Duration) {
        if let Err(error) = self.start() {
            tracing::error!("cannot start again, next try in {delay:?}: {error}");
            self.retry = Some((Instant::now() + delay, (delay * 2).min(RETRY_MAX)));
            return;
        }
        for (number, worker) in self.report.workers.iter_mut().enumerate() {
            worker.restarts += 1;
            tracing::info!(worker = number, restarts = worker.restarts, "started again");
        }
        // Steering waits until the workers know what they are given.
        let start = Instant::now();
        while self.reached() < self.newest.generation && start.elapsed() < RETRY_FIRST {
            thread::sleep(Duration::from_millis(1));
        }
        if let Err(error) = self.machine.steer(&self.rules) {
            tracing::error!("{error}");
        }
    }

    /// How devices and workers are.
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// Stops all workers, waits for them within bounds, and closes everything.
    pub fn stop(&mut self) {
        for running in &self.running {
            running.stop.store(true, Relaxed);
            (running.alarm)();
        }
        let deadline = Instant::now() + STOP_PATIENCE;
        for (number, running) in self.running.drain(..).enumerate() {
            let worker = &mut self.report.workers[number];
            worker.running = false;
            if let Some(failure) = running.end(deadline) {
                tracing::error!(worker = number, "worker failed: {failure}");
                worker.last_failure = failure;
            }
        }
        self.machine.close();
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Running {
    fn start(
        number: usize,
        cpu: Option<u16>,
        duty: Box<dyn Duty>,
        newest: &Arc<Snapshot>,
        stats: &Arc<WorkerStats>,
    ) -> io::Result<Self> {
        let (snapshots, incoming) = bounded(WAITING);
        // Room for what waits and what is in force, so that the worker never has to free one.
        let (retire, retired) = bounded(WAITING + 2);
        let stop = Arc::new(AtomicBool::new(false));
        let alarm = duty.alarm();
        // Nobody else writes it now: the worker before, if there was one, has ended.
        stats.work.generation.set(0);
        let orders = Orders { incoming, retired: retire, stop: Arc::clone(&stop) };
        let body = move || {
            cpus::pin(cpu);
            match catch_unwind(AssertUnwindSafe(|| duty.run(orders))) {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(format!("its devices failed: {error}")),
                Err(panic) => Err(format!("it panicked: {}", said(panic.as_ref()))),
            }
        };
        let thread = thread::Builder::new().name(format!("xvs-worker-{number}")).spawn(body)?;
        let waiting = Some(Arc::clone(newest));
        let mut running = Self { thread, snapshots, waiting, retired, stop, alarm };
        running.hand_over();
        Ok(running)
    }

    /// Hands over what waits, if there is room.
    fn hand_over(&mut self) {
        self.free_retired();
        let Some(snapshot) = self.waiting.take() else {
            return;
        };
        match self.snapshots.try_send(snapshot) {
            Ok(()) => (self.alarm)(),
            Err(TrySendError::Full(snapshot)) => self.waiting = Some(snapshot),
            // Its end is found by [`Fleet::tend`].
            Err(TrySendError::Disconnected(_)) => {}
        }
    }

    fn free_retired(&self) {
        self.retired.try_iter().for_each(drop);
    }

    /// Waits until the worker has ended; says why, if not because it was told to.
    fn end(self, deadline: Instant) -> Option<String> {
        while !self.thread.is_finished() {
            if Instant::now() >= deadline {
                return Some(format!("it does not stop within {STOP_PATIENCE:?}"));
            }
            thread::sleep(Duration::from_millis(1));
        }
        match self.thread.join() {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure),
            Err(panic) => Some(format!("it panicked: {}", said(panic.as_ref()))),
        }
    }
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no word".to_owned())
}
