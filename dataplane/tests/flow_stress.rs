//! The flow table under two workers that insert, find and end the same flows as fast as they can.
//!
//! Each flow's requests come to one worker and its replies to the other; every fourth packet ends
//! its flow, so that slots are used again at once. Every flow found is read after a pause, as
//! the pipeline would to rewrite a packet, and must be the one asked for.
//!
//! The control shows that this test can fail: workers that say they are offline while they work
//! get no protection from reuse, and the damage must show.
//!
//! `XVS_STRESS_HITS=100000000` sets how many packets must find their flow (2 million else).
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use xvs_dataplane::{
    addr::Addr,
    clock::Tick,
    endpoint::{Description, EndpointId, Endpoints},
    flow::{
        Direction, Entry, Expiry, FlowKey, FlowTable, HashKey, Inserted, NewFlow, TableConfig,
        TableWorker,
    },
    rng::Rng,
};

/// Distinct flows: few, so that workers meet.
const FLOWS: u64 = 3000;
const VIRTUALS: u64 = 16;
const REALS: u64 = 64;
const BATCH: usize = 32;
const NOW: Tick = Tick::from_secs(100);

fn endpoints() -> Endpoints {
    let endpoints = Endpoints::new(128);
    for id in 1..=VIRTUALS + REALS {
        let (net, port) = if id <= VIRTUALS { (1, 80) } else { (2, 8080) };
        let addr = Ipv4Addr::new(10, net, 0, u8::try_from(id).unwrap()).into();
        let about = Description { addr, port, ..Description::default() };
        endpoints.get(EndpointId(u32::try_from(id).unwrap())).describe(&about);
    }
    endpoints
}

/// The flow number `n` and the key of its replies.
fn flow(n: u64, endpoints: &Endpoints) -> (NewFlow, FlowKey) {
    let spread = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let virt = EndpointId(u32::try_from(1 + spread % VIRTUALS).unwrap());
    let real = EndpointId(u32::try_from(1 + VIRTUALS + spread / VIRTUALS % REALS).unwrap());
    let (service, server) = (endpoints.get(virt), endpoints.get(real));
    let client = Addr::v4(0x0b00_0000 + u32::try_from(n / 500).unwrap());
    let port = u16::try_from(1024 + n % 500).unwrap();
    let key = FlowKey {
        source: client,
        destination: service.addr(),
        source_port: port,
        destination_port: service.port(),
        protocol: 6,
        template: false,
    };
    let reply = FlowKey {
        source: server.addr(),
        destination: client,
        source_port: server.port(),
        destination_port: port,
        ..key
    };
    (NewFlow { key, virt, real, timeout: 1600, ..NewFlow::default() }, reply)
}

/// Whether workers are protected from the reuse of slots.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Grace {
    Given,
    Withheld,
}

/// What all workers saw.
#[derive(Debug, Default)]
struct Seen {
    hits: AtomicU64,
    misses: AtomicU64,
    inserted: AtomicU64,
    existing: AtomicU64,
    ended: AtomicU64,
    wrong: AtomicU64,
    lost_words: AtomicU64,
    displaced: AtomicU64,
    stop: AtomicBool,
}

/// One packet between the stages of its lookup.
struct Packet {
    new: NewFlow,
    key: FlowKey,
    direction: Direction,
}

struct Hammer<'a> {
    worker: TableWorker,
    endpoints: &'a Endpoints,
    rng: Rng,
    grace: Grace,
    seen: &'a Seen,
}

impl Hammer<'_> {
    /// Now and then a moment, seldom a long one, in which the other worker gets ahead.
    fn dawdle(&mut self) {
        let spins = match self.rng.below(4096) {
            0 => self.rng.below(50_000),
            n if n < 200 => self.rng.below(200),
            _ => 0,
        };
        (0..spins).for_each(|_| std::hint::spin_loop());
    }

    fn run(mut self, hits_wanted: u64) {
        if self.grace == Grace::Withheld {
            self.worker.offline();
        }
        while !self.seen.stop.load(Relaxed) {
            self.burst();
            self.worker.quiesce();
            let damage = self.seen.wrong.load(Relaxed) + self.worker.counters().lost_words;
            let done = self.seen.hits.load(Relaxed) >= hits_wanted;
            if done || (self.grace == Grace::Withheld && damage > 0) {
                self.seen.stop.store(true, Relaxed);
            }
        }
        let counters = self.worker.counters();
        self.seen.lost_words.fetch_add(counters.lost_words, Relaxed);
        self.seen.displaced.fetch_add(counters.displaced + counters.away, Relaxed);
        self.seen.existing.fetch_add(counters.existing, Relaxed);
    }

    fn burst(&mut self) {
        let packets: [Packet; BATCH] = std::array::from_fn(|_| {
            let n = self.rng.below(FLOWS);
            let (new, reply) = flow(n, self.endpoints);
            // Requests of even flows come to worker 0, their replies to worker 1.
            let request = (n ^ self.worker.id() as u64) & 1 == 0;
            let (key, direction) =
                if request { (new.key, Direction::ToReal) } else { (reply, Direction::ToClient) };
            Packet { new, key, direction }
        });
        let probes = packets.each_ref().map(|packet| {
            let table = self.worker.table();
            let hash = table.hash(&packet.key);
            let mut probe = table.probe(hash);
            if probe.needs_alternate() {
                probe = table.probe_again(hash);
            }
            (hash, probe)
        });
        self.dawdle();
        // Added up here first: locked operations for each packet would hide races.
        let (mut hits, mut misses, mut wrong) = (0, 0, 0);
        for (packet, (hash, probe)) in packets.iter().zip(probes) {
            let dawdle = self.rng.below(64) == 0;
            let found = self.worker.table().find(&packet.key, hash, probe, self.endpoints);
            let Some((flow, direction)) = found else {
                misses += 1;
                if packet.direction == Direction::ToReal {
                    self.insert(packet);
                }
                continue;
            };
            if dawdle {
                (0..100).for_each(|_| std::hint::spin_loop());
            }
            let new = &packet.new;
            let right = direction == packet.direction
                && (flow.real(), flow.virt()) == (new.real, new.virt)
                && (flow.client(), flow.client_port()) == (new.key.source, new.key.source_port);
            hits += 1;
            wrong += u64::from(!right);
            if self.rng.below(4) == 0 && self.worker.remove(flow, self.endpoints) {
                self.seen.ended.fetch_add(1, Relaxed);
                if self.grace == Grace::Withheld {
                    self.worker.quiesce();
                    self.worker.quiesce();
                }
            }
        }
        self.seen.hits.fetch_add(hits, Relaxed);
        self.seen.misses.fetch_add(misses, Relaxed);
        self.seen.wrong.fetch_add(wrong, Relaxed);
    }

    fn insert(&self, packet: &Packet) {
        match self.worker.insert(&packet.new, self.endpoints, NOW) {
            Ok(Inserted::New(_)) => drop(self.seen.inserted.fetch_add(1, Relaxed)),
            Ok(Inserted::Existing(..)) => {}
            // All slots wait for the other worker to be quiescent.
            Err(_) => thread::yield_now(),
        }
    }
}

