//! The engine's part in health checks: policies are asked for like everything else, what follows from
//! checks is not.
//!
//! Locks: the state's and the board's are never held together.

use std::{
    collections::BTreeMap,
    sync::MutexGuard,
    time::{Duration, SystemTime},
};

use dataplane::director::spec::{RealSpec, ServiceKey, Share};

use super::{Engine, EngineError, State, UNPOISONED, events::Event};
use crate::{
    convert::health,
    health::{
        board::{Board, Effect, Finding, Watched, What},
        member::Flows,
        policy::Policy,
    },
    words::{RealName, ServiceName},
};

/// How the real servers of services are checked.
pub type Policies = BTreeMap<ServiceKey, Policy>;

impl State {
    /// How services are checked.
    pub const fn policies(&self) -> &Policies {
        &self.policies
    }

    /// Has a service's real servers checked by a policy; `None`: no longer.
    ///
    /// # Errors
    ///
    /// There is no such service, or the policy makes no sense for it.
    pub fn set_policy(
        &mut self,
        key: &ServiceKey,
        policy: Option<Policy>,
    ) -> Result<(), EngineError> {
        let service = self.director.get_service(key)?;
        let Some(policy) = policy else {
            if self.policies.remove(key).is_some() {
                self.policies_edited(key);
            }
            return Ok(());
        };
        let reals: Vec<_> =
            service.reals.iter().filter(|real| !real.standby).map(|real| real.spec).collect();
        let sound = policy.check(key, &reals);
        sound.map_err(|error| EngineError::Policy(health::in_message(&policy, &error)))?;
        if self.policies.get(key) != Some(&policy) {
            self.policies.insert(*key, policy);
            self.policies_edited(key);
        }
        Ok(())
    }

    /// A policy is another: what the one before did to real servers is undone; the checks of the new
    /// one are told what is so.
    pub(super) fn policies_edited(&mut self, key: &ServiceKey) {
        let Ok(service) = self.director.get_service(key) else { return };
        let policy = self.policies.get(key).cloned();
        for real in &service.reals {
            let name = (real.spec.addr, real.spec.port);
            let sorry = policy.as_ref().and_then(|policy| policy.sorry);
            if real.standby && sorry != Some(real.spec) {
                self.director.delete_real(key, name.0, name.1).ok();
            } else if policy.is_none() {
                self.director.share_real(key, name, Share::default()).ok();
            }
        }
        self.director.touch();
    }

    /// A real server that joins a service whose real servers begin down gets nothing before it was
    /// found up.
    pub(super) fn shade(&mut self, key: &ServiceKey, (addr, port): RealAt) {
        if let Some(policy) = self.policies.get(key).filter(|policy| policy.start_down) {
            let share = crate::health::member::Member::down(policy.on_down);
            self.director.share_real(key, (addr, port), share).ok();
        }
    }

    /// Forgets policies of services that are gone.
    pub(super) fn prune_policies(&mut self) {
        let director = &self.director;
        self.policies.retain(|key, _| director.has_service(key));
    }

    /// Everything that is checked.
    fn watched(&self) -> Vec<Watched> {
        let watched = |(key, policy): (&ServiceKey, &Policy)| {
            let service = self.director.get_service(key).ok()?;
            let asked = service.reals.iter().filter(|real| !real.standby);
            Some(Watched {
                key: *key,
                policy: policy.clone(),
                reals: asked
                    .map(|real| (real.spec, real.share, self.flows(key, &real.spec)))
                    .collect(),
                sorry: service.reals.iter().any(|real| real.standby),
            })
        };
        self.policies.iter().filter_map(watched).collect()
    }

    /// What the flows of a real server tell.
    fn flows(&self, key: &ServiceKey, real: &RealSpec) -> Flows {
        let id = self.director.real_endpoint(key, (real.addr, real.port));
        id.map_or_else(
            |_gone| Flows::default(),
            |id| {
                let (accepted, failed) = self.stats.answers(id);
                Flows { accepted, failed }
            },
        )
    }

    /// Makes what follows from checks so.
    fn carry_out(&mut self, effects: &[Effect]) {
        for effect in effects {
            // The real server or its service may have gone meanwhile: then there is nothing to do.
            match effect {
                Effect::Share { key, real, share } => {
                    self.director.share_real(key, (real.addr, real.port), *share).ok();
                }
                Effect::Standby { key, spec, wanted: true } => {
                    if self.director.stand_in(key, spec).is_ok() {
                        self.begin_rates(key).ok();
                    }
                }
                Effect::Standby { key, spec, wanted: false } => {
                    self.director.delete_real(key, spec.addr, spec.port).ok();
                }
                Effect::Found(_) => {}
            }
        }
    }
}

/// Address and port of a real server.
type RealAt = (dataplane::addr::Addr, u16);

impl Engine {
    /// What checks have found; nothing may wait while it is held.
    pub fn health(&self) -> MutexGuard<'_, Board> {
        self.board.lock().expect(UNPOISONED)
    }

    /// Waits until something is checked otherwise than before.
    pub(crate) async fn policies_changed(&self) {
        self.policies_changed.notified().await;
    }

    /// Now: by the time of health checks, and by everybody's.
    pub fn health_now(&self) -> (Duration, SystemTime) {
        (self.epoch.elapsed(), SystemTime::now())
    }

    /// Has the board check what is asked for, if that changed since it was looked at last.
    pub fn follow_policies(&self) {
        let mut followed = self.followed.lock().expect(UNPOISONED);
        let (configured, watched) = {
            let state = self.lock();
            if *followed == Some(state.configured) {
                return;
            }
            (state.configured, state.watched())
        };
        *followed = Some(configured);
        let now = self.health_now();
        let mut board = self.health();
        if !(watched.is_empty() && board.groups().is_empty()) {
            board.set(watched, now);
        }
    }

    /// Decides on what checks found, and makes what follows so.
    pub fn decide_health(&self, now: (Duration, SystemTime)) {
        let effects = self.health().decide(now);
        if effects.is_empty() {
            return;
        }
        self.lock().carry_out(&effects);
        self.changed.notify_one();
        for effect in effects {
            if let Effect::Found(finding) = effect {
                tell(&finding);
                self.events.tell(Event::Health(finding));
            }
        }
    }

    /// Tells the board what flows tell.
    pub(crate) fn watch_flows(&self, now: Duration) {
        let seen: Vec<_> = {
            let state = self.lock();
            let passive = state.policies.iter().filter(|(_, policy)| policy.passive.is_some());
            let services = passive.filter_map(|(key, _)| state.director.get_service(key).ok());
            let reals = services.flat_map(|service| {
                let key = service.spec.key;
                service.reals.into_iter().map(move |real| (key, real.spec))
            });
            reals.map(|(key, real)| (key, real, state.flows(&key, &real))).collect()
        };
        let mut board = self.health();
        for (key, real, flows) in seen {
            board.watch(&key, RealName { addr: real.addr, port: real.port }, flows, now);
        }
    }
}

/// Says in the log what happened.
fn tell(finding: &Finding) {
    let service = ServiceName(&finding.key);
    let (what, note) = (finding.what.name(), finding.note.as_str());
    let bad = matches!(finding.what, What::Down | What::QuorumLost | What::PanicBegan);
    match (finding.real, bad) {
        (Some(real), true) => tracing::warn!("{real} of {service} {what}: {note}"),
        (Some(real), false) => tracing::info!("{real} of {service} {what}: {note}"),
        (None, true) => tracing::warn!("{service} {what}: {note}"),
        (None, false) => tracing::info!("{service} {what}: {note}"),
    }
}
