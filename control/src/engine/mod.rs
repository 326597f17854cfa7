//! The engine: the desired state, and the way from a change to every worker forwarding by it.
//!
//! A change is checked and made in the director under a lock, which costs microseconds; then the
//! publisher ([`publish`]) is rung, and the change is answered only when the publisher reports that
//! every running worker has reached its generation. Changes that come close together reach the
//! workers as one snapshot. A change that is refused changed nothing.

pub mod apply;
pub mod capture;
pub mod drain;
pub mod events;
pub mod fleet;
pub mod flows;
pub mod health;
pub mod publish;
pub mod rates;
pub mod report;

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use dataplane::{
    clock::{Clock as _, SystemClock},
    director::{
        CAPTURES_MAX, Director,
        spec::{
            Counters, DirectorError, MarkRule, Rates, RealSpec, ServiceInfo, ServiceKey,
            ServiceSpec,
        },
    },
    flow::FlowTable,
    pipeline::evict::Evictor,
    stats::Stats,
};
use tokio::sync::{Notify, watch};

use crate::{
    field::FieldError,
    health::board::Board,
    journal::{Content, Held, Journal, Written},
};

use self::{
    apply::ApplyRefused,
    drain::Drain,
    events::Events,
    rates::RateTable,
    report::{Info, Report},
};

/// How long a change waits for the workers. A worker takes a snapshot over between two bursts, so
/// only one that is stuck, or a machine that is overloaded, needs longer than milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Why locks are never poisoned.
const UNPOISONED: &str = "nothing panics under the lock: changes are checked before they are made";

/// The desired state and who waits for it.
#[derive(Debug)]
pub struct Engine {
    state: Mutex<State>,
    /// Rung after each change.
    changed: Notify,
    /// The generation that every running worker has reached.
    in_force: watch::Sender<u64>,
    /// Where the workers count.
    stats: Stats,
    /// Where the workers keep flows.
    table: Arc<FlowTable>,
    /// Ends flows before their time.
    evictor: Mutex<Evictor>,
    /// What health checks know.
    board: Mutex<Board>,
    /// The configuration that they go by.
    followed: Mutex<Option<u64>>,
    /// Where their time begins.
    epoch: Instant,
    /// Rung after each change, for health checks.
    policies_changed: Notify,
    /// What happens, told.
    events: Events,
    info: Info,
    report: watch::Sender<Report>,
}

/// What the lock guards.
#[derive(Debug)]
pub struct State {
    /// The desired state.
    pub director: Director,
    /// Rates of everything in it.
    rates: RateTable,
    /// Where the workers count.
    stats: Stats,
    /// Where the counters of the whole box stood when they were set to zero.
    zero: Counters,
    /// Real servers that drain or have been drained.
    drains: Vec<Drain>,
    /// Where every change is written before it is answered, if asked for.
    journal: Option<Journal>,
    /// How the real servers of services are checked.
    policies: health::Policies,
    /// The generation of the last change that somebody asked for; later ones are the network's and
    /// the health checks'.
    configured: u64,
}

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// IPVS's rules refuse it. Nothing was changed.
    #[error(transparent)]
    Director(#[from] DirectorError),
    /// A whole configuration was refused. Nothing was changed.
    #[error(transparent)]
    Apply(#[from] ApplyRefused),
    /// A policy of health checks makes no sense; the field by its path in the policy. Nothing was
    /// changed.
    #[error("{0}")]
    Policy(FieldError),
    /// Somebody else changed something meanwhile. Nothing was changed.
    #[error(
        "the configuration is of generation {present}, not {expected}: somebody else changed it"
    )]
    Generation {
        /// What the request was based on.
        expected: u64,
        /// What is.
        present: u64,
    },
    /// A worker is stuck. The change was made and reaches it as soon as it can.
    #[error(
        "generation {wanted} was made, but after {seconds} s a worker still forwards by {reached}"
    )]
    WorkersLate {
        /// The change's generation.
        wanted: u64,
        /// What every worker has reached.
        reached: u64,
        /// How long was waited.
        seconds: u64,
    },
    /// The journal cannot be written. The change is in force, but may be lost with the daemon.
    #[error("the change is in force, but not in the journal: {0}")]
    Journal(String),
    /// There are as many captures as there can be.
    #[error("{CAPTURES_MAX} captures run already")]
    TooManyCaptures,
    /// The real server does not drain.
    #[error("No such drain")]
    NoSuchDrain,
    /// The daemon is about to end.
    #[error("the daemon is stopping")]
    Stopping,
}

