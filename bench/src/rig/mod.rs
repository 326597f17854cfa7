//! `xvs-bench rig`: xvsd on the wire beside what else forwards, in one run.
//!
//! A client, a load balancer and a real server, each a network namespace, connected by veth. Every
//! contender gets a site of its own in every round, the rounds are interleaved, so that what the
//! machine does meanwhile meets all alike; medians and the spread are told. Only ratios within
//! one run can be compared between machines.
//!
//! Packets are made and received by the kernel on CPU 0. The kernel's own forwarding happens there
//! too (sent to another CPU by RPS it is slower, measured); programs that forward run on CPU 1.

mod contender;
mod load;
mod measure;
mod quiet;
mod site;
pub(crate) mod swap;
mod table;

use std::{fs, io::Write, time::Duration};

use anyhow::{Context as _, bail};
use clap::{Parser, ValueEnum};
use serde::Serialize;
use xvs_bench::lab::interrupt;

pub(crate) use self::table::{Target, targets};
use self::{
    contender::{Contender, Load},
    measure::{Quantity, Readings},
    site::Site,
};

/// Measure xvsd on the wire, beside the kernel, nftables and HAProxy (root).
#[derive(Debug, Parser)]
pub(crate) struct Rig {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=60))]
    seconds: u16,
    /// Interleaved rounds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Measure only this; may be repeated.
    #[arg(long, value_name = "PART")]
    part: Vec<Part>,
}

/// A part of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Packets of 64 octets and new connections.
    Packets,
    /// HTTP on new and on kept connections.
    Http,
    /// One TCP stream.
    Bulk,
    /// Idle and lightly loaded.
    Light,
    /// A change of one real server among many.
    Change,
}

impl Part {
    /// Who takes part, in order.
    const fn contenders(self) -> &'static [Contender] {
        use Contender::{
            Haproxy, IpForward, IpForwardCut, Nftables, Swap, SwapRing, Xvsd, XvsdRaw,
        };
        match self {
            Self::Packets => {
                &[IpForward, Nftables(1), Nftables(5000), SwapRing, Swap, Xvsd(1), Xvsd(5000)]
            }
            Self::Http => &[IpForward, Nftables(1), Haproxy, Xvsd(1), XvsdRaw],
            Self::Bulk => &[IpForward, IpForwardCut, Nftables(1), Haproxy, Xvsd(1), XvsdRaw],
            Self::Light | Self::Change => &[],
        }
    }
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Report {
    machine: String,
    kernel: String,
    cpus: usize,
    /// Seconds since 1970.
    date: u64,
    commit: String,
    rounds: u16,
    seconds: u16,
    results: Vec<Result>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    light: Vec<quiet::Light>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    change: Vec<quiet::Change>,
}

/// What one contender reached in one quantity.
#[derive(Debug, Serialize)]
struct Result {
    contender: String,
    #[serde(skip)]
    who: Contender,
    quantity: Quantity,
    median: f64,
    min: f64,
    max: f64,
    samples: Vec<f64>,
}

impl Rig {
    /// Measures and prints; gives back the exit status.
    ///
    /// # Errors
    ///
    /// Without root, or if something does not run.
    pub(crate) fn run(&self, out: &mut impl Write) -> anyhow::Result<u8> {
        contender::install()?;
        interrupt::watch()?;
        let conntrack = ConntrackRoom::make();
        let measured = self.measure();
        drop(conntrack);
        if interrupt::came() {
            drop(writeln!(std::io::stderr(), "interrupted; everything that ran is ended"));
            return Ok(130);
        }
        let report = measured?;
        if self.json {
            writeln!(out, "{}", serde_json::to_string(&report)?)?;
        } else {
            table::print(&report, out)?;
        }
        Ok(0)
    }

    fn measure(&self) -> anyhow::Result<Report> {
        let cpus = std::thread::available_parallelism()?.get();
        if cpus < 2 {
            bail!("the rig needs two CPUs: one makes the traffic");
        }
        let wants = |part| self.part.is_empty() || self.part.contains(&part);
        let time = Duration::from_secs(self.seconds.into());
        let mut runs: Vec<(Contender, Readings)> = Vec::new();
        let mut report = self.header(cpus);
        for _ in 0..self.rounds {
            for part in [Part::Packets, Part::Http, Part::Bulk] {
                for &contender in part.contenders().iter().filter(|_| wants(part)) {
                    runs.push((contender, one(part, contender, time)?));
                }
            }
            if wants(Part::Light) {
                report.light.push(quiet::light(time)?);
            }
            if wants(Part::Change) {
                report.change.push(quiet::change()?);
            }
        }
        report.results = summed(&runs);
        Ok(report)
    }

