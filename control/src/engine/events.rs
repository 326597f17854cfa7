//! What happens: told to whoever watches, in order.
//!
//! Telling never waits: a watcher that does not keep up loses the oldest events and learns that it
//! did, so that it asks for everything anew.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

use dataplane::director::{Applied, spec::ServiceKey};
use tokio::sync::broadcast;

use super::{
    Engine, State,
    apply::{
        Change, changed_locals, changed_mark_rules, changed_policy, changed_setting,
        changed_timeouts, described,
    },
    drain::Drain,
    report::Report,
};
use crate::{config::Desired, health::board::Finding, words::RealName};

/// Events that a watcher may lag behind; what comes then pushes out the oldest.
const WAITING: usize = 1024;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Another configuration is in force.
    Configuration {
        /// The generation it led to.
        generation: u64,
        /// What changed.
        changes: Vec<Change>,
    },
    /// A drain began, went on or ended.
    Drain(Drain),
    /// A health check found something.
    Health(Finding),
    /// A real server crossed a threshold.
    Overload {
        /// The service.
        key: ServiceKey,
        /// The real server.
        real: RealName,
        /// Whether it takes no new flows for that reason.
        overloaded: bool,
        /// Its flows.
        flows: u32,
    },
    /// A worker failed or works again.
    Worker {
        /// Its number.
        worker: u32,
        /// Whether it forwards.
        running: bool,
        /// How often it was started again.
        restarts: u64,
        /// Why it failed last.
        failure: String,
    },
}

/// An event and when it happened.
#[derive(Clone, Debug)]
pub struct Happened {
    /// When.
    pub at: SystemTime,
    /// What.
    pub event: Event,
}

/// The channel of all events.
#[derive(Debug)]
pub(super) struct Events(broadcast::Sender<Arc<Happened>>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(WAITING))
    }
}

impl Events {
    pub(super) fn tell(&self, event: Event) {
        // An error says that nobody watches.
        self.0.send(Arc::new(Happened { at: SystemTime::now(), event })).ok();
    }

    fn watched(&self) -> bool {
        self.0.receiver_count() > 0
    }
}

/// What was told last, so that only differences are.
#[derive(Debug, Default)]
pub(super) struct Told {
    desired: Desired,
    overloaded: HashMap<(ServiceKey, RealName), bool>,
}

impl Engine {
    /// Everything that happens from now on.
    pub fn watch(&self) -> broadcast::Receiver<Arc<Happened>> {
        self.events.0.subscribe()
    }

    /// Tells what differs in the configuration from what was told last.
    pub(super) fn tell_configuration(&self, told: &mut Told) {
        let (generation, now) = {
            let state = self.lock();
            (state.director.generation(), state.desired())
        };
        if now == told.desired {
            return;
        }
        let changes = differences(&told.desired, &now);
        told.desired = now;
        self.events.tell(Event::Configuration { generation, changes });
    }

    /// Tells which real servers crossed a threshold; looks only if somebody watches.
    pub(super) fn tell_overload(&self, told: &mut Told) {
        if !self.events.watched() {
            told.overloaded.clear();
            return;
        }
        let limited = self.lock().director.limited_reals();
        let mut now = HashMap::with_capacity(limited.len());
        for (key, (addr, port), overloaded, flows) in limited {
            let real = RealName { addr, port };
            now.insert((key, real), overloaded);
            let before = told.overloaded.get(&(key, real)).copied().unwrap_or(false);
            if overloaded != before {
                self.events.tell(Event::Overload { key, real, overloaded, flows });
            }
        }
        told.overloaded = now;
    }

    /// Tells which workers stopped or started.
    pub(super) fn tell_workers(&self, before: &Report, now: &Report) {
        for (number, worker) in (0..).zip(&now.workers) {
            let was = before.workers.get(number as usize);
            let same = was.is_some_and(|was| {
                (was.running, was.restarts) == (worker.running, worker.restarts)
            });
            if !same {
                self.events.tell(Event::Worker {
                    worker: number,
                    running: worker.running,
                    restarts: worker.restarts,
                    failure: worker.last_failure.clone(),
                });
            }
        }
    }
}

