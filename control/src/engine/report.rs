//! What the daemon tells about itself: fixed at the start, or kept up to date by the fleet.

use std::time::SystemTime;

use dataplane::flow::FlowTable;

/// What is fixed at the start.
#[derive(Clone, Debug)]
pub struct Info {
    /// When the daemon started.
    pub started_at: SystemTime,
    /// Flows that fit.
    pub flow_capacity: u64,
    /// Octets of the flow table.
    pub flow_table_bytes: u64,
    /// Which pages the flow table got.
    pub flow_table_pages: &'static str,
}

impl Info {
    /// Of a daemon that starts now, with this table.
    pub fn new(table: &FlowTable) -> Self {
        let memory = table.memory();
        Self {
            started_at: SystemTime::now(),
            flow_capacity: table.capacity() as u64,
            flow_table_bytes: memory.octets as u64,
            flow_table_pages: memory.pages.name(),
        }
    }
}

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceReport {
    /// Its name.
    pub name: String,
    /// The mode that the configuration asks for.
    pub wanted: &'static str,
    /// What each queue reached.
    pub queues: Vec<QueueReport>,
}

/// One queue of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueReport {
    /// Its number.
    pub queue: u32,
    /// The worker that serves it.
    pub worker: u32,
    /// The mode reached.
    pub mode: String,
    /// Why no better one was reached.
    pub fallbacks: Vec<String>,
}

/// One worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerReport {
    /// The CPU it is pinned to.
    pub cpu: Option<u16>,
    /// Whether it forwards.
    pub running: bool,
    /// How often it failed and was started again.
    pub restarts: u64,
    /// Why it failed last; empty if it never did.
    pub last_failure: String,
}

/// What changes while the daemon runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The interfaces, by device id.
    pub interfaces: Vec<InterfaceReport>,
    /// The workers.
    pub workers: Vec<WorkerReport>,
}

impl Report {
    /// The interfaces' names, by device id.
    pub fn names(&self) -> Vec<String> {
        self.interfaces.iter().map(|interface| interface.name.clone()).collect()
    }

    /// Whether every worker forwards.
    pub fn all_running(&self) -> bool {
        self.workers.iter().all(|worker| worker.running)
    }
}
