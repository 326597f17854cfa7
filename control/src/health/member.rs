//! One real server as its checks have found it.
//!
//! Pure: what happened and when are arguments.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use dataplane::director::spec::{RealSpec, Share};

use super::policy::{Check, OnDown, Passive, Policy};

/// Steps in which a weight grows to its whole.
const RAMP_STEPS: u32 = 20;

/// A real server that stays up for so many of its last holds is forgiven: the next begins anew.
const FORGIVEN_AFTER: u32 = 4;

/// The longest hold of the passive check.
const HOLD_MAX: Duration = Duration::from_secs(3600);

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it passed.
    pub passed: bool,
    /// What was found, in words: "HTTP 200", "connection refused".
    pub note: String,
    /// How long that took.
    pub took: Duration,
    /// What an agent advises.
    pub advice: Advice,
}

/// What an agent advises; what it does not mention stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// Percent of the weight.
    pub percent: Option<u32>,
    /// Whether to keep new flows away.
    pub drain: Option<bool>,
}

/// One check of one real server.
#[derive(Clone, Debug)]
pub struct Judge {
    /// What is checked.
    pub check: Arc<Check>,
    /// What it has come to.
    pub up: bool,
    /// Probes one after the other that say otherwise.
    pub against: u32,
    /// What the last probe found, and when it began.
    pub last: Option<(Outcome, SystemTime)>,
    /// Probes so far that passed and failed.
    pub probes: (u64, u64),
    /// When the next probe is due.
    pub due: Duration,
    /// Since when the present one runs.
    pub running: Option<Duration>,
}

impl Judge {
    pub(super) fn new(check: &Arc<Check>, up: bool, due: Duration) -> Self {
        let check = Arc::clone(check);
        Self { check, up, against: 0, last: None, probes: (0, 0), due, running: None }
    }

    /// Takes in what a probe found.
    fn hear(&mut self, outcome: Outcome, at: SystemTime) {
        let passed = outcome.passed;
        let (good, bad) = &mut self.probes;
        *(if passed { good } else { bad }) += 1;
        self.last = Some((outcome, at));
        if passed == self.up {
            self.against = 0;
            return;
        }
        self.against += 1;
        let enough = if passed { self.check.rise } else { self.check.fall };
        if self.against >= enough {
            (self.up, self.against) = (passed, 0);
        }
    }

    /// Why it fails.
    fn complaint(&self) -> String {
        let found = self.last.as_ref().map_or("not checked yet", |(last, _)| last.note.as_str());
        format!("{}: {found}", self.check.kind.name())
    }
}

/// What the flows of a real server tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flows {
    /// Connections accepted so far.
    pub accepted: u64,
    /// Connections without an answer or refused so far.
    pub failed: u64,
}

/// What the passive check remembers.
#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    before: Option<Flows>,
    /// Failed with none accepted between.
    failures: u64,
    until: Option<Duration>,
    hold: Duration,
}

/// One real server.
#[derive(Clone, Debug)]
pub struct Member {
    /// As it is asked for.
    pub spec: RealSpec,
    /// Its checks, in the policy's order.
    pub judges: Vec<Judge>,
    /// Whether it is up.
    pub up: bool,
    /// Since when.
    pub since: SystemTime,
    /// What speaks against it.
    pub complaints: Vec<String>,
    /// When its weight began to grow.
    ramp: Option<Duration>,
    /// What its agent advised last.
    percent: u32,
    drained: bool,
    watched: Watched,
    /// What the director was told.
    pub told: Share,
}

impl Member {
    pub(super) fn new(spec: RealSpec, up: bool, told: Share, at: SystemTime) -> Self {
        Self {
            spec,
            judges: Vec::new(),
            up,
            since: at,
            complaints: Vec::new(),
            ramp: None,
            percent: 100,
            drained: false,
            watched: Watched::default(),
            told,
        }
    }

