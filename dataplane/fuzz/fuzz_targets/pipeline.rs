//! Any frames into a worker with services of every kind, over time.
//!
//! The input is one octet that chooses the forwarding method, then frames, each behind an octet of
//! flags and two octets of length (little endian). Nothing may panic; every frame ends in one
//! verdict, and the counters know all of them; what leaves can be read and fits its link; in the
//! end every flow expires.
//!
//! Making a worker takes milliseconds, so there is one for each method, emptied by time behind
//! every input. What stays is the scheduler's turn and the state of its random numbers.

#![no_main]

#[path = "../mend.rs"]
mod mend;

use libfuzzer_sys::fuzz_target;
use std::{
    cell::RefCell,
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use xvs_dataplane::{
    addr::Addr,
    clock::{ManualClock, Tick},
    director::{
        Director,
        network::{Interface, Neighbour, Network, Route},
        spec::{RealSpec, ServiceKey, ServiceSpec, TunnelSpec},
    },
    endpoint::{EndpointId, Endpoints, Method},
    flow::{FlowTable, HashKey, Pages, TableConfig},
    io::sim::SimIo,
    pipeline::{Parts, Pipeline},
    sched::SchedFlags,
    stats::{DeviceStats, Stats},
    verdict::DeviceId,
    wire::{frame::parse, protocol},
    worker::{Worker, WorkerLink},
};

/// The frame came by the real servers' device, not by the clients'.
const FROM_BACKEND: u8 = 1;
/// Its checksums are made right first.
const MENDED: u8 = 2;
/// It waits for the next one, to be in the same burst.
const BATCHED: u8 = 4;
/// Seconds that pass behind it, in the other five bits.
const SECONDS_SHIFT: u32 = 3;

/// Frames per input, fewer than a queue holds: none is refused by the simulation.
const FRAMES_MAX: usize = 100;

/// Room for virtual and real endpoints.
const ENDPOINTS: u32 = 64;

/// After this time nothing lives any more: the longest time-out is 15 minutes, and a template that
/// outlived its own is held for one more as long as its flows live.
const MINUTES: u32 = 20;

/// Largest IP packet of both links.
const MTU: u16 = 1500;

const METHODS: [Method; 5] = [Method::Nat, Method::Dr, Method::Ipip, Method::Gue, Method::Gre];

thread_local! {
    static BENCHES: RefCell<[Bench; METHODS.len()]> = RefCell::new(METHODS.map(Bench::new));
}

fuzz_target!(|input: &[u8]| {
    let Some((&choice, mut rest)) = input.split_first() else {
        return;
    };
    BENCHES.with_borrow_mut(|benches| {
        let bench = &mut benches[usize::from(choice) % METHODS.len()];
        for _ in 0..FRAMES_MAX {
            let [flags, low, high, tail @ ..] = rest else {
                break;
            };
            let length = usize::from(u16::from_le_bytes([*low, *high])).min(tail.len());
            let (frame, tail) = tail.split_at(length);
            rest = tail;
            bench.push(*flags, frame);
        }
        bench.finish();
    });
});

/// A worker between two links, and what watches over it.
struct Bench {
    worker: Worker<SimIo, ManualClock>,
    stats: Stats,
    flows: Arc<FlowTable>,
    endpoints: Arc<Endpoints>,
    /// Frames that went in, and that came out for the host.
    pushed: u64,
    host: u64,
}

impl Bench {
    fn new(method: Method) -> Self {
        let endpoints = Arc::new(Endpoints::new(ENDPOINTS as usize));
        let stats = Stats::new(1, ENDPOINTS as usize);
        let mut config = TableConfig::new(256, 1, HashKey::from_seed(1));
        config.pages = Pages::Small;
        let flows = Arc::new(FlowTable::new(&config).expect("a small table fits"));
        let (resolve, _) = crossbeam_channel::bounded(16);
        let mut pipeline = Pipeline::new(Parts {
            table: flows.worker(0).expect("there is one worker"),
            flows: Arc::clone(&flows),
            endpoints: Arc::clone(&endpoints),
            stats: Arc::clone(stats.worker(0)),
            resolve,
            seed: 1,
            answers_per_second: 1000,
        });
        let clock = ManualClock::default();
        let mut director = Director::new(Arc::clone(&endpoints), stats.clone());
        director.set_network(network());
        configure(&mut director, method);
        pipeline.adopt(Arc::new(director.compile()), Tick(0));
        let (_, incoming) = crossbeam_channel::bounded(1);
        let (retired, _) = crossbeam_channel::bounded(1);
        let link = WorkerLink { incoming, retired, stop: Arc::default() };
        let io = SimIo::new(&[MTU, MTU], 4096);
        let worker = Worker::new(io, clock, pipeline, link, Duration::ZERO);
        Self { worker, stats, flows, endpoints, pushed: 0, host: 0 }
    }

    fn push(&mut self, flags: u8, frame: &[u8]) {
        let device = DeviceId(flags & FROM_BACKEND);
        let mended = (flags & MENDED != 0).then(|| mend::mended(frame));
        assert!(self.worker.io_mut().push(device, mended.as_deref().unwrap_or(frame)));
        self.pushed += 1;
        if flags & BATCHED == 0 {
            self.turn();
            let seconds = u64::from(flags >> SECONDS_SHIFT);
            self.worker.clock().advance_nanos(seconds * 1_000_000_000);
        }
    }

    fn turn(&mut self) {
        while self.worker.turn().expect("simulated devices do not fail") > 0 {}
        let io = self.worker.io_mut();
        for device in [0, 1].map(DeviceId) {
            while let Some(frame) = io.take(device) {
                let parsed = parse(&frame).expect("what leaves can be read");
                assert!(parsed.end - parsed.l3 <= MTU, "too long for its link");
            }
        }
        while io.take_host().is_some() {
            self.host += 1;
        }
    }

    fn finish(&mut self) {
        self.turn();
        // All that was kept is given up: fragments, packets that wait, flows, templates.
        for _ in 0..MINUTES {
            self.worker.clock().advance_nanos(60_000_000_000);
            self.turn();
        }
        assert!(self.flows.is_empty(), "every flow expires");
        for id in 0..ENDPOINTS {
            let load = &self.endpoints.get(EndpointId(id)).load;
            assert_eq!(load.total() + load.persistent.load(Relaxed), 0, "endpoint {id} is idle");
        }
        let devices = &self.stats.worker(0).devices;
        let total = |count: fn(&DeviceStats) -> u64| -> u64 { devices.iter().map(count).sum() };
        let settled = total(|device| {
            device.transmitted.get()
                + device.host.get()
                + device.consumed.get()
                + device.dropped_total()
        });
        assert_eq!(total(|device| device.received.get()), self.pushed);
        assert_eq!(settled, self.pushed, "one verdict for every frame");
        // A datagram whose pieces were put together reaches the host as a frame of our own.
        let whole = self.stats.worker(0).device(DeviceId::HOST).originated.get();
        assert_eq!(total(|device| device.host.get()) + whole, self.host);
    }
}

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().expect("an address").into()
}

