//! Drains: a real server gets no new flows, the old ones live on until they end or a deadline comes.
//!
//! What a drain asks of the packet path is a [`Hold`] on the real server: its weight counts as 0, and
//! if asked for, templates no longer send flows there. How many flows are left is known exactly at
//! any time from its load; in which states they are, from a look at the flow table, at most once a
//! second and never for more than a tenth of the time. Connections that are over and only wait for
//! late packets (TIME_WAIT, CLOSE) are not waited for. The hold stays when the drain is over, until it
//! is cancelled or the real server is removed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime},
};

use dataplane::{
    clock::{Clock as _, SystemClock},
    director::spec::{Hold, ServiceKey},
    endpoint::EndpointId,
    flow::{
        FlowView, flag,
        state::{state_name, template_state_name},
    },
};
use tokio::sync::watch;

use super::{Engine, EngineError, State, events::Event};
use crate::words::RealName;

/// How often drains are looked after.
const TEND: Duration = Duration::from_millis(100);

/// Least time between two looks at the states of flows.
const LOOK: Duration = Duration::from_secs(1);

/// A look at the states of flows that took so long is repeated only after this many times as long.
const LOOK_SHARE: u32 = 10;

/// TCP's states of connections that are over: they wait for late packets, and for nothing else.
const OVER: [&str; 2] = ["TIME_WAIT", "CLOSE"];

/// What to do with the flows that are left at the deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DrainEnd {
    /// Leave them alone.
    #[default]
    Keep,
    /// End them.
    Reset,
    /// Hand them to other real servers.
    Reschedule,
}

/// How far a drain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Flows are left and the deadline has not come.
    Draining,
    /// No flow was left before the deadline came.
    Drained,
    /// The deadline came and its end was done.
    Expired,
    /// It was cancelled.
    Cancelled,
    /// The real server or its service was removed.
    Removed,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainSpec {
    /// The service.
    pub key: ServiceKey,
    /// Its real server.
    pub real: RealName,
    /// How long flows may take to end; `None`: without end.
    pub deadline: Option<Duration>,
    /// What to do then.
    pub end: DrainEnd,
    /// Templates are told too.
    pub templates: bool,
}

/// Flows in each state: protocol, state, how many.
pub type States = Vec<(u8, &'static str, u64)>;

/// One drain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// What was asked for.
    pub spec: DrainSpec,
    /// How far it is.
    pub phase: Phase,
    /// When it began.
    pub started_at: SystemTime,
    /// When the deadline comes.
    pub deadline_at: Option<SystemTime>,
    /// Flows left that count as active, the others, and templates.
    pub left: (u32, u32, u32),
    /// Flows left by state, as of the last look.
    pub states: States,
    /// Flows that the end reset.
    pub reset: u64,
    /// Flows that the end moved.
    pub moved: u64,
    id: EndpointId,
    due: Option<Instant>,
}

impl Drain {
    /// Whether it goes on.
    pub fn is_running(&self) -> bool {
        self.phase == Phase::Draining
    }

    /// Whether every flow that is left is over. Flows were looked at a while ago, but no new ones
    /// come, and what is over does not live again.
    fn only_over(&self) -> bool {
        let known: u64 = self.states.iter().map(|(_, _, flows)| flows).sum();
        let over = self.states.iter().all(|(_, state, _)| OVER.contains(state));
        over && u64::from(self.left.0) + u64::from(self.left.1) <= known
    }

    /// Whether the deadline has come.
    fn is_late(&self) -> bool {
        self.due.is_some_and(|due| due <= Instant::now())
    }

    /// Whether this is about that real server.
    fn is_of(&self, key: &ServiceKey, real: RealName) -> bool {
        self.spec.key == *key && self.spec.real == real
    }
}

impl State {
    /// Begins a drain, or sets the one that runs anew.
    ///
    /// # Errors
    ///
    /// No such service or real server.
    pub fn drain(&mut self, spec: DrainSpec) -> Result<Drain, EngineError> {
        let name = (spec.real.addr, spec.real.port);
        let id = self.director.real_endpoint(&spec.key, name)?;
        let hold = Hold { weight: true, templates: spec.templates };
        self.director.hold_real(&spec.key, name, hold)?;
        let now = SystemTime::now();
        let before = self.drains.iter().position(|drain| drain.is_of(&spec.key, spec.real));
        let before = before.map(|at| self.drains.remove(at));
        let drain = Drain {
            spec,
            phase: Phase::Draining,
            started_at: before.map_or(now, |drain| drain.started_at),
            deadline_at: spec.deadline.map(|deadline| now + deadline),
            left: self.left(id),
            states: Vec::new(),
            reset: 0,
            moved: 0,
            id,
            due: spec.deadline.map(|deadline| Instant::now() + deadline),
        };
        self.drains.push(drain.clone());
        Ok(drain)
    }

