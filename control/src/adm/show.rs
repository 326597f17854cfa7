//! What the verbs print.

use std::fmt::Display;

use dataplane::{addr::Addr, director::spec::FlowInfo};

use crate::proto::v1;

/// Head of the list of flows.
pub(super) const FLOWS_TITLE: &str = "\
Pro  Expires State       Client                Virtual               Real                  \
   InPkts    InBytes   OutPkts   OutBytes\n";

/// The daemon, its devices and what they reached.
pub(super) fn info(info: &v1::GetInfoResponse) -> String {
    let started = info.started_at.map_or_else(String::new, |time| format!(", started {time}"));
    let mut out = format!("xvsd {}, generation {}{started}\n", info.version, info.generation);
    out.push_str(&line(
        "Flow table",
        &format!(
            "{} flows, {} octets, {} pages",
            info.flow_capacity, info.flow_table_bytes, info.flow_table_pages
        ),
    ));
    out.push_str(&line("Schedulers", &info.schedulers.join(" ")));
    out.push_str(&line("Methods", &info.methods.join(" ")));
    if info.interfaces.is_empty() {
        return out;
    }
    out.push_str(&format!(
        "\n{:<16} {:>5} {:>6}  {:<17} {}\n",
        "Interface", "Queue", "Worker", "Mode", "Wanted"
    ));
    for interface in &info.interfaces {
        for queue in &interface.queues {
            out.push_str(&format!(
                "{:<16} {:>5} {:>6}  {:<17} {}\n",
                interface.name, queue.queue, queue.worker, queue.mode, interface.wanted_mode
            ));
            for fallback in &queue.fallbacks {
                out.push_str(&format!("{:31}{fallback}\n", ""));
            }
        }
    }
    out
}

/// What became of all packets.
pub(super) fn statistics(statistics: &v1::GetStatisticsResponse) -> String {
    let totals = statistics.totals.unwrap_or_default();
    let rates = statistics.rates.unwrap_or_default();
    let flow_table = statistics.flow_table.unwrap_or_default();
    let mut out = row("", &["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"]);
    out.push_str(&row(
        "Services",
        &[totals.flows, totals.in_packets, totals.out_packets, totals.in_bytes, totals.out_bytes],
    ));
    out.push_str(&row(
        "per second",
        &[rates.flows, rates.in_packets, rates.out_packets, rates.in_bytes, rates.out_bytes],
    ));
    out.push('\n');
    let counts = ["Received", "Forwarded", "Host", "Consumed", "Dropped", "Missed"];
    out.push_str(&row("Interface", &counts));
    for device in &statistics.devices {
        let v1::DeviceStatistics { received, transmitted, host, consumed, dropped, missed, .. } =
            *device;
        let counts = [received, transmitted, host, consumed, dropped, missed];
        out.push_str(&row(&device.interface, &counts));
    }
    if statistics.devices.iter().any(|device| device.missed > 0) {
        out.push_str("Missed: dropped by the kernel, as a worker was too slow\n");
    }
    if !statistics.drops.is_empty() {
        out.push_str("\nDropped because of\n");
        for drop in &statistics.drops {
            out.push_str(&row(&format!("  {}", drop.reason), &[drop.packets]));
        }
    }
    out.push('\n');
    out.push_str(&row("Worker", &["CPU", "Generation", "Received", "Bursts", "Restarts"]));
    for worker in &statistics.workers {
        let cpu = worker.cpu.map_or_else(|| "any".to_owned(), |cpu| cpu.to_string());
        let counts = [worker.generation, worker.received, worker.bursts, worker.restarts];
        let counts = std::iter::once(cpu).chain(counts.iter().map(u64::to_string));
        out.push_str(&row(&worker.worker.to_string(), &counts.collect::<Vec<_>>()));
        if !worker.running {
            out.push_str("  is not forwarding\n");
        }
        if !worker.last_failure.is_empty() {
            out.push_str(&format!("  failed last: {}\n", worker.last_failure));
        }
    }
    let longest = |of: fn(&v1::WorkerStatistics) -> u64| {
        statistics.workers.iter().map(of).max().unwrap_or(0).div_ceil(1000)
    };
    out.push_str(&format!(
        "\nLongest turn      {:>9} us\nLongest adoption  {:>9} us of a changed configuration\n",
        longest(|worker| worker.longest_turn_nanoseconds),
        longest(|worker| worker.longest_adoption_nanoseconds)
    ));
    let sacrificed: u64 = statistics.workers.iter().map(|worker| worker.flows_sacrificed).sum();
    if sacrificed > 0 {
        out.push_str(&format!("\nFlows ended before their time by drop_entry: {sacrificed}\n"));
    }
    let untold: u64 = statistics.workers.iter().map(|worker| worker.clients_untold).sum();
    if untold > 0 {
        out.push_str(&format!("\nPackets whose real server is not told the client: {untold}\n"));
    }
    let share = 100 * flow_table.used / flow_table.capacity.max(1);
    out.push_str(&format!(
        "\nFlow table: {} of {} in use ({share} %)\n",
        flow_table.used, flow_table.capacity
    ));
    out
}

/// Flows, without the head.
pub(super) fn flows(flows: &[FlowInfo]) -> String {
    let mut out = String::new();
    for flow in flows {
        let protocol = match flow.protocol {
            0 => "IP",
            6 => "TCP",
            17 => "UDP",
            132 => "SCTP",
            _ => "?",
        };
        let expires = format!("{:02}:{:02}", flow.expires_s / 60, flow.expires_s % 60);
        out.push_str(&format!(
            "{protocol:<4} {expires:>7} {:<11} {:<21} {:<21} {:<21} {:>9} {:>10} {:>9} {:>10}\n",
            flow.state,
            endpoint(flow.client),
            endpoint(flow.virt),
            endpoint(flow.real),
            flow.packets.0,
            flow.bytes.0,
            flow.packets.1,
            flow.bytes.1,
        ));
    }
    out
}

/// What was changed, or would be.
pub(super) fn changes(applied: &v1::ApplyResponse, plan: bool) -> String {
    let mut out = String::new();
    for change in &applied.changes {
        let sign = match change.kind() {
            v1::change::Kind::Created => '+',
            v1::change::Kind::Deleted => '-',
            v1::change::Kind::Updated | v1::change::Kind::Unspecified => '~',
        };
        out.push_str(&format!("{sign} {}\n", change.description));
    }
    let count = applied.changes.len();
    let plural = if count == 1 { "" } else { "s" };
    let generation = applied.generation;
    out.push_str(&if plan {
        format!("{count} change{plural} planned on generation {generation}\n")
    } else {
        format!("{count} change{plural} applied, generation {generation}\n")
    });
    out
}

/// Settings as sysctl shows them.
pub(super) fn settings(settings: &[v1::Setting]) -> String {
    settings.iter().map(|setting| format!("{} = {}\n", setting.name, setting.value)).collect()
}

fn line(name: &str, value: &str) -> String {
    format!("{name:<11} {value}\n")
}

fn row(name: &str, values: &[impl Display]) -> String {
    let values: String = values.iter().map(|value| format!(" {value:>12}")).collect();
    format!("{name:<24}{values}\n")
}

fn endpoint((addr, port): (Addr, u16)) -> String {
    if addr.is_v4() { format!("{addr}:{port}") } else { format!("[{addr}]:{port}") }
}
