//! Real servers: added, edited, deleted.

use std::sync::atomic::Ordering::Relaxed;

use super::{
    Director, RealEntry, check,
    spec::{ClientAddress, DirectorError, Hold, RealSpec, ServiceKey, Share, seen_weight},
};
use crate::{
    addr::Addr,
    endpoint::{AVAILABLE, EndpointId, Method, PROXY, SHUNNED, TOA},
    sched::Change,
};

impl Director {
    /// Adds a real server at the head of its service's list. One that was removed and still has
    /// flows comes back with them, and one that stood in is one of its own from now on.
    ///
    /// # Errors
    ///
    /// No such service, it exists, its description is wrong, or there is no room.
    pub fn add_real(&mut self, key: &ServiceKey, spec: &RealSpec) -> Result<(), DirectorError> {
        let there = self.service(key)?.reals.iter().find(|real| same(real, spec.addr, spec.port));
        if there.is_some_and(|real| !real.standby) {
            return Err(DirectorError::RealExists);
        }
        check::real(key, spec)?;
        if there.is_some() {
            self.delete_real(key, spec.addr, spec.port)?;
        }
        self.join(key, spec, false)
    }

    /// Lets somebody stand in for a service's real servers: a real server that is no part of what is
    /// asked for. Deleting it ends that.
    ///
    /// # Errors
    ///
    /// As [`Director::add_real`].
    pub fn stand_in(&mut self, key: &ServiceKey, spec: &RealSpec) -> Result<(), DirectorError> {
        if self.service(key)?.reals.iter().any(|real| same(real, spec.addr, spec.port)) {
            return Err(DirectorError::RealExists);
        }
        check::real(key, spec)?;
        self.join(key, spec, true)
    }

    /// Puts a real server at the head of its service's list, which does not have it.
    fn join(
        &mut self,
        key: &ServiceKey,
        spec: &RealSpec,
        standby: bool,
    ) -> Result<(), DirectorError> {
        let entry = self.service(key)?;
        let at = self.places[key];
        let persistent = entry.spec.persistence_s.is_some();
        let (id, zero, port) = match self.trash.take_real(key, spec.addr, spec.port) {
            Some((id, zero)) => (id, zero, self.endpoints.get(id).port()),
            None => {
                let id = self.allocate("real server")?;
                (id, self.counted(id), flow_port(key, spec, persistent))
            }
        };
        let counted = self.counted(id);
        let (hold, share) = (Hold::default(), Share::default());
        self.renew(key, id, &RealSpec { port, ..*spec }, (hold, share));
        self.resolve(id, spec.addr);
        let entry = &mut self.services[at];
        entry
            .reals
            .insert(0, RealEntry { spec: *spec, hold, share, standby, id, zero, joined: counted });
        entry.rebuild(Change::Added(id));
        self.generation += 1;
        Ok(())
    }

    /// Edits a real server's method, tunnel, weight and thresholds. Flows it has keep their
    /// method.
    ///
    /// # Errors
    ///
    /// No such service or real server, or its new description is wrong.
    pub fn edit_real(&mut self, key: &ServiceKey, spec: &RealSpec) -> Result<(), DirectorError> {
        self.real_endpoint(key, (spec.addr, spec.port))?;
        check::real(key, spec)?;
        self.revise(key, (spec.addr, spec.port), |real| {
            real.spec = *spec;
            true
        })
    }

    /// Changes what is kept of a real server, tells its endpoint and its scheduler. `edit` says whether
    /// there is anything to tell.
    fn revise(
        &mut self,
        key: &ServiceKey,
        (addr, port): (Addr, u16),
        edit: impl FnOnce(&mut RealEntry) -> bool,
    ) -> Result<(), DirectorError> {
        let entry = self.service_mut(key)?;
        let place = entry.reals.iter().position(|real| same(real, addr, port));
        let place = place.ok_or(DirectorError::NoSuchReal)?;
        let was = entry.reals[place].share.present;
        if !edit(&mut entry.reals[place]) {
            return Ok(());
        }
        let RealEntry { id, spec, hold, share, .. } = entry.reals[place];
        let port = self.endpoints.get(id).port();
        self.renew(key, id, &RealSpec { port, ..spec }, (hold, share));
        let entry = self.service_mut(key)?;
        let change = match (was, share.present) {
            (true, false) => Change::Removed { id, before: entry.present_before(place) },
            (false, true) => Change::Added(id),
            _ => Change::Edited(id),
        };
        entry.rebuild(change);
        self.generation += 1;
        Ok(())
    }

