//! Connections to a VIP on one real server, through the forwarding path.
//!
//! A TCP stack of our own (`stack`, smoltcp) speaks to the VIP; each of its packets is put on its way by
//! the very code that forwards clients' packets (`dataplane::forward`), along the path the director found,
//! and answers come back as they come to a client: from the VIP, to an address of the box. So what is
//! missing on the real server, the VIP, decapsulation, a lax `rp_filter`, is missing for the probe too.
//!
//! It does not pass the workers: a probe neither costs them anything nor appears among flows and
//! counters. Ports are taken from [`FIRST_PORT`] on, above those that the kernel gives out, and each is bound
//! in the kernel meanwhile, so that nobody else has it.

mod stack;
mod stream;

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use dataplane::{
    addr::{Addr, Family},
    io::tap::Tap,
    route::Path,
    verdict::DeviceId,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    net::TcpSocket,
    sync::{Notify, OnceCell},
};

use self::{
    stack::{Stack, Target},
    stream::Connection,
};
use super::{
    board::Probe,
    probe::{Connecting, Stream, Through},
};
use crate::engine::Engine;

/// The first port of probes: Linux gives out 32768 to 60999 by default.
pub const FIRST_PORT: u16 = 61_000;

/// How many ports are tried for one that is free.
const PORTS_TRIED: u16 = 64;

/// Octets of a received frame that are looked at: the largest super-segment, and its link header.
const FRAME_MAX: usize = (1 << 16) + 64;

/// How long a silent interface goes without a look whether anybody still speaks.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// Why the lock is never poisoned.
const UNPOISONED: &str = "nothing panics under the lock";

/// The way through.
pub struct Forwarding {
    engine: Arc<Engine>,
    interfaces: Vec<String>,
    /// Opened with the first probe: a box without such checks has none.
    running: OnceCell<Arc<Running>>,
    next_port: AtomicU16,
}

impl fmt::Debug for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwarding").field("interfaces", &self.interfaces).finish_non_exhaustive()
    }
}

/// What runs once there is a probe.
struct Running {
    stack: Mutex<Stack>,
    /// Rung when the stack has something to do.
    kick: Notify,
    taps: Vec<Tap>,
}

impl Running {
    fn stack(&self) -> MutexGuard<'_, Stack> {
        self.stack.lock().expect(UNPOISONED)
    }

    /// Lets the stack work, and sends what it made.
    fn work(&self) {
        let frames = self.stack().work();
        self.send(frames);
    }

    /// Sends frames, each by its device.
    fn send(&self, frames: Vec<(DeviceId, Vec<u8>)>) {
        for (device, frame) in frames {
            if let Some(tap) = self.taps.get(usize::from(device.0)) {
                // What has no room is lost as on the wire; TCP sends it again.
                tap.send(&frame).ok();
            }
        }
    }

    /// Works whenever there is something to do.
    async fn run(self: Arc<Self>) {
        loop {
            self.work();
            let pause = self.stack().pause().unwrap_or(Duration::from_secs(3600));
            // An error says that the time is over.
            tokio::time::timeout(pause, self.kick.notified()).await.ok();
        }
    }
}

