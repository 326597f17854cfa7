//! The simulated network: clients on one link, real servers on the other, the box between them.
//!
//! Frames of a link reach whom they are addressed to, through seeded faults. The box is the real
//! worker over simulated devices, several of them sharing a flow table, each packet going to the
//! worker that a NIC's hash would choose. What the workers leave to the host goes to a stack
//! that stands for the box's kernel. Time moves in steps of a millisecond; the same seed gives the
//! same run.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use smoltcp::time::Instant;
use xvs_dataplane::{
    addr::Addr,
    clock::ManualClock,
    director::{
        Director,
        network::{Interface, Neighbour, Network, Route},
        spec::{RealSpec, ServiceKey, ServiceSpec},
    },
    endpoint::{Endpoints, Method},
    flow::{FlowTable, HashKey, Pages, TableConfig},
    io::{
        fault::{Counts, Faults, Rates},
        sim::SimIo,
    },
    pipeline::{Parts, Pipeline},
    service::Snapshot,
    stats::Stats,
    verdict::DeviceId,
    wire::checksum,
    worker::{Worker, WorkerLink},
};

use crate::host::Host;

/// Link addresses of the box, by device.
pub(crate) const BOX: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 1, 1]];

/// The router that takes direct routing's answers back to the clients' link.
const ROUTER: [u8; 6] = [2, 0, 0, 0, 1, 0xfe];

/// What a scenario is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) workers: usize,
    pub(crate) clients: u8,
    pub(crate) reals: u8,
    pub(crate) method: Method,
    pub(crate) scheduler: &'static str,
    pub(crate) v6: bool,
    pub(crate) faults: Rates,
}

impl Setup {
    /// `10.LINK.0.LAST` or `fd00:LINK::LAST`.
    pub(crate) fn addr(&self, link: usize, last: u8) -> IpAddr {
        let text =
            if self.v6 { format!("fd00:{link}::{last:x}") } else { format!("10.{link}.0.{last}") };
        text.parse().unwrap()
    }

    /// The service's address.
    pub(crate) fn vip(&self) -> IpAddr {
        self.addr(1, 100)
    }

    fn real_mac(last: u8) -> [u8; 6] {
        [2, 0, 0, 1, 1, last]
    }

    fn client_mac(last: u8) -> [u8; 6] {
        [2, 0, 0, 1, 0, last]
    }

    /// What the box's kernel would know.
    fn network(&self) -> Network {
        // Link 1 is device 0, where clients and the VIP are; link 2 is device 1.
        let interfaces = [0u8, 1].map(|device| Interface {
            device: DeviceId(device),
            name: format!("sim{device}"),
            index: u32::from(device) + 1,
            mac: BOX[usize::from(device)],
            mtu: 1500,
            addrs: vec![(self.addr(usize::from(device) + 1, 1).into(), self.length())],
        });
        let routes = [0u8, 1].map(|device| Route {
            prefix: (self.addr(usize::from(device) + 1, 0).into(), self.length()),
            device: DeviceId(device),
            gateway: None,
            source: None,
            metric: 0,
            mtu: None,
        });
        let client = |last| (DeviceId(0), self.addr(1, 10 + last), Self::client_mac(last));
        let real = |last| (DeviceId(1), self.addr(2, 10 + last), Self::real_mac(last));
        let neighbours = (0..self.clients).map(client).chain((0..self.reals).map(real));
        Network {
            interfaces: interfaces.into(),
            routes: routes.into(),
            neighbours: neighbours
                .map(|(device, ip, mac)| Neighbour { device, addr: ip.into(), mac })
                .collect(),
            ..Network::default()
        }
    }

    const fn length(&self) -> u8 {
        if self.v6 { 64 } else { 24 }
    }
}

