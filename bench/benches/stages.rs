//! Each stage of a packet's way by itself, with everything in the cache: `make stages`.
//!
//! To find what dominates and to see what a change does to one stage; what a packet costs in all is
//! told by `xvs-bench pipeline`. Frames and keys rotate, so that no branch is learned by heart.

use std::{hint::black_box, net::Ipv4Addr, sync::Arc};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use dataplane::{
    addr::Addr,
    clock::Tick,
    director::network::{Interface, Neighbour, Network, Route},
    endpoint::{Description, Endpoint, EndpointId, Endpoints, Method},
    flow::{
        Entry, Expiry, FlowKey, FlowTable, HashKey, Inserted, NewFlow, Pages, TableConfig,
        TableWorker,
    },
    forward::{self, Job},
    packet::{HEADROOM, Packet},
    rng::Rng,
    route::{Path, Routes},
    sched::{Candidate, Pick, SchedFlags, SchedState, Scheduler},
    verdict::DeviceId,
    wire::{checksum::Sum, frame},
};

const NOW: Tick = Tick(16_000);
const VIP: u32 = 0x0a00_0001;
const REAL: u32 = 0x0a02_000b;
/// Different packets.
const PACKETS: u32 = 64;

fn key(number: u32) -> FlowKey {
    FlowKey {
        source: Addr::v4(0x0a80_0000 + number),
        destination: Addr::v4(VIP),
        source_port: 1025,
        destination_port: 80,
        protocol: 6,
        template: false,
    }
}

/// A TCP segment of 64 octets with a right header checksum.
fn frame_of(number: u32) -> [u8; 64] {
    let mut frame = [0; 64];
    frame[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0]);
    frame[16..18].copy_from_slice(&50u16.to_be_bytes());
    frame[20..24].copy_from_slice(&[0x40, 0, 64, 6]);
    frame[26..30].copy_from_slice(&(0x0a80_0000 + number).to_be_bytes());
    frame[30..34].copy_from_slice(&VIP.to_be_bytes());
    let sum = Sum::of(&frame[14..34]).checksum();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame[34..38].copy_from_slice(&[4, 1, 0, 80]);
    frame[46..48].copy_from_slice(&[5 << 4, 0x10]);
    frame[50..52].copy_from_slice(&[0x12, 0x34]);
    frame
}

/// Virtual endpoint 1 and ten real ones behind it.
fn endpoints() -> Endpoints {
    let endpoints = Endpoints::new(64);
    let describe = |id: u32, addr: u32| {
        let (addr, weight) = (Addr::v4(addr), 1);
        let description =
            Description { addr, port: 80, protocol: 6, weight, ..Description::default() };
        endpoints.get(EndpointId(id)).describe(&description);
    };
    describe(1, VIP);
    (0..10).for_each(|number| describe(2 + number, REAL + number));
    endpoints
}

fn new_flow(number: u32) -> NewFlow {
    let (virt, real) = (EndpointId(1), EndpointId(2 + number % 10));
    NewFlow { key: key(number), virt, real, timeout: 16 * 900, ..NewFlow::default() }
}

fn table(capacity: usize) -> (Arc<FlowTable>, TableWorker) {
    let config = TableConfig::new(capacity, 1, HashKey::from_seed(1));
    let config = TableConfig { pages: Pages::Transparent, ..config };
    let table = Arc::new(FlowTable::new(&config).expect("there is memory for a small table"));
    let worker = table.worker(0).expect("the first worker's place is free");
    (table, worker)
}

fn parsing(c: &mut Criterion) {
    let frames: Vec<_> = (0..PACKETS).map(frame_of).collect();
    let mut next = frames.iter().cycle();
    c.bench_function("parse", |b| {
        b.iter(|| frame::parse(black_box(next.next().expect("a cycle never ends"))));
    });
    c.bench_function("shape", |b| {
        b.iter(|| frame::shape::Shape::of(black_box(next.next().expect("a cycle never ends"))));
    });
    let octets = [0x5a; 1460];
    c.bench_function("checksum 20", |b| b.iter(|| Sum::of(black_box(&octets[..20])).checksum()));
    c.bench_function("checksum 1460", |b| b.iter(|| Sum::of(black_box(&octets)).checksum()));
}

/// Every flow is over at once.
struct Over;

impl Expiry for Over {
    fn deadline(&mut self, _: &Entry) -> Tick {
        NOW
    }

    fn expired(&mut self, _: &Entry) {}
}

