//! Opening the sockets of all workers.
//!
//! Worker `w` takes of every interface the queues `w`, `w + workers`, `w + 2 x workers` and so on:
//! each queue has one worker, as packets of a queue without one would stay in the kernel. What was
//! reached (mode, zero-copy, huge pages) is reported for each socket, never silent.

use std::{
    fmt, io,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::Arc,
};

use mio::{Events, Interest, Poll, Token, Waker, unix::SourceFd};

use super::{
    BusyPoll, WAKE, XskIo,
    frames::{Frames, XDP_HEADROOM},
    netdev::{self, GroOff},
    queue::{Binding, Queue},
    sender::{Port, Sender},
};
use crate::{
    io::sys,
    packet::BURST,
    steering::{AttachMode, Attachment, MAX_INTERFACES, MAX_QUEUES, Mode, Steering, SteeringError},
    verdict::DeviceId,
};

/// Frame sizes the kernel takes, headroom included, smaller first.
const CHUNKS: [u32; 2] = [2048, 4096];

/// Octets in front of an IP packet: Ethernet header and one 802.1Q tag.
const LINK_HEADER: u32 = 18;

/// Events that one wait can report; more wait for the next.
const EVENTS: usize = 64;

/// How to open sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XskOptions {
    /// The XDP mode wanted.
    pub mode: AttachMode,
    /// Whether to try zero-copy. Where the driver cannot, frames are copied.
    pub zero_copy: bool,
    /// Most packets of a queue that wait to be received, and most that wait to be sent: a power of
    /// two from 64 to 32,768. What comes beyond is dropped and counted. A queue's share of its
    /// worker's memory is twice as many frames of 2,048 octets (4,096 with an MTU above 1,774).
    pub ring: u32,
    /// Busy polling.
    pub busy_poll: Option<BusyPoll>,
    /// How packets leave.
    pub transmit: Transmit,
}

/// How packets leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transmit {
    /// By the rings with zero-copy; without, a burst in one call, where the kernel can (Linux 5.17).
    /// Then a worker must run in the network namespace of its interfaces: the kernel looks for them
    /// there.
    #[default]
    Auto,
    /// By the rings.
    Ring,
}

impl Default for XskOptions {
    fn default() -> Self {
        let (mode, transmit) = (AttachMode::Auto, Transmit::Auto);
        Self { mode, zero_copy: true, ring: 2048, busy_poll: None, transmit }
    }
}

/// Why sockets could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum XskError {
    /// Attaching or registering failed.
    #[error(transparent)]
    Steering(#[from] SteeringError),
    /// The interface does not answer; most likely it does not exist.
    #[error("{interface}: {source}")]
    Interface {
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Too many interfaces for one steering program.
    #[error("{count} interfaces, at most {MAX_INTERFACES} are possible")]
    TooManyInterfaces {
        /// How many there are.
        count: usize,
    },
    /// A ring size that is no power of two from 64 to 32,768.
    #[error("a ring of {ring} entries: it must be a power of two from 64 to 32768")]
    Ring {
        /// The size asked for.
        ring: u32,
    },
    /// Packets of the interface fit no frame.
    #[error("{interface}: an MTU of {mtu} is too large for AF_XDP, at most {largest} is possible")]
    Mtu {
        /// The interface.
        interface: String,
        /// Its MTU.
        mtu: u32,
        /// What would do.
        largest: u32,
    },
    /// A worker would have no queue.
    #[error(
        "{interface} has {queues} receive queues for {workers} workers; start fewer workers, or \
         `ethtool -L {interface} combined {workers}`"
    )]
    TooFewQueues {
        /// The interface.
        interface: String,
        /// Its queues.
        queues: u32,
        /// The workers.
        workers: usize,
    },
    /// Packets of some queues could not be steered.
    #[error(
        "{interface} has {queues} receive queues, at most {MAX_QUEUES} are possible; \
         `ethtool -L {interface} combined {MAX_QUEUES}`"
    )]
    TooManyQueues {
        /// The interface.
        interface: String,
        /// Its queues.
        queues: u32,
    },
    /// The memory could not be had, or not be locked.
    #[error("cannot share {mebibytes} MiB of memory with the kernel: {source}")]
    Memory {
        /// How much.
        mebibytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// The socket could not be opened or bound.
    #[error("{interface} queue {queue}: cannot open an AF_XDP socket: {source}")]
    Socket {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// What the kernel said; EBUSY if another process has the queue.
        source: io::Error,
    },
    /// The worker's poll could not be made.
    #[error("cannot watch the sockets: {0}")]
    Poll(#[source] io::Error),
}

/// What one socket reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XskReport {
    /// The worker that has it.
    pub worker: usize,
    /// The interface.
    pub interface: String,
    /// The queue.
    pub queue: u32,
    /// The XDP mode, and why it is not native.
    pub attachment: Attachment,
    /// Whether frames travel without being copied.
    pub zero_copy: bool,
    /// Whether the worker's memory lies in huge pages.
    pub huge_pages: bool,
    /// Whether receive offload (GRO) was switched off for the generic mode.
    pub gro_off: bool,
    /// Whether packets leave a burst at a time.
    pub in_bursts: bool,
    /// Why they do not, where that was tried.
    pub bursts_refused: Option<String>,
}

