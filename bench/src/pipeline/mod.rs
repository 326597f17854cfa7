//! `pipeline`: what a packet costs over synthetic flows in random order.
//!
//! Four numbers from one run on one kind of memory: the packet at `--flows` flows, the same packet over
//! 1,000 flows (everything in cache), the bound that the memory alone sets, and the packet's work
//! without a table. Their ratios are what can be compared between machines; nanoseconds cannot.

mod bare;
mod bound;
mod flood;
mod instructions;
mod matrix;
mod ring;
mod setup;
mod traffic;
mod windows;

use std::io::Write;

use clap::{Parser, ValueEnum};
use dataplane::{addr::Family, endpoint::Method};
use serde::Serialize;

use self::{
    setup::Setup,
    traffic::{Frames, Traffic},
};

/// Flows of the run whose memory is all in cache.
const HOT_FLOWS: usize = 1000;
/// Windows that each worker is measured in.
const WINDOWS: usize = 4000;

/// An address family on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ip {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Options of `pipeline`.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Args {
    /// Forwarding method: nat, dr, ipip, gue, gre.
    #[arg(long, default_value = "nat")]
    method: String,
    /// Addresses of clients, services and real servers.
    #[arg(long, value_enum, default_value = "v4")]
    family: Ip,
    /// Live flows.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    flows: u32,
    /// Workers, each a thread of its own over one shared table; replies come to another worker than
    /// requests.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Every packet opens a new flow, and the oldest of `--flows` makes room for it.
    #[arg(long)]
    new: bool,
    /// How long frames are.
    #[arg(long, value_enum, default_value = "64")]
    frames: Frames,
    /// Frames lie cold in memory.
    #[arg(long)]
    cold: bool,
    /// Measure workers with a table each, too, and compare.
    #[arg(long)]
    private: bool,
    /// Seeds the order of flows and the table's hash.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Measure so often; medians count.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=99))]
    rounds: u16,
    /// Measure established flows beside a flood of new ones, and what sweeping the table costs.
    #[arg(long, conflicts_with_all = ["new", "cold", "private", "workers"])]
    flood: bool,
    /// Measure every method, family and table size, up to `--flows`, and print a table.
    #[arg(long, conflicts_with_all = ["new", "cold", "private"])]
    matrix: bool,
    /// Count instructions by callgrind (valgrind must be installed) and hold them against ceilings.
    #[arg(long, conflicts_with_all = ["matrix", "rounds", "private"])]
    instructions: bool,
    /// Windows of 256 packets that each worker is measured in.
    #[arg(long, default_value_t = WINDOWS, hide = true)]
    windows: usize,
    /// Run over `--flows` flows and nothing else: what callgrind looks at.
    #[arg(long, hide = true)]
    only: bool,
    /// Print one JSON object; with `--matrix` one a line.
    #[arg(long)]
    json: bool,
}

/// What was measured: medians over the rounds.
#[derive(Clone, Debug, Serialize)]
struct Report {
    method: String,
    flows: u32,
    workers: u16,
    /// At `flows` flows.
    ns_per_packet: f64,
    /// Of all workers together.
    mpps: f64,
    /// At 1,000 flows.
    hot_ns: f64,
    /// Two dependent random lines of the same memory.
    bound_ns: f64,
    /// `ns_per_packet / (hot_ns + bound_ns)`.
    ratio: f64,
    /// Octets of table memory for each flow it has room for.
    bytes_per_flow: f64,
    /// Allocations while packets were processed.
    allocations: u64,
    family: &'static str,
    new: bool,
    frames: &'static str,
    cold: bool,
    rounds: u16,
    /// Nat's packet work without a table; none for other methods and new flows.
    bare_ns: Option<f64>,
    /// `hot_ns / bare_ns`.
    hot_ratio: Option<f64>,
    /// At `flows` flows with a table for each worker.
    private_ns: Option<f64>,
    /// `ns_per_packet / private_ns`.
    shared_ratio: Option<f64>,
    /// With as many new flows at the same worker, over `ns_per_packet` without.
    flood_ratio: Option<f64>,
    /// With new flows at another worker, over the same.
    flood_beside_ratio: Option<f64>,
    /// Percent of a core that sweeping the table each second takes.
    sweep_percent: Option<f64>,
    /// The pages that the table is in.
    pages: &'static str,
    /// What a new flow and the end of another cannot do without, in the same memory; none for hits.
    floor_ns: Option<f64>,
    /// One worker alone over all flows, over the same with one worker's share of them: what a shared
    /// table costs because each worker meets all flows, though nobody shares anything.
    alone_ratio: Option<f64>,
}

