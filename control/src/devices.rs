//! The devices of the workers: AF_XDP where it can be had, raw sockets where not.
//!
//! All interfaces are attached alike. In mode auto each step down (native, generic, raw) is told
//! with its reason, in the log and in the report; nothing is slower in silence.
//! With raw sockets the host's stack would answer for what the workers take, so the steering
//! program shields it; where that cannot be, the log says so.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use crossbeam_channel::Sender;
use dataplane::{
    addr::Addr,
    clock::SystemClock,
    endpoint::Endpoints,
    flow::FlowTable,
    io::{
        Io,
        host::{self, HostPort},
        raw::{self, RawIo},
        xsk::{self, Offloads, XskError, XskIo, XskOptions, XskReport},
    },
    pipeline::{Parts, Pipeline},
    stats::Stats,
    steering::{
        AttachMode, Limits, Mode as XdpMode, Steering, SteeringError, rules::SteeringRules,
    },
    verdict::DeviceId,
    worker::{Worker, WorkerLink},
};

use crate::{
    config::{Interface, Mode},
    engine::{
        fleet::{Duty, Machine, OpenError, Opened, Orders},
        report::{InterfaceReport, QueueReport},
    },
};

/// Names that the hand-over device may have; the first that is free is taken.
const HOST_DEVICES: [&str; 4] = ["xvs0", "xvs1", "xvs2", "xvs3"];

/// What all workers share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The flow table.
    pub table: Arc<FlowTable>,
    /// Virtual and real endpoints.
    pub endpoints: Arc<Endpoints>,
    /// Counters.
    pub stats: Stats,
    /// Where next hops go that shall be resolved.
    pub resolve: Sender<(DeviceId, Addr)>,
    /// Seeds what the workers leave to chance; each has its own from it.
    pub seed: u64,
    /// How long an idle worker spins before it sleeps.
    pub spin: Duration,
    /// Answers of its own that a worker sends per second: ICMP errors, resets, echo replies.
    pub answers_per_second: u32,
}

/// The devices of all workers.
#[derive(Debug)]
pub struct Devices {
    interfaces: Vec<Interface>,
    names: Vec<String>,
    workers: usize,
    shared: Shared,
    steering: Option<Steering>,
    /// Says whether workers read what the host's stack sends.
    from_host: Option<Arc<AtomicBool>>,
    /// Restored when dropped.
    offloads: Offloads,
    /// Held, not used: see [`claim`].
    _claims: Vec<UnixListener>,
}

impl Devices {
    /// Claims the interfaces; opens nothing yet.
    ///
    /// # Errors
    ///
    /// Another daemon has one of them.
    pub fn new(
        interfaces: &[Interface],
        workers: usize,
        shared: Shared,
    ) -> Result<Self, OpenError> {
        let names: Vec<_> = interfaces.iter().map(|each| each.name.clone()).collect();
        Ok(Self {
            _claims: names.iter().map(|name| claim(name)).collect::<Result<_, _>>()?,
            interfaces: interfaces.to_vec(),
            names,
            workers,
            shared,
            steering: None,
            from_host: None,
            offloads: Offloads::default(),
        })
    }

    /// AF_XDP on all interfaces.
    fn open_xsk(&mut self, mode: AttachMode) -> Result<Opened, XskError> {
        let mut steering = Steering::load(Limits::default())?;
        let options = XskOptions { mode, ..XskOptions::default() };
        let opened = xsk::open(&mut steering, &self.names, self.workers, &options)?;
        for report in &opened.reports {
            tracing::info!("{report}");
        }
        self.offloads = opened.offloads;
        let mut ports = match self.host_ports() {
            Some((name, ports)) => {
                steering.hand_over(name, &self.names)?;
                self.from_host = ports.first().map(HostPort::switch);
                ports.into_iter()
            }
            None => Vec::new().into_iter(),
        };
        self.steering = Some(steering);
        let duties = opened.workers.into_iter().enumerate().map(|(number, mut io)| {
            if let Some(port) = ports.next()
                && let Err(error) = io.set_host(port)
            {
                tracing::warn!("worker {number} cannot hand packets over to the host: {error}");
            }
            self.duty(number, io)
        });
        let workers = duties.collect();
        let interfaces = self.interfaces.iter();
        let interfaces = interfaces.map(|each| xsk_report(each, &opened.reports)).collect();
        Ok(Opened { interfaces, workers })
    }