/// Everything.
pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) clients: Vec<Host>,
    pub(crate) reals: Vec<Host>,
    /// The box's kernel, by device.
    kernel: [Host; 2],
    pub(crate) director: Director,
    workers: Vec<Worker<SimIo, ManualClock>>,
    snapshots: Vec<crossbeam_channel::Sender<Arc<Snapshot>>>,
    retired: crossbeam_channel::Receiver<Arc<Snapshot>>,
    pub(crate) stats: Stats,
    pub(crate) flows: Arc<FlowTable>,
    /// By link.
    faults: [Faults; 2],
    /// Which real server the box sent each client's connection to.
    served: BTreeMap<(IpAddr, u16), Served>,
    millis: i64,
}

impl World {
    pub(crate) fn new(setup: Setup) -> Self {
        let (endpoints, stats) = (Arc::new(Endpoints::new(64)), Stats::new(setup.workers, 64));
        let mut config = TableConfig::new(4096, setup.workers, HashKey::from_seed(setup.seed));
        config.pages = Pages::Small;
        let flows = Arc::new(FlowTable::new(&config).unwrap());
        let (retire, retired) = crossbeam_channel::bounded(64);
        let (mut workers, mut snapshots) = (Vec::new(), Vec::new());
        for number in 0..setup.workers {
            let (sender, incoming) = crossbeam_channel::bounded(4);
            let link = WorkerLink { incoming, retired: retire.clone(), stop: Arc::default() };
            let pipeline = Pipeline::new(Parts {
                table: flows.worker(number).unwrap(),
                flows: Arc::clone(&flows),
                endpoints: Arc::clone(&endpoints),
                stats: Arc::clone(stats.worker(number)),
                resolve: crossbeam_channel::bounded(16).0,
                seed: setup.seed + number as u64,
                answers_per_second: 1000,
            });
            let io = SimIo::new(&[1500, 1500], 1024);
            workers.push(Worker::new(io, ManualClock::default(), pipeline, link, Duration::ZERO));
            snapshots.push(sender);
        }
        let mut director = Director::new(endpoints, stats.clone());
        director.set_network(setup.network());
        let seed = |number: u8| setup.seed.wrapping_mul(1000) + u64::from(number);
        let kernel = [
            Host::new(BOX[0], &[setup.addr(1, 1), setup.vip()], &[], seed(250)),
            Host::new(BOX[1], &[setup.addr(2, 1)], &[], seed(251)),
        ];
        let clients = (0..setup.clients).map(|last| {
            let addr = setup.addr(1, 10 + last);
            Host::new(Setup::client_mac(last), &[addr], &[], seed(last))
        });
        // With direct routing reals know the VIP and answer by themselves.
        let dr = setup.method == Method::Dr;
        let reals = (0..setup.reals).map(|last| {
            let (addr, router) =
                (setup.addr(2, 10 + last), setup.addr(2, if dr { 254 } else { 1 }));
            let addrs = if dr { vec![addr, setup.vip()] } else { vec![addr] };
            Host::new(Setup::real_mac(last), &addrs, &[router], seed(100 + last))
        });
        let mut world = Self {
            clients: clients.collect(),
            reals: reals.collect(),
            kernel,
            director,
            workers,
            snapshots,
            retired,
            stats,
            flows,
            served: BTreeMap::new(),
            // One link of the two damages frames: where both flip a bit of one frame, the two may
            // cancel each other in every checksum of the Internet.
            faults: [0, 1].map(|link| {
                let corrupt = if setup.seed % 2 == link { setup.faults.corrupt } else { 0 };
                Faults::new(setup.seed * 2 + link, Rates { corrupt, ..setup.faults })
            }),
            millis: 0,
            setup,
        };
        world.reals.push(Host::new(ROUTER, &[setup.addr(2, 254)], &[], seed(252)));
        world.add_service();
        world
    }

    /// One TCP service on port 80 with all reals.
    fn add_service(&mut self) {
        let key = self.key();
        self.director.add_service(&ServiceSpec::new(key, self.setup.scheduler)).unwrap();
        for last in 0..self.setup.reals {
            self.director.add_real(&key, &self.real(last)).unwrap();
        }
        self.publish();
    }

    pub(crate) fn key(&self) -> ServiceKey {
        ServiceKey::Address { protocol: 6, addr: self.setup.vip().into(), port: 80 }
    }