    /// Ends a drain: the real server takes new flows again.
    ///
    /// # Errors
    ///
    /// There is none of this real server.
    pub fn cancel_drain(&mut self, key: &ServiceKey, real: RealName) -> Result<Drain, EngineError> {
        let at = self.drains.iter().position(|drain| drain.is_of(key, real));
        let at = at.ok_or(EngineError::NoSuchDrain)?;
        self.director.hold_real(key, (real.addr, real.port), Hold::default())?;
        Ok(Drain { phase: Phase::Cancelled, ..self.drains.remove(at) })
    }

    /// Those that run or are over but hold.
    pub fn drains(&self) -> &[Drain] {
        &self.drains
    }

    /// The drain of a real server.
    pub fn drain_of(&self, key: &ServiceKey, real: RealName) -> Option<&Drain> {
        self.drains.iter().find(|drain| drain.is_of(key, real))
    }

    fn left(&self, id: EndpointId) -> (u32, u32, u32) {
        let load = &self.director.endpoints().get(id).load;
        (load.active.load(Relaxed), load.inactive.load(Relaxed), load.persistent.load(Relaxed))
    }

    /// Brings all drains up to date; returns those that changed, and those whose deadline came.
    fn step_drains(&mut self) -> (Vec<Drain>, Vec<Drain>) {
        let (mut changed, mut due) = (Vec::new(), Vec::new());
        let mut drains = std::mem::take(&mut self.drains);
        drains.retain_mut(|drain| {
            let before = (drain.phase, drain.left);
            let (key, real) = (&drain.spec.key, drain.spec.real);
            drain.left = self.left(drain.id);
            let there = self.director.real_endpoint(key, (real.addr, real.port));
            if there != Ok(drain.id) {
                drain.phase = Phase::Removed;
            } else if drain.is_running() && drain.left.0 + drain.left.1 == 0 {
                drain.phase = Phase::Drained;
                drain.states.clear();
            } else if drain.is_running() && drain.is_late() {
                due.push(drain.clone());
            } else if drain.is_running() && drain.only_over() {
                match drain.spec.end {
                    DrainEnd::Keep => drain.phase = Phase::Drained,
                    DrainEnd::Reset | DrainEnd::Reschedule => due.push(drain.clone()),
                }
            }
            if before != (drain.phase, drain.left) {
                changed.push(drain.clone());
            }
            drain.phase != Phase::Removed
        });
        self.drains = drains;
        (changed, due)
    }

    /// The drain that was asked for just so, if it still runs.
    fn running(&mut self, asked: &Drain) -> Option<&mut Drain> {
        let same = |drain: &&mut Drain| {
            drain.is_running() && (drain.id, drain.due) == (asked.id, asked.due)
        };
        self.drains.iter_mut().find(same)
    }
}

impl Engine {
    /// Begins a drain, or sets the one that runs anew; every worker heeds it when this returns.
    ///
    /// # Errors
    ///
    /// As [`State::drain`], or [`EngineError::WorkersLate`].
    pub async fn drain(&self, spec: DrainSpec) -> Result<(u64, Drain), EngineError> {
        let (generation, drain) = self.change(|state| state.drain(spec)).await?;
        self.events.tell(Event::Drain(drain.clone()));
        Ok((generation, drain))
    }

    /// Ends a drain.
    ///
    /// # Errors
    ///
    /// As [`State::cancel_drain`], or [`EngineError::WorkersLate`].
    pub async fn cancel_drain(&self, key: &ServiceKey, real: RealName) -> Result<u64, EngineError> {
        let (generation, drain) = self.change(|state| state.cancel_drain(key, real)).await?;
        self.events.tell(Event::Drain(drain));
        Ok(generation)
    }

