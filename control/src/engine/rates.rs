//! The rates of all services and real servers: one [`Estimator`] each.
//!
//! Something new starts at its present counters ([`RateTable::begin`]), so that a real server which
//! comes back with its old ones shows no burst; each [`crate::estimator::PERIOD`] steps all and
//! lets go of what is gone.

use std::collections::HashMap;

use dataplane::{
    addr::Addr,
    director::spec::{Counters, Rates, ServiceInfo, ServiceKey},
};

use crate::estimator::Estimator;

/// Names a service (`None`) or one of its real servers.
type Name = (ServiceKey, Option<(Addr, u16)>);

/// All estimators.
#[derive(Debug, Default)]
pub struct RateTable {
    each: HashMap<Name, Estimator>,
    totals: Estimator,
}

impl RateTable {
    /// Brings in a service and its real servers, as far as they are new.
    pub fn begin(&mut self, service: &ServiceInfo) {
        for (name, counters) in counted(service) {
            self.each.entry(name).or_insert_with(|| Estimator::starting_at(counters));
        }
    }

    /// One period is over: takes in the counters of all services, and of the whole box.
    pub fn step(&mut self, services: &[ServiceInfo], totals: &Counters) {
        self.totals.step(totals);
        let mut before = std::mem::take(&mut self.each);
        for (name, counters) in services.iter().flat_map(counted) {
            let mut estimator = before.remove(&name).unwrap_or_default();
            estimator.step(&counters);
            self.each.insert(name, estimator);
        }
    }

    /// The counters of this service and its real servers were set to zero.
    pub fn restart(&mut self, service: &ServiceInfo) {
        for (name, counters) in counted(service) {
            self.each.insert(name, Estimator::starting_at(counters));
        }
    }

    /// The counters of the whole box were set to zero.
    pub fn restart_totals(&mut self) {
        self.totals = Estimator::default();
    }

    /// Fills in the rates of a service and its real servers.
    pub fn fill(&self, service: &mut ServiceInfo) {
        let key = service.spec.key;
        service.rates = self.rates(&(key, None));
        for real in &mut service.reals {
            real.rates = self.rates(&(key, Some((real.spec.addr, real.spec.port))));
        }
    }

    /// The rates of all services together.
    pub const fn totals(&self) -> Rates {
        self.totals.rates()
    }

    fn rates(&self, name: &Name) -> Rates {
        self.each.get(name).map(Estimator::rates).unwrap_or_default()
    }
}

/// A service and its real servers with their counters.
fn counted(service: &ServiceInfo) -> impl Iterator<Item = (Name, Counters)> {
    let key = service.spec.key;
    let reals = service.reals.iter();
    let reals =
        reals.map(move |real| ((key, Some((real.spec.addr, real.spec.port))), real.counters));
    std::iter::once(((key, None), service.counters)).chain(reals)
}
