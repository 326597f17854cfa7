//! What xvsd does when there is little to do, and when its configuration changes.
//!
//! Idle: its CPU time, as the kernel keeps it. Light: one datagram each millisecond and its answer,
//! timed when it reaches the real server, after one pass of the load balancer, and when the answer
//! is back, after two, against the kernel's routing on the same site. Change: the weight of one real
//! server among many, over and over under load.

use std::{
    fs::read_to_string,
    net::{Ipv4Addr, UdpSocket},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use crossbeam_channel::Sender;
use serde::Serialize;
use xvs_bench::lab::{Balancer, Namespace, interrupt};

use super::{
    contender::{Contender, Load, configuration, vip},
    load::{Generator, Plan},
    measure::FLOWS,
    site::{MACS, PORT, REAL, REAL_PORT, REALS_MAX, SENDERS, Site, VIP},
};

/// Datagrams of the light load in a second.
const LIGHT: usize = 1000;

/// Services of the change, each with [`REALS_MAX`] real servers.
const SERVICES: u32 = 1000;

/// Changes.
const CHANGES: u32 = 50;

/// Idle and lightly loaded.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Light {
    /// CPU time of an idle xvsd, in percent of one core.
    pub(super) idle_cpu_percent: f64,
    /// Round trips through the kernel's routing, in microseconds.
    pub(super) ip_forward_p50_us: f64,
    /// Round trips through the kernel's routing, in microseconds.
    pub(super) ip_forward_p99_us: f64,
    /// Round trips through xvsd, in microseconds.
    pub(super) xvsd_p50_us: f64,
    /// Round trips through xvsd, in microseconds.
    pub(super) xvsd_p99_us: f64,
    /// From client to real server through the kernel's routing, in microseconds.
    pub(super) ip_forward_way_p50_us: f64,
    /// From client to real server through xvsd, in microseconds.
    pub(super) xvsd_way_p50_us: f64,
    /// From client to real server through xvsd, in microseconds.
    pub(super) xvsd_way_p99_us: f64,
    /// What xvsd adds to a packet's latency, its 99th percentile from client to real server less the
    /// median of the kernel's, in microseconds.
    pub(super) added_p99_us: f64,
    /// What it adds to a round trip, two passes, reckoned alike, in microseconds.
    pub(super) added_round_trip_p99_us: f64,
    /// CPU time of xvsd meanwhile, in percent of one core.
    pub(super) light_cpu_percent: f64,
}

/// One real server changed among many.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Change {
    /// Services.
    pub(super) services: u32,
    /// Real servers of each.
    pub(super) reals: u32,
    /// Changes made.
    pub(super) changes: u32,
    /// From the start of `xvsadm` to its end, in milliseconds: when it ends, the change is in force.
    pub(super) p50_ms: f64,
    /// The slowest.
    pub(super) max_ms: f64,
    /// The longest that putting a snapshot in force stopped a worker, in microseconds.
    pub(super) longest_adoption_us: f64,
    /// The longest turn of a worker, in microseconds: a burst, its transmission and housekeeping.
    pub(super) longest_turn_us: f64,
}