    /// Looks after all drains until `stop` says so.
    pub(super) async fn tend_drains(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut tick = tokio::time::interval(TEND);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut looked_at, mut took) = (Instant::now(), Duration::ZERO);
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                _ = tick.tick() => {}
            }
            let (changed, due) = self.lock().step_drains();
            for drain in changed {
                self.events.tell(Event::Drain(drain));
            }
            for drain in due {
                self.end_drain(drain).await;
            }
            let drains = self.lock().drains.clone();
            let new = drains.iter().any(|drain| drain.is_running() && drain.states.is_empty());
            let pause = if new { Duration::ZERO } else { LOOK };
            if looked_at.elapsed() >= pause.max(took * LOOK_SHARE) {
                took = self.look_at_states().await;
                looked_at = Instant::now();
            }
        }
    }

    /// Looks in which states the flows of draining real servers are; says how long that took.
    async fn look_at_states(self: &Arc<Self>) -> Duration {
        let wanted: Vec<_> = {
            let state = self.lock();
            state.drains.iter().filter(|drain| drain.is_running()).map(|d| d.id).collect()
        };
        let engine = Arc::clone(self);
        let look = move || {
            engine.evictor().tend();
            let started = Instant::now();
            (engine.states_of(&wanted), started.elapsed())
        };
        let Ok((states, took)) = tokio::task::spawn_blocking(look).await else {
            return LOOK;
        };
        for (id, states) in states {
            let mut state = self.lock();
            let running = state.drains.iter_mut().find(|d| d.is_running() && d.id == id);
            if let Some(drain) = running.filter(|drain| drain.states != states) {
                drain.states = states;
                self.events.tell(Event::Drain(drain.clone()));
            }
        }
        took
    }

    /// Flows by state at each of these real servers.
    fn states_of(&self, ids: &[EndpointId]) -> Vec<(EndpointId, States)> {
        let mut counts: HashMap<_, BTreeMap<_, u64>> =
            ids.iter().map(|id| (*id, BTreeMap::new())).collect();
        if !ids.is_empty() {
            for view in self.table().flows(0).filter(|view| !view.control.has(flag::TEMPLATE)) {
                if let Some(counts) = counts.get_mut(&view.real) {
                    *counts.entry((view.protocol, name(&view))).or_default() += 1;
                }
            }
        }
        let states = |counts: BTreeMap<(u8, &'static str), u64>| {
            counts.into_iter().map(|((protocol, name), count)| (protocol, name, count)).collect()
        };
        counts.into_iter().map(|(id, counts)| (id, states(counts))).collect()
    }

    /// The deadline came, or only connections that are over are left: does what was asked for.
    async fn end_drain(self: &Arc<Self>, drain: Drain) {
        let engine = Arc::clone(self);
        let late = drain.is_late();
        let asked = drain.clone();
        let ended = tokio::task::spawn_blocking(move || engine.carry_out(&asked)).await;
        let (reset, moved) = ended.unwrap_or_default();
        let mut state = self.lock();
        let left = state.left(drain.id);
        let Some(drain) = state.running(&drain) else { return };
        drain.phase = if late { Phase::Expired } else { Phase::Drained };
        (drain.left, drain.reset, drain.moved) = (left, reset, moved);
        if left.0 + left.1 == 0 {
            drain.states.clear();
        }
        self.events.tell(Event::Drain(drain.clone()));
    }

    /// Ends or moves the flows that are left; says how many of each.
    fn carry_out(&self, drain: &Drain) -> (u64, u64) {
        if drain.spec.end == DrainEnd::Keep {
            return (0, 0);
        }
        let mine = |view: &FlowView| {
            let template = view.control.has(flag::TEMPLATE);
            view.real == drain.id && (!template || drain.spec.templates)
        };
        let flows: Vec<_> = self.table().flows(0).filter(mine).map(|view| view.id).collect();
        let now = SystemClock.now();
        let snapshot = self.lock().director.compile();
        if drain.spec.end == DrainEnd::Reset || !drain.is_late() {
            return (self.evictor().end(&flows, &snapshot, now) as u64, 0);
        }
        let moved = self.evictor().reschedule(&flows, &snapshot, now);
        (moved.ended as u64, moved.moved as u64)
    }
}

/// The state of a flow.
pub(super) fn name(view: &FlowView) -> &'static str {
    let state = view.control.state();
    if view.control.has(flag::TEMPLATE) {
        template_state_name(state != 0)
    } else {
        state_name(view.protocol, state)
    }
}
