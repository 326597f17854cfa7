//! All services that are checked: which probe is due when, and what follows from what they find.
//!
//! Pure: time, chance and what probes find are arguments, so that one seed replays one run.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use dataplane::{
    director::spec::{RealSpec, ServiceKey, Share},
    rng::Rng,
};

use super::{
    group::Group,
    member::{Flows, Judge, Member, Outcome},
    policy::{Check, Policy, port_of},
};
use crate::words::RealName;

/// The first probes of what is new spread over so much time, or over their interval if that is less.
const SPREAD: Duration = Duration::from_secs(1);

/// A probe that runs.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The service.
    pub key: ServiceKey,
    /// Its real server.
    pub real: RealSpec,
    /// Which of its checks.
    pub place: usize,
    /// What to do.
    pub check: Arc<Check>,
    /// To which port; 0 if the check has none.
    pub port: u16,
    /// When it began.
    pub began: (Duration, SystemTime),
}

/// What a service and its real servers are.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The service.
    pub key: ServiceKey,
    /// How it is checked.
    pub policy: Policy,
    /// Its real servers, what the director believes is left of each, and what their flows tell.
    pub reals: Vec<(RealSpec, Share, Flows)>,
    /// Whether the sorry server is in its place.
    pub sorry: bool,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// So much is left of a real server.
    Share {
        /// The service.
        key: ServiceKey,
        /// Its real server.
        real: RealName,
        /// What is left.
        share: Share,
    },
    /// The sorry server comes or goes.
    Standby {
        /// The service.
        key: ServiceKey,
        /// The sorry server.
        spec: RealSpec,
        /// It comes.
        wanted: bool,
    },
    /// Something happened.
    Found(Finding),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The service.
    pub key: ServiceKey,
    /// Its real server, if it is about one.
    pub real: Option<RealName>,
    /// What.
    pub what: What,
    /// Why.
    pub note: String,
}

/// Kinds of what happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A real server came up.
    Up,
    /// A real server went down.
    Down,
    /// Enough real servers are up again.
    QuorumReached,
    /// Too few real servers are up.
    QuorumLost,
    /// All real servers are used, up or not.
    PanicBegan,
    /// Only those that are up are used again.
    PanicEnded,
}

impl What {
    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "is up",
            Self::Down => "is down",
            Self::QuorumReached => "has its quorum",
            Self::QuorumLost => "lost its quorum",
            Self::PanicBegan => "uses all real servers",
            Self::PanicEnded => "uses only what is up",
        }
    }
}

/// All services that are checked.
#[derive(Debug)]
pub struct Board {
    groups: BTreeMap<ServiceKey, Group>,
    /// Due probes in their order.
    queue: BTreeSet<(Duration, ServiceKey, RealName, usize)>,
    /// Services where something happened that was not decided on yet.
    moved: BTreeSet<ServiceKey>,
    /// When time alone changes something.
    wakes: BTreeMap<ServiceKey, Duration>,
    rng: Rng,
}

impl Board {
    /// An empty board.
    pub const fn new(seed: u64) -> Self {
        Self {
            groups: BTreeMap::new(),
            queue: BTreeSet::new(),
            moved: BTreeSet::new(),
            wakes: BTreeMap::new(),
            rng: Rng::from_seed(seed),
        }
    }

    /// The services that are checked.
    pub const fn groups(&self) -> &BTreeMap<ServiceKey, Group> {
        &self.groups
    }

    /// From now on these are checked, and no others. What was known of them stays known, of a check only
    /// if it is the same.
    pub fn set(&mut self, watched: Vec<Watched>, (now, at): (Duration, SystemTime)) {
        let mut old = std::mem::take(&mut self.groups);
        self.queue.clear();
        for Watched { key, policy, reals, sorry } in watched {
            let checks: Vec<_> = policy.checks.iter().cloned().map(Arc::new).collect();
            let mut before = old.remove(&key);
            let mut group = Group::new(policy);
            if let Some(before) = &before {
                (group.quorum, group.panic) = (before.quorum, before.panic);
            }
            group.sorry = sorry;
            for (spec, share, flows) in reals {
                let name = RealName { addr: spec.addr, port: spec.port };
                let known = before.as_mut().and_then(|before| before.members.remove(&name));
                let up = !group.policy.start_down;
                let mut member = known.unwrap_or_else(|| Member::new(spec, up, share, at));
                (member.spec, member.told) = (spec, share);
                // A check that is new begins with what the others have come to.
                let up = member.up;
                self.judge(&mut member, &checks, (up, now));
                if let Some(passive) = &group.policy.passive {
                    member.watch(passive, flows, now);
                }
                for (place, judge) in member.judges.iter().enumerate() {
                    if judge.running.is_none() {
                        self.queue.insert((judge.due, key, name, place));
                    }
                }
                group.members.insert(name, member);
            }
            self.moved.insert(key);
            self.groups.insert(key, group);
        }
    }

