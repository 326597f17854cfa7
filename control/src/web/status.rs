//! What the status page asks for: the box at one moment, as JSON. Rates are those of the last two
//! seconds or so (the kernel's estimator); the page draws what it has seen.

use std::time::SystemTime;

use dataplane::{
    director::spec::{Rates, RealInfo, ServiceInfo},
    stats::DeviceStats,
    verdict::DropReason,
};
use serde_json::{Value, json};

use super::view::{View, member_of};
use crate::{
    engine::Engine,
    health::{
        group::Group,
        member::{Judge, Member},
    },
    words::{self, RealName, ServiceName},
};

/// The box.
pub(super) fn json(engine: &Engine) -> Value {
    let view = View::of(engine);
    let (_, rates) = engine.lock().totals();
    let uptime = SystemTime::now().duration_since(view.started_at).unwrap_or_default();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "generation": view.generation,
        "in_force": view.in_force,
        "uptime_seconds": uptime.as_secs(),
        "journaled": view.journaled,
        "table": { "capacity": view.table.capacity, "used": view.table.used },
        "rates": self::rates(&rates),
        "services": view.services.iter().map(|each| service(&view, each)).collect::<Vec<_>>(),
        "interfaces": interfaces(&view),
        "drops": drops(&view),
        "workers": workers(&view),
    })
}

fn rates(rates: &Rates) -> Value {
    json!({
        "flows": rates.cps,
        "in_packets": rates.in_pps,
        "out_packets": rates.out_pps,
        "in_bytes": rates.in_bps,
        "out_bytes": rates.out_bps,
    })
}

fn service(view: &View, service: &ServiceInfo) -> Value {
    let spec = &service.spec;
    json!({
        "name": ServiceName(&spec.key).to_string(),
        "scheduler": spec.scheduler,
        "persistence_seconds": spec.persistence_s,
        "one_packet": spec.one_packet,
        "flows": service.counters.conns,
        "rates": rates(&service.rates),
        "health": view.health.get(&spec.key).map(group),
        "reals": service.reals.iter().map(|each| real(view, service, each)).collect::<Vec<_>>(),
    })
}

fn real(view: &View, service: &ServiceInfo, real: &RealInfo) -> Value {
    let spec = &real.spec;
    let drain = view.drain_of(&service.spec.key, spec).map(|drain| {
        let left = u64::from(drain.left.0) + u64::from(drain.left.1);
        let seconds = drain
            .deadline_at
            .map(|at| at.duration_since(SystemTime::now()).unwrap_or_default().as_secs());
        json!({ "left": left, "deadline_in_seconds": seconds })
    });
    json!({
        "name": RealName { addr: spec.addr, port: spec.port }.to_string(),
        "method": words::method_name(spec.method),
        "weight": spec.weight,
        "held": real.hold.weight,
        "upper_threshold": spec.upper,
        "active": real.active,
        "inactive": real.inactive,
        "persistent": real.persistent,
        "flows": real.counters.conns,
        "rates": rates(&real.rates),
        "drain": drain,
        "health": view.health.get(&service.spec.key).and_then(|group| member_of(group, spec)).map(member),
        "sorry": real.standby,
        "seen_weight": real.weight(),
    })
}

/// What health checks know of a service.
fn group(group: &Group) -> Value {
    let (_, up, all) = group.strength();
    json!({
        "up": up,
        "all": all,
        "quorum": group.quorum,
        "panic": group.panic,
        "sorry": group.sorry,
    })
}

/// What they know of a real server.
fn member(member: &Member) -> Value {
    let since = SystemTime::now().duration_since(member.since).unwrap_or_default();
    let check = |judge: &Judge| {
        let last = judge.last.as_ref().map(|(outcome, _)| outcome);
        json!({
            "kind": judge.check.kind.name(),
            "through": judge.check.through,
            "up": judge.up,
            "against": judge.against,
            "passed": last.is_some_and(|outcome| outcome.passed),
            "note": last.map_or("not checked yet", |outcome| outcome.note.as_str()),
            "took_microseconds": last.map(|outcome| outcome.took.as_micros()),
        })
    };
    json!({
        "up": member.up,
        "since_seconds": since.as_secs(),
        "share_percent": member.told.percent,
        "complaints": member.complaints,
        "checks": member.judges.iter().map(check).collect::<Vec<_>>(),
    })
}

fn interfaces(view: &View) -> Vec<Value> {
    let interface = |(at, interface): (usize, &crate::engine::report::InterfaceReport)| {
        let sum = |of: fn(&DeviceStats) -> u64| -> u64 {
            view.workers.iter().filter_map(|worker| worker.devices.get(at)).map(of).sum()
        };
        let modes: Vec<_> = interface.queues.iter().map(|queue| queue.mode.as_str()).collect();
        json!({
            "name": interface.name,
            "queues": modes,
            "received": sum(|device| device.received.get()),
            "transmitted": sum(|device| device.transmitted.get()),
            "host": sum(|device| device.host.get()),
            "consumed": sum(|device| device.consumed.get()),
            "dropped": sum(DeviceStats::dropped_total),
            "missed": sum(|device| device.missed.get()),
        })
    };
    view.report.interfaces.iter().enumerate().map(interface).collect()
}

fn drops(view: &View) -> Vec<Value> {
    let count = |reason: DropReason| -> u64 {
        let devices = view.workers.iter().flat_map(|worker| &worker.devices);
        devices.map(|device| device.dropped[reason as usize].get()).sum()
    };
    let drops = DropReason::ALL.iter().map(|&reason| (reason, count(reason)));
    let told = |(reason, packets): (DropReason, u64)| json!({ "reason": reason.name(), "meaning": reason.meaning(), "packets": packets });
    drops.filter(|(_, packets)| *packets > 0).map(told).collect()
}

fn workers(view: &View) -> Vec<Value> {
    let workers = view.report.workers.iter().zip(&view.workers).enumerate();
    workers
        .map(|(number, (report, stats))| {
            let work = &stats.work;
            json!({
                "worker": number,
                "cpu": report.cpu,
                "running": report.running,
                "restarts": report.restarts,
                "failure": report.last_failure,
                "turns": work.turns.get(),
                "idle_turns": work.idle_turns.get(),
                "received": stats.devices.iter().map(|d| d.received.get()).sum::<u64>(),
                "flows_created": work.flows_created.get(),
                "longest_turn_microseconds": work.longest_turn.get().div_ceil(1000),
            })
        })
        .collect()
}