impl fmt::Display for XskReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let copy = if self.zero_copy { "zero-copy" } else { "copy" };
        let pages = if self.huge_pages { "huge" } else { "normal" };
        write!(
            f,
            "{} queue {}: worker {}, {} mode, {copy}, {pages} pages",
            self.interface, self.queue, self.worker, self.attachment.mode
        )?;
        if let Some(reason) = &self.attachment.native_refused {
            write!(f, ", native refused: {reason}")?;
        }
        if self.in_bursts {
            f.write_str(", sends bursts")?;
        }
        if let Some(reason) = &self.bursts_refused {
            write!(f, ", sending bursts refused: {reason}")?;
        }
        if self.gro_off { f.write_str(", GRO switched off") } else { Ok(()) }
    }
}

/// Offloads that were switched off; dropping this restores them.
#[derive(Debug, Default)]
pub struct Offloads(Vec<GroOff>);

impl Offloads {
    /// How many were switched off.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none was.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// All sockets.
#[derive(Debug)]
pub struct Opened {
    /// One for each worker.
    pub workers: Vec<XskIo>,
    /// What each socket reached.
    pub reports: Vec<XskReport>,
    /// To be kept as long as the workers run.
    pub offloads: Offloads,
}

/// An interface made ready.
#[derive(Debug)]
struct Interface<'a> {
    name: &'a str,
    /// The kernel's number of it.
    index: u32,
    slot: DeviceId,
    mtu: u32,
    queues: u32,
    attachment: Attachment,
    gro_off: bool,
}

/// Attaches the steering program to `interfaces`, whose places are their device ids, and opens
/// sockets on all their queues for `workers` workers.
///
/// # Errors
///
/// See [`XskError`]; what was attached stays so until `steering` is dropped.
pub fn open(
    steering: &mut Steering,
    interfaces: &[String],
    workers: usize,
    options: &XskOptions,
) -> Result<Opened, XskError> {
    if interfaces.len() > MAX_INTERFACES as usize {
        return Err(XskError::TooManyInterfaces { count: interfaces.len() });
    }
    if !options.ring.is_power_of_two() || !(64..=32768).contains(&options.ring) {
        return Err(XskError::Ring { ring: options.ring });
    }
    let mut opened = Opened { workers: vec![], reports: vec![], offloads: Offloads::default() };
    let mut ready = Vec::new();
    for (slot, name) in (0u8..).map(DeviceId).zip(interfaces) {
        let interface = prepare(steering, slot, name, workers, options.mode)?;
        ready.push(interface);
    }
    for interface in &mut ready {
        if interface.attachment.mode == Mode::Generic
            && let Some(off) = GroOff::new(interface.name).map_err(failed(interface.name))?
        {
            interface.gro_off = true;
            opened.offloads.0.push(off);
        }
    }
    for worker in 0..workers {
        let (io, reports) = open_worker(steering, &ready, (worker, workers), options)?;
        opened.workers.push(io);
        opened.reports.extend(reports);
    }
    Ok(opened)
}

fn failed(interface: &str) -> impl FnOnce(io::Error) -> XskError {
    move |source| XskError::Interface { interface: interface.into(), source }
}

/// Checks an interface and attaches the program to it.
fn prepare<'a>(
    steering: &mut Steering,
    slot: DeviceId,
    name: &'a str,
    workers: usize,
    mode: AttachMode,
) -> Result<Interface<'a>, XskError> {
    let (index, mtu) = sys::interface(name).map_err(failed(name))?;
    let mtu = u32::try_from(mtu).unwrap_or(u32::MAX);
    let largest = CHUNKS[1] - XDP_HEADROOM - LINK_HEADER;
    if mtu > largest {
        return Err(XskError::Mtu { interface: name.into(), mtu, largest });
    }
    let queues = netdev::receive_queues(name).map_err(failed(name))?;
    if (queues as usize) < workers {
        return Err(XskError::TooFewQueues { interface: name.into(), queues, workers });
    }
    if queues > MAX_QUEUES {
        return Err(XskError::TooManyQueues { interface: name.into(), queues });
    }
    let attachment = steering.attach(slot, name, mode)?;
    Ok(Interface { name, index, slot, mtu, queues, attachment, gro_off: false })
}

