//! `xvs.v1.DiagnosticsService`.

use std::{collections::BTreeMap, sync::Arc};

use dataplane::{
    sched::Scheduler,
    stats::{DeviceStats, WorkerStats},
    verdict::DropReason,
};
use tonic::{Request, Response, Status};

use crate::{
    convert::answer,
    engine::{
        Engine,
        report::{InterfaceReport, Report, WorkerReport},
    },
    proto::v1::{self as v1, diagnostics_service_server::DiagnosticsService},
    words,
};

/// The service over an engine.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    engine: Arc<Engine>,
}

impl Diagnostics {
    /// Serves this engine.
    pub const fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    /// What was counted.
    pub(crate) fn statistics(engine: &Engine) -> v1::GetStatisticsResponse {
        let (generation, (counters, rates)) = {
            let state = engine.lock();
            (state.director.generation(), state.totals())
        };
        let report = engine.report().borrow().clone();
        let workers = engine.stats().workers();
        v1::GetStatisticsResponse {
            generation,
            totals: Some(answer::counters(&counters)),
            rates: Some(answer::rates(&rates)),
            devices: devices(&report, workers),
            workers: worker_statistics(engine),
            drops: drops(workers),
            flow_table: Some(v1::FlowTableStatistics {
                capacity: engine.info().flow_capacity,
                used: engine.table().len() as u64,
            }),
        }
    }
}

#[tonic::async_trait]
impl DiagnosticsService for Diagnostics {
    async fn get_info(
        &self,
        _: Request<v1::GetInfoRequest>,
    ) -> Result<Response<v1::GetInfoResponse>, Status> {
        let generation = self.engine.lock().director.generation();
        let info = self.engine.info();
        let report = self.engine.report().borrow().clone();
        Ok(Response::new(v1::GetInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            generation,
            started_at: Some(info.started_at.into()),
            flow_capacity: info.flow_capacity,
            flow_table_bytes: info.flow_table_bytes,
            flow_table_pages: info.flow_table_pages.to_owned(),
            interfaces: report.interfaces.iter().map(interface).collect(),
            schedulers: Scheduler::NAMES.iter().map(|name| (*name).to_owned()).collect(),
            methods: words::METHODS.iter().map(|(name, _)| (*name).to_owned()).collect(),
        }))
    }

    async fn get_statistics(
        &self,
        _: Request<v1::GetStatisticsRequest>,
    ) -> Result<Response<v1::GetStatisticsResponse>, Status> {
        Ok(Response::new(Self::statistics(&self.engine)))
    }
}

/// Each worker.
pub(super) fn worker_statistics(engine: &Engine) -> Vec<v1::WorkerStatistics> {
    let report = engine.report().borrow().clone();
    (0..).zip(report.workers.iter().zip(engine.stats().workers())).map(worker).collect()
}

fn interface(report: &InterfaceReport) -> v1::InterfaceInfo {
    let queue = |queue: &crate::engine::report::QueueReport| v1::QueueInfo {
        queue: queue.queue,
        worker: queue.worker,
        mode: queue.mode.clone(),
        fallbacks: queue.fallbacks.clone(),
    };
    v1::InterfaceInfo {
        name: report.name.clone(),
        wanted_mode: report.wanted.to_owned(),
        queues: report.queues.iter().map(queue).collect(),
    }
}

/// Each interface, all workers together.
fn devices(report: &Report, workers: &[Arc<WorkerStats>]) -> Vec<v1::DeviceStatistics> {
    let device = |(at, interface): (usize, &InterfaceReport)| {
        let sum = |count: fn(&DeviceStats) -> u64| {
            workers.iter().filter_map(|worker| worker.devices.get(at)).map(count).sum()
        };
        v1::DeviceStatistics {
            interface: interface.name.clone(),
            received: sum(|device| device.received.get()),
            received_bytes: sum(|device| device.received_octets.get()),
            transmitted: sum(|device| device.transmitted.get()),
            host: sum(|device| device.host.get()),
            consumed: sum(|device| device.consumed.get()),
            dropped: sum(DeviceStats::dropped_total),
            missed: sum(|device| device.missed.get()),
        }
    };
    report.interfaces.iter().enumerate().map(device).collect()
}

fn worker(
    (number, (report, stats)): (u32, (&WorkerReport, &Arc<WorkerStats>)),
) -> v1::WorkerStatistics {
    let work = &stats.work;
    v1::WorkerStatistics {
        worker: number,
        cpu: report.cpu.map(u32::from),
        running: report.running,
        generation: work.generation.get(),
        restarts: report.restarts,
        received: stats.devices.iter().map(|device| device.received.get()).sum(),
        bursts: work.turns.get().saturating_sub(work.idle_turns.get()),
        turns: work.turns.get(),
        sleeps: work.sleeps.get(),
        flows_created: work.flows_created.get(),
        flows_expired: work.flows_expired.get(),
        flows_refused: work.flows_refused.get(),
        answers_suppressed: work.answers_suppressed.get(),
        clients_untold: work.clients_untold.get(),
        flows_sacrificed: work.flows_sacrificed.get(),
        room_short: work.room_short.get() != 0,
        longest_turn_nanoseconds: work.longest_turn.get(),
        longest_adoption_nanoseconds: work.longest_adoption.get(),
        counters: Some(answer::counters(&stats.total())),
        last_failure: report.last_failure.clone(),
    }
}

/// Drops of all devices and workers by reason, those that occurred.
fn drops(workers: &[Arc<WorkerStats>]) -> Vec<v1::DropCount> {
    let mut packets = BTreeMap::new();
    for device in workers.iter().flat_map(|worker| &worker.devices) {
        for (reason, counter) in DropReason::ALL.iter().zip(&device.dropped) {
            *packets.entry(*reason).or_insert(0) += counter.get();
        }
    }
    let occurred = packets.into_iter().filter(|(_, packets)| *packets > 0);
    occurred
        .map(|(reason, packets)| v1::DropCount { reason: reason.name().to_owned(), packets })
        .collect()
}