/// Measures xvsd idle and lightly loaded.
///
/// # Errors
///
/// Something does not run.
pub(super) fn light(time: Duration) -> anyhow::Result<Light> {
    let count = LIGHT * usize::try_from(time.as_secs().max(1))?;
    let through = |contender: Contender| {
        let site = Site::new()?;
        let running = contender.start(&site, Load::Shared)?;
        thread::sleep(Duration::from_secs(1));
        let idle = running.daemon().map(|xvsd| share_of_core(xvsd.id(), time)).transpose()?;
        let before = running.daemon().map(|xvsd| cpu_time(xvsd.id())).transpose()?;
        let start = Instant::now();
        let times = trips(contender, &site, count)?;
        let took = start.elapsed();
        let after = running.daemon().map(|xvsd| cpu_time(xvsd.id())).transpose()?;
        let busy = after.zip(before).map(|(after, before)| after.saturating_sub(before));
        let busy = busy.map(|busy| busy.as_secs_f64() / took.as_secs_f64());
        anyhow::Ok((times, idle.unwrap_or(0.0), busy.unwrap_or(0.0)))
    };
    let (kernel, ..) = through(Contender::IpForward)?;
    let (ours, idle, busy) = through(Contender::Xvsd(1))?;
    let at = |times: &[f64], percent: usize| times[(times.len() - 1) * percent / 100];
    Ok(Light {
        idle_cpu_percent: idle * 100.0,
        ip_forward_p50_us: at(&kernel.back, 50),
        ip_forward_p99_us: at(&kernel.back, 99),
        xvsd_p50_us: at(&ours.back, 50),
        xvsd_p99_us: at(&ours.back, 99),
        ip_forward_way_p50_us: at(&kernel.there, 50),
        xvsd_way_p50_us: at(&ours.there, 50),
        xvsd_way_p99_us: at(&ours.there, 99),
        added_p99_us: at(&ours.there, 99) - at(&kernel.there, 50),
        added_round_trip_p99_us: at(&ours.back, 99) - at(&kernel.back, 50),
        light_cpu_percent: busy * 100.0,
    })
}