    /// Keeps new flows from a real server, or lets them come again. Removing the server ends it,
    /// editing does not.
    ///
    /// # Errors
    ///
    /// No such service or real server.
    pub fn hold_real(
        &mut self,
        key: &ServiceKey,
        name: (Addr, u16),
        hold: Hold,
    ) -> Result<(), DirectorError> {
        self.revise(key, name, |real| std::mem::replace(&mut real.hold, hold) != hold)
    }

    /// Says what health checks leave of a real server; editing it leaves that as it is.
    ///
    /// # Errors
    ///
    /// No such service or real server.
    pub fn share_real(
        &mut self,
        key: &ServiceKey,
        name: (Addr, u16),
        share: Share,
    ) -> Result<(), DirectorError> {
        self.revise(key, name, |real| std::mem::replace(&mut real.share, share) != share)
    }

    /// The endpoint of a real server.
    ///
    /// # Errors
    ///
    /// No such service or real server.
    pub fn real_endpoint(
        &self,
        key: &ServiceKey,
        (addr, port): (Addr, u16),
    ) -> Result<EndpointId, DirectorError> {
        let mut reals = self.service(key)?.reals.iter();
        let found = reals.find(|real| same(real, addr, port));
        found.map(|real| real.id).ok_or(DirectorError::NoSuchReal)
    }

    /// Removes a real server; its flows live on in the trash.
    ///
    /// # Errors
    ///
    /// No such service or real server.
    pub fn delete_real(
        &mut self,
        key: &ServiceKey,
        addr: Addr,
        port: u16,
    ) -> Result<(), DirectorError> {
        let at = *self.places.get(key).ok_or(DirectorError::NoSuchService)?;
        if !self.services[at].reals.iter().any(|real| same(real, addr, port)) {
            return Err(DirectorError::NoSuchReal);
        }
        self.remove_real(at, addr, port);
        self.generation += 1;
        Ok(())
    }

    /// Describes a present real server; a raised or dropped upper threshold ends its overload
    /// (`__ip_vs_update_dest`).
    pub(super) fn renew(
        &self,
        key: &ServiceKey,
        id: EndpointId,
        spec: &RealSpec,
        (hold, share): (Hold, Share),
    ) {
        let endpoint = self.endpoints.get(id);
        let (upper, _) = endpoint.thresholds();
        if spec.upper == 0 || spec.upper > upper {
            endpoint.load.overloaded.store(0, Relaxed);
        }
        let weight = seen_weight(spec, hold, share);
        let shunned = if hold.templates || !share.templates { SHUNNED } else { 0 };
        let available = if share.present { AVAILABLE } else { 0 };
        let told = match self.service(key).map(|entry| entry.spec.client_address) {
            Ok(ClientAddress::Toa) => TOA,
            Ok(ClientAddress::Proxy) => PROXY,
            Ok(ClientAddress::Hidden) | Err(_) => 0,
        };
        let flags = available | shunned | told;
        self.describe(id, protocol(key), &RealSpec { weight, ..*spec }, flags);
    }

    /// Takes a real server that is there out of the service at `at`.
    pub(super) fn remove_real(&mut self, at: usize, addr: Addr, port: u16) {
        let entry = &mut self.services[at];
        let key = entry.spec.key;
        let Some(place) = entry.reals.iter().position(|real| same(real, addr, port)) else {
            return;
        };
        let real = entry.reals.remove(place);
        let before = entry.present_before(place);
        entry.rebuild(Change::Removed { id: real.id, before });
        let counted = self.counted(real.id).since(real.joined);
        let entry = &mut self.services[at];
        entry.carried = entry.carried.plus(counted);
        let port = self.endpoints.get(real.id).port();
        self.describe(real.id, protocol(&key), &RealSpec { port, ..real.spec }, 0);
        self.discard_real(key, &real);
    }
}

/// The port that flows to a real server have there; 0: the one their clients use. A persistent
/// service for every port maps none, whatever its real servers say (`ip_vs_sched_persist`), but by
/// fullnat, which the kernel does not have. Fixed when the real server joins: flows must find it unchanged.
const fn flow_port(key: &ServiceKey, spec: &RealSpec, persistent: bool) -> u16 {
    let every_port = match key {
        ServiceKey::Address { port, .. } => *port == 0,
        ServiceKey::Mark { .. } => true,
    };
    let mapped = matches!(spec.method, Method::FullNat);
    if every_port && persistent && !mapped { 0 } else { spec.port }
}

/// Whether this is the real server with that address and port.
fn same(real: &RealEntry, addr: Addr, port: u16) -> bool {
    real.spec.addr == addr && real.spec.port == port
}

/// The protocol of a service's real servers; 0 for a firewall mark, which takes any.
const fn protocol(key: &ServiceKey) -> u8 {
    match key {
        ServiceKey::Address { protocol, .. } => *protocol,
        ServiceKey::Mark { .. } => 0,
    }
}