fn flow_table(c: &mut Criterion) {
    let endpoints = endpoints();
    let (flows, worker) = table(10_000);
    for number in 0..1000 {
        worker.insert(&new_flow(number), &endpoints, NOW).expect("there is room");
    }
    let keys: Vec<_> = (0..PACKETS).map(|number| key(number * 7)).collect();
    let mut next = keys.iter().cycle();
    c.bench_function("hash", |b| {
        b.iter(|| flows.hash(black_box(next.next().expect("a cycle never ends"))));
    });
    c.bench_function("lookup", |b| {
        b.iter(|| flows.lookup(next.next().expect("a cycle never ends"), &endpoints).is_some());
    });
    c.bench_function("lookup, miss", |b| {
        let key = FlowKey { source_port: 9, ..key(5) };
        b.iter(|| flows.lookup(black_box(&key), &endpoints).is_some());
    });
    let (_, mut worker) = table(10_000);
    let mut number = 0;
    c.bench_function("insert and remove", |b| {
        b.iter(|| {
            number += 1;
            if let Ok(Inserted::New(flow)) = worker.insert(&new_flow(number), &endpoints, NOW) {
                worker.remove(flow, &endpoints);
            }
            worker.quiesce();
        });
    });
    c.bench_function("expire 1000 flows", |b| {
        let filled = || {
            let (flows, worker) = table(10_000);
            for number in 0..1000 {
                worker.insert(&new_flow(number), &endpoints, NOW).expect("there is room");
            }
            (flows, worker)
        };
        b.iter_batched(
            filled,
            |(flows, worker)| {
                let late = NOW.plus(16 * 1000);
                while !worker.sweep(late, 4096, &endpoints, &mut Over).complete {}
                (flows, worker)
            },
            BatchSize::LargeInput,
        );
    });
}

fn schedulers(c: &mut Criterion) {
    let endpoints = endpoints();
    let candidate = |number| Candidate {
        id: EndpointId(2 + number),
        addr: Addr::v4(REAL + number),
        port: 80,
        weight: 1 + number,
    };
    let reals: Vec<_> = (0..10).map(candidate).collect();
    for name in Scheduler::NAMES {
        let scheduler = Scheduler::by_name(name, &reals, SchedFlags::default(), None)
            .expect("every name has a scheduler");
        let (state, mut rng) = (SchedState::default(), Rng::from_seed(1));
        let mut number = 0;
        c.bench_function(&format!("schedule {name}"), |b| {
            b.iter(|| {
                number = (number + 1) % PACKETS;
                let FlowKey { source, destination, source_port, destination_port, .. } =
                    key(number);
                let pick = Pick {
                    reals: &reals,
                    endpoints: &endpoints,
                    client: source,
                    client_port: source_port,
                    destination,
                    destination_port,
                    protocol: 6,
                    now: NOW,
                };
                scheduler.pick(&pick, &state, &mut rng)
            });
        });
    }
}

/// The way to a real server on the link.
fn path() -> Path {
    let local = Addr::from(Ipv4Addr::new(10, 2, 0, 1));
    let interface = Interface {
        device: DeviceId(1),
        name: "bench1".to_owned(),
        index: 2,
        mac: [2, 0, 0, 0, 1, 1],
        mtu: 1500,
        addrs: vec![(local, 24)],
    };
    let prefix = (Addr::v4(REAL & !0xff), 24);
    let route =
        Route { prefix, device: DeviceId(1), gateway: None, source: None, metric: 0, mtu: None };
    let mac = [2, 0, 0, 0, 2, 11];
    let neighbour = Neighbour { device: DeviceId(1), addr: Addr::v4(REAL), mac };
    let network = Network {
        interfaces: vec![interface],
        routes: vec![route],
        neighbours: vec![neighbour],
        local: Vec::new(),
    };
    Routes::new(&network, 1).path(Addr::v4(REAL))
}

fn methods(c: &mut Criterion) {
    let (endpoints, path) = (endpoints(), path());
    let (virt, real): (&Endpoint, &Endpoint) =
        (endpoints.get(EndpointId(1)), endpoints.get(EndpointId(2)));
    let frame = frame_of(1);
    let parsed = frame::parse(&frame).expect("the frame is sound");
    for (name, method) in [
        ("nat", Method::Nat),
        ("dr", Method::Dr),
        ("ipip", Method::Ipip),
        ("gue", Method::Gue),
        ("gre", Method::Gre),
    ] {
        let mut memory = [0; 512];
        c.bench_function(&format!("forward {name}"), |b| {
            b.iter(|| {
                let end = HEADROOM + frame.len();
                memory[HEADROOM..end].copy_from_slice(&frame);
                let mut packet = Packet::new(&mut memory, HEADROOM, end, DeviceId(0));
                let (id, pmtu_disc) = (1, true);
                let job = Job { parsed: &parsed, virt, real, path: &path, id, pmtu_disc };
                forward::to_real(method, black_box(&mut packet), &job)
            });
        });
    }
}

criterion_group!(benches, parsing, flow_table, schedulers, methods);
criterion_main!(benches);