/// Measures changes of one real server under load.
///
/// # Errors
///
/// Something does not run.
pub(super) fn change() -> anyhow::Result<Change> {
    let site = Site::new()?;
    let text = configuration(SERVICES, REALS_MAX, Load::Packets);
    let xvsd = Balancer::start(&site.lb, site.folder.path(), &text)?;
    let plan =
        Plan { fresh: false, flows: FLOWS, to: (VIP, PORT), from: SENDERS, mac: MACS[1], first: 0 };
    let generator = Generator::start(&site.client, "c0", 0, plan)?;
    thread::sleep(Duration::from_millis(500));
    let mut times = Vec::new();
    for number in 0..CHANGES {
        let (service, weight) = (vip(number * (SERVICES / CHANGES)), 2 + number);
        let line = format!("-e -t {service}:{PORT} -r {REAL}:{REAL_PORT} -m -w {weight}");
        let start = Instant::now();
        xvsd.adm.run(&line)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    generator.end()?;
    let statistics = xvsd.adm.run("stats")?;
    let longest = |name: &str| {
        let line = statistics.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        number.with_context(|| format!("xvsadm stats says nothing of {name}:\n{statistics}"))
    };
    times.sort_by(f64::total_cmp);
    Ok(Change {
        services: SERVICES,
        reals: REALS_MAX,
        changes: CHANGES,
        p50_ms: times[times.len() / 2],
        max_ms: times[times.len() - 1],
        longest_adoption_us: longest("Longest adoption")?,
        longest_turn_us: longest("Longest turn")?,
    })
}

/// CPU time of all threads of a process so far.
///
/// # Errors
///
/// It is gone, or the kernel keeps no account.
pub(super) fn cpu_time(id: u32) -> anyhow::Result<Duration> {
    let mut sum = 0;
    for thread in std::fs::read_dir(format!("/proc/{id}/task"))? {
        let text = read_to_string(thread?.path().join("schedstat"))?;
        sum += text.split(' ').next().context("schedstat")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(sum))
}

/// How long small datagrams took, in microseconds, sorted.
struct Trips {
    /// From the client to the real server.
    there: Vec<f64>,
    /// From the client to the real server and back.
    back: Vec<f64>,
}

/// Sends `count` small datagrams, one each millisecond.
///
/// # Errors
///
/// Some did not come back.
fn trips(contender: Contender, site: &Site, count: usize) -> anyhow::Result<Trips> {
    let (ready, is_ready) = crossbeam_channel::bounded(1);
    let real = Arc::clone(&site.real);
    let echo = thread::spawn(move || echo(&real, count, &ready));
    is_ready.recv_timeout(Duration::from_secs(5)).context("nobody echoes")?;
    let (client, target) = (Arc::clone(&site.client), contender.target());
    let ask = thread::spawn(move || ask(&client, target, count));
    let joined = |_| anyhow::anyhow!("a thread panicked");
    let asked = ask.join().map_err(joined)??;
    let echoed = echo.join().map_err(joined)??;
    let micros = |from: Instant, to: Option<Instant>| {
        to.map(|to| to.saturating_duration_since(from).as_secs_f64() * 1e6)
    };
    let pairs = asked.iter().zip(&echoed);
    let mut there: Vec<f64> = pairs.filter_map(|((sent, _), seen)| micros(*sent, *seen)).collect();
    let mut back: Vec<f64> = asked.iter().filter_map(|(sent, seen)| micros(*sent, *seen)).collect();
    if back.len() * 100 < count * 99 {
        bail!("{} of {count} datagrams came back", back.len());
    }
    there.sort_by(f64::total_cmp);
    back.sort_by(f64::total_cmp);
    Ok(Trips { there, back })
}

/// Sends datagrams back until nobody has asked for a while, and says when each came, by its number.
fn echo(
    real: &Namespace,
    count: usize,
    ready: &Sender<()>,
) -> anyhow::Result<Vec<Option<Instant>>> {
    real.enter()?;
    let socket = UdpSocket::bind((REAL, REAL_PORT))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    ready.send(())?;
    let (mut seen, mut octets) = (vec![None; count], [0; 64]);
    while let Ok((length, from)) = socket.recv_from(&mut octets) {
        let came = Instant::now();
        socket.send_to(&octets[..length], from)?;
        let number = octets.first_chunk().map_or(u64::MAX, |number| u64::from_be_bytes(*number));
        if let Some(seen) = usize::try_from(number).ok().and_then(|number| seen.get_mut(number)) {
            *seen = Some(came);
        }
    }
    Ok(seen)
}

/// Sends numbered datagrams, and says of each when it left and when its answer came.
fn ask(
    client: &Namespace,
    target: (Ipv4Addr, u16),
    count: usize,
) -> anyhow::Result<Vec<(Instant, Option<Instant>)>> {
    client.enter()?;
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut times = Vec::with_capacity(count);
    let (begin, mut octets) = (Instant::now(), [0; 64]);
    for number in 0..count as u64 {
        let due = Duration::from_millis(number);
        thread::sleep(due.saturating_sub(begin.elapsed()));
        let sent = Instant::now();
        socket.send(&number.to_be_bytes())?;
        let came = socket.recv(&mut octets).is_ok() && octets[..8] == number.to_be_bytes();
        times.push((sent, came.then(Instant::now)));
    }
    Ok(times)
}

/// CPU time of a process in a while, as a share of one core.
///
/// # Errors
///
/// It is gone.
pub(super) fn share_of_core(id: u32, time: Duration) -> anyhow::Result<f64> {
    let (start, before) = (Instant::now(), cpu_time(id)?);
    thread::sleep(time);
    interrupt::check()?;
    Ok((cpu_time(id)? - before).as_secs_f64() / start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_time_of_a_busy_process_grows() {
        // Not this process: its threads, and their times with them, go as other tests end.
        let mut busy = std::process::Command::new("sh");
        let mut busy = busy.args(["-c", "while :; do :; done"]).spawn().unwrap();
        let mut times = Vec::new();
        while times.len() < 2 {
            let time = cpu_time(busy.id()).unwrap();
            if times.last().is_none_or(|last| time > *last) {
                times.push(time);
            }
            thread::yield_now();
        }
        busy.kill().unwrap();
        busy.wait().unwrap();
        assert!(cpu_time(u32::MAX).is_err(), "a process that is not there has none");
    }
}
