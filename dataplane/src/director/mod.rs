//! The director: what should be, with IPVS's rules of changing it, compiled into snapshots.
//!
//! Pure: no I/O, no clock. `xvsd` drives it from gRPC, `conform` and `replay` from rule texts.
//! A change is checked first and then made whole; a refused change changes nothing. Each change
//! rebuilds only its own service; [`Director::compile`] gathers the rest by reference.
//! Source of the rules: Linux `net/netfilter/ipvs/ip_vs_ctl.c`.

mod apply;
mod check;
mod compile;
mod flows;
mod locals;
mod marks;
mod reals;
mod services;
mod settings;
mod trash;

use std::sync::Arc;

use hashbrown::HashMap;

use self::{
    locals::LocalTable,
    network::Network,
    spec::{Counters, DirectorError, Hold, MarkRule, RealSpec, ServiceKey, ServiceSpec, Share},
    trash::Trash,
};
use crate::{
    addr::Addr,
    calls::Calls,
    capture::{Capture, Captures},
    destination::Retired,
    endpoint::{Description, EndpointId, Endpoints},
    flow::timeout::Timeouts,
    route::{Path, Routes},
    sched::SchedState,
    selector::Table,
    service::{Service, Settings},
    stats::Stats,
};

pub use crate::{capture::CAPTURES_MAX, network, spec};

pub use apply::{Applied, ApplyError, Desired};
pub use check::real as check_real;
pub use locals::LOCAL_ADDRS_MAX;
pub use settings::SETTINGS;

/// Calls that a persistence engine keeps at once, at most: 20 MB.
const CALLS_MAX: usize = 1 << 16;

/// A real server as the director keeps it.
#[derive(Clone, Debug)]
struct RealEntry {
    /// As asked for.
    spec: RealSpec,
    /// What keeps new flows away.
    hold: Hold,
    /// What health checks leave of it.
    share: Share,
    /// It stands in for the service's real servers, and is no part of what is asked for.
    standby: bool,
    /// Its endpoint.
    id: EndpointId,
    /// Where its counters stood when they were zeroed.
    zero: Counters,
    /// Where they stood when it joined its service, or when the service was zeroed.
    joined: Counters,
}

/// A service as the director keeps it.
#[derive(Debug)]
struct ServiceEntry {
    /// As asked for.
    spec: ServiceSpec,
    /// Its virtual endpoint.
    endpoint: EndpointId,
    /// What its scheduler remembers.
    state: Arc<SchedState>,
    /// Its real servers, last added first.
    reals: Vec<RealEntry>,
    /// What real servers that left had counted.
    carried: Counters,
    /// What the workers get.
    compiled: Arc<Service>,
}

/// The desired state of the box.
#[derive(Debug)]
pub struct Director {
    /// Services in the order in which they were added.
    services: Vec<ServiceEntry>,
    /// Place of each service in `services`.
    places: HashMap<ServiceKey, usize>,
    /// The rules that mark packets, first to last.
    mark_rules: Vec<MarkRule>,
    /// The same, compiled.
    marks: Arc<Table>,
    /// Endpoints that were removed and may still be named by flows.
    trash: Trash,
    /// Destinations that no flow names any more.
    retired: Retired,
    /// Full NAT's local addresses.
    locals: LocalTable,
    /// Endpoint ids that nothing names; the last is given out next.
    free: Vec<EndpointId>,
    /// The greatest endpoint id ever given out; 0 before the first.
    greatest: u32,
    /// Shared with the workers.
    endpoints: Arc<Endpoints>,
    /// Where the workers count.
    stats: Stats,
    /// Path to each real server by endpoint id.
    paths: Vec<Path>,
    /// What the kernel says.
    network: Network,
    /// The same, compiled.
    routes: Arc<Routes>,
    /// The calls of persistence engines, once there was a service with one.
    calls: Option<Arc<Calls>>,
    /// IPVS sysctls.
    settings: Settings,
    /// Time-outs.
    timeouts: Timeouts,
    /// Who wants to see packets; no part of what is asked for.
    captures: Captures,
    /// Of the last compiled state.
    generation: u64,
}

impl Director {
    /// An empty director over endpoints and counters that the workers share.
    pub fn new(endpoints: Arc<Endpoints>, stats: Stats) -> Self {
        let ids = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
        Self {
            services: Vec::new(),
            places: HashMap::new(),
            mark_rules: Vec::new(),
            marks: Arc::default(),
            trash: Trash::default(),
            retired: Retired::default(),
            locals: LocalTable::default(),
            free: (1..ids).rev().map(EndpointId).collect(),
            greatest: 0,
            endpoints,
            stats,
            paths: Vec::new(),
            network: Network::default(),
            routes: Arc::new(Routes::default()),
            calls: None,
            settings: Settings::default(),
            timeouts: Timeouts::default(),
            captures: Captures::new(),
            generation: 0,
        }
    }

