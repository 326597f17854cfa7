//! What is shown of the box, gathered in one go: the state under one short lock, then counters.

use std::{collections::BTreeMap, time::SystemTime};

use dataplane::{
    director::spec::{Counters, RealInfo, RealSpec, ServiceInfo, ServiceKey},
    flow::FlowTable,
    stats::WorkerStats,
};

use crate::{
    engine::{
        Engine,
        drain::{Drain, Phase},
        report::Report,
    },
    health::{group::Group, member::Member},
    words::{self, RealName},
};

/// The box at one moment.
#[derive(Debug)]
pub(super) struct View {
    pub(super) generation: u64,
    pub(super) in_force: u64,
    pub(super) started_at: SystemTime,
    pub(super) services: Vec<ServiceInfo>,
    pub(super) drains: Vec<Drain>,
    /// What health checks know.
    pub(super) health: BTreeMap<ServiceKey, Group>,
    pub(super) report: Report,
    /// Of all real servers since the start.
    pub(super) totals: Counters,
    pub(super) workers: Vec<std::sync::Arc<WorkerStats>>,
    pub(super) table: TableView,
    pub(super) journaled: bool,
}

/// The flow table.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableView {
    pub(super) capacity: u64,
    pub(super) used: u64,
    pub(super) octets: u64,
}

impl View {
    /// Looks at everything.
    pub(super) fn of(engine: &Engine) -> Self {
        let (generation, services, drains, journaled) = {
            let state = engine.lock();
            let (generation, services) = state.services();
            (generation, services, state.drains().to_vec(), state.is_journaled())
        };
        let workers = engine.stats().workers().to_vec();
        let each = workers.iter().map(|worker| worker.total());
        let totals = each.fold(Counters::default(), Counters::plus);
        let info = engine.info();
        let table: &FlowTable = engine.table();
        Self {
            generation,
            in_force: engine.in_force(),
            started_at: info.started_at,
            services,
            drains,
            health: engine.health().groups().clone(),
            report: engine.report().borrow().clone(),
            totals,
            workers,
            table: TableView {
                capacity: info.flow_capacity,
                used: table.len() as u64,
                octets: info.flow_table_bytes,
            },
            journaled,
        }
    }

    /// The drain that runs for a real server.
    pub(super) fn drain_of(&self, key: &ServiceKey, real: &RealSpec) -> Option<&Drain> {
        let name = RealName { addr: real.addr, port: real.port };
        let is_of = |drain: &&Drain| drain.spec.key == *key && drain.spec.real == name;
        self.drains.iter().filter(|drain| drain.phase == Phase::Draining).find(is_of)
    }
}

/// What health checks know of a real server.
pub(super) fn member_of<'a>(group: &'a Group, real: &RealSpec) -> Option<&'a Member> {
    group.members.get(&RealName { addr: real.addr, port: real.port })
}

/// Protocol, address, port and mark of a service, as /proc/net/ip_vs and node_exporter name them.
pub(super) fn service_labels(key: &ServiceKey) -> [String; 4] {
    match *key {
        ServiceKey::Address { protocol, addr, port } => [
            words::protocol_name(protocol).to_uppercase(),
            addr.to_string(),
            port.to_string(),
            String::new(),
        ],
        ServiceKey::Mark { mark, .. } => {
            ["FWM".to_owned(), String::new(), "0".to_owned(), format!("{mark:08X}")]
        }
    }
}

/// A service's labels with address and port of a real server.
pub(super) fn real_labels(key: &ServiceKey, real: &RealInfo) -> [String; 6] {
    let [protocol, address, port, mark] = service_labels(key);
    [protocol, address, port, mark, real.spec.addr.to_string(), real.spec.port.to_string()]
}
