//! The rig's report as people read it.

use std::io::{self, Write};

use super::{
    Report, Result,
    contender::Contender,
    measure::Quantity::{
        self, Bulk, HttpKept, HttpKeptP50, HttpKeptP99, HttpNew, HttpNewP50, HttpNewP99, Mpps,
        NewKps,
    },
};

/// Columns: title, quantity, decimals.
const COLUMNS: [(&str, Quantity, usize); 9] = [
    ("Mpps", Mpps, 3),
    ("new k/s", NewKps, 0),
    ("HTTP new/s", HttpNew, 0),
    ("p50 us", HttpNewP50, 0),
    ("p99 us", HttpNewP99, 0),
    ("HTTP kept/s", HttpKept, 0),
    ("p50 us", HttpKeptP50, 0),
    ("p99 us", HttpKeptP99, 0),
    ("bulk Gb/s", Bulk, 2),
];

/// Ratios that are asked for: title, quantity, of whom to whom, and the least wanted.
const RATIOS: [(&str, Quantity, Contender, Contender, f64); 14] = {
    use Contender::{Haproxy, IpForward, IpForwardCut, Nftables, Swap, SwapRing, Xvsd, XvsdRaw};
    [
        ("packets, to the AF_XDP MAC swap", Mpps, Xvsd(1), Swap, 0.9),
        ("packets, to the same by the transmit ring", Mpps, Xvsd(1), SwapRing, 0.9),
        ("packets, to nftables", Mpps, Xvsd(1), Nftables(1), 1.5),
        ("packets, to ip_forward", Mpps, Xvsd(1), IpForward, 1.0),
        ("packets, 5,000 services to 1", Mpps, Xvsd(5000), Xvsd(1), 0.97),
        ("new connections, to nftables", NewKps, Xvsd(1), Nftables(1), 3.0),
        ("new connections, 5,000 services to 1", NewKps, Xvsd(5000), Xvsd(1), 0.97),
        ("HTTP, new connections, to HAProxy", HttpNew, Xvsd(1), Haproxy, 1.3),
        ("HTTP, new connections, to nftables", HttpNew, Xvsd(1), Nftables(1), 1.0),
        ("HTTP, p99 of nftables to xvsd's", HttpNewP99, Nftables(1), Xvsd(1), 1.0),
        ("bulk TCP, to HAProxy", Bulk, Xvsd(1), Haproxy, 1.2),
        ("bulk TCP, to ip_forward without offloads", Bulk, Xvsd(1), IpForwardCut, 0.0),
        ("bulk TCP over raw sockets, to HAProxy", Bulk, XvsdRaw, Haproxy, 1.2),
        ("bulk TCP over raw sockets, to nftables", Bulk, XvsdRaw, Nftables(1), 0.0),
    ]
};

impl Report {
    fn find(&self, who: Contender, quantity: Quantity) -> Option<&Result> {
        self.results.iter().find(|result| result.who == who && result.quantity == quantity)
    }
}

/// A ratio that is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// Of what to what.
    pub(crate) title: &'static str,
    /// What it is.
    pub(crate) ratio: f64,
    /// What it should be at least; 0 if it is only told.
    pub(crate) wanted: f64,
}

/// All ratios that can be had: `median` knows contenders and quantities by their names.
pub(crate) fn targets(median: impl Fn(&str, &str) -> Option<f64>) -> Vec<Target> {
    let ratio = |&(title, quantity, of, to, wanted): &(_, Quantity, Contender, Contender, f64)| {
        let ratio = median(&of.name(), quantity.name())? / median(&to.name(), quantity.name())?;
        Some(Target { title, ratio, wanted })
    };
    RATIOS.iter().filter_map(ratio).collect()
}

/// Prints everything.
///
/// # Errors
///
/// `out` cannot be written.
pub(super) fn print(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let Report { machine, cpus, kernel, commit, rounds, seconds, .. } = report;
    writeln!(out, "{machine}, {cpus} CPUs, Linux {kernel}, commit {commit}")?;
    writeln!(
        out,
        "medians of {rounds} interleaved rounds of {seconds} s, \u{b1} half the spread\n"
    )?;
    let there = |quantity| report.results.iter().any(|result| result.quantity == quantity);
    let columns: Vec<_> = COLUMNS.iter().filter(|(_, quantity, _)| there(*quantity)).collect();
    let mut contenders: Vec<Contender> = Vec::new();
    for result in &report.results {
        if !contenders.contains(&result.who) {
            contenders.push(result.who);
        }
    }
    if !columns.is_empty() {
        write!(out, "{:<31}", "")?;
        for (title, ..) in &columns {
            write!(out, "{title:>16}")?;
        }
        writeln!(out)?;
    }
    for who in contenders {
        write!(out, "{:<31}", who.name())?;
        for &&(_, quantity, decimals) in &columns {
            let cell = report.find(who, quantity).map_or_else(String::new, |result| {
                let spread = (result.max - result.min) / 2.0;
                format!("{:.decimals$} \u{b1}{spread:.decimals$}", result.median)
            });
            write!(out, "{cell:>16}")?;
        }
        writeln!(out)?;
    }
    ratios(report, out)?;
    others(report, out)
}

/// Ratios of medians, each with what is wanted.
fn ratios(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let median = |contender: &str, quantity: &str| {
        let is = |r: &&Result| r.contender == contender && r.quantity.name() == quantity;
        report.results.iter().find(is).map(|result| result.median)
    };
    let targets = targets(median);
    if !targets.is_empty() {
        writeln!(out, "\nxvsd in proportion")?;
    }
    for Target { title, ratio, wanted } in targets {
        let judged = if ratio >= wanted { "reached" } else { "not reached" };
        let wanted =
            if wanted > 0.0 { format!("  at least {wanted:.2}: {judged}") } else { String::new() };
        writeln!(out, "  {title:<44}{ratio:>6.2}{wanted}")?;
    }
    Ok(())
}

/// What is measured of xvsd alone.
fn others(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    if !report.light.is_empty() {
        let of =
            |get: fn(&super::quiet::Light) -> f64| median(report.light.iter().map(get).collect());
        writeln!(
            out,
            "\nIdle: {:.2} % of a core. At 1,000 packets/s: {:.2} %; client to real server p50 {:.0}, \
             p99 {:.0} us (ip_forward p50 {:.0}): added p99 {:.0} us; round trip p50 {:.0}, p99 {:.0} us \
             (ip_forward {:.0}, {:.0}): added p99, two passes, {:.0} us",
            of(|l| l.idle_cpu_percent),
            of(|l| l.light_cpu_percent),
            of(|l| l.xvsd_way_p50_us),
            of(|l| l.xvsd_way_p99_us),
            of(|l| l.ip_forward_way_p50_us),
            of(|l| l.added_p99_us),
            of(|l| l.xvsd_p50_us),
            of(|l| l.xvsd_p99_us),
            of(|l| l.ip_forward_p50_us),
            of(|l| l.ip_forward_p99_us),
            of(|l| l.added_round_trip_p99_us),
        )?;
    }
    if let Some(first) = report.change.first() {
        let of =
            |get: fn(&super::quiet::Change) -> f64| median(report.change.iter().map(get).collect());
        writeln!(
            out,
            "\nA change among {} services of {} real servers: in force after {:.1} ms, at most {:.1}; \
             it stopped a worker for {:.0} us at most; longest turn {:.0} us",
            first.services,
            first.reals,
            of(|c| c.p50_ms),
            of(|c| c.max_ms),
            of(|c| c.longest_adoption_us),
            of(|c| c.longest_turn_us),
        )?;
    }
    Ok(())
}