/// Measures and prints. Whether all was as it should be.
///
/// # Errors
///
/// The method is unknown, there is not enough memory, or `out` cannot be written.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<bool> {
    if args.instructions {
        return instructions::run(out);
    }
    if args.matrix {
        matrix::run(args, out)?;
        return Ok(true);
    }
    if args.only {
        setup(args)?.run()?;
        return Ok(true);
    }
    let report = measure(args)?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        print(&report, out)?;
    }
    Ok(true)
}

fn print(report: &Report, out: &mut dyn Write) -> anyhow::Result<()> {
    let Report { ns_per_packet, mpps, hot_ns, bound_ns, ratio, .. } = report;
    let kind = if report.new { "new flows" } else { "packets" };
    writeln!(
        out,
        "{} {kind}, {} flows, {} worker(s): {ns_per_packet:.1} ns per packet, {mpps:.2} Mpps",
        report.method, report.flows, report.workers
    )?;
    writeln!(
        out,
        "hot (1,000 flows) {hot_ns:.1} ns, memory bound {bound_ns:.1} ns, ratio {ratio:.2}"
    )?;
    if let (Some(bare), Some(ratio)) = (report.bare_ns, report.hot_ratio) {
        writeln!(out, "without a table {bare:.1} ns, hot is {ratio:.2} of it")?;
    }
    if let Some(floor) = report.floor_ns {
        writeln!(out, "its lines and locked operations alone {floor:.1} ns")?;
    }
    if let (Some(private), Some(ratio)) = (report.private_ns, report.shared_ratio) {
        writeln!(out, "a table for each worker {private:.1} ns, shared is {ratio:.2} of it")?;
    }
    if let Some(ratio) = report.alone_ratio {
        writeln!(
            out,
            "one worker alone over all flows is {ratio:.2} of one over its share of them"
        )?;
    }
    if let (Some(same), Some(other), Some(sweep)) =
        (report.flood_ratio, report.flood_beside_ratio, report.sweep_percent)
    {
        writeln!(
            out,
            "under a flood of new flows {same:.2} of that, {other:.2} with the flood at another worker; \
             sweeping the table takes {sweep:.3} % of a core"
        )?;
    }
    writeln!(
        out,
        "{:.1} octets per flow in {} pages, {} allocations while measuring",
        report.bytes_per_flow, report.pages, report.allocations
    )?;
    Ok(())
}