    /// Takes in what a probe of the check at `place` found.
    pub(super) fn hear(&mut self, place: usize, outcome: Outcome, at: SystemTime) {
        let Advice { percent, drain } = outcome.advice;
        self.percent = percent.unwrap_or(self.percent).min(100);
        self.drained = drain.unwrap_or(self.drained);
        if let Some(judge) = self.judges.get_mut(place) {
            judge.hear(outcome, at);
        }
    }

    /// Takes in what its flows tell.
    pub(super) fn watch(&mut self, passive: &Passive, flows: Flows, now: Duration) {
        let watched = &mut self.watched;
        let Some(before) = watched.before.replace(flows) else { return };
        if watched.until.is_some_and(|until| now < until) {
            return;
        }
        if flows.accepted != before.accepted {
            watched.failures = 0;
        } else {
            watched.failures += flows.failed.saturating_sub(before.failed);
        }
        if watched.failures < u64::from(passive.failures) {
            return;
        }
        let recent = watched.until.is_some_and(|until| now < until + watched.hold * FORGIVEN_AFTER);
        let hold = if recent { watched.hold.saturating_mul(2).min(HOLD_MAX) } else { passive.hold };
        (watched.failures, watched.hold, watched.until) = (0, hold, Some(now + hold));
    }

    /// Whether its flows speak against it.
    pub(super) fn is_held(&self, now: Duration) -> bool {
        self.watched.until.is_some_and(|until| now < until)
    }

    /// Decides anew whether it is up; says why if that changed.
    pub(super) fn decide(
        &mut self,
        policy: &Policy,
        now: Duration,
        at: SystemTime,
    ) -> Option<String> {
        let failing = self.judges.iter().filter(|judge| !judge.up).map(Judge::complaint);
        let held = self.is_held(now).then(|| "its connections are not accepted".to_owned());
        self.complaints = failing.chain(held).collect();
        let up = self.complaints.is_empty();
        if up == self.up {
            return None;
        }
        (self.up, self.since) = (up, at);
        self.ramp = Some(now).filter(|_| up && !policy.slow_start.is_zero());
        Some(if up { self.praise() } else { self.complaints.join("; ") })
    }

    /// What its checks say.
    fn praise(&self) -> String {
        let said = self.judges.iter().map(Judge::complaint).collect::<Vec<_>>();
        if said.is_empty() { "it is tried again".to_owned() } else { said.join("; ") }
    }

    /// Percent of its weight that its slow start and its agent leave.
    pub(super) fn percent(&mut self, policy: &Policy, now: Duration) -> u32 {
        if self.drained {
            return 0;
        }
        let Some(began) = self.ramp else { return self.percent };
        let step = policy.slow_start / RAMP_STEPS;
        let steps = now.saturating_sub(began).as_nanos() / step.as_nanos().max(1);
        if steps >= u128::from(RAMP_STEPS) {
            self.ramp = None;
            return self.percent;
        }
        let steps = u32::try_from(steps).unwrap_or(RAMP_STEPS).max(1);
        (self.percent * steps / RAMP_STEPS).max(u32::from(self.percent > 0))
    }

    /// When its share changes without anything happening.
    pub(super) fn wakes(&self, policy: &Policy, now: Duration) -> Option<Duration> {
        let ramp = self.ramp.map(|began| {
            let step = (policy.slow_start / RAMP_STEPS).max(Duration::from_millis(1));
            let steps = now.saturating_sub(began).as_nanos() / step.as_nanos();
            began + step * (u32::try_from(steps).unwrap_or(RAMP_STEPS) + 1)
        });
        let held = self.watched.until.filter(|until| now < *until);
        ramp.into_iter().chain(held).min()
    }

    /// What is left of a real server that is down.
    #[must_use]
    pub const fn down(on_down: OnDown) -> Share {
        Share { percent: 0, templates: false, present: matches!(on_down, OnDown::Inhibit) }
    }
}