/// Clients behind 10.1.0.254 on device 0, real servers 10.2.0.N on device 1.
fn network() -> Network {
    let interface = |device: u8, addrs: [(&str, u8); 2]| Interface {
        device: DeviceId(device),
        name: format!("if{device}"),
        index: u32::from(device) + 1,
        mac: [2, 0, 0, 0, device, 1],
        mtu: MTU,
        addrs: addrs.map(|(address, length)| (addr(address), length)).to_vec(),
    };
    let route = |prefix: &str, length, device, gateway: Option<&str>| Route {
        prefix: (addr(prefix), length),
        device: DeviceId(device),
        gateway: gateway.map(addr),
        source: None,
        metric: 0,
        mtu: None,
    };
    let neighbour = |device, address: &str, mac| Neighbour {
        device: DeviceId(device),
        addr: addr(address),
        mac,
    };
    Network {
        interfaces: vec![
            interface(0, [("10.1.0.1", 24), ("fd01::1", 64)]),
            interface(1, [("10.2.0.1", 24), ("fd02::1", 64)]),
        ],
        routes: vec![
            route("0.0.0.0", 0, 0, Some("10.1.0.254")),
            route("10.1.0.0", 24, 0, None),
            route("10.2.0.0", 24, 1, None),
            route("::", 0, 0, Some("fd01::fe")),
            route("fd02::", 64, 1, None),
        ],
        // 10.2.0.12 and fd02::12 are not there: packets to them wait.
        neighbours: vec![
            neighbour(0, "10.1.0.254", [2, 0, 0, 0, 0, 0xfe]),
            neighbour(0, "fd01::fe", [2, 0, 0, 0, 0, 0xfe]),
            neighbour(1, "10.2.0.11", [2, 0, 0, 0, 2, 0x0b]),
            neighbour(1, "fd02::11", [2, 0, 0, 0, 2, 0x0b]),
        ],
        ..Network::default()
    }
}

/// The services of the recordings: TCP, UDP and SCTP on 10.0.0.1 and fd00::1.
fn configure(director: &mut Director, method: Method) {
    let ports =
        [(protocol::TCP, 80, 8080), (protocol::UDP, 6500, 6501), (protocol::SCTP, 3868, 3869)];
    for (vip, reals) in
        [("10.0.0.1", ["10.2.0.11", "10.2.0.12"]), ("fd00::1", ["fd02::11", "fd02::12"])]
    {
        for (protocol, port, real_port) in ports {
            let key = ServiceKey::Address { protocol, addr: addr(vip), port };
            let service = ServiceSpec {
                key,
                scheduler: "wrr".to_owned(),
                flags: SchedFlags::default(),
                persistence_s: (protocol == protocol::SCTP).then_some(60),
                netmask: if addr(vip).is_v4() { u32::MAX } else { 128 },
                one_packet: false,
                engine: None,
                client_address: Default::default(),
            };
            director.add_service(&service).expect("the service is valid");
            for (real, weight) in reals.into_iter().zip([3, 1]) {
                let real = RealSpec {
                    addr: addr(real),
                    port: if method == Method::Nat { real_port } else { port },
                    method,
                    tunnel: TunnelSpec {
                        port: if method == Method::Gue { 6080 } else { 0 },
                        ..TunnelSpec::default()
                    },
                    weight,
                    upper: 0,
                    lower: 0,
                };
                director.add_real(&key, &real).expect("the real server is valid");
            }
        }
    }
}
