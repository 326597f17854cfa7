//! Services: added, edited, deleted, listed, zeroed.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use super::{
    CALLS_MAX, Director, ServiceEntry, check,
    spec::{
        Counters, DirectorError, Rates, RealInfo, RealSpec, ServiceInfo, ServiceKey, ServiceSpec,
        seen_weight,
    },
};
use crate::{
    addr::{Addr, Family},
    calls::Calls,
    clock::TICKS_PER_SECOND,
    endpoint::{Description, EndpointId},
    sched::{Candidate, Change, SchedState, Scheduler},
    service::{Engine, Persistence, Service},
};

impl ServiceEntry {
    /// The real servers as the scheduler sees them: those that health checks left.
    pub(super) fn candidates(&self) -> Vec<Candidate> {
        let candidate = |real: &super::RealEntry| Candidate {
            id: real.id,
            addr: real.spec.addr,
            port: real.spec.port,
            weight: seen_weight(&real.spec, real.hold, real.share),
        };
        self.reals.iter().filter(|real| real.share.present).map(candidate).collect()
    }

    /// Who stands before this place in the list that the scheduler sees.
    pub(super) fn present_before(&self, place: usize) -> Option<EndpointId> {
        let mut before = self.reals[..place].iter().rev();
        before.find(|real| real.share.present).map(|real| real.id)
    }

    /// Builds what the workers get, and tells the scheduler what has changed.
    pub(super) fn rebuild(&mut self, change: Change) {
        let reals = self.candidates();
        let previous = &self.compiled.scheduler;
        let same = previous.name() == self.spec.scheduler;
        if !same {
            self.state = Arc::new(SchedState::default());
        }
        let scheduler = Scheduler::by_name(
            &self.spec.scheduler,
            &reals,
            self.spec.flags,
            same.then_some(previous),
        )
        .expect("the scheduler's name was checked when the service was accepted");
        scheduler.changed(&reals, &self.state, change);
        self.compiled =
            Arc::new(compiled(&self.spec, self.endpoint, scheduler, &self.state, reals));
    }

    /// The counters that listings show.
    pub(super) fn counters(&self, director: &Director) -> Counters {
        self.reals
            .iter()
            .fold(self.carried, |sum, real| sum.plus(director.counted(real.id).since(real.joined)))
    }
}

/// Puts a service together.
fn compiled(
    spec: &ServiceSpec,
    endpoint: EndpointId,
    scheduler: Scheduler,
    state: &Arc<SchedState>,
    reals: Vec<Candidate>,
) -> Service {
    Service {
        key: spec.key,
        endpoint,
        scheduler,
        state: Arc::clone(state),
        reals,
        persistence: spec.persistence_s.map(|seconds| Persistence {
            timeout: seconds.saturating_mul(TICKS_PER_SECOND),
            mask: client_mask(spec),
        }),
        one_packet: spec.one_packet,
        engine: spec.engine.as_deref().and_then(Engine::by_name),
    }
}

/// The mask that `-M` puts on client addresses, over the mapped 128 bits.
fn client_mask(spec: &ServiceSpec) -> u128 {
    match spec.key.family() {
        Family::V4 => u128::MAX << 32 | u128::from(spec.netmask),
        Family::V6 => u128::MAX.checked_shl(128 - spec.netmask.min(128)).unwrap_or(0),
    }
}

impl Director {
    /// Adds a service without real servers.
    ///
    /// # Errors
    ///
    /// It exists, its description is wrong, or there is no room.
    pub fn add_service(&mut self, spec: &ServiceSpec) -> Result<(), DirectorError> {
        if self.places.contains_key(&spec.key) {
            return Err(DirectorError::ServiceExists);
        }
        check::service(spec)?;
        self.check_vip(&spec.key)?;
        let endpoint = match self.trash.take_service(&spec.key) {
            Some(id) => id,
            None => self.allocate("service")?,
        };
        let (addr, port, protocol) = match spec.key {
            ServiceKey::Address { protocol, addr, port } => (addr, port, protocol),
            // As the kernel lists it: the mark in the place of the first four octets.
            ServiceKey::Mark { mark, family: Family::V4 } => (Addr::v4(mark), 0, 0),
            ServiceKey::Mark { mark, family: Family::V6 } => {
                (Addr::v6(u128::from(mark) << 96), 0, 0)
            }
        };
        self.endpoints.get(endpoint).describe(&Description {
            addr,
            port,
            protocol,
            ..Description::default()
        });
        self.keep_calls(spec);
        let state = Arc::new(SchedState::default());
        let scheduler = Scheduler::by_name(&spec.scheduler, &[], spec.flags, None)
            .expect("the scheduler's name was checked above");
        let compiled = Arc::new(compiled(spec, endpoint, scheduler, &state, Vec::new()));
        self.places.insert(spec.key, self.services.len());
        self.services.push(ServiceEntry {
            spec: spec.clone(),
            endpoint,
            state,
            reals: Vec::new(),
            carried: Counters::default(),
            compiled,
        });
        self.generation += 1;
        Ok(())
    }

