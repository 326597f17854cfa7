//! Full NAT's local addresses: which there are, and which flows still have.
//!
//! An address that is taken out of the pool keeps its endpoint, and its packets stay steered, until no
//! flow names it; it comes back with it when it is added again. The same holds for ports that are no
//! longer in the range.

use hashbrown::HashSet;

use super::{
    Director,
    spec::{DirectorError, LocalPool, ServiceKey},
};
use crate::{
    addr::{Addr, Family},
    endpoint::{Description, EndpointId, Method},
    service::Locals,
};

/// Local addresses at most: as many as flows can name.
pub const LOCAL_ADDRS_MAX: usize = 256;

/// An endpoint that a flow's entry has no room to name.
const ID_END: u32 = 1 << 16;

/// The pool, and what is left of earlier ones.
#[derive(Debug, Default)]
pub(super) struct LocalTable {
    /// As asked for.
    pool: LocalPool,
    /// The endpoint of every address in it, in its order.
    present: Vec<(Addr, EndpointId)>,
    /// Addresses that were taken out, with the first generation without them.
    gone: Vec<(Addr, EndpointId, u64)>,
    /// The first and last port that a flow may have.
    steered: (u16, u16),
}

impl Director {
    /// Full NAT's local addresses and ports.
    pub const fn locals(&self) -> &LocalPool {
        &self.locals.pool
    }

    /// Says why [`Director::set_locals`] would refuse; changes nothing.
    ///
    /// # Errors
    ///
    /// As [`Director::set_locals`].
    pub fn check_locals(&self, pool: &LocalPool) -> Result<(), DirectorError> {
        let invalid = |field, reason| Err(DirectorError::Invalid { field, reason });
        let (first, last) = pool.ports;
        if first == 0 || first > last {
            return invalid("ports", format!("{first}-{last}; two ports from 1 to 65535"));
        }
        if pool.addrs.len() > LOCAL_ADDRS_MAX {
            return Err(DirectorError::Full { what: "local address", limit: LOCAL_ADDRS_MAX });
        }
        let mut seen = HashSet::new();
        for addr in &pool.addrs {
            if !super::check::unicast(*addr) {
                return invalid("addresses", format!("{addr} is not the address of one host"));
            }
            if !seen.insert(*addr) {
                return invalid("addresses", format!("{addr} is there twice"));
            }
            if self.services.iter().any(|service| service.spec.key.vip() == Some(*addr)) {
                return invalid("addresses", format!("{addr} is the address of a service"));
            }
        }
        let new = pool.addrs.iter().filter(|addr| self.local_id(**addr).is_none()).count();
        let fitting = self.free.iter().filter(|id| id.0 < ID_END).count();
        if new > fitting {
            return Err(DirectorError::Full { what: "local address", limit: fitting });
        }
        Ok(())
    }

    /// Replaces full NAT's local addresses and ports. Flows keep those that they have.
    ///
    /// # Errors
    ///
    /// An address or the range of ports is wrong, or there is no room. Nothing was changed.
    pub fn set_locals(&mut self, pool: &LocalPool) -> Result<(), DirectorError> {
        self.check_locals(pool)?;
        let mut present = Vec::with_capacity(pool.addrs.len());
        for &addr in &pool.addrs {
            let id = match self.local_id(addr) {
                Some(id) => id,
                None => self.allocate_local()?,
            };
            self.endpoints.get(id).describe(&Description { addr, ..Description::default() });
            present.push((addr, id));
        }
        let kept: HashSet<_> = present.iter().map(|(_, id)| *id).collect();
        let table = &mut self.locals;
        let generation = self.generation + 1;
        let left = table.present.drain(..).map(|(addr, id)| (addr, id, generation));
        table.gone.extend(left);
        table.gone.retain(|(_, id, _)| !kept.contains(id));
        let (first, last) = table.steered;
        table.steered =
            if last == 0 { pool.ports } else { (first.min(pool.ports.0), last.max(pool.ports.1)) };
        (table.present, table.pool) = (present, pool.clone());
        self.generation += 1;
        Ok(())
    }

    /// Fullnat real servers that no local address speaks to, for warnings.
    pub fn mute_reals(&self) -> Vec<Addr> {
        let lacks = |family| !self.locals.pool.addrs.iter().any(|addr| addr.family() == family);
        let reals = self.services.iter().flat_map(|service| &service.reals);
        let full = reals.filter(|real| real.spec.method == Method::FullNat);
        let mut mute: Vec<_> =
            full.map(|real| real.spec.addr).filter(|addr| lacks(addr.family())).collect();
        mute.sort_unstable();
        mute.dedup();
        mute
    }

    /// Refuses a service at a local address.
    pub(super) fn check_vip(&self, key: &ServiceKey) -> Result<(), DirectorError> {
        match key.vip().filter(|vip| self.locals.pool.addrs.contains(vip)) {
            None => Ok(()),
            Some(vip) => {
                let reason = format!("{vip} is one of full NAT's local addresses");
                Err(DirectorError::Invalid { field: "address", reason })
            }
        }
    }

    /// The endpoint of a local address, present or gone.
    fn local_id(&self, addr: Addr) -> Option<EndpointId> {
        let gone = self.locals.gone.iter().map(|(addr, id, _)| (addr, id));
        let present = self.locals.present.iter().map(|(addr, id)| (addr, id));
        present.chain(gone).find(|(known, _)| **known == addr).map(|(_, id)| *id)
    }

    /// Takes an endpoint id that a flow's entry has room for.
    fn allocate_local(&mut self) -> Result<EndpointId, DirectorError> {
        let place = self.free.iter().rposition(|id| id.0 < ID_END);
        let full = DirectorError::Full { what: "local address", limit: ID_END as usize };
        place.map(|place| self.free.swap_remove(place)).ok_or(full)
    }

    /// Frees what no flow has any more.
    pub(super) fn reap_locals(&mut self, reached: u64) {
        let Self { locals, endpoints, free, .. } = self;
        locals.gone.retain(|&(_, id, generation)| {
            let named = endpoints.get(id).load.is_named() || reached < generation;
            if !named {
                endpoints.get(id).forget();
                free.push(id);
            }
            named
        });
        let unused = |&(_, id): &(Addr, EndpointId)| !endpoints.get(id).load.is_named();
        let was_set = locals.steered.1 != 0;
        if was_set
            && locals.steered != locals.pool.ports
            && locals.gone.is_empty()
            && locals.present.iter().all(unused)
        {
            locals.steered = locals.pool.ports;
            self.generation += 1;
        }
    }

    /// What the workers need.
    pub(super) fn compiled_locals(&self) -> Locals {
        let of = |family: Family| {
            let present = self.locals.present.iter();
            present.filter(|(addr, _)| addr.family() == family).map(|(_, id)| *id).collect()
        };
        Locals { addrs: [of(Family::V4), of(Family::V6)], range: self.locals.pool.ports }
    }

    /// The addresses whose packets are full NAT's.
    pub(super) fn local_addrs(&self) -> impl Iterator<Item = Addr> + '_ {
        let gone = self.locals.gone.iter().map(|(addr, ..)| *addr);
        self.locals.present.iter().map(|(addr, _)| *addr).chain(gone)
    }

    /// The ports at those addresses that are.
    pub(super) const fn local_ports(&self) -> (u16, u16) {
        self.locals.steered
    }
}