impl Engine {
    /// An engine around a director, which the workers have not seen yet, and what they share.
    ///
    /// # Panics
    ///
    /// Somebody else has control's place in the table.
    pub fn new(director: Director, stats: Stats, table: Arc<FlowTable>) -> Self {
        let state = State {
            director,
            rates: RateTable::default(),
            stats: stats.clone(),
            zero: Counters::default(),
            drains: Vec::new(),
            journal: None,
            policies: health::Policies::new(),
            configured: 0,
        };
        let endpoints = Arc::clone(state.director.endpoints());
        let seed = SystemClock.nanos();
        let evictor = Evictor::new(Arc::clone(&table), endpoints, seed)
            .expect("control's place in the table is the engine's");
        Self {
            state: Mutex::new(state),
            changed: Notify::new(),
            in_force: watch::Sender::new(0),
            stats,
            info: Info::new(&table),
            evictor: Mutex::new(evictor),
            board: Mutex::new(Board::new(seed)),
            followed: Mutex::new(None),
            epoch: Instant::now(),
            policies_changed: Notify::new(),
            events: Events::default(),
            table,
            report: watch::Sender::new(Report::default()),
        }
    }

    /// The state, to look at or to change; nothing may wait while it is held.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(UNPOISONED)
    }

    /// Makes a change and waits until every running worker forwards by it and the journal has it.
    /// Returns the generation and what the change returned.
    ///
    /// # Errors
    ///
    /// What the change was refused for, or [`EngineError::WorkersLate`], or
    /// [`EngineError::Journal`].
    pub async fn change<T, E: Into<EngineError>>(
        &self,
        edit: impl FnOnce(&mut State) -> Result<T, E>,
    ) -> Result<(u64, T), EngineError> {
        let (generation, value, noted) = {
            let mut state = self.lock();
            let before = state.director.generation();
            let value = edit(&mut state).map_err(Into::into)?;
            if state.director.generation() != before {
                state.prune_policies();
                state.configured = state.director.generation();
            }
            (state.director.generation(), value, state.note())
        };
        self.changed.notify_one();
        self.policies_changed.notify_one();
        self.reached(generation).await?;
        if let Some((number, written)) = noted {
            on_disk(number, written).await?;
        }
        Ok((generation, value))
    }

    /// Waits until every running worker forwards by the present state.
    ///
    /// # Errors
    ///
    /// [`EngineError::WorkersLate`].
    pub async fn settled(&self) -> Result<(), EngineError> {
        let generation = self.lock().director.generation();
        self.reached(generation).await
    }

    /// Waits until every running worker has reached a generation.
    async fn reached(&self, wanted: u64) -> Result<(), EngineError> {
        let mut in_force = self.in_force.subscribe();
        let reached = in_force.wait_for(|generation| *generation >= wanted);
        match tokio::time::timeout(PATIENCE, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_closed)) => Err(EngineError::Stopping),
            Err(_elapsed) => {
                let reached = *self.in_force.borrow();
                Err(EngineError::WorkersLate { wanted, reached, seconds: PATIENCE.as_secs() })
            }
        }
    }

    /// Where the workers count.
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Where the workers keep flows.
    pub const fn table(&self) -> &Arc<FlowTable> {
        &self.table
    }

    /// Control's hand on flows; work done with it is not to be done on a thread that others need.
    fn evictor(&self) -> MutexGuard<'_, Evictor> {
        self.evictor.lock().expect(UNPOISONED)
    }

    /// What is fixed at the start.
    pub const fn info(&self) -> &Info {
        &self.info
    }

    /// How devices and workers are, followed live.
    pub fn report(&self) -> watch::Receiver<Report> {
        self.report.subscribe()
    }

    /// Replaces what is told about devices and workers.
    pub fn set_report(&self, report: &Report) {
        self.report.send_if_modified(|told| {
            let changed = told != report;
            if changed {
                self.tell_workers(told, report);
                told.clone_from(report);
            }
            changed
        });
    }

    /// The generation that every running worker has reached.
    pub fn in_force(&self) -> u64 {
        *self.in_force.borrow()
    }
}

