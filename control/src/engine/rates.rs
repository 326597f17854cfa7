//! The rates of all services and real servers: one [`Estimator`] each.
//!
//! Something new starts at its present counters ([`RateTable::begin`]), so that a real server which
//! comes back with its old ones shows no burst; each [`crate::estimator::PERIOD`] steps all and
//! lets go of what is gone.
//!
//! The rule: a step passes over two arrays once, these estimators and the workers' counters, as
//! long as the director's state is the one it knows. What the director holds lies all over memory,
//! cold after two seconds: asked each time, 5,000 services took 20 to 60 ms of every second
//! (measured), with the director locked.

use dataplane::{
    addr::Addr,
    director::{
        Director,
        spec::{Counters, Rates, ServiceInfo, ServiceKey},
    },
    endpoint::EndpointId,
};
use hashbrown::HashMap;

use crate::estimator::Estimator;

/// Names a service (`None`) or one of its real servers.
type Name = (ServiceKey, Option<(Addr, u16)>);

/// All estimators.
#[derive(Debug, Default)]
pub struct RateTable {
    /// Each service with its real servers behind it, as the director shows them.
    each: Vec<Metered>,
    /// Their names.
    names: Vec<Name>,
    /// Where each is.
    places: HashMap<Name, usize>,
    totals: Estimator,
    /// The director's generation that all this is of; `None` if it has to be asked again.
    known: Option<u64>,
}

/// What one estimator is fed from.
#[derive(Clone, Copy, Debug, Default)]
struct Metered {
    /// The real server's; `None` for a service, which counts what its real servers do.
    endpoint: Option<EndpointId>,
    /// What is shown as zero.
    base: Counters,
    estimator: Estimator,
}

impl RateTable {
    /// Brings in a service and its real servers, as far as they are new.
    pub fn begin(&mut self, service: &ServiceInfo) {
        for (name, counters) in counted(service) {
            if !self.places.contains_key(&name) {
                self.enter(name, Estimator::starting_at(counters));
            }
        }
    }

    /// One period is over: takes in the counters of all services, and of the whole box.
    pub fn step(&mut self, director: &Director, totals: &Counters) {
        self.totals.step(totals);
        if self.known != Some(director.generation()) {
            self.learn(director);
            self.known = Some(director.generation());
        }
        // From the end: what a service's real servers counted is known when it is reached.
        let mut sum = Counters::default();
        for one in self.each.iter_mut().rev() {
            let counted = if let Some(id) = one.endpoint {
                let counted = director.counted(id);
                sum = sum.plus(counted);
                counted
            } else {
                std::mem::take(&mut sum)
            };
            one.estimator.step(&counted.since(one.base));
        }
    }

    /// Puts everything in the director's order, lets go of what is gone, and notes what is counted
    /// from where.
    fn learn(&mut self, director: &Director) {
        let (mut at, mut service) = (0, 0);
        director.each_counters(|&key, real, counters| {
            self.bring((key, real.map(|(addr, port, _)| (addr, port))), at);
            let one = &mut self.each[at];
            one.endpoint = real.map(|(_, _, id)| id);
            if let Some(id) = one.endpoint {
                let counted = director.counted(id);
                one.base = counted.since(counters);
                self.each[service].base = self.each[service].base.plus(counted);
            } else {
                // Its real servers, which follow, add what they have counted.
                one.base = Counters::default().since(counters);
                service = at;
            }
            at += 1;
        });
        self.each.truncate(at);
        for name in self.names.drain(at..) {
            self.places.remove(&name);
        }
    }

    /// Sees to it that this name is at this place. All before it are where they belong.
    fn bring(&mut self, name: Name, to: usize) {
        if self.names.get(to) == Some(&name) {
            return;
        }
        let from = match self.places.get(&name) {
            Some(&from) => from,
            None => self.enter(name, Estimator::default()),
        };
        self.each.swap(from, to);
        self.names.swap(from, to);
        self.places.insert(self.names[from], from);
        self.places.insert(name, to);
    }