    /// Raw sockets on all interfaces; `reasons` say why no better was had.
    fn open_raw(&mut self, reasons: &[String]) -> Result<Opened, OpenError> {
        let ios = raw::open(&self.names, self.workers).map_err(|error| OpenError(told(&error)))?;
        self.shield();
        let duties = ios.into_iter().enumerate();
        let workers = duties.map(|(number, io)| self.duty(number, io)).collect();
        let queue = |worker| QueueReport {
            queue: 0,
            worker,
            mode: "raw".to_owned(),
            fallbacks: reasons.to_vec(),
        };
        let workers_u32 = u32::try_from(self.workers).unwrap_or(u32::MAX);
        let report = |interface: &Interface| InterfaceReport {
            name: interface.name.clone(),
            wanted: interface.mode.name(),
            queues: (0..workers_u32).map(queue).collect(),
        };
        for name in &self.names {
            tracing::info!("{name}: raw sockets, {} workers", self.workers);
        }
        Ok(Opened { interfaces: self.interfaces.iter().map(report).collect(), workers })
    }

    /// Keeps the host's stack from answering for the workers, where the kernel lets us.
    fn shield(&mut self) {
        let shielded = Steering::load(Limits::default()).and_then(|mut steering| {
            self.names.iter().try_for_each(|name| steering.shield(name).map(drop))?;
            Ok(steering)
        });
        match shielded {
            Ok(steering) => self.steering = Some(steering),
            Err(error) => tracing::warn!(
                "the host's stack sees what the workers take and may answer too: {error}"
            ),
        }
    }

    /// A hand-over device with a queue for each worker, if it can be had.
    fn host_ports(&self) -> Option<(&'static str, Vec<HostPort>)> {
        let mut failure = String::new();
        for name in HOST_DEVICES {
            match host::create(name, self.workers) {
                Ok(ports) => return Some((name, ports)),
                Err(error) => failure = error.to_string(),
            }
        }
        tracing::warn!("packets of a VIP that belong to the host are dropped: {failure}");
        None
    }

    fn duty<I: Watched>(&self, number: usize, io: I) -> Box<dyn Duty> {
        Box::new(WorkerDuty { number, io, shared: self.shared.clone() })
    }
}

impl Machine for Devices {
    fn open(&mut self) -> Result<Opened, OpenError> {
        let mode = self.interfaces.first().map_or(Mode::Auto, |interface| interface.mode);
        let opened = match mode {
            Mode::Native => self.open_xsk(AttachMode::Native),
            Mode::Generic => self.open_xsk(AttachMode::Generic),
            Mode::Raw => return self.open_raw(&[]),
            Mode::Auto => self.open_xsk(AttachMode::Auto),
        };
        match opened {
            Ok(opened) => Ok(opened),
            Err(error) => {
                self.close();
                if mode != Mode::Auto || !leaves_raw(&error) {
                    return Err(OpenError(told(&error)));
                }
                let reason = format!("AF_XDP cannot be had: {error}");
                tracing::warn!("{reason}; falling back to raw sockets");
                self.open_raw(&[reason])
            }
        }
    }

    fn steer(&mut self, rules: &SteeringRules) -> Result<(), SteeringError> {
        if let Some(switch) = &self.from_host {
            switch.store(!rules.hosted.is_empty() || !rules.watched.is_empty(), Relaxed);
        }
        self.steering.as_mut().map_or(Ok(()), |steering| steering.follow(rules))
    }

    fn close(&mut self) {
        self.steering = None;
        self.from_host = None;
        self.offloads = Offloads::default();
    }
}

/// Whether raw sockets may do where AF_XDP failed. They do not where the configuration is wrong
/// or somebody else has the interface.
const fn leaves_raw(error: &XskError) -> bool {
    !matches!(
        error,
        XskError::Steering(
            SteeringError::NoSuchInterface { .. } | SteeringError::OtherProgram { .. }
        ) | XskError::Interface { .. }
            | XskError::TooFewQueues { .. }
            | XskError::TooManyInterfaces { .. }
    )
}

/// The error in one line, with causes that it does not tell itself (aya's do not), and what is most
/// probably missing if it is a right.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |cause| cause.source()) {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
    }
    let denied = [libc::EPERM, libc::EACCES]
        .map(|number| io::Error::from_raw_os_error(number).to_string())
        .iter()
        .any(|denied| text.contains(denied.as_str()));
    if denied {
        return format!("{text}; xvsd needs root, or CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF");
    }
    text
}

/// Claims an interface in the network namespace we are in: an abstract socket's name is taken there
/// as long as we live, and no longer.
fn claim(interface: &str) -> Result<UnixListener, OpenError> {
    let name = format!("xvs/interface/{interface}");
    let claim =
        SocketAddr::from_abstract_name(name).and_then(|name| UnixListener::bind_addr(&name));
    claim.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            OpenError(format!("{interface}: another xvsd has this interface"))
        }
        _ => OpenError(format!("{interface}: cannot claim the interface: {error}")),
    })
}

