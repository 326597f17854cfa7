//! Every metric there is: its name, kind, labels, what it means, and where its values come from. The
//! page docs/metrics.md is held to this list by a test.
//!
//! The names that begin with `node_ipvs_` are those of node_exporter's collector `ipvs`, labels
//! included, so that dashboards made for a kernel's IPVS work here.

use std::time::UNIX_EPOCH;

use dataplane::{
    spec::{Counters, RealInfo, ServiceInfo},
    stats::{DeviceStats, WorkStats},
    verdict::DropReason,
};

use super::view::{View, member_of, real_labels, service_labels};
use crate::health::{
    group::Group,
    member::{Judge, Member},
};

/// What a metric does over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows; its name ends in `_total` where it is shown.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// Takes a sample: the labels' values and the number.
pub(super) type Sink<'a> = dyn FnMut(&[&str], f64) + 'a;

/// Reads a count of a device.
type Count = fn(&DeviceStats) -> u64;

/// A metric.
#[derive(Clone, Copy, Debug)]
pub(super) struct Metric {
    /// Without `_total`.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    pub(super) labels: &'static [&'static str],
    /// Gives all samples.
    pub(super) read: fn(&View, &mut Sink<'_>),
}

impl Metric {
    /// Its name as it is shown.
    pub(super) fn shown_name(&self) -> String {
        match self.kind {
            Kind::Counter => format!("{}_total", self.name),
            Kind::Gauge => self.name.to_owned(),
        }
    }
}

const NONE: &[&str] = &[];
/// Labels of a probe of a check; what is about more has the first ones of them.
const PROBES: &[&str] = &[
    "proto",
    "local_address",
    "local_port",
    "local_mark",
    "remote_address",
    "remote_port",
    "check",
    "kind",
    "result",
];
const CHECK: &[&str] = PROBES.split_at(8).0;
const REAL: &[&str] = CHECK.split_at(6).0;
const SERVICE: &[&str] = REAL.split_at(4).0;
const INTERFACE: &[&str] = &["interface"];
const WORKER: &[&str] = &["worker"];

const fn counter(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    read: fn(&View, &mut Sink<'_>),
) -> Metric {
    Metric { name, kind: Kind::Counter, help, labels, read }
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    read: fn(&View, &mut Sink<'_>),
) -> Metric {
    Metric { name, kind: Kind::Gauge, help, labels, read }
}

/// All metrics, in the order in which they are shown.
pub(super) const METRICS: &[Metric] = &[
    counter("node_ipvs_connections", "Flows scheduled since the start", NONE, |view, out| {
        out(&[], float(view.totals.conns));
    }),
    counter("node_ipvs_incoming_packets", "Packets from clients", NONE, |view, out| {
        out(&[], float(view.totals.in_packets));
    }),
    counter("node_ipvs_outgoing_packets", "Packets to clients", NONE, |view, out| {
        out(&[], float(view.totals.out_packets));
    }),
    counter("node_ipvs_incoming_bytes", "Octets from clients", NONE, |view, out| {
        out(&[], float(view.totals.in_bytes));
    }),
    counter("node_ipvs_outgoing_bytes", "Octets to clients", NONE, |view, out| {
        out(&[], float(view.totals.out_bytes));
    }),
    gauge("node_ipvs_backend_connections_active", "Active flows", REAL, |view, out| {
        reals(view, out, |real| float(real.active));
    }),
    gauge("node_ipvs_backend_connections_inactive", "Inactive flows", REAL, |view, out| {
        reals(view, out, |real| float(real.inactive));
    }),
    gauge("node_ipvs_backend_weight", "Weight; 0 while it drains or is down", REAL, |view, out| {
        reals(view, out, |real| float(real.weight()));
    }),
    gauge("xvs_real_server_persistent", "Persistence templates", REAL, |view, out| {
        reals(view, out, |real| float(real.persistent));
    }),
    gauge("xvs_real_server_draining", "1 while a drain keeps new flows away", REAL, |view, out| {
        reals(view, out, |real| float(u32::from(real.hold.weight)));
    }),
    counter("xvs_real_server_connections", "Flows scheduled", REAL, |view, out| {
        reals(view, out, |real| float(real.counters.conns));
    }),
    counter("xvs_real_server_incoming_packets", "Packets from clients", REAL, |view, out| {
        reals(view, out, |real| float(real.counters.in_packets));
    }),
    counter("xvs_real_server_outgoing_packets", "Packets to clients", REAL, |view, out| {
        reals(view, out, |real| float(real.counters.out_packets));
    }),
    counter("xvs_real_server_incoming_bytes", "Octets from clients", REAL, |view, out| {
        reals(view, out, |real| float(real.counters.in_bytes));
    }),
    counter("xvs_real_server_outgoing_bytes", "Octets to clients", REAL, |view, out| {
        reals(view, out, |real| float(real.counters.out_bytes));
    }),
    counter("xvs_service_connections", "Flows scheduled", SERVICE, |view, out| {
        services(view, out, |counters| counters.conns);
    }),
    counter("xvs_service_incoming_packets", "Packets from clients", SERVICE, |view, out| {
        services(view, out, |counters| counters.in_packets);
    }),
    counter("xvs_service_outgoing_packets", "Packets to clients", SERVICE, |view, out| {
        services(view, out, |counters| counters.out_packets);
    }),
    counter("xvs_service_incoming_bytes", "Octets from clients", SERVICE, |view, out| {
        services(view, out, |counters| counters.in_bytes);
    }),
    counter("xvs_service_outgoing_bytes", "Octets to clients", SERVICE, |view, out| {
        services(view, out, |counters| counters.out_bytes);
    }),
    gauge("xvs_service_real_servers", "Real servers that take new flows", SERVICE, |view, out| {
        for service in &view.services {
            let taking = service.reals.iter().filter(|real| real.weight() > 0).count();
            service_sample(service, out, float(taking as u64));
        }
    }),
    gauge("xvs_drain_flows", "Flows left on a real server that drains", REAL, |view, out| {
        for service in &view.services {
            for real in &service.reals {
                if let Some(drain) = view.drain_of(&service.spec.key, &real.spec) {
                    let left = float(drain.left.0) + float(drain.left.1);
                    real_sample(service, real, out, left);
                }
            }
        }
    }),
    gauge("xvs_real_server_up", "Whether health checks find it up", REAL, |view, out| {
        members(view, |service, real, member| {
            real_sample(service, real, out, float(u32::from(member.up)));
        });
    }),
    gauge("xvs_real_server_share", "Part of its weight that they leave", REAL, |view, out| {
        members(view, |service, real, member| {
            real_sample(service, real, out, float(member.told.percent) / 100.0);
        });
    }),
    counter("xvs_health_probes", "Probes of health checks that ended", PROBES, |view, out| {
        checks(view, &mut |labels, judge| {
            let (passed, failed) = judge.probes;
            for (result, count) in [("passed", passed), ("failed", failed)] {
                let labels: Vec<_> = labels.iter().copied().chain([result]).collect();
                out(&labels, float(count));
            }
        });
    }),
    gauge("xvs_health_probe_seconds", "How long the last one took", CHECK, |view, out| {
        checks(view, &mut |labels, judge| {
            if let Some((outcome, _)) = &judge.last {
                out(labels, outcome.took.as_secs_f64());
            }
        });
    }),
    gauge("xvs_service_quorum", "Whether enough real servers are up", SERVICE, |view, out| {
        groups(view, out, |group| group.quorum);
    }),
    gauge("xvs_service_panic", "Whether all are used, up or not", SERVICE, |view, out| {
        groups(view, out, |group| group.panic);
    }),
    gauge("xvs_service_sorry", "Whether the sorry server answers", SERVICE, |view, out| {
        groups(view, out, |group| group.sorry);
    }),
    counter("xvs_received_packets", "Packets received", INTERFACE, |view, out| {
        devices(view, out, |device| device.received.get());
    }),
    counter(
        "xvs_received_bytes",
        "Octets received, link headers included",
        INTERFACE,
        |view, out| {
            devices(view, out, |device| device.received_octets.get());
        },
    ),
    counter(
        "xvs_verdicts",
        "Packets received, by what became of them; all together are the packets received",
        &["interface", "verdict"],
        |view, out| {
            let verdicts: [(&str, Count); 4] = [
                ("transmitted", |device| device.transmitted.get()),
                ("host", |device| device.host.get()),
                ("consumed", |device| device.consumed.get()),
                ("dropped", DeviceStats::dropped_total),
            ];
            for (verdict, of) in verdicts {
                devices(view, &mut |labels, value| out(&[labels[0], verdict], value), of);
            }
        },
    ),
    counter("xvs_drops", "Packets dropped, by reason", &["interface", "reason"], |view, out| {
        for (at, interface) in view.report.interfaces.iter().enumerate() {
            for &reason in DropReason::ALL {
                let of = |device: &DeviceStats| device.dropped[reason as usize].get();
                let sum: u64 = view.workers.iter().map(|worker| of(&worker.devices[at])).sum();
                out(&[&interface.name, reason.name()], float(sum));
            }
        }
    }),
    counter(
        "xvs_missed_packets",
        "Packets dropped by the kernel, as a worker was too slow; not among those received",
        INTERFACE,
        |view, out| devices(view, out, |device| device.missed.get()),
    ),
    counter("xvs_originated_packets", "Packets of the box's own sent", INTERFACE, |view, out| {
        devices(view, out, |device| device.originated.get());
    }),
    counter("xvs_originated_lost_packets", "Those that found no room", INTERFACE, |view, out| {
        devices(view, out, |device| device.originated_lost.get());
    }),
    gauge(
        "xvs_queue_info",
        "1 for each queue; the mode says what was reached",
        &["interface", "queue", "worker", "mode"],
        |view, out| {
            for interface in &view.report.interfaces {
                for queue in &interface.queues {
                    let [number, worker] = [queue.queue, queue.worker].map(|n| n.to_string());
                    out(&[&interface.name, &number, &worker, &queue.mode], 1.0);
                }
            }
        },
    ),
    gauge("xvs_worker_up", "Whether the worker forwards", WORKER, |view, out| {
        for (number, worker) in view.report.workers.iter().enumerate() {
            out(&[&number.to_string()], float(u32::from(worker.running)));
        }
    }),
    counter("xvs_worker_restarts", "Times it failed and was started again", WORKER, |view, out| {
        for (number, worker) in view.report.workers.iter().enumerate() {
            out(&[&number.to_string()], float(worker.restarts));
        }
    }),
    counter("xvs_worker_turns", "Turns of its loop", WORKER, |view, out| {
        workers(view, out, |work| float(work.turns.get()));
    }),
    counter("xvs_worker_idle_turns", "Turns that found no packet", WORKER, |view, out| {
        workers(view, out, |work| float(work.idle_turns.get()));
    }),
    counter("xvs_worker_sleeps", "Times it slept", WORKER, |view, out| {
        workers(view, out, |work| float(work.sleeps.get()));
    }),
    gauge("xvs_worker_longest_turn_seconds", "Its longest turn so far", WORKER, |view, out| {
        workers(view, out, |work| float(work.longest_turn.get()) / 1e9);
    }),
    gauge(
        "xvs_worker_longest_adoption_seconds",
        "The longest that putting a configuration in force took so far",
        WORKER,
        |view, out| workers(view, out, |work| float(work.longest_adoption.get()) / 1e9),
    ),
    gauge("xvs_worker_generation", "The configuration it forwards by", WORKER, |view, out| {
        workers(view, out, |work| float(work.generation.get()));
    }),
    counter("xvs_flows_created", "Flows opened", WORKER, |view, out| {
        workers(view, out, |work| float(work.flows_created.get()));
    }),
    counter("xvs_flows_expired", "Flows that expired", WORKER, |view, out| {
        workers(view, out, |work| float(work.flows_expired.get()));
    }),
    counter("xvs_flows_refused", "Flows refused: table or quota full", WORKER, |view, out| {
        workers(view, out, |work| float(work.flows_refused.get()));
    }),
    counter("xvs_flows_sacrificed", "Flows ended early by drop_entry", WORKER, |view, out| {
        workers(view, out, |work| float(work.flows_sacrificed.get()));
    }),
    counter(
        "xvs_datagrams_lost",
        "Datagrams whose fragments did not all come in time",
        WORKER,
        |view, out| workers(view, out, |work| float(work.datagrams_lost.get())),
    ),
    counter(
        "xvs_parked_lost",
        "Packets that waited for a next hop in vain",
        WORKER,
        |view, out| {
            workers(view, out, |work| float(work.parked_lost.get()));
        },
    ),
    counter(
        "xvs_clients_untold",
        "Packets whose real server could not be told the client's address",
        WORKER,
        |view, out| workers(view, out, |work| float(work.clients_untold.get())),
    ),
    counter(
        "xvs_answers_suppressed",
        "Answers of the box's own not sent because there were too many",
        WORKER,
        |view, out| workers(view, out, |work| float(work.answers_suppressed.get())),
    ),
    gauge("xvs_flow_table_capacity", "Flows that fit", NONE, |view, out| {
        out(&[], float(view.table.capacity));
    }),
    gauge("xvs_flow_table_flows", "Flows in the table, templates included", NONE, |view, out| {
        out(&[], float(view.table.used));
    }),
    gauge("xvs_flow_table_bytes", "Octets of the table", NONE, |view, out| {
        out(&[], float(view.table.octets));
    }),
    gauge("xvs_generation", "The configuration asked for", NONE, |view, out| {
        out(&[], float(view.generation));
    }),
    gauge("xvs_generation_in_force", "The one every worker forwards by", NONE, |view, out| {
        out(&[], float(view.in_force));
    }),
    gauge("xvs_start_time_seconds", "When the daemon started", NONE, |view, out| {
        let since = view.started_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        out(&[], since.as_secs_f64());
    }),
    gauge("xvs_journal", "Whether changes are written into a journal", NONE, |view, out| {
        out(&[], float(u32::from(view.journaled)));
    }),
    gauge("xvs_build_info", "1; the version is a label", &["version"], |_, out| {
        out(&[env!("CARGO_PKG_VERSION")], 1.0);
    }),
];

/// A number as Prometheus keeps it: exact to 2^53.
#[expect(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
fn float(number: impl Into<u64>) -> f64 {
    number.into() as f64
}

fn services(view: &View, out: &mut Sink<'_>, of: fn(&Counters) -> u64) {
    for service in &view.services {
        service_sample(service, out, float(of(&service.counters)));
    }
}

fn service_sample(service: &ServiceInfo, out: &mut Sink<'_>, value: f64) {
    out(&service_labels(&service.spec.key).each_ref().map(String::as_str), value);
}

fn reals(view: &View, out: &mut Sink<'_>, of: fn(&RealInfo) -> f64) {
    for service in &view.services {
        for real in &service.reals {
            real_sample(service, real, out, of(real));
        }
    }
}

fn real_sample(service: &ServiceInfo, real: &RealInfo, out: &mut Sink<'_>, value: f64) {
    out(&real_labels(&service.spec.key, real).each_ref().map(String::as_str), value);
}

/// Every real server that is checked.
fn members(view: &View, mut each: impl FnMut(&ServiceInfo, &RealInfo, &Member)) {
    for service in &view.services {
        let Some(group) = view.health.get(&service.spec.key) else { continue };
        for real in &service.reals {
            if let Some(member) = member_of(group, &real.spec) {
                each(service, real, member);
            }
        }
    }
}

/// Every check of every real server, with its labels.
fn checks(view: &View, each: &mut dyn FnMut(&[&str; 8], &Judge)) {
    members(view, |service, real, member| {
        let of = real_labels(&service.spec.key, real);
        let [proto, address, port, mark, remote, remote_port] = of.each_ref().map(String::as_str);
        for (place, judge) in member.judges.iter().enumerate() {
            let (place, kind) = (place.to_string(), judge.check.kind.name());
            each(&[proto, address, port, mark, remote, remote_port, &place, kind], judge);
        }
    });
}

fn groups(view: &View, out: &mut Sink<'_>, of: fn(&Group) -> bool) {
    for service in &view.services {
        if let Some(group) = view.health.get(&service.spec.key) {
            service_sample(service, out, float(u32::from(of(group))));
        }
    }
}

fn devices(view: &View, out: &mut Sink<'_>, of: Count) {
    for (at, interface) in view.report.interfaces.iter().enumerate() {
        let sum =
            view.workers.iter().filter_map(|worker| worker.devices.get(at)).map(of).sum::<u64>();
        out(&[&interface.name], float(sum));
    }
}

fn workers(view: &View, out: &mut Sink<'_>, of: fn(&WorkStats) -> f64) {
    for (number, (_, stats)) in view.report.workers.iter().zip(&view.workers).enumerate() {
        out(&[&number.to_string()], of(&stats.work));
    }
}