    /// Puts in something new, and says where.
    fn enter(&mut self, name: Name, estimator: Estimator) -> usize {
        let at = self.each.len();
        self.each.push(Metered { estimator, ..Metered::default() });
        self.names.push(name);
        self.places.insert(name, at);
        self.known = None;
        at
    }

    /// The counters of this service and its real servers were set to zero.
    pub fn restart(&mut self, service: &ServiceInfo) {
        self.known = None;
        for (name, counters) in counted(service) {
            let estimator = Estimator::starting_at(counters);
            match self.places.get(&name) {
                Some(&at) => self.each[at].estimator = estimator,
                None => {
                    self.enter(name, estimator);
                }
            }
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
        self.places.get(name).map(|&at| self.each[at].estimator.rates()).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dataplane::{
        clock::Tick,
        director::spec::{RealSpec, ServiceSpec},
        endpoint::{Endpoints, Method},
        stats::Stats,
    };

    use super::*;

    fn service(port: u16) -> ServiceSpec {
        ServiceSpec::new(
            ServiceKey::Address {
                protocol: 6,
                addr: std::net::IpAddr::from([192, 0, 2, 10]).into(),
                port,
            },
            "rr",
        )
    }

    fn real(last: u16) -> RealSpec {
        RealSpec::new(
            std::net::IpAddr::from([10, 2, 0, last.to_be_bytes()[1]]).into(),
            8080,
            Method::Nat,
        )
    }

    /// Adds and removes services and real servers at random, has packets counted and counters set to
    /// zero: every estimator has seen what the listings said, and they are in their order.
    #[test]
    fn each_step_takes_in_what_a_listing_says() {
        let stats = Stats::new(2, 64);
        let mut director = Director::new(Arc::new(Endpoints::new(64)), stats.clone());
        let mut rates = RateTable::default();
        let mut wanted: HashMap<Name, Estimator> = HashMap::new();
        let mut rng = 1u32;
        let mut random = |below: u32| {
            rng = rng.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            u16::try_from((rng >> 16) % below).unwrap()
        };
        for period in 0..400 {
            for _ in 0..random(3) {
                let spec = service(80 + random(4));
                let real = real(random(3));
                let place = (real.addr, real.port);
                match random(6) {
                    0 => drop(director.delete_service(&spec.key)),
                    1 | 2 => drop(director.add_service(&spec)),
                    3 => drop(director.delete_real(&spec.key, place.0, place.1)),
                    _ => drop(director.add_real(&spec.key, &real)),
                }
                if let Ok(service) = director.get_service(&spec.key) {
                    rates.begin(&service);
                    for (name, counters) in counted(&service) {
                        wanted.entry(name).or_insert_with(|| Estimator::starting_at(counters));
                    }
                }
            }
            for _ in 0..20 {
                let counters =
                    stats.worker(random(2).into()).endpoint(EndpointId(random(64).into()));
                counters.count_in(random(1500).into());
                counters.count_out(random(1500).into());
            }
            let services = director.services();
            if period % 7 == 0 && !services.is_empty() {
                let key = services[usize::from(random(100)) % services.len()].spec.key;
                director.zero(Some(&key)).unwrap();
                let service = director.get_service(&key).unwrap();
                rates.restart(&service);
                for (name, counters) in counted(&service) {
                    wanted.insert(name, Estimator::starting_at(counters));
                }
            }
            director.reap(Tick(period * 1_000_000), u64::MAX);
            rates.step(&director, &Counters::default());
            let listed: Vec<_> = director.services().iter().flat_map(counted).collect();
            wanted.retain(|name, _| listed.iter().any(|(there, _)| there == name));
            for (name, counters) in &listed {
                wanted.entry(*name).or_default().step(counters);
            }
            let names: Vec<_> = listed.iter().map(|(name, _)| *name).collect();
            assert_eq!(rates.names, names);
            for (at, name) in names.iter().enumerate() {
                assert_eq!(rates.places[name], at);
                assert_eq!(rates.each[at].estimator, wanted[name], "period {period}: {name:?}");
            }
        }
    }
}