/// What AF_XDP reached on one interface.
fn xsk_report(interface: &Interface, reports: &[XskReport]) -> InterfaceReport {
    let queue = |report: &XskReport| {
        let copy = if report.zero_copy { "zero-copy" } else { "copy" };
        let refused = report.attachment.native_refused.as_ref();
        QueueReport {
            queue: report.queue,
            worker: u32::try_from(report.worker).unwrap_or(u32::MAX),
            mode: match report.attachment.mode {
                XdpMode::Native => format!("native {copy}"),
                XdpMode::Generic => "generic".to_owned(),
            },
            fallbacks: refused.map(|why| format!("native refused: {why}")).into_iter().collect(),
        }
    };
    let own = reports.iter().filter(|report| report.interface == interface.name);
    InterfaceReport {
        name: interface.name.clone(),
        wanted: interface.mode.name(),
        queues: own.map(queue).collect(),
    }
}

/// Devices whose sleep can be ended.
trait Watched: Io + std::fmt::Debug + Send + 'static {
    /// What ends it.
    fn alarm(&self) -> Arc<dyn Fn() + Send + Sync>;
}

impl Watched for XskIo {
    fn alarm(&self) -> Arc<dyn Fn() + Send + Sync> {
        let waker = self.waker();
        // A wake-up that fails costs the worker's longest sleep, a tenth of a second.
        Arc::new(move || waker.wake().unwrap_or_default())
    }
}

impl Watched for RawIo {
    fn alarm(&self) -> Arc<dyn Fn() + Send + Sync> {
        let waker = self.waker();
        Arc::new(move || waker.wake().unwrap_or_default())
    }
}

/// One worker over its devices.
#[derive(Debug)]
struct WorkerDuty<I> {
    number: usize,
    io: I,
    shared: Shared,
}

impl<I: Watched> Duty for WorkerDuty<I> {
    fn alarm(&self) -> Arc<dyn Fn() + Send + Sync> {
        self.io.alarm()
    }

    fn run(self: Box<Self>, orders: Orders) -> io::Result<()> {
        let Self { number, io, shared } = *self;
        let table = shared.table.worker(number).map_err(io::Error::other)?;
        let pipeline = Pipeline::new(Parts {
            flows: Arc::clone(&shared.table),
            table,
            endpoints: shared.endpoints,
            stats: Arc::clone(shared.stats.worker(number)),
            resolve: shared.resolve,
            seed: shared.seed ^ number as u64,
            answers_per_second: shared.answers_per_second,
        });
        let Orders { incoming, retired, stop } = orders;
        let link = WorkerLink { incoming, retired, stop };
        Worker::new(io, SystemClock, pipeline, link, shared.spin).run()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_claimed_once_and_freed_with_its_owner() {
        let first = claim("xvs-test0").unwrap();
        let error = claim("xvs-test0").unwrap_err().to_string();
        assert_eq!(error, "xvs-test0: another xvsd has this interface");
        claim("xvs-test1").unwrap();
        drop(first);
        claim("xvs-test0").unwrap();
    }

    #[test]
    fn only_what_the_kernel_cannot_do_falls_back_to_raw() {
        let interface = || "eth1".to_owned();
        assert!(leaves_raw(&XskError::Mtu { interface: interface(), mtu: 9000, largest: 3498 }));
        let taken = SteeringError::OtherProgram { interface: interface() };
        assert!(!leaves_raw(&taken.into()));
        let missing = SteeringError::NoSuchInterface { interface: interface() };
        assert!(!leaves_raw(&missing.into()));
    }

    /// An error that leaves its cause to whoever asks for it.
    #[derive(Debug, thiserror::Error)]
    #[error("failed to create a map")]
    struct Silent {
        #[source]
        cause: io::Error,
    }

    #[test]
    fn a_missing_right_is_named() {
        let denied = io::Error::from_raw_os_error(1);
        let error = XskError::Socket { interface: "eth1".to_owned(), queue: 0, source: denied };
        assert!(told(&error).ends_with("CAP_NET_RAW and CAP_BPF"), "{}", told(&error));
        let denied = io::Error::from_raw_os_error(1);
        let wrapped = Silent { cause: denied };
        assert!(told(&wrapped).ends_with("CAP_NET_RAW and CAP_BPF"), "{}", told(&wrapped));
    }
}