    /// A real server as the director wants it.
    pub(crate) fn real(&self, last: u8) -> RealSpec {
        RealSpec::new(Addr::from(self.setup.addr(2, 10 + last)), 80, self.setup.method)
    }

    /// Puts the director's state in force.
    pub(crate) fn publish(&mut self) {
        let snapshot = Arc::new(self.director.compile());
        for sender in &self.snapshots {
            sender.send(Arc::clone(&snapshot)).unwrap();
        }
    }

    /// What the faults of a link did.
    pub(crate) fn faults(&self, link: usize) -> Counts {
        self.faults[link].counts()
    }

    /// A millisecond passes.
    pub(crate) fn step(&mut self) {
        self.millis += 1;
        let now = Instant::from_millis(self.millis);
        for host in self.clients.iter_mut().chain(&mut self.reals).chain(&mut self.kernel) {
            host.poll(now);
        }
        self.collect();
        self.work();
        while self.retired.try_recv().is_ok() {}
    }

    /// Carries what hosts send onto their links, through the faults.
    fn collect(&mut self) {
        for link in 0..2 {
            let mut sent = Vec::new();
            let members = if link == 0 { &mut self.clients } else { &mut self.reals };
            for host in members {
                while let Some(frame) = host.take() {
                    if looks_unfinished(&frame) {
                        sent.push(frame);
                    } else {
                        self.faults[link].pass(frame, |frame| sent.push(frame));
                    }
                }
            }
            if sent.is_empty() {
                self.faults[link].release(|frame| sent.push(frame));
            }
            while let Some(frame) = self.kernel[link].take() {
                sent.push(frame);
            }
            for frame in sent {
                self.switch(link, &frame);
            }
        }
    }

    /// Gives a frame to whom it is addressed on its link.
    fn switch(&mut self, link: usize, frame: &[u8]) {
        let Some(&to) = frame.first_chunk::<6>() else { return };
        let group = to[0] & 1 == 1;
        if to == ROUTER && is_ip(frame) && !self.is_for_router(frame) {
            self.route_back(frame);
            return;
        }
        let from_box = frame[6..12] == BOX[link];
        if !from_box && (to == BOX[link] || group) {
            let worker = worker_of(frame, self.workers.len());
            let device = DeviceId(u8::try_from(link).unwrap());
            assert!(self.workers[worker].io_mut().push(device, frame), "queues suffice");
        }
        let members = if link == 0 { &mut self.clients } else { &mut self.reals };
        for host in members {
            if host.mac == to || group && frame[6..12] != host.mac {
                host.deliver(frame.to_vec());
            }
        }
    }

    /// Neighbour discovery for the router itself is no transit.
    fn is_for_router(&self, frame: &[u8]) -> bool {
        destination(frame) == Some(self.setup.addr(2, 254))
    }

    /// The router: from the reals' link to a client.
    fn route_back(&mut self, frame: &[u8]) {
        let to = destination(frame);
        if let Some(host) = self.clients.iter_mut().find(|host| to == Some(host.addrs[0])) {
            let mut frame = frame.to_vec();
            frame[..6].copy_from_slice(&host.mac);
            host.deliver(frame);
        }
    }

    /// Lets every worker take turns until its queues are empty, and carries on what it sent.
    fn work(&mut self) {
        let nanos = u64::try_from(self.millis).unwrap() * 1_000_000;
        for number in 0..self.workers.len() {
            let worker = &mut self.workers[number];
            worker.clock().set_nanos(nanos);
            while worker.turn().unwrap() > 0 {}
            for link in 0..2 {
                let device = DeviceId(u8::try_from(link).unwrap());
                let mut out = Vec::new();
                while let Some(frame) = self.workers[number].io_mut().take(device) {
                    if link == 1 {
                        observe(&mut self.served, &frame);
                    }
                    self.faults[link].pass(frame, |frame| out.push(frame));
                }
                for frame in out {
                    self.switch(link, &frame);
                }
            }
            while let Some((device, frame)) = self.workers[number].io_mut().take_host() {
                self.kernel[usize::from(device.0)].deliver(frame);
            }
        }
    }

