//! The measurements on one contender: packets, new connections, requests, one bulk stream.

use std::{
    collections::BTreeMap,
    fs::read_to_string,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde::Serialize;
use xvs_bench::lab::{Process, interrupt, process::run, web::Web};

use super::{
    contender::{Contender, Load},
    load::{Generator, Plan, Sink},
    site::{BULK_PORT, MACS, REAL, SENDERS, Site, VIP},
};

/// The CPU that makes packets, and on which the kernel receives them.
const GENERATOR_CPU: usize = 0;

/// Flows that packets are spread over.
pub(super) const FLOWS: u32 = 10_000;

/// How long traffic runs before it is measured.
const WARM_UP: Duration = Duration::from_millis(500);

/// Connections that wrk keeps busy.
const CONNECTIONS: u32 = 64;

/// One quantity, and which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Quantity {
    /// Forwarded packets of 64 octets, in millions per second.
    Mpps,
    /// New connections that were forwarded, in thousands per second.
    NewKps,
    /// HTTP requests per second, each on a connection of its own.
    HttpNew,
    /// Its median latency, in microseconds.
    HttpNewP50,
    /// Its 99th percentile.
    HttpNewP99,
    /// HTTP requests per second on kept connections.
    HttpKept,
    /// Its median latency, in microseconds.
    HttpKeptP50,
    /// Its 99th percentile.
    HttpKeptP99,
    /// One TCP stream, in gigabits per second.
    Bulk,
}

impl Quantity {
    /// Its name in JSON.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Mpps => "mpps",
            Self::NewKps => "new_kps",
            Self::HttpNew => "http_new",
            Self::HttpNewP50 => "http_new_p50",
            Self::HttpNewP99 => "http_new_p99",
            Self::HttpKept => "http_kept",
            Self::HttpKeptP50 => "http_kept_p50",
            Self::HttpKeptP99 => "http_kept_p99",
            Self::Bulk => "bulk",
        }
    }
}

/// What one run of a contender gave.
pub(super) type Readings = BTreeMap<Quantity, f64>;

/// Packets, of known flows or each of a new one, that arrive behind a contender.
pub(super) fn flood(
    contender: Contender,
    site: &Site,
    time: Duration,
    load: Load,
) -> anyhow::Result<Readings> {
    let fresh = load == Load::NewFlows;
    let sink = Sink::start(&site.real, "r0")?;
    let to = contender.target();
    let plan = Plan { fresh, flows: FLOWS, to, from: SENDERS, mac: MACS[1], first: 0 };
    let generator = Generator::start(&site.client, "c0", GENERATOR_CPU, plan)?;
    thread::sleep(WARM_UP);
    let (start, before) = (Instant::now(), sink.arrived()?);
    thread::sleep(time);
    let (arrived, seconds) = (sink.arrived()? - before, start.elapsed().as_secs_f64());
    generator.end()?;
    interrupt::check()?;
    if arrived == 0 {
        bail!("no packet arrived");
    }
    let rate = arrived as f64 / seconds;
    let reading = if fresh { (Quantity::NewKps, rate / 1e3) } else { (Quantity::Mpps, rate / 1e6) };
    Ok(Readings::from([reading]))
}

/// HTTP by wrk.
pub(super) fn http(contender: Contender, site: &Site, time: Duration) -> anyhow::Result<Readings> {
    let _web = Web::start(&site.real, site.folder.path())?;
    let (address, port) = contender.target();
    let ask = |header: &[&str]| {
        let mut command = site.client.command("wrk");
        command.args(["-t", "1", "-c", &CONNECTIONS.to_string(), "--latency"]);
        command.args(["-d", &format!("{}s", time.as_secs().max(1))]).args(header);
        let output = run(command.arg(format!("http://{address}:{port}/")))?;
        Wrk::read(&String::from_utf8_lossy(&output.stdout))
    };
    let (new, kept) = (ask(&["-H", "Connection: close"])?, ask(&[])?);
    Ok(Readings::from([
        (Quantity::HttpNew, new.requests),
        (Quantity::HttpNewP50, new.p50),
        (Quantity::HttpNewP99, new.p99),
        (Quantity::HttpKept, kept.requests),
        (Quantity::HttpKeptP50, kept.p50),
        (Quantity::HttpKeptP99, kept.p99),
    ]))
}

/// One TCP stream by iperf3.
pub(super) fn bulk(contender: Contender, site: &Site, time: Duration) -> anyhow::Result<Readings> {
    let mut command = site.real.command("iperf3");
    command.args(["-s", "--forceflush", "-p", &BULK_PORT.to_string()]);
    let log = site.folder.path().join("iperf3.log");
    let mut server = Process::start("iperf3", &mut command, &log)?;
    server.wait_until(Duration::from_secs(5), || {
        read_to_string(&log).is_ok_and(|text| text.contains("listening"))
    })?;
    let address: Ipv4Addr = if contender.target().0 == VIP { VIP } else { REAL };
    let mut command = site.client.command("iperf3");
    command.args(["-c", &address.to_string(), "-p", &BULK_PORT.to_string(), "-J"]);
    command.args(["-t", &time.as_secs().max(1).to_string(), "-O", "1"]);
    let output = run(&mut command)?;
    let said: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let bits =
        said.pointer("/end/sum_received/bits_per_second").and_then(serde_json::Value::as_f64);
    let bits = bits.with_context(|| format!("iperf3 says nothing of its rate: {said}"))?;
    Ok(Readings::from([(Quantity::Bulk, bits / 1e9)]))
}

/// What wrk found.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Wrk {
    requests: f64,
    /// Microseconds.
    p50: f64,
    /// Microseconds.
    p99: f64,
}

impl Wrk {
    fn read(text: &str) -> anyhow::Result<Self> {
        let word = |name: &str| {
            let line = text.lines().find_map(|line| line.trim_start().strip_prefix(name));
            let line = line.with_context(|| format!("wrk says nothing of {name}:\n{text}"));
            line.map(str::trim)
        };
        for complaint in ["Socket errors:", "Non-2xx"] {
            // Time-outs and resets of the end of a run are wrk's own; failed answers are not.
            if complaint != "Socket errors:" && text.contains(complaint) {
                bail!("not every request was answered well:\n{text}");
            }
        }
        Ok(Self {
            requests: word("Requests/sec:")?.parse()?,
            p50: micros(word("50%")?)?,
            p99: micros(word("99%")?)?,
        })
    }
}

/// A latency as wrk writes it, in microseconds.
fn micros(text: &str) -> anyhow::Result<f64> {
    let at = text.find(|c: char| c.is_alphabetic()).context("a latency without unit")?;
    let (number, unit) = text.split_at(at);
    let factor = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 6e7,
        other => bail!("{other} is no unit of time"),
    };
    Ok(number.trim().parse::<f64>()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_has_one_name() {
        for quantity in [Quantity::Mpps, Quantity::NewKps, Quantity::HttpNewP99, Quantity::Bulk] {
            assert_eq!(serde_json::to_value(quantity).unwrap(), quantity.name());
        }
    }

    #[test]
    fn what_wrk_prints_is_read() {
        let text = "  Latency Distribution\n     50%  631.00us\n     75%    1.01ms\n     \
                    99%    2.50ms\nRequests/sec:  14921.50\nTransfer/sec:      3.4MB\n";
        let read = Wrk::read(text).unwrap();
        assert_eq!(read, Wrk { requests: 14921.5, p50: 631.0, p99: 2500.0 });
        assert!(Wrk::read(&format!("{text}  Non-2xx or 3xx responses: 7\n")).is_err());
        assert!(Wrk::read("").is_err());
    }
}