/// Waits until a record of the journal is on the disk.
async fn on_disk(number: u64, mut written: watch::Receiver<Written>) -> Result<(), EngineError> {
    let written = written.wait_for(|written| written.sequence >= number).await;
    let written = written.map_err(|_closed| EngineError::Stopping)?;
    match &written.broken {
        Some((first, error)) if *first <= number => Err(EngineError::Journal(error.clone())),
        _ => Ok(()),
    }
}

impl State {
    /// Writes every change from now on into a journal.
    pub fn keep(&mut self, journal: Journal) {
        self.journal = Some(journal);
    }

    /// Whether changes are written into a journal.
    pub const fn is_journaled(&self) -> bool {
        self.journal.is_some()
    }

    /// The configuration that comes next is a file's, with this sum.
    pub const fn set_base(&mut self, base: u64) {
        if let Some(journal) = &mut self.journal {
            journal.set_base(base);
        }
    }

    /// All that a journal keeps.
    pub fn content(&self) -> Content {
        let held = self.drains.iter().map(|drain| Held {
            key: drain.spec.key,
            real: drain.spec.real,
            templates: drain.spec.templates,
        });
        Content { desired: self.desired(), held: held.collect() }
    }

    /// Hands what has changed to the journal: the number of its record, and where to wait for it.
    fn note(&mut self) -> Option<(u64, watch::Receiver<Written>)> {
        self.journal.as_ref()?;
        let content = self.content();
        let journal = self.journal.as_mut()?;
        Some((journal.note(content)?, journal.written()))
    }

    /// All services with their rates, and the generation they are of.
    pub fn services(&self) -> (u64, Vec<ServiceInfo>) {
        let mut services = self.director.services();
        for service in &mut services {
            self.rates.fill(service);
        }
        (self.director.generation(), services)
    }

    /// One service with its rates, and the generation it is of.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn service(&self, key: &ServiceKey) -> Result<(u64, ServiceInfo), DirectorError> {
        let mut service = self.director.get_service(key)?;
        self.rates.fill(&mut service);
        Ok((self.director.generation(), service))
    }

    /// Adds a service.
    ///
    /// # Errors
    ///
    /// As [`Director::add_service`].
    pub fn add_service(&mut self, spec: &ServiceSpec) -> Result<(), DirectorError> {
        self.director.add_service(spec)?;
        self.begin_rates(&spec.key)
    }

    /// Replaces the rules of marks.
    ///
    /// # Errors
    ///
    /// As [`Director::set_mark_rules`], with the place of the rule at fault.
    pub fn set_mark_rules(&mut self, rules: Vec<MarkRule>) -> Result<(), ApplyRefused> {
        Director::check_mark_rules(&rules)
            .map_err(|(at, error)| ApplyRefused::MarkRule { at, error })?;
        let set = self.director.set_mark_rules(rules);
        set.map_err(|error| ApplyRefused::MarkRule { at: 0, error })
    }

    /// Adds a real server.
    ///
    /// # Errors
    ///
    /// As [`Director::add_real`].
    pub fn add_real(&mut self, key: &ServiceKey, spec: &RealSpec) -> Result<(), DirectorError> {
        self.director.add_real(key, spec)?;
        self.shade(key, (spec.addr, spec.port));
        self.begin_rates(key)
    }

    fn begin_rates(&mut self, key: &ServiceKey) -> Result<(), DirectorError> {
        self.rates.begin(&self.director.get_service(key)?);
        Ok(())
    }

    /// Sets counters and rates to zero: of a service with its real servers, or of everything.
    ///
    /// # Errors
    ///
    /// There is no such service.
    pub fn zero(&mut self, key: Option<&ServiceKey>) -> Result<(), DirectorError> {
        self.director.zero(key)?;
        if let Some(key) = key {
            self.rates.restart(&self.director.get_service(key)?);
            return Ok(());
        }
        for service in self.director.services() {
            self.rates.restart(&service);
        }
        self.zero = self.director.counted_total();
        self.rates.restart_totals();
        Ok(())
    }

    /// Counters and rates of the whole box, since they were set to zero.
    pub fn totals(&self) -> (Counters, Rates) {
        let now = self.director.counted_total();
        (now.since(self.zero), self.rates.totals())
    }

    /// One [`crate::estimator::PERIOD`] is over. Without `run_estimation` rates stay as they are.
    pub fn step_rates(&mut self) {
        if !self.director.estimates_rates() {
            return;
        }
        let (totals, _) = self.totals();
        self.rates.step(&self.director, &totals);
    }
}