    /// Makes room for calls with the first service that has an engine; it stays.
    fn keep_calls(&mut self, spec: &ServiceSpec) {
        if spec.engine.is_some() && self.calls.is_none() {
            self.calls = Some(Arc::new(Calls::new(CALLS_MAX)));
        }
    }

    /// Edits a service; what is not in the key may change.
    ///
    /// # Errors
    ///
    /// There is none, or its new description is wrong.
    pub fn edit_service(&mut self, spec: &ServiceSpec) -> Result<(), DirectorError> {
        self.service(&spec.key)?;
        check::service(spec)?;
        self.keep_calls(spec);
        let entry = self.service_mut(&spec.key)?;
        entry.spec = spec.clone();
        entry.rebuild(Change::Service);
        for real in &self.service(&spec.key)?.reals {
            let port = self.endpoints.get(real.id).port();
            let seen = (real.hold, real.share);
            self.renew(&spec.key, real.id, &RealSpec { port, ..real.spec }, seen);
        }
        self.generation += 1;
        Ok(())
    }

    /// Deletes a service and its real servers; their flows live on.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn delete_service(&mut self, key: &ServiceKey) -> Result<(), DirectorError> {
        let at = *self.places.get(key).ok_or(DirectorError::NoSuchService)?;
        while let Some(real) = self.services[at].reals.first().map(|real| real.spec) {
            self.remove_real(at, real.addr, real.port);
        }
        let entry = self.services.remove(at);
        self.discard_service(*key, entry.endpoint);
        self.places.remove(key);
        for place in self.places.values_mut() {
            if *place > at {
                *place -= 1;
            }
        }
        self.generation += 1;
        Ok(())
    }

    /// Deletes all services.
    pub fn flush(&mut self) {
        while let Some(key) = self.services.last().map(|entry| entry.spec.key) {
            self.delete_service(&key).expect("the key was just read from the list");
        }
        self.generation += 1;
    }

    /// Sets the counters of a service, or of all, and of their real servers to zero.
    ///
    /// # Errors
    ///
    /// There is no such service.
    pub fn zero(&mut self, key: Option<&ServiceKey>) -> Result<(), DirectorError> {
        let places = match key {
            Some(key) => {
                let at = *self.places.get(key).ok_or(DirectorError::NoSuchService)?;
                at..at + 1
            }
            None => 0..self.services.len(),
        };
        for at in places {
            for real in 0..self.services[at].reals.len() {
                let counted = self.counted(self.services[at].reals[real].id);
                let real = &mut self.services[at].reals[real];
                real.zero = counted;
                real.joined = counted;
            }
            self.services[at].carried = Counters::default();
        }
        Ok(())
    }

    /// All services with their real servers, loads and counters; rates are zero here, the
    /// estimator's owner fills them in.
    pub fn services(&self) -> Vec<ServiceInfo> {
        self.services.iter().map(|entry| self.service_info(entry)).collect()
    }

    /// Shows the counters of each service, then of its real servers, as listings have them: without
    /// a listing's cost. A real server goes by its address, port and endpoint.
    pub fn each_counters(
        &self,
        mut see: impl FnMut(&ServiceKey, Option<(Addr, u16, EndpointId)>, Counters),
    ) {
        for entry in &self.services {
            let key = &entry.spec.key;
            see(key, None, entry.counters(self));
            for real in &entry.reals {
                let name = (real.spec.addr, real.spec.port, real.id);
                see(key, Some(name), self.counted(real.id).since(real.zero));
            }
        }
    }

    /// One service.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn get_service(&self, key: &ServiceKey) -> Result<ServiceInfo, DirectorError> {
        self.service(key).map(|entry| self.service_info(entry))
    }

    /// A service as it is listed.
    fn service_info(&self, entry: &ServiceEntry) -> ServiceInfo {
        let real = |real: &super::RealEntry| {
            let load = &self.endpoints.get(real.id).load;
            RealInfo {
                spec: real.spec,
                hold: real.hold,
                share: real.share,
                standby: real.standby,
                active: load.active.load(Relaxed),
                inactive: load.inactive.load(Relaxed),
                persistent: load.persistent.load(Relaxed),
                counters: self.counted(real.id).since(real.zero),
                rates: Rates::default(),
            }
        };
        ServiceInfo {
            spec: entry.spec.clone(),
            counters: entry.counters(self),
            rates: Rates::default(),
            reals: entry.reals.iter().map(real).collect(),
        }
    }
}