/// Takes in what one interface hears, on a thread of its own, until nobody speaks any more.
fn hear(running: &Weak<Running>, place: usize) {
    let mut room = vec![0; FRAME_MAX];
    while let Some(running) = running.upgrade() {
        let tap = &running.taps[place];
        let mut waiting = [PollFd::new(tap, PollFlags::IN)];
        // What goes wrong here shows when the frame is taken.
        poll(&mut waiting, Some(&LOOK)).ok();
        match tap.receive(&mut room) {
            Ok(length) => {
                running.stack().take(&room[..length]);
                running.kick.notify_one();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Down is no error: it may come up again.
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

impl Forwarding {
    /// Through these interfaces, in the order of the configuration.
    pub fn new(engine: Arc<Engine>, interfaces: Vec<String>) -> Self {
        let next_port = AtomicU16::new(FIRST_PORT);
        Self { engine, interfaces, running: OnceCell::new(), next_port }
    }

    async fn running(&self) -> io::Result<&Arc<Running>> {
        let open = || async {
            let taps = self.interfaces.iter().map(|name| Tap::open(name));
            let taps = taps.collect::<io::Result<Vec<_>>>()?;
            let stack = Mutex::new(Stack::new());
            let running = Arc::new(Running { stack, kick: Notify::new(), taps });
            tokio::spawn(Arc::clone(&running).run());
            for place in 0..running.taps.len() {
                let heard = Arc::downgrade(&running);
                let thread = thread::Builder::new().name(format!("xvs-tap-{place}"));
                thread.spawn(move || hear(&heard, place))?;
            }
            Ok::<_, io::Error>(running)
        };
        self.running.get_or_try_init(open).await
    }

    async fn reach(&self, probe: &Probe) -> io::Result<Box<dyn Stream>> {
        let vip = probe.key.vip().ok_or_else(|| no("a firewall mark has no VIP"))?;
        let (path, local) = self.way(probe, vip)?;
        let running = self.running().await?;
        let (reserved, port) = self.reserve(local)?;
        if running.stack().speak_as(local)? {
            let (addrs, taps) = (running.stack().addrs(), &running.taps);
            taps.iter().try_for_each(|tap| tap.hear(&addrs, FIRST_PORT))?;
        }
        let target = Target::new(&probe.real, (vip, probe.port), path);
        let handle = running.stack().open((local, port), (vip, probe.port), target)?;
        running.kick.notify_one();
        let connection = Connection::new(Arc::clone(running), (handle, port), reserved);
        Ok(Box::new(connection.established().await?))
    }

    /// The path to a real server, and whom the probe speaks as.
    fn way(&self, probe: &Probe, vip: Addr) -> io::Result<(Path, Addr)> {
        let state = self.engine.lock();
        let path = state.director.path_to(probe.real.addr);
        if path.is_host() {
            return Err(no("the real server is this box itself: nothing is forwarded to it"));
        }
        if !path.routed {
            return Err(no("no route leads to the real server"));
        }
        if !path.resolved {
            return Err(no("the link address of the next hop is not known"));
        }
        let interfaces = &state.director.network().interfaces;
        let mut own: Vec<_> = interfaces.iter().collect();
        own.sort_by_key(|interface| interface.device != path.device);
        let addrs = own.iter().flat_map(|interface| interface.addrs.iter().map(|(addr, _)| *addr));
        let mut addrs = std::iter::once(path.local).chain(addrs);
        let fits = |addr: &Addr| {
            let link_local = addr.family() == Family::V6 && addr.bits() >> 118 == 0xfe80 >> 6;
            addr.family() == vip.family()
                && *addr != Addr::UNSPECIFIED
                && *addr != vip
                && !link_local
        };
        let local = addrs.find(fits);
        let local = local.ok_or_else(|| no("the box has no address of the VIP's family"))?;
        Ok((path, local))
    }

    /// A port that nobody else on the box has, as long as the socket lives.
    fn reserve(&self, local: Addr) -> io::Result<(TcpSocket, u16)> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..PORTS_TRIED {
            let port = self.next_port.fetch_add(1, Relaxed).max(FIRST_PORT);
            if port == u16::MAX {
                self.next_port.store(FIRST_PORT, Relaxed);
            }
            let socket = match local.family() {
                Family::V4 => TcpSocket::new_v4()?,
                Family::V6 => TcpSocket::new_v6()?,
            };
            match socket.bind(SocketAddr::new(local.to_ip(), port)) {
                Ok(()) => return Ok((socket, port)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl Through for Forwarding {
    fn connect<'a>(&'a self, probe: &'a Probe) -> Connecting<'a> {
        Box::pin(self.reach(probe))
    }
}

fn no(reason: &str) -> io::Error {
    io::Error::other(reason.to_owned())
}