/// Runs both workers; the table and what they saw.
fn hammer(grace: Grace, hits: u64, endpoints: &Endpoints) -> (Arc<FlowTable>, Seen) {
    let config = TableConfig::new(1500, 2, HashKey::from_seed(3));
    let table = Arc::new(FlowTable::new(&config).unwrap());
    let seen = Seen::default();
    thread::scope(|scope| {
        for id in 0..2 {
            let worker = table.worker(id).unwrap();
            let rng = Rng::from_seed(id as u64 + 99);
            let hammer = Hammer { worker, endpoints, rng, grace, seen: &seen };
            scope.spawn(move || hammer.run(hits));
        }
    });
    (table, seen)
}

#[test]
fn no_flow_found_is_another_and_no_word_is_lost_while_slots_are_reused() {
    let hits = std::env::var("XVS_STRESS_HITS").map_or(2_000_000, |hits| hits.parse().unwrap());
    let endpoints = endpoints();
    let (table, seen) = hammer(Grace::Given, hits, &endpoints);
    let audit = table.audit(&endpoints);
    println!("{seen:?}\n{audit:?}");
    assert_eq!(seen.wrong.load(Relaxed), 0, "{seen:?}");
    assert_eq!(seen.lost_words.load(Relaxed), 0, "{seen:?}");
    assert!(audit.is_sound(), "{audit:?}");
    assert_eq!(audit.flows, table.len());
    let (inserted, ended) = (seen.inserted.load(Relaxed), seen.ended.load(Relaxed));
    assert_eq!(inserted - ended, audit.flows as u64);
    assert!(ended > hits / 8, "too few flows ended: {seen:?}");
    // At rest everything can be ended and nothing stays behind.
    let mut worker = table.worker(0).unwrap();
    worker.quiesce();
    for view in table.flows(0) {
        assert!(worker.remove(table.get(view.id).unwrap(), &endpoints));
    }
    assert_eq!(table.audit(&endpoints).words, 0);
}

#[test]
fn without_grace_the_same_stress_finds_damage() {
    let endpoints = endpoints();
    let (table, seen) = hammer(Grace::Withheld, 500_000_000, &endpoints);
    let audit = table.audit(&endpoints);
    println!("{seen:?}\n{audit:?}");
    let damage = seen.wrong.load(Relaxed) + seen.lost_words.load(Relaxed);
    assert!(damage > 0 || !audit.is_sound(), "the stress cannot see what it is to prevent");
}

/// Ends everything at once.
struct Now;

impl Expiry for Now {
    fn deadline(&mut self, _: &Entry) -> Tick {
        Tick(0)
    }

    fn expired(&mut self, flow: &Entry) {
        assert!(!flow.control().is_live());
    }
}

#[test]
fn two_sweepers_and_an_inserter_leave_each_flow_to_exactly_one_of_them() {
    let endpoints = endpoints();
    let config = TableConfig::new(20_000, 3, HashKey::from_seed(4));
    let table = Arc::new(FlowTable::new(&config).unwrap());
    let done = AtomicBool::new(false);
    let (mut inserted, expired) = (0, AtomicU64::new(0));
    thread::scope(|scope| {
        for id in [1, 2] {
            let mut worker = table.worker(id).unwrap();
            let (endpoints, done, expired) = (&endpoints, &done, &expired);
            scope.spawn(move || {
                let mut now = NOW;
                while !done.load(Relaxed) || !worker.table().is_empty() {
                    now = now.plus(1);
                    let swept = worker.sweep(now, 4096, endpoints, &mut Now);
                    expired.fetch_add(swept.expired as u64, Relaxed);
                    worker.quiesce();
                }
                assert_eq!(worker.counters().lost_words, 0);
            });
        }
        let mut worker = table.worker(0).unwrap();
        let mut rng = Rng::from_seed(1);
        for _ in 0..200_000 {
            let (mut new, _) = flow(rng.below(FLOWS), &endpoints);
            new.timeout = 0;
            let new = worker.insert(&new, &endpoints, NOW);
            inserted += u64::from(matches!(new, Ok(Inserted::New(_))));
            worker.quiesce();
        }
        done.store(true, Relaxed);
    });
    assert_eq!(inserted, expired.into_inner());
    assert!(inserted > FLOWS, "{inserted}");
    assert_eq!(table.audit(&endpoints).words, 0);
}
