//! A whole desired state at once: everything is checked, then everything is made so.

use hashbrown::{HashMap, HashSet};

use super::{
    Director, check,
    spec::{DirectorError, RealSpec, ServiceKey, ServiceSpec},
};
use crate::addr::Addr;

/// What an apply changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Services added.
    pub services_added: Vec<ServiceKey>,
    /// Services whose own description changed.
    pub services_edited: Vec<ServiceKey>,
    /// Services deleted.
    pub services_deleted: Vec<ServiceKey>,
    /// Real servers added to a service, also to one that was added.
    pub reals_added: Vec<(ServiceKey, Addr, u16)>,
    /// Real servers whose description changed.
    pub reals_edited: Vec<(ServiceKey, Addr, u16)>,
    /// Real servers removed from a service that stays.
    pub reals_deleted: Vec<(ServiceKey, Addr, u16)>,
}

impl Applied {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A service and its real servers as they should be, in the order in which they would be added.
pub type Desired = (ServiceSpec, Vec<RealSpec>);

impl Director {
    /// Everything that is asked for now, in the order in which it can be applied.
    pub fn desired(&self) -> Vec<Desired> {
        let service = |entry: &super::ServiceEntry| {
            let asked = entry.reals.iter().rev().filter(|real| !real.standby);
            (entry.spec.clone(), asked.map(|real| real.spec).collect())
        };
        self.services.iter().map(service).collect()
    }

    /// What [`Director::apply`] would change, without changing it.
    ///
    /// # Errors
    ///
    /// As [`Director::apply`]. `at` of the error is the index of the service and, if the fault is
    /// in one, of the real server.
    pub fn plan(&self, desired: &[Desired]) -> Result<Applied, ApplyError> {
        let mut plan = Applied::default();
        let mut seen = HashSet::new();
        let mut new_endpoints = 0;
        for (at, (spec, reals)) in desired.iter().enumerate() {
            let fault = |error| ApplyError { service: at, real: None, error };
            check::service(spec).map_err(fault)?;
            self.check_vip(&spec.key).map_err(fault)?;
            if !seen.insert(spec.key) {
                return Err(fault(DirectorError::ServiceExists));
            }
            let before = self.places.get(&spec.key).map(|&place| &self.services[place]);
            match before {
                None => {
                    plan.services_added.push(spec.key);
                    new_endpoints += 1;
                }
                Some(entry) if entry.spec != *spec => plan.services_edited.push(spec.key),
                Some(_) => {}
            }
            let present: HashMap<_, _> = before
                .iter()
                .flat_map(|entry| &entry.reals)
                .filter(|real| !real.standby)
                .map(|real| ((real.spec.addr, real.spec.port), real.spec))
                .collect();
            let mut names = HashSet::new();
            for (place, real) in reals.iter().enumerate() {
                let fault = |error| ApplyError { service: at, real: Some(place), error };
                check::real(&spec.key, real).map_err(fault)?;
                let name = (real.addr, real.port);
                if !names.insert(name) {
                    return Err(fault(DirectorError::RealExists));
                }
                match present.get(&name) {
                    None => {
                        plan.reals_added.push((spec.key, real.addr, real.port));
                        new_endpoints += 1;
                    }
                    Some(was) if was != real => {
                        plan.reals_edited.push((spec.key, real.addr, real.port));
                    }
                    Some(_) => {}
                }
            }
            let gone = present.keys().filter(|name| !names.contains(*name));
            plan.reals_deleted.extend(gone.map(|&(addr, port)| (spec.key, addr, port)));
        }
        let gone = self.services.iter().map(|entry| entry.spec.key);
        plan.services_deleted.extend(gone.filter(|key| !seen.contains(key)));
        plan.reals_deleted.sort_unstable();
        if new_endpoints > self.free.len() {
            let error =
                DirectorError::Full { what: "service or real server", limit: self.capacity() };
            return Err(ApplyError { service: 0, real: None, error });
        }
        Ok(plan)
    }

    /// Makes the state equal to `desired`: what is not in it is deleted, what is new is added,
    /// what differs is edited, what is the same is not touched.
    ///
    /// # Errors
    ///
    /// The first fault found; nothing was changed.
    pub fn apply(&mut self, desired: &[Desired]) -> Result<Applied, ApplyError> {
        let plan = self.plan(desired)?;
        let checked = "the plan was checked against this very state";
        for key in &plan.services_deleted {
            self.delete_service(key).expect(checked);
        }
        for (key, addr, port) in &plan.reals_deleted {
            self.delete_real(key, *addr, *port).expect(checked);
        }
        let added: HashSet<_> = plan.services_added.iter().copied().collect();
        let edited: HashSet<_> = plan.services_edited.iter().copied().collect();
        let reals_added: HashSet<_> = plan.reals_added.iter().copied().collect();
        let reals_edited: HashSet<_> = plan.reals_edited.iter().copied().collect();
        for (spec, reals) in desired {
            if added.contains(&spec.key) {
                self.add_service(spec).expect(checked);
            } else if edited.contains(&spec.key) {
                self.edit_service(spec).expect(checked);
            }
            for real in reals {
                let name = (spec.key, real.addr, real.port);
                if reals_added.contains(&name) {
                    self.add_real(&spec.key, real).expect(checked);
                } else if reals_edited.contains(&name) {
                    self.edit_real(&spec.key, real).expect(checked);
                }
            }
        }
        Ok(plan)
    }
}

/// Why an apply was refused, and where the fault is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("services[{service}]{}: {error}", real.map(|at| format!(".reals[{at}]")).unwrap_or_default())]
pub struct ApplyError {
    /// Index of the service.
    pub service: usize,
    /// Index of the real server in it, if the fault is there.
    pub real: Option<usize>,
    /// The fault.
    pub error: DirectorError,
}