/// Opens one worker's sockets: with zero-copy if wanted and possible on all of them.
fn open_worker(
    steering: &mut Steering,
    interfaces: &[Interface<'_>],
    (worker, workers): (usize, usize),
    options: &XskOptions,
) -> Result<(XskIo, Vec<XskReport>), XskError> {
    let native = interfaces.iter().all(|i| i.attachment.mode == Mode::Native);
    let zero_copy = options.zero_copy && native;
    let (frames, queues) = match bind(interfaces, (worker, workers), options, zero_copy) {
        // Sockets that share memory share its mode: one driver that cannot decides for all.
        Err(XskError::Socket { .. }) if zero_copy => {
            bind(interfaces, (worker, workers), options, false)?
        }
        other => other?,
    };
    let copied = queues.iter().all(|(queue, _)| queue.zero_copy().is_ok_and(|zero| !zero));
    let sender = match options.transmit {
        Transmit::Auto if copied => Some(Sender::new(ports(interfaces))),
        _ => None,
    };
    let bursts_refused = sender.as_ref().and_then(|sender| sender.as_ref().err());
    let bursts_refused = bursts_refused.map(ToString::to_string);
    let sender = sender.and_then(Result::ok);
    let mut reports = Vec::new();
    for (queue, number) in &queues {
        let interface = &interfaces[usize::from(queue.device.0)];
        steering.register(queue.device, *number, queue)?;
        reports.push(XskReport {
            worker,
            interface: interface.name.into(),
            queue: *number,
            attachment: interface.attachment.clone(),
            zero_copy: queue.zero_copy().map_err(failed(interface.name))?,
            huge_pages: frames.huge_pages,
            gro_off: interface.gro_off,
            in_bursts: sender.is_some(),
            bursts_refused: bursts_refused.clone(),
        });
    }
    let queues = queues.into_iter().map(|(queue, _)| queue).collect();
    let io = XskIo::new((frames, queues), sender, interfaces.len()).map_err(XskError::Poll)?;
    Ok((io, reports))
}

/// The interfaces as they are sent by.
fn ports(interfaces: &[Interface<'_>]) -> Vec<Port> {
    let port = |each: &Interface<'_>| Port {
        index: each.index,
        longest: (each.mtu + LINK_HEADER) as usize,
    };
    interfaces.iter().map(port).collect()
}

/// A worker's memory and its sockets with their queue numbers.
fn bind(
    interfaces: &[Interface<'_>],
    (worker, workers): (usize, usize),
    options: &XskOptions,
    zero_copy: bool,
) -> Result<(Frames, Vec<(Queue, u32)>), XskError> {
    let longest = interfaces.iter().map(|i| i.mtu + LINK_HEADER).max().unwrap_or(0);
    let fits = |&chunk: &u32| longest + XDP_HEADROOM <= chunk;
    let chunk = CHUNKS.into_iter().find(fits).expect("prepare() checked every MTU");
    let ours = |number: &u32| *number as usize % workers == worker;
    let bindings: Vec<_> = interfaces
        .iter()
        .flat_map(|interface| (0..interface.queues).filter(ours).map(move |q| (interface, q)))
        .collect();
    // Every fill and transmit ring can be full while a burst is in our hands.
    let total = bindings.len() * 2 * options.ring as usize + BURST;
    let mut frames = Frames::new(chunk, total, options.ring)
        .map_err(|source| XskError::Memory { mebibytes: (total * chunk as usize) >> 20, source })?;
    let mut queues = Vec::new();
    for (interface, number) in bindings {
        let binding = Binding {
            interface: interface.name,
            slot: interface.slot,
            queue: number,
            ring: options.ring,
            zero_copy,
            busy_poll: options.busy_poll,
        };
        let mut queue = Queue::open(&mut frames, &binding).map_err(|source| XskError::Socket {
            interface: interface.name.into(),
            queue: number,
            source,
        })?;
        queue.longest = (interface.mtu + LINK_HEADER) as usize;
        queues.push((queue, number));
    }
    Ok((frames, queues))
}

impl XskIo {
    fn new(
        (frames, mut queues): (Frames, Vec<Queue>),
        sender: Option<Sender>,
        slots: usize,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        for (at, queue) in queues.iter().enumerate() {
            let descriptor = queue.as_fd().as_raw_fd();
            let mut source = SourceFd(&descriptor);
            poll.registry().register(&mut source, Token(at), Interest::READABLE)?;
        }
        route(&mut queues, slots);
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let events = Events::with_capacity(EVENTS);
        Ok(Self {
            queues,
            frames,
            sender,
            turn: 0,
            host: None,
            inbox: super::Inbox::default(),
            host_turn: false,
            poll,
            events,
            waker,
        })
    }
}

/// Gives every queue its way out by each interface: the queue with the same place among the
/// worker's queues there, so that packets of one flow, which come by one queue, leave by one.
fn route(queues: &mut [Queue], slots: usize) {
    let mut by_slot = vec![Vec::new(); slots];
    for (at, queue) in (0u16..).zip(queues.iter()) {
        by_slot[usize::from(queue.device.0)].push(at);
    }
    let mut place = vec![0; slots];
    for queue in queues {
        let place = &mut place[usize::from(queue.device.0)];
        let out = |there: &Vec<u16>| there.get(*place % there.len().max(1)).copied();
        queue.egress = by_slot.iter().map(out).collect();
        *place += 1;
    }
}