    /// Lets time pass until flows have gone or `seconds` are over.
    pub(crate) fn idle(&mut self, seconds: i64) {
        for _ in 0..seconds {
            if self.flows.is_empty() {
                return;
            }
            self.millis += 1000;
            self.work();
        }
    }

    /// Checks that every frame that came in was settled once.
    pub(crate) fn check_conservation(&self) {
        for worker in self.stats.workers() {
            for device in &worker.devices {
                let settled = device.transmitted.get()
                    + device.host.get()
                    + device.consumed.get()
                    + device.dropped_total();
                assert_eq!(device.received.get(), settled, "{device:?}");
            }
        }
    }
}

/// Where a connection's segments went.
#[derive(Clone, Copy, Debug)]
struct Served {
    /// The link address.
    real: [u8; 6],
    /// Whether its client had said that it is done.
    over: bool,
}

/// Notes where a segment of a client goes.
///
/// # Panics
///
/// If it is another real server than before: only a new SYN after the client's FIN may go there, as
/// IPVS has it (`conn_reuse_mode`).
fn observe(served: &mut BTreeMap<(IpAddr, u16), Served>, frame: &[u8]) {
    let (source, tcp) = match frame.get(12..14) {
        Some([0x08, 0x00]) if frame[23] == 6 => (frame[26..30].to_vec(), &frame[34..]),
        Some([0x86, 0xdd]) if frame[20] == 6 => (frame[22..38].to_vec(), &frame[54..]),
        _ => return,
    };
    let client = match <[u8; 4]>::try_from(source.as_slice()) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(source.as_slice()).unwrap()),
    };
    let (port, flags) = (u16::from_be_bytes([tcp[0], tcp[1]]), tcp[13]);
    let real = *frame.first_chunk::<6>().unwrap();
    let (fin, syn) = (flags & 1 != 0, flags & 2 != 0);
    let known = served.entry((client, port)).or_insert(Served { real, over: false });
    assert!(
        known.real == real || known.over && syn,
        "{client}:{port} went to {:?} and goes to {real:?} (flags {flags:#x})",
        known.real
    );
    *known = Served { real, over: known.over && !syn || fin };
}

/// The worker that a NIC's hash over addresses and ports would choose.
fn worker_of(frame: &[u8], workers: usize) -> usize {
    let key = match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(26..38),
        Some([0x86, 0xdd]) => frame.get(22..58),
        _ => None,
    };
    // FNV-1a.
    let hash = key
        .unwrap_or_default()
        .iter()
        .fold(0x811c_9dc5u32, |hash, &octet| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193));
    (hash >> 8) as usize % workers
}

fn is_ip(frame: &[u8]) -> bool {
    matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]))
}

/// The destination of an IP frame.
fn destination(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [0x08, 0x00] => Some(<[u8; 4]>::try_from(frame.get(30..34)?).ok()?.into()),
        [0x86, 0xdd] => Some(<[u8; 16]>::try_from(frame.get(38..54)?).ok()?.into()),
        _ => None,
    }
}

/// Whether a finished checksum happens to be what stands in an unfinished one, as one in 65,536 is.
/// The box computes such a checksum whole, and with it whatever damage there is: the price of
/// taking what veth and virtio hand over.
fn looks_unfinished(frame: &[u8]) -> bool {
    let Ok(sliced) = etherparse::SlicedPacket::from_ethernet(frame) else { return false };
    let Some(etherparse::TransportSlice::Tcp(tcp)) = &sliced.transport else { return false };
    let (source, destination): (IpAddr, IpAddr) = match &sliced.net {
        Some(etherparse::NetSlice::Ipv4(ip)) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        Some(etherparse::NetSlice::Ipv6(ip)) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        _ => return false,
    };
    let length = u32::try_from(tcp.slice().len()).unwrap();
    let pseudo = checksum::pseudo(Addr::from(source), Addr::from(destination), 6, length);
    checksum::is_unfinished(tcp.checksum(), pseudo)
}
