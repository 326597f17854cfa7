//! Removed endpoints that living flows may still name.
//!
//! A real server that is removed keeps its endpoint, its load and its counters; when it is added
//! again to the same service it comes back with them. An endpoint leaves the trash, and its id may
//! be given out again, when no flow names it, every worker has left the snapshot that knew it, and
//! [`KEPT_TICKS`] have passed.
//! Source: Linux `ip_vs_ctl.c`, `ip_vs_trash_get_dest`, `IP_VS_DEST_TRASH_PERIOD`.

use super::{
    Director,
    spec::{Counters, ServiceKey},
};
use crate::{
    addr::Addr,
    clock::{TICKS_PER_SECOND, Tick},
    endpoint::EndpointId,
};

/// How long a removed endpoint is kept at least: 120 s, as the kernel keeps it.
const KEPT_TICKS: u32 = 120 * TICKS_PER_SECOND;

/// A removed real server.
#[derive(Clone, Debug)]
pub(super) struct TrashedReal {
    /// The service it was in.
    pub(super) key: ServiceKey,
    /// Its address.
    pub(super) addr: Addr,
    /// Its port.
    pub(super) port: u16,
    /// Whether its replies are translated.
    pub(super) translated: bool,
    /// Its endpoint.
    pub(super) id: EndpointId,
    /// Where its counters stood when they were zeroed.
    zero: Counters,
    /// The first generation without it.
    generation: u64,
    /// When it was first seen idle; `None` before.
    since: Option<Tick>,
}

/// A removed service: its virtual endpoint.
#[derive(Clone, Debug)]
struct TrashedService {
    /// Its key.
    key: ServiceKey,
    /// Its virtual endpoint.
    id: EndpointId,
}

/// All that was removed and may still be named.
#[derive(Debug, Default)]
pub(super) struct Trash {
    /// Real servers.
    reals: Vec<TrashedReal>,
    /// Services; kept as long as one of their real servers is.
    services: Vec<TrashedService>,
}

impl Trash {
    /// The real servers in it.
    pub(super) fn reals(&self) -> impl Iterator<Item = &TrashedReal> {
        self.reals.iter()
    }

    /// Takes a real server back out.
    pub(super) fn take_real(
        &mut self,
        key: &ServiceKey,
        addr: Addr,
        port: u16,
    ) -> Option<(EndpointId, Counters)> {
        let at =
            self.reals.iter().position(|t| t.key == *key && t.addr == addr && t.port == port)?;
        let real = self.reals.swap_remove(at);
        Some((real.id, real.zero))
    }

    /// Takes a service's virtual endpoint back out.
    pub(super) fn take_service(&mut self, key: &ServiceKey) -> Option<EndpointId> {
        let at = self.services.iter().position(|t| t.key == *key)?;
        Some(self.services.swap_remove(at).id)
    }
}

impl Director {
    /// Puts a real server into the trash.
    pub(super) fn discard_real(&mut self, key: ServiceKey, real: &super::RealEntry) {
        self.trash.reals.push(TrashedReal {
            key,
            addr: real.spec.addr,
            port: real.spec.port,
            translated: real.spec.method.translates(),
            id: real.id,
            zero: real.zero,
            generation: self.generation + 1,
            since: None,
        });
    }

    /// Puts a service's virtual endpoint into the trash.
    pub(super) fn discard_service(&mut self, key: ServiceKey, id: EndpointId) {
        self.trash.services.push(TrashedService { key, id });
    }

    /// Empties the trash of what nothing names any more. `reached` is the generation that every
    /// worker has reached. Call every few seconds.
    pub fn reap(&mut self, now: Tick, reached: u64) {
        self.reap_locals(reached);
        let endpoints = &self.endpoints;
        endpoints.destinations().reclaim(&mut self.retired, now);
        let mut freed = Vec::new();
        self.trash.reals.retain_mut(|real| {
            let busy = endpoints.get(real.id).load.is_named();
            if busy || reached < real.generation {
                real.since = None;
                return true;
            }
            let since = *real.since.get_or_insert(now);
            let keep = now.since(since) < KEPT_TICKS;
            if !keep {
                freed.push(real.id);
            }
            keep
        });
        let reals = &self.trash.reals;
        self.trash.services.retain(|service| {
            let keep = reals.iter().any(|real| real.key == service.key);
            if !keep {
                freed.push(service.id);
            }
            keep
        });
        for id in freed {
            self.endpoints.get(id).forget();
            self.free.push(id);
        }
    }
}