/// The median of all rounds.
fn measure(args: &Args) -> anyhow::Result<Report> {
    let rounds: Vec<_> = (0..args.rounds).map(|_| round(args)).collect::<anyhow::Result<_>>()?;
    let of = |value: fn(&Report) -> Option<f64>| {
        let mut values: Vec<_> = rounds.iter().filter_map(value).collect();
        values.sort_unstable_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    let first = rounds[0].clone();
    Ok(Report {
        ns_per_packet: of(|r| Some(r.ns_per_packet)).unwrap_or_default(),
        mpps: of(|r| Some(r.mpps)).unwrap_or_default(),
        hot_ns: of(|r| Some(r.hot_ns)).unwrap_or_default(),
        bound_ns: of(|r| Some(r.bound_ns)).unwrap_or_default(),
        ratio: of(|r| Some(r.ratio)).unwrap_or_default(),
        bare_ns: of(|r| r.bare_ns),
        hot_ratio: of(|r| r.hot_ratio),
        floor_ns: of(|r| r.floor_ns),
        flood_ratio: of(|r| r.flood_ratio),
        flood_beside_ratio: of(|r| r.flood_beside_ratio),
        sweep_percent: of(|r| r.sweep_percent),
        private_ns: of(|r| r.private_ns),
        shared_ratio: of(|r| r.shared_ratio),
        alone_ratio: of(|r| r.alone_ratio),
        allocations: rounds.iter().map(|r| r.allocations).sum(),
        ..first
    })
}

fn setup(args: &Args) -> anyhow::Result<Setup> {
    let family = match args.family {
        Ip::V4 => Family::V4,
        Ip::V6 => Family::V6,
    };
    Ok(Setup {
        traffic: Traffic { method: method(&args.method)?, family, frames: args.frames },
        flows: args.flows as usize,
        workers: args.workers.into(),
        new: args.new,
        cold: args.cold,
        private: false,
        spare: 0,
        seed: args.seed,
        windows: args.windows,
    })
}

/// One round: everything measured once.
fn round(args: &Args) -> anyhow::Result<Report> {
    let wanted = setup(args)?;
    let hot = Setup { flows: HOT_FLOWS, workers: 1, ..wanted }.run()?;
    let nat = wanted.traffic.method == Method::Nat && !args.new && !args.cold;
    let bare_ns =
        nat.then(|| bare::measure(wanted.traffic, args.seed, args.windows)).transpose()?;
    let run = wanted.run()?;
    let bound_ns = bound::measure(wanted.flows, run.pages, args.seed, args.windows)?;
    let floor_ns = args
        .new
        .then(|| bound::new_flow(wanted.flows, run.pages, args.seed, args.windows))
        .transpose()?;
    let private = Setup { private: true, ..wanted };
    let private = args.private.then(|| private.run()).transpose()?;
    let alone = |flows| Setup { flows, workers: 1, ..wanted }.run().map(|run| run.nanos);
    let alone_ratio = match args.private {
        true => Some(alone(wanted.flows)? / alone(wanted.flows / wanted.workers)?),
        false => None,
    };
    let flooded = args.flood.then(|| wanted.flooded()).transpose()?;
    Ok(Report {
        method: args.method.clone(),
        flows: args.flows,
        workers: args.workers,
        ns_per_packet: run.nanos,
        mpps: f64::from(args.workers) * 1000.0 / run.nanos,
        hot_ns: hot.nanos,
        bound_ns,
        ratio: run.nanos / (hot.nanos + bound_ns),
        bytes_per_flow: run.bytes_per_flow,
        allocations: run.allocations + hot.allocations,
        family: if args.family == Ip::V4 { "v4" } else { "v6" },
        new: args.new,
        frames: if args.frames == Frames::Short { "64" } else { "mixed" },
        cold: args.cold,
        rounds: args.rounds,
        bare_ns,
        hot_ratio: bare_ns.map(|bare| hot.nanos / bare),
        floor_ns,
        private_ns: private.as_ref().map(|private| private.nanos),
        shared_ratio: private.map(|private| run.nanos / private.nanos),
        alone_ratio,
        flood_ratio: flooded.map(|flooded| flooded.same / flooded.quiet),
        flood_beside_ratio: flooded.map(|flooded| flooded.other / flooded.quiet),
        sweep_percent: flooded.map(|flooded| flooded.sweep * 100.0),
        pages: run.pages.name(),
    })
}

fn method(name: &str) -> anyhow::Result<Method> {
    Ok(match name {
        "nat" => Method::Nat,
        "dr" => Method::Dr,
        "ipip" => Method::Ipip,
        "gue" => Method::Gue,
        "gre" => Method::Gre,
        other => anyhow::bail!("method `{other}` is not one of nat, dr, ipip, gue, gre"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn established_and_new_flows_are_forwarded_without_allocating() {
        for method in [Method::Nat, Method::Dr, Method::Ipip, Method::Gue, Method::Gre] {
            for (new, family) in
                [(false, Family::V4), (true, Family::V4), (false, Family::V6), (true, Family::V6)]
            {
                // New flows need the others' slots back, which a worker that is not run holds up.
                let workers = if new { 1 } else { 2 };
                let traffic = Traffic { method, family, frames: Frames::Mixed };
                let (cold, private, seed, windows) = (new, !new, 3, 50);
                let spare = 0;
                let setup = Setup {
                    traffic,
                    flows: 3000,
                    workers,
                    new,
                    cold,
                    private,
                    spare,
                    seed,
                    windows,
                };
                let run = setup.run().unwrap();
                assert_eq!(run.allocations, 0, "{method:?}, new: {new}");
                assert!(run.nanos > 0.0 && run.bytes_per_flow > 64.0);
            }
        }
    }

    #[test]
    fn a_flood_leaves_established_flows_alone() {
        let traffic = Traffic { method: Method::Nat, family: Family::V4, frames: Frames::Short };
        let (cold, private, seed, windows) = (false, false, 3, 50);
        let setup = Setup {
            traffic,
            flows: 3000,
            workers: 1,
            new: false,
            cold,
            private,
            spare: 0,
            seed,
            windows,
        };
        let flooded = setup.flooded().unwrap();
        assert!(flooded.quiet > 0.0 && flooded.same > 0.0 && flooded.other > 0.0);
        assert!(flooded.sweep > 0.0 && flooded.sweep < 1.0);
    }

    #[test]
    fn packet_work_without_a_table_is_all_sent() {
        for family in [Family::V4, Family::V6] {
            let traffic = Traffic { method: Method::Nat, family, frames: Frames::Short };
            assert!(bare::measure(traffic, 1, 20).unwrap() > 0.0);
        }
    }
}
