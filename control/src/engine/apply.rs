//! A whole configuration in one step: all of it or nothing.
//!
//! Everything that can be refused is found before anything is changed, so there is nothing to take
//! back. Both the gRPC Apply and the configuration file at start and on SIGHUP come this way.

use dataplane::director::{
    Applied, ApplyError, Director,
    spec::{DirectorError, LocalPool, MarkRule, ServiceKey, TimeoutSpec},
};

use super::{EngineError, State, health::Policies};
use crate::{
    config::Desired,
    convert::health,
    field::FieldError,
    words::{RealName, ServiceName},
};

/// Where in a configuration the fault is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyRefused {
    /// In a service or one of its real servers.
    #[error(transparent)]
    Service(#[from] ApplyError),
    /// In full NAT's local addresses.
    #[error("{0}")]
    Locals(DirectorError),
    /// In the setting at this place of the list.
    #[error("{error}")]
    Setting {
        /// Its place in [`Desired::settings`].
        at: usize,
        /// Its name.
        name: String,
        /// The fault.
        error: DirectorError,
    },
    /// In the policy of health checks of the service at this place of the list.
    #[error("services[{at}].{error}")]
    Policy {
        /// Its place in [`Desired::services`].
        at: usize,
        /// The fault.
        error: FieldError,
    },
    /// In the rule of marks at this place of the list.
    #[error("mark_rules[{at}]: {error}")]
    MarkRule {
        /// Its place in [`Desired::mark_rules`].
        at: usize,
        /// The fault.
        error: DirectorError,
    },
}

/// What becomes of a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Created,
    /// It differs from what it was.
    Updated,
    /// It goes.
    Deleted,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What becomes of it.
    pub kind: ChangeKind,
    /// The service; `None` if a time-out, a setting, the rules of marks or a local address change.
    pub service: Option<ServiceKey>,
    /// The real server; `None` if the service itself changes.
    pub real: Option<RealName>,
    /// The change in words.
    pub description: String,
}

impl State {
    /// Says what [`State::apply`] would change, or why it would be refused.
    ///
    /// # Errors
    ///
    /// As [`State::apply`].
    pub fn plan(
        &self,
        desired: &Desired,
        expected: Option<u64>,
    ) -> Result<Vec<Change>, EngineError> {
        let present = self.director.generation();
        match expected {
            Some(expected) if !(self.configured..=present).contains(&expected) => {
                return Err(EngineError::Generation { expected, present });
            }
            _ => {}
        }
        let mut changes = settings(&self.director, desired)?;
        changes.extend(locals(&self.director, desired)?);
        changes.extend(timeouts(&self.director, desired));
        changes.extend(mark_rules(&self.director, desired)?);
        let plan = self.director.plan(&desired.services).map_err(ApplyRefused::from)?;
        changes.extend(described(&plan));
        changes.extend(policies(&self.policies, desired)?);
        Ok(changes)
    }

    /// Makes the state equal to `desired`, and says what that changed.
    ///
    /// # Errors
    ///
    /// `expected` is not the present generation, or something in `desired` is wrong; nothing was
    /// changed then.
    pub fn apply(
        &mut self,
        desired: &Desired,
        expected: Option<u64>,
    ) -> Result<Vec<Change>, EngineError> {
        let changes = self.plan(desired, expected)?;
        let checked = "the plan was checked against this very state";
        let applied = self.director.apply(&desired.services).expect(checked);
        self.apply_policies(desired, &applied);
        let director = &mut self.director;
        if let Some(pool) = desired.locals.as_ref().filter(|pool| *pool != director.locals()) {
            director.set_locals(pool).expect(checked);
        }
        let present = director.settings();
        for (name, value) in &desired.settings {
            if !present.contains(&(name.as_str(), *value)) {
                director.set_setting(name, *value).expect(checked);
            }
        }
        if let Some(wanted) = desired.timeouts
            && timeouts(director, desired).is_some()
        {
            director.set_timeouts(wanted);
        }
        if let Some(wanted) = &desired.mark_rules
            && director.mark_rules() != wanted
        {
            director.set_mark_rules(wanted.clone()).expect(checked);
        }
        for service in director.services() {
            self.rates.begin(&service);
        }
        Ok(changes)
    }
}

impl State {
    /// Makes the policies of health checks those of `desired`, which were checked.
    fn apply_policies(&mut self, desired: &Desired, applied: &Applied) {
        let wanted = desired.policies.clone().unwrap_or_else(|| self.policies.clone());
        let before = std::mem::replace(&mut self.policies, wanted);
        for (key, addr, port) in &applied.reals_added {
            self.shade(key, (*addr, *port));
        }
        for (spec, _) in &desired.services {
            if before.get(&spec.key) != self.policies.get(&spec.key) {
                self.policies_edited(&spec.key);
            }
        }
    }
}

/// What would change in the health checks.
fn policies(present: &Policies, desired: &Desired) -> Result<Vec<Change>, ApplyRefused> {
    let mut changes = Vec::new();
    for (at, (spec, reals)) in desired.services.iter().enumerate() {
        let wanted = desired.policies.as_ref().unwrap_or(present).get(&spec.key);
        if let Some(policy) = wanted {
            let sound = policy.check(&spec.key, reals);
            sound.map_err(|error| ApplyRefused::Policy {
                at,
                error: health::in_message(policy, &error).within("health"),
            })?;
        }
        if present.get(&spec.key) != wanted {
            changes.push(changed_policy(
                &spec.key,
                present.contains_key(&spec.key),
                wanted.is_some(),
            ));
        }
    }
    Ok(changes)
}