    fn header(&self, cpus: usize) -> Report {
        let date = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        Report {
            machine: machine(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| "unknown".into(), |text| text.trim().into()),
            cpus,
            date,
            commit: commit(),
            rounds: self.rounds,
            seconds: self.seconds,
            results: Vec::new(),
            light: Vec::new(),
            change: Vec::new(),
        }
    }
}

/// Measures one contender, each kind of load on a site of its own.
fn one(part: Part, contender: Contender, time: Duration) -> anyhow::Result<Readings> {
    let under = |load, measure: &dyn Fn(&Site) -> anyhow::Result<Readings>| {
        interrupt::check()?;
        let site = Site::new()?;
        let running = contender.start(&site, load)?;
        let readings = measure(&site);
        drop(running);
        readings.with_context(|| contender.name())
    };
    let flood = |load| under(load, &|site| measure::flood(contender, site, time, load));
    match part {
        Part::Packets => {
            let mut readings = flood(Load::Packets)?;
            if contender.opens_flows() {
                readings.extend(flood(Load::NewFlows)?);
            }
            Ok(readings)
        }
        Part::Http => under(Load::Shared, &|site| measure::http(contender, site, time)),
        Part::Bulk => under(Load::Shared, &|site| measure::bulk(contender, site, time)),
        Part::Light | Part::Change => Ok(Readings::new()),
    }
}

/// Medians and spread of every contender and quantity, in the order in which they appeared.
fn summed(runs: &[(Contender, Readings)]) -> Vec<Result> {
    let mut results: Vec<Result> = Vec::new();
    for (who, readings) in runs {
        for (&quantity, &value) in readings {
            let known = results.iter_mut().find(|r| r.who == *who && r.quantity == quantity);
            match known {
                Some(result) => result.samples.push(value),
                None => results.push(Result {
                    contender: who.name(),
                    who: *who,
                    quantity,
                    median: 0.0,
                    min: 0.0,
                    max: 0.0,
                    samples: vec![value],
                }),
            }
        }
    }
    for result in &mut results {
        let mut sorted = result.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let even = sorted.len().is_multiple_of(2);
        let below = if even { sorted[middle - 1] } else { sorted[middle] };
        result.median = (sorted[middle] + below) / 2.0;
        (result.min, result.max) = (sorted[0], sorted[sorted.len() - 1]);
    }
    results
}

/// The processor's name.
fn machine() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name"));
    name.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, name)| name).to_owned()
}

/// The commit of the repository we are in, if it is one.
pub(crate) fn commit() -> String {
    let git = std::process::Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let text = git.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    String::from_utf8_lossy(&text.unwrap_or_default()).trim().to_owned()
}

/// Room for the connections that nftables tracks. The limit is the whole box's, so it is put back.
struct ConntrackRoom(Vec<(&'static str, String)>);

impl ConntrackRoom {
    /// Settings and what they are while the rig runs: no peer shall be measured refusing.
    const SETTINGS: [(&'static str, &'static str); 2] = [
        ("/proc/sys/net/netfilter/nf_conntrack_max", "8000000"),
        ("/sys/module/nf_conntrack/parameters/hashsize", "2000000"),
    ];

    fn make() -> Self {
        let mut before = Vec::new();
        for (path, value) in Self::SETTINGS {
            if let Ok(was) = fs::read_to_string(path)
                && fs::write(path, value).is_ok()
            {
                before.push((path, was.trim().to_owned()));
            }
        }
        Self(before)
    }
}

impl Drop for ConntrackRoom {
    fn drop(&mut self) {
        for (path, was) in &self.0 {
            // It was written before, so it can be now; if not, nobody is left to be told.
            fs::write(path, was).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_the_samples_of_one_contender() {
        let run = |who, value| (who, Readings::from([(Quantity::Mpps, value)]));
        let runs = [
            run(Contender::Swap, 3.0),
            run(Contender::IpForward, 9.0),
            run(Contender::Swap, 1.0),
            run(Contender::Swap, 2.0),
            run(Contender::IpForward, 7.0),
        ];
        let results = summed(&runs);
        let found: Vec<_> = results.iter().map(|r| (r.who, r.median, r.min, r.max)).collect();
        assert_eq!(
            found,
            [(Contender::Swap, 2.0, 1.0, 3.0), (Contender::IpForward, 8.0, 7.0, 9.0)]
        );
    }
}