    /// The generation of the state as it is now; goes up with every change.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether there is a service with this key.
    pub fn has_service(&self, key: &ServiceKey) -> bool {
        self.places.contains_key(key)
    }

    /// Lets somebody see packets, as soon as workers forward by it; `false` if [`CAPTURES_MAX`] do
    /// already.
    pub fn begin_capture(&mut self, capture: &Arc<Capture>) -> bool {
        let begun = self.captures.try_push(Arc::clone(capture)).is_ok();
        self.generation += u64::from(begun);
        begun
    }

    /// Ends that.
    pub fn end_capture(&mut self, capture: &Arc<Capture>) {
        self.captures.retain(|running| !Arc::ptr_eq(running, capture));
        self.generation += 1;
    }

    /// Something changed that belongs to the configuration, but is not the workers' affair.
    pub const fn touch(&mut self) {
        self.generation += 1;
    }

    /// The endpoints, shared with the workers.
    pub const fn endpoints(&self) -> &Arc<Endpoints> {
        &self.endpoints
    }

    /// How many endpoints can be at most, virtual and real.
    pub fn capacity(&self) -> usize {
        self.endpoints.len() - 1
    }

    /// The service with this key.
    fn service(&self, key: &ServiceKey) -> Result<&ServiceEntry, DirectorError> {
        self.places.get(key).map(|&at| &self.services[at]).ok_or(DirectorError::NoSuchService)
    }

    /// The service with this key, to be changed.
    fn service_mut(&mut self, key: &ServiceKey) -> Result<&mut ServiceEntry, DirectorError> {
        let at = *self.places.get(key).ok_or(DirectorError::NoSuchService)?;
        Ok(&mut self.services[at])
    }

    /// Takes an endpoint id that nothing names.
    fn allocate(&mut self, what: &'static str) -> Result<EndpointId, DirectorError> {
        let limit = self.capacity();
        let id = self.free.pop().ok_or(DirectorError::Full { what, limit })?;
        self.greatest = self.greatest.max(id.0);
        Ok(id)
    }

    /// What an endpoint's real server counted over all workers, from the start of the process.
    pub fn counted(&self, id: EndpointId) -> Counters {
        self.stats.endpoint(id)
    }

    /// What all real servers together have counted since the start, also those that are gone.
    pub fn counted_total(&self) -> Counters {
        let ids = (1..=self.greatest).map(EndpointId);
        ids.fold(Counters::default(), |sum, id| sum.plus(self.counted(id)))
    }

    /// Replaces what is known about the network; every path is looked up anew.
    pub fn set_network(&mut self, network: Network) {
        let generation = self.routes.generation.wrapping_add(1).max(1);
        self.routes = Arc::new(Routes::new(&network, generation));
        self.network = network;
        let reals: Vec<_> = self.real_endpoints().collect();
        for (id, addr) in reals {
            self.resolve(id, addr);
        }
        self.generation += 1;
    }

    /// The way to a real server at this address.
    pub fn path_to(&self, addr: Addr) -> Path {
        self.routes.real_path(addr)
    }

    /// What is known about the network.
    pub const fn network(&self) -> &Network {
        &self.network
    }

    /// Looks up the path to a real server.
    fn resolve(&mut self, id: EndpointId, addr: Addr) {
        let at = id.0 as usize;
        if self.paths.len() <= at {
            self.paths.resize(at + 1, Path::NONE);
        }
        self.paths[at] = self.routes.real_path(addr);
    }

    /// Every real server that flows may name: the present ones and those in the trash.
    fn real_endpoints(&self) -> impl Iterator<Item = (EndpointId, Addr)> + '_ {
        let present = self.services.iter().flat_map(|s| &s.reals).map(|r| (r.id, r.spec.addr));
        present.chain(self.trash.reals().map(|t| (t.id, t.addr)))
    }

    /// Writes a real server's description where the workers read it.
    fn describe(&self, id: EndpointId, protocol: u8, spec: &RealSpec, flags: u16) {
        self.endpoints.get(id).describe(&Description {
            addr: spec.addr,
            port: spec.port,
            protocol,
            method: spec.method,
            flags,
            weight: spec.weight,
            upper: spec.upper,
            lower: spec.lower,
            tunnel: spec.tunnel.word(),
        });
    }
}

#[cfg(test)]
mod tests;