/// Other health checks of a service.
pub(super) fn changed_policy(key: &ServiceKey, was: bool, is: bool) -> Change {
    let (kind, verb) = match (was, is) {
        (false, _) => (ChangeKind::Created, "add"),
        (true, true) => (ChangeKind::Updated, "edit"),
        (true, false) => (ChangeKind::Deleted, "delete"),
    };
    Change {
        kind,
        service: Some(*key),
        real: None,
        description: format!("{verb} health checks of {}", ServiceName(key)),
    }
}

/// What would change in the settings.
fn settings(director: &Director, desired: &Desired) -> Result<Vec<Change>, ApplyRefused> {
    let present = director.settings();
    let mut changes = Vec::new();
    for (at, (name, value)) in desired.settings.iter().enumerate() {
        director.check_setting(name, *value).map_err(|error| ApplyRefused::Setting {
            at,
            name: name.clone(),
            error,
        })?;
        let was = present.iter().find(|(known, was)| known == name && was != value);
        changes.extend(was.map(|(_, was)| changed_setting(name, *value, *was)));
    }
    Ok(changes)
}

/// A setting that changes.
pub(super) fn changed_setting(name: &str, value: u32, was: u32) -> Change {
    Change {
        kind: ChangeKind::Updated,
        service: None,
        real: None,
        description: format!("set {name} to {value}, was {was}"),
    }
}

/// What would change in full NAT's local addresses.
fn locals(director: &Director, desired: &Desired) -> Result<Option<Change>, ApplyRefused> {
    let Some(pool) = desired.locals.as_ref().filter(|pool| *pool != director.locals()) else {
        return Ok(None);
    };
    director.check_locals(pool).map_err(ApplyRefused::Locals)?;
    Ok(Some(changed_locals(pool)))
}

/// Other local addresses.
pub(super) fn changed_locals(pool: &LocalPool) -> Change {
    let addrs: Vec<_> = pool.addrs.iter().map(ToString::to_string).collect();
    let (first, last) = pool.ports;
    Change {
        kind: ChangeKind::Updated,
        service: None,
        real: None,
        description: format!("set local addresses to {} ports {first}-{last}", addrs.join(",")),
    }
}

/// What would change in the time-outs.
fn timeouts(director: &Director, desired: &Desired) -> Option<Change> {
    let wanted = desired.timeouts?;
    let was = director.timeouts();
    let keep = |wanted, was| if wanted == 0 { was } else { wanted };
    let then = TimeoutSpec {
        tcp_s: keep(wanted.tcp_s, was.tcp_s),
        tcp_fin_s: keep(wanted.tcp_fin_s, was.tcp_fin_s),
        udp_s: keep(wanted.udp_s, was.udp_s),
    };
    (then != was).then(|| changed_timeouts(&then, &was))
}

/// Time-outs that change.
pub(super) fn changed_timeouts(then: &TimeoutSpec, was: &TimeoutSpec) -> Change {
    let text = |t: &TimeoutSpec| format!("{} {} {}", t.tcp_s, t.tcp_fin_s, t.udp_s);
    Change {
        kind: ChangeKind::Updated,
        service: None,
        real: None,
        description: format!("set time-outs to {}, were {}", text(then), text(was)),
    }
}

/// What would change in the rules of marks.
fn mark_rules(director: &Director, desired: &Desired) -> Result<Option<Change>, ApplyRefused> {
    let Some(wanted) = &desired.mark_rules else { return Ok(None) };
    Director::check_mark_rules(wanted)
        .map_err(|(at, error)| ApplyRefused::MarkRule { at, error })?;
    let was = director.mark_rules();
    Ok((was != wanted).then(|| changed_mark_rules(wanted, was)))
}

/// Rules of marks that change.
pub(super) fn changed_mark_rules(wanted: &[MarkRule], was: &[MarkRule]) -> Change {
    Change {
        kind: ChangeKind::Updated,
        service: None,
        real: None,
        description: format!("set {} rules of marks, were {}", wanted.len(), was.len()),
    }
}

/// The director's plan, in the order in which it is carried out.
pub(super) fn described(plan: &Applied) -> Vec<Change> {
    use ChangeKind::{Created, Deleted, Updated};
    let service = |kind, keys: &[ServiceKey]| {
        let change = move |key: &ServiceKey| Change {
            kind,
            service: Some(*key),
            real: None,
            description: format!("{} service {}", verb(kind), ServiceName(key)),
        };
        keys.iter().map(change).collect::<Vec<_>>()
    };
    let real = |kind, names: &[(ServiceKey, _, _)]| {
        let change = move |&(key, addr, port): &(ServiceKey, _, _)| {
            let name = RealName { addr, port };
            let verb = verb(kind);
            let service = ServiceName(&key);
            let description = format!("{verb} real server {name} of {service}");
            Change { kind, service: Some(key), real: Some(name), description }
        };
        names.iter().map(change).collect::<Vec<_>>()
    };
    [
        service(Deleted, &plan.services_deleted),
        real(Deleted, &plan.reals_deleted),
        service(Created, &plan.services_added),
        service(Updated, &plan.services_edited),
        real(Created, &plan.reals_added),
        real(Updated, &plan.reals_edited),
    ]
    .concat()
}

const fn verb(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Created => "add",
        ChangeKind::Updated => "edit",
        ChangeKind::Deleted => "delete",
    }
}