impl State {
    /// Everything that is asked for now.
    pub fn desired(&self) -> Desired {
        let settings = self.director.settings();
        Desired {
            services: self.director.desired(),
            timeouts: Some(self.director.timeouts()),
            settings: settings.iter().map(|&(name, value)| (name.to_owned(), value)).collect(),
            mark_rules: Some(self.director.mark_rules().to_vec()),
            locals: Some(self.director.locals().clone()),
            policies: Some(self.policies.clone()),
        }
    }
}

/// What was changed to get from one configuration to another.
fn differences(before: &Desired, now: &Desired) -> Vec<Change> {
    let mut changes = Vec::new();
    for (name, value) in &now.settings {
        let was = before.settings.iter().find(|(known, was)| known == name && was != value);
        changes.extend(was.map(|(_, was)| changed_setting(name, *value, *was)));
    }
    if let (Some(was), Some(then)) = (before.timeouts, now.timeouts)
        && was != then
    {
        changes.push(changed_timeouts(&then, &was));
    }
    if let (Some(was), Some(then)) = (&before.mark_rules, &now.mark_rules)
        && was != then
    {
        changes.push(changed_mark_rules(then, was));
    }
    if let (was, Some(then)) = (&before.locals, &now.locals)
        && was.clone().unwrap_or_default() != *then
    {
        changes.push(changed_locals(then));
    }
    let mut applied = Applied::default();
    let old: HashMap<_, _> =
        before.services.iter().map(|(spec, reals)| (spec.key, (spec, reals))).collect();
    let mut kept = 0;
    for (spec, reals) in &now.services {
        let was = old.get(&spec.key);
        kept += usize::from(was.is_some());
        match was {
            None => applied.services_added.push(spec.key),
            Some((was, _)) if *was != spec => applied.services_edited.push(spec.key),
            Some(_) => {}
        }
        let mut before: HashMap<_, _> = was
            .iter()
            .flat_map(|(_, reals)| reals.iter())
            .map(|real| ((real.addr, real.port), real))
            .collect();
        for real in reals {
            let name = (spec.key, real.addr, real.port);
            match before.remove(&(real.addr, real.port)) {
                None => applied.reals_added.push(name),
                Some(was) if was != real => applied.reals_edited.push(name),
                Some(_) => {}
            }
        }
        applied.reals_deleted.extend(before.keys().map(|&(addr, port)| (spec.key, addr, port)));
    }
    if kept < before.services.len() {
        let left: HashSet<_> = now.services.iter().map(|(spec, _)| spec.key).collect();
        let gone = before.services.iter().map(|(spec, _)| spec.key);
        applied.services_deleted.extend(gone.filter(|key| !left.contains(key)));
    }
    applied.reals_deleted.sort_unstable();
    changes.extend(described(&applied));
    for key in now.services.iter().map(|(spec, _)| &spec.key) {
        let (was, is) = (before.policy(key), now.policy(key));
        if was != is {
            changes.push(changed_policy(key, was.is_some(), is.is_some()));
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn desired(text: &str) -> Desired {
        Config::parse(text).unwrap().desired
    }

    fn service(port: u16, reals: &str) -> String {
        let reals: String = reals
            .split_whitespace()
            .map(|real| {
                let (host, weight) = real.split_once('*').unwrap_or((real, "1"));
                format!("[[service.real]]\naddress = \"10.2.0.{host}\"\nweight = {weight}\n")
            })
            .collect();
        let head = "[[service]]\nprotocol = \"tcp\"\naddress = \"10.0.0.1\"\n";
        format!("{head}port = {port}\n{reals}")
    }

    #[test]
    fn differences_name_what_came_went_and_changed() {
        let before = desired(&(service(80, "11 12") + &service(81, "13")));
        let now = desired(&(service(80, "11*3 14") + &service(82, "15")));
        let told: Vec<_> =
            differences(&before, &now).into_iter().map(|change| change.description).collect();
        assert_eq!(
            told,
            [
                "delete service TCP 10.0.0.1:81",
                "delete real server 10.2.0.12:80 of TCP 10.0.0.1:80",
                "add service TCP 10.0.0.1:82",
                "add real server 10.2.0.14:80 of TCP 10.0.0.1:80",
                "add real server 10.2.0.15:82 of TCP 10.0.0.1:82",
                "edit real server 10.2.0.11:80 of TCP 10.0.0.1:80",
            ]
        );
        assert_eq!(differences(&now, &now), []);
    }
}