    /// Gives a member these checks; what is known of each stays.
    fn judge(&mut self, member: &mut Member, checks: &[Arc<Check>], (up, now): (bool, Duration)) {
        let mut old = std::mem::take(&mut member.judges);
        for check in checks {
            let known = old.iter().position(|judge| judge.check == *check);
            member.judges.push(match known {
                Some(at) => old.swap_remove(at),
                None => {
                    let spread = check.interval.min(SPREAD);
                    Judge::new(check, up, now + self.within(spread))
                }
            });
        }
    }

    /// A time from nothing to `most`.
    fn within(&mut self, most: Duration) -> Duration {
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.rng.below(nanos.saturating_add(1)))
    }

    /// What the flows of a real server tell.
    pub fn watch(&mut self, key: &ServiceKey, name: RealName, flows: Flows, now: Duration) {
        let Some(group) = self.groups.get_mut(key) else { return };
        let (Some(passive), Some(member)) = (&group.policy.passive, group.members.get_mut(&name))
        else {
            return;
        };
        let before = member.is_held(now);
        member.watch(passive, flows, now);
        if member.is_held(now) != before {
            self.moved.insert(*key);
        }
    }

    /// Begins the probes that are due, at most so many; the others wait.
    pub fn begin(&mut self, (now, at): (Duration, SystemTime), most: usize) -> Vec<Probe> {
        let mut probes = Vec::new();
        while probes.len() < most
            && let Some(&(due, key, name, place)) = self.queue.first()
            && due <= now
        {
            self.queue.pop_first();
            let Some(member) = self.groups.get_mut(&key).and_then(|g| g.members.get_mut(&name))
            else {
                continue;
            };
            let Some(judge) = member.judges.get_mut(place) else { continue };
            judge.running = Some(now);
            let check = Arc::clone(&judge.check);
            let port = port_of(&check, &key, &member.spec);
            probes.push(Probe { key, real: member.spec, place, check, port, began: (now, at) });
        }
        probes
    }

    /// Takes in what a probe found, unless what it was about is no longer there.
    pub fn report(&mut self, probe: &Probe, outcome: Outcome) {
        let jitter = probe.check.interval * probe.check.jitter_percent / 100;
        let drift = self.within(jitter * 2);
        let Some(group) = self.groups.get_mut(&probe.key) else { return };
        let name = RealName { addr: probe.real.addr, port: probe.real.port };
        let Some(member) = group.members.get_mut(&name) else { return };
        let (began, at) = probe.began;
        let same =
            |judge: &Judge| judge.running == Some(began) && Arc::ptr_eq(&judge.check, &probe.check);
        // Its place may be another by now, if the policy was edited.
        let Some(place) = member.judges.iter().position(same) else { return };
        let judge = &mut member.judges[place];
        judge.running = None;
        judge.due = (began + probe.check.interval + drift).saturating_sub(jitter);
        self.queue.insert((judge.due, probe.key, name, place));
        member.hear(place, outcome, at);
        self.moved.insert(probe.key);
    }

    /// Decides on everything that happened and on what time brings: what follows.
    pub fn decide(&mut self, (now, at): (Duration, SystemTime)) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut moved = std::mem::take(&mut self.moved);
        moved.extend(self.wakes.iter().filter(|(_, wakes)| **wakes <= now).map(|(key, _)| *key));
        for key in moved {
            self.wakes.remove(&key);
            let Some(group) = self.groups.get_mut(&key) else { continue };
            effects.extend(group.decide(&key, (now, at)));
            if let Some(wakes) = group.wakes(now) {
                self.wakes.insert(key, wakes);
            }
        }
        effects
    }

    /// When there is something to do although nothing happens: a probe is due, or a share changes.
    pub fn next(&self) -> Option<Duration> {
        let due = self.queue.first().map(|(due, ..)| *due);
        due.into_iter().chain(self.wakes.values().copied().min()).min()
    }
}
