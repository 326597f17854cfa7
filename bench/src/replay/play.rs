//! Plays one capture.

use std::{
    cell::RefCell,
    fs::{self, File},
    io::{self, BufWriter},
    path::Path,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use arrayvec::ArrayVec;
use dataplane::{
    director::spec::{ServiceInfo, ServiceKey},
    flow::FlowKey,
    io::{
        Io,
        pcap::{PcapIo, Tape, capture::End, write::Writer},
    },
    packet::{BURST, Packet},
    verdict::{DeviceId, DropReason, Verdict},
    wire::{frame::parse, protocol},
};

use super::{
    Args,
    derive::Census,
    load::Loaded,
    mirror::Mirror,
    report::{Real, Report, Service},
    rss,
    services::{BACKEND, CLIENT, DEVICES, ENDPOINTS, Given, Map, method},
};
use crate::lb::{Lb, Sizes};

/// A pause in the capture that is long enough for housekeeping.
const PAUSE: Duration = Duration::from_secs(1);
/// Rounds of idle turns in a pause: what ends a template may first have to end its flows.
const IDLE_ROUNDS: usize = 4;
/// What the first packet's time is counted from.
type Nanos = u64;

/// Replays a capture that was read.
pub(super) fn play(
    args: &Args,
    given: Option<&Given>,
    loaded: Loaded,
    folder: Option<&Path>,
) -> anyhow::Result<Report> {
    let mut report = Report {
        files: 1,
        packets: loaded.records,
        incomplete_files: u64::from(loaded.end != End::Whole),
        cut_packets: loaded.cut,
        finished_checksums: loaded.finished,
        foreign_link_types: loaded.foreign,
        ..Report::default()
    };
    let mut run = Run::new(args, given, loaded.tape, folder.is_some())?;
    let mut outputs = folder.map(Outputs::create).transpose()?;
    run.play(outputs.as_mut())?;
    if let Some(outputs) = outputs {
        outputs.finish()?;
    }
    run.fill(&mut report);
    Ok(report)
}

struct Run {
    lb: Lb<Mirrored>,
    tape: Arc<Tape>,
    /// Positions in all passes together.
    end: usize,
}

impl Run {
    fn new(args: &Args, given: Option<&Given>, mut tape: Tape, keep: bool) -> anyhow::Result<Self> {
        let workers = usize::from(args.workers);
        let sizes = Sizes {
            flows: args.flows as usize,
            endpoints: ENDPOINTS,
            seed: args.seed,
            table_size: 0,
        };
        // The services decide by which device a frame comes, the frames (without rules) decide which
        // services there are: so the director is filled before there are any devices.
        let desired = match given {
            Some(_) => Vec::new(),
            None => {
                let mut census = Census::default();
                (0..tape.len()).for_each(|at| census.add(tape.frame(at).1));
                census.services(method(&args.method), &args.scheduler)
            }
        };
        let services = Self::services(given, &desired)?;
        let map = Map::of(&services);
        let mut shares = vec![Vec::new(); workers];
        for at in 0..tape.len() {
            let frame = tape.frame(at).1;
            shares[rss::worker(frame, workers)].push(at);
            let device = map.device(frame);
            tape.set_device(at, device);
        }
        let (tape, passes) = (Arc::new(tape), args.passes as usize);
        let mirror = Rc::new(RefCell::new(Mirror::default()));
        let ios = shares.into_iter().map(|share| Mirrored {
            inner: PcapIo::new(Arc::clone(&tape), share, passes, 2, keep),
            mirror: Rc::clone(&mirror),
            bursts: Vec::new(),
        });
        let mut lb = Lb::new(&sizes, map.network(), ios.collect())?;
        match given {
            Some(given) => given.install(&mut lb.director)?,
            None => {
                lb.director.apply(&desired)?;
            }
        }
        let end = tape.len().saturating_mul(passes);
        let mut run = Self { lb, tape, end };
        run.until(0);
        run.lb.adopt();
        Ok(run)
    }

    /// The services as they will be.
    fn services(
        given: Option<&Given>,
        desired: &[dataplane::director::Desired],
    ) -> anyhow::Result<Vec<ServiceInfo>> {
        use dataplane::{director::Director, endpoint::Endpoints, stats::Stats};
        let endpoints = Arc::new(Endpoints::new(ENDPOINTS));
        let mut director = Director::new(endpoints, Stats::new(1, ENDPOINTS));
        match given {
            Some(given) => given.install(&mut director)?,
            None => {
                director.apply(desired)?;
            }
        }
        Ok(director.services())
    }

    /// Plays the tape to its end, in its order: first every worker's frames of one stretch that came
    /// by one device, then the next stretch.
    fn play(&mut self, mut outputs: Option<&mut Outputs>) -> anyhow::Result<()> {
        let origin = self.tape.nanos(0).unwrap_or(0);
        let mut before = Duration::ZERO;
        let mut at = 0;
        while at < self.end {
            let stretch = self.stretch(at);
            let then = self.time(at, origin);
            if then.saturating_sub(before) >= PAUSE {
                self.pause(then);
            }
            before = then;
            self.until(stretch);
            self.turns(origin, &mut outputs)?;
            at = stretch;
        }
        Ok(())
    }

    /// Every worker takes turns until its frames of the stretch are gone.
    fn turns(&mut self, origin: Nanos, outputs: &mut Option<&mut Outputs>) -> anyhow::Result<()> {
        for number in 0..self.lb.workers.len() {
            loop {
                let io = &self.lb.workers[number].io_mut().inner;
                let Some(nanos) = io.next_nanos() else { break };
                self.lb.set_time(Duration::from_nanos(nanos.saturating_sub(origin)));
                let worker = &mut self.lb.workers[number];
                if worker.turn()? == 0 {
                    break;
                }
                if let Some(outputs) = outputs {
                    let mut written = Ok(());
                    worker.io_mut().inner.take_sent(|device, frame| {
                        if written.is_ok() {
                            written = outputs.write(device, nanos, frame);
                        }
                    });
                    written.context("what left a device cannot be written")?;
                }
            }
        }
        Ok(())
    }

    /// The end of the stretch that begins at `at`: frames of one device, a burst for every worker.
    fn stretch(&self, at: usize) -> usize {
        let device = |at: usize| self.tape.frame(at % self.tape.len()).0;
        let most = BURST * self.lb.workers.len();
        let same = (at..self.end).take(most).take_while(|next| device(*next) == device(at));
        at + same.count().max(1)
    }

    /// When the frame at `at` comes, after the capture's beginning.
    fn time(&self, at: usize, origin: Nanos) -> Duration {
        Duration::from_nanos(self.tape.nanos(at).unwrap_or(origin).saturating_sub(origin))
    }

    fn until(&mut self, position: usize) {
        for worker in &mut self.lb.workers {
            worker.io_mut().inner.play_until(position);
        }
    }

    /// Nothing comes until `then`: what is over by then goes.
    fn pause(&mut self, then: Duration) {
        self.until(0);
        for _ in 0..IDLE_ROUNDS {
            self.lb.set_time(then);
            self.lb.idle();
        }
    }

    fn fill(&mut self, report: &mut Report) {
        for stats in self.lb.stats.workers() {
            for device in [CLIENT, BACKEND] {
                let counters = stats.device(device);
                report.played += counters.received.get();
                report.verdicts.transmitted += counters.transmitted.get();
                report.verdicts.host += counters.host.get();
                report.verdicts.consumed += counters.consumed.get();
                report.originated += counters.originated.get();
                for (reason, count) in DropReason::ALL.iter().zip(&counters.dropped) {
                    if count.get() > 0 {
                        *report.verdicts.dropped.entry(reason.name()).or_insert(0) += count.get();
                    }
                }
            }
            report.flows.created += stats.work.flows_created.get();
            report.flows.expired += stats.work.flows_expired.get();
            report.flows.refused += stats.work.flows_refused.get();
        }
        report.flows.live = self.lb.table.len() as u64;
        report.services = self.lb.director.services().iter().map(service).collect();
        for worker in &mut self.lb.workers {
            report.time.bursts.append(&mut worker.io_mut().bursts);
        }
        report.time.summarise(report.played);
        // What did not come at all has no verdict either.
        report.played = report.played.max(self.end as u64);
    }
}

fn service(info: &ServiceInfo) -> Service {
    let name = match info.spec.key {
        ServiceKey::Address { protocol, addr, port } => {
            let protocol = match protocol {
                protocol::TCP => "tcp",
                protocol::UDP => "udp",
                _ => "sctp",
            };
            format!("{protocol} {}", std::net::SocketAddr::from((addr.to_ip(), port)))
        }
        ServiceKey::Mark { mark, .. } => format!("mark {mark}"),
    };
    let real = |real: &dataplane::director::spec::RealInfo| Real {
        name: std::net::SocketAddr::from((real.spec.addr.to_ip(), real.spec.port)).to_string(),
        flows: real.counters.conns,
        in_packets: real.counters.in_packets,
        out_packets: real.counters.out_packets,
    };
    let reals = info.reals.iter().map(real).collect();
    Service { name, scheduler: info.spec.scheduler.clone(), reals }
}

/// A worker's share of the tape, with real servers that answer from where their flows went.
struct Mirrored {
    inner: PcapIo,
    mirror: Rc<RefCell<Mirror>>,
    /// How long the pipeline took over each burst, in nanoseconds.
    bursts: Vec<u64>,
}

impl Io for Mirrored {
    fn burst(
        &mut self,
        process: impl FnOnce(&mut [Packet<'_>]),
        settle: impl FnMut(DeviceId, usize, Verdict),
    ) -> io::Result<usize> {
        let Self { inner, mirror, bursts } = self;
        let lend = |packets: &mut [Packet<'_>]| {
            let keys: ArrayVec<Option<FlowKey>, BURST> = packets
                .iter_mut()
                .map(|packet| match packet.device {
                    BACKEND => {
                        mirror.borrow().reply(packet.bytes_mut());
                        None
                    }
                    _ => parse(packet.bytes()).ok().map(|parsed| parsed.key),
                })
                .collect();
            let start = Instant::now();
            process(packets);
            bursts.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
            for (packet, key) in packets.iter().zip(keys) {
                if let (Verdict::Tx(BACKEND), Some(key)) = (packet.verdict, key) {
                    mirror.borrow_mut().learn(&key, packet.bytes());
                }
            }
        };
        inner.burst(lend, settle)
    }

    fn send(&mut self, device: DeviceId, frame: &[u8]) -> bool {
        self.inner.send(device, frame)
    }

    fn to_host(&mut self, device: DeviceId, frame: &[u8]) -> bool {
        self.inner.to_host(device, frame)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        self.inner.wait(timeout)
    }
}

/// One capture for each device.
struct Outputs(Vec<Writer<BufWriter<File>>>);

impl Outputs {
    fn create(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let create = |name: &str| {
            let path = folder.join(format!("{name}.pcap"));
            let file = File::create(&path).with_context(|| path.display().to_string())?;
            Writer::new(BufWriter::new(file)).with_context(|| path.display().to_string())
        };
        Ok(Self(DEVICES.iter().map(|name| create(name)).collect::<anyhow::Result<_>>()?))
    }

    fn write(&mut self, device: DeviceId, nanos: u64, frame: &[u8]) -> io::Result<()> {
        match self.0.get_mut(usize::from(device.0)) {
            Some(writer) => writer.write(nanos, frame),
            None => Ok(()),
        }
    }

    fn finish(self) -> anyhow::Result<()> {
        for writer in self.0 {
            writer.finish()?;
        }
        Ok(())
    }
}
