//! What the flow table costs, in nanoseconds, against what its memory costs in the same run.
//!
//! `cargo run --release -p xvs-dataplane --example flow_table [flows...]`
//!
//! `two lines` is the bound: a random line of an area as large as the index, which says which line
//! of an area as large as the entries is written, 32 at a time. A lookup does the same and the
//! work of the table. Each figure is the lower quartile over windows of 256 packets of random
//! flows, half of them replies; compare the columns, not runs.
#![expect(clippy::print_stdout, reason = "its purpose")]
#![expect(clippy::disallowed_methods, reason = "measures time")]
#![expect(clippy::unwrap_used, reason = "nobody to hand errors to")]
#![expect(clippy::cast_possible_truncation, reason = "random numbers cut to size")]
#![expect(clippy::cast_precision_loss, reason = "a report")]

use std::{
    hint::black_box,
    net::Ipv4Addr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use xvs_dataplane::{
    addr::Addr,
    clock::Tick,
    endpoint::{Description, EndpointId, Endpoints},
    flow::{
        Direction, Entry, Expiry, FlowKey, FlowTable, HashKey, Inserted, NewFlow, Pages, Region,
        TableConfig, TableWorker,
    },
    rng::Rng,
};

const BATCH: usize = 32;
const WINDOW: usize = 256;
const VIRTUALS: u64 = 16;
const REALS: u64 = 256;
const NOW: Tick = Tick::from_secs(1000);

fn endpoints() -> Endpoints {
    let endpoints = Endpoints::new(512);
    for id in 1..=(VIRTUALS + REALS) as u16 {
        let (net, port) = if u64::from(id) <= VIRTUALS { (1, 80) } else { (2, 8080) };
        let [high, low] = id.to_be_bytes();
        let addr = Ipv4Addr::new(10, net, high, low).into();
        endpoints.get(EndpointId(id.into())).describe(&Description {
            addr,
            port,
            ..Description::default()
        });
    }
    endpoints
}

/// Flow number `n`.
fn flow(n: u64, endpoints: &Endpoints) -> NewFlow {
    let spread = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let virt = EndpointId((1 + spread % VIRTUALS) as u32);
    let real = EndpointId((1 + VIRTUALS + spread / VIRTUALS % REALS) as u32);
    let service = endpoints.get(virt);
    let key = FlowKey {
        source: Addr::v4(0x0b00_0000 + (n / 50_000) as u32),
        destination: service.addr(),
        source_port: 1024 + (n % 50_000) as u16,
        destination_port: service.port(),
        protocol: if spread.is_multiple_of(8) { 17 } else { 6 },
        template: false,
    };
    NewFlow { key, virt, real, timeout: 16 * 100_000, ..NewFlow::default() }
}

/// A packet of flow `n`, half of the time a reply.
fn packet(n: u64, reply: bool, endpoints: &Endpoints) -> FlowKey {
    let new = flow(n, endpoints);
    if !reply {
        return new.key;
    }
    let real = endpoints.get(new.real);
    FlowKey {
        source: real.addr(),
        destination: new.key.source,
        source_port: real.port(),
        destination_port: new.key.source_port,
        ..new.key
    }
}

/// Lower quartile of the time of `window`, per item, over `rounds`.
fn measure(rounds: usize, items: usize, mut window: impl FnMut() -> Duration) -> f64 {
    lower_quartile((0..rounds).map(|_| window().as_nanos() as f64 / items as f64).collect())
}

fn lower_quartile(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 4]
}

/// Two dependent random lines, the second written, 32 at a time.
fn two_lines(flows: usize, rounds: usize, rng: &mut Rng) -> (f64, Pages) {
    let index = Region::new((flows * 256 / 7).max(4096), Pages::Reserved).unwrap();
    let entries = Region::new((flows * 64).max(4096), Pages::Reserved).unwrap();
    let (first, second) = (index.octets() as u64 / 64, entries.octets() as u64 / 64);
    for word in index.words() {
        word.store(rng.below(second) * 8, Relaxed);
    }
    let time = measure(rounds, WINDOW, || {
        let lines: [usize; WINDOW] = std::array::from_fn(|_| rng.below(first) as usize * 8);
        let started = Instant::now();
        for batch in lines.chunks(BATCH) {
            batch.iter().for_each(|&line| index.prefetch(line));
            let mut found = [0; BATCH];
            for (found, &line) in found.iter_mut().zip(batch) {
                *found = index.words()[line].load(Relaxed) as usize;
                entries.prefetch(*found);
            }
            for line in found {
                let word = &entries.words()[line];
                word.store(word.load(Relaxed) + 1, Relaxed);
            }
        }
        started.elapsed()
    });
    (time, entries.pages())
}

/// Looks a batch up, stage by stage; how many were found.
#[inline(never)]
fn lookup(table: &FlowTable, keys: &[FlowKey], endpoints: &Endpoints, now: Tick) -> usize {
    let mut hashes = [table.hash(&keys[0]); BATCH];
    for (hash, key) in hashes.iter_mut().zip(keys) {
        *hash = table.hash(key);
    }
    // Not in the same loop: address translations overlap better back to back (8 % at 1 M flows).
    for hash in hashes {
        table.prefetch(hash);
    }
    let mut probes = hashes.map(|hash| table.probe(hash));
    for (probe, hash) in probes.iter_mut().zip(hashes) {
        if probe.needs_alternate() {
            *probe = table.probe_again(hash);
        }
    }
    let mut found = 0;
    for ((key, hash), probe) in keys.iter().zip(hashes).zip(probes) {
        if let Some((flow, direction)) = table.find(key, hash, probe, endpoints) {
            flow.touch(now);
            flow.count(direction, 64);
            found +=
                usize::from(direction == Direction::ToReal || direction == Direction::ToClient);
        }
    }
    found
}

/// Inserts a batch that is not there, as the pipeline would.
fn insert(worker: &TableWorker, new: &[NewFlow], endpoints: &Endpoints) -> usize {
    let table = worker.table();
    worker.prefetch_slots(new.len());
    let hashes: [_; BATCH] = std::array::from_fn(|i| {
        let hash = table.hash(&new[i].key);
        table.prefetch(hash);
        hash
    });
    let missed = hashes.map(|hash| table.probe(hash).is_miss());
    let prepared: [_; BATCH] = std::array::from_fn(|i| {
        let reply = new[i].reply_key(endpoints);
        worker.prepare(hashes[i], reply.as_ref())
    });
    let mut inserted = 0;
    for ((new, prepared), _) in new.iter().zip(prepared).zip(missed) {
        let done = worker.commit(new, prepared, endpoints, NOW);
        inserted += usize::from(matches!(done, Ok(Inserted::New(_))));
    }
    inserted
}

/// Ends every flow that is looked at.
struct End;

impl Expiry for End {
    fn deadline(&mut self, _: &Entry) -> Tick {
        Tick(0)
    }

    fn expired(&mut self, _: &Entry) {}
}

/// A table with its flows, and what measures it.
struct Bench {
    table: Arc<FlowTable>,
    worker: TableWorker,
    endpoints: Endpoints,
    rng: Rng,
    /// Flows in it: 0 to this.
    full: u64,
    rounds: usize,
}

impl Bench {
    fn new(flows: usize) -> Self {
        let config = TableConfig::new(flows, 1, HashKey::from_seed(5));
        let table = Arc::new(FlowTable::new(&config).unwrap());
        let worker = table.worker(0).unwrap();
        let (endpoints, full) = (endpoints(), flows as u64 - 256);
        for n in 0..full {
            assert!(worker.insert(&flow(n, &endpoints), &endpoints, NOW).is_ok());
        }
        let rounds = if flows > 100_000 { 4000 } else { 20_000 };
        Self { table, worker, endpoints, rng: Rng::from_seed(1), full, rounds }
    }

    /// Packets of random flows.
    fn keys(&mut self) -> [FlowKey; WINDOW] {
        std::array::from_fn(|_| {
            let n = self.rng.below(self.full);
            packet(n, self.rng.below(2) == 0, &self.endpoints)
        })
    }

    fn batched(&mut self) -> f64 {
        measure(self.rounds, WINDOW, || {
            let keys = self.keys();
            let started = Instant::now();
            let found: usize = keys
                .chunks(BATCH)
                .map(|keys| lookup(&self.table, keys, &self.endpoints, NOW.plus(1)))
                .sum();
            let time = started.elapsed();
            assert_eq!(found, WINDOW);
            time
        })
    }

    fn scalar(&mut self) -> f64 {
        measure(self.rounds / 4, WINDOW, || {
            let keys = self.keys();
            let table = &*self.table;
            let started = Instant::now();
            for key in &keys {
                let hash = table.hash(key);
                let mut probe = table.probe(hash);
                if probe.needs_alternate() {
                    probe = table.probe_again(hash);
                }
                let (flow, direction) = table.find(key, hash, probe, &self.endpoints).unwrap();
                flow.touch(NOW.plus(1));
                flow.count(direction, 64);
            }
            started.elapsed()
        })
    }

    fn hash(&mut self) -> f64 {
        measure(self.rounds, WINDOW, || {
            let keys = self.keys();
            let started = Instant::now();
            for key in &keys {
                black_box(self.table.hash(key));
            }
            started.elapsed()
        })
    }

    /// New flows, in batches, each of which is ended again.
    fn created(&mut self) -> f64 {
        let mut next = 1 << 28;
        measure(self.rounds / 4, WINDOW, || {
            self.worker.quiesce();
            self.worker.quiesce();
            let new: [NewFlow; WINDOW] =
                std::array::from_fn(|i| flow(next + i as u64, &self.endpoints));
            next += WINDOW as u64;
            let started = Instant::now();
            let inserted: usize =
                new.chunks(BATCH).map(|new| insert(&self.worker, new, &self.endpoints)).sum();
            let time = started.elapsed();
            assert_eq!(inserted, WINDOW, "{:?}", self.worker.counters());
            for new in new {
                let (flow, _) = self.table.lookup(&new.key, &self.endpoints).unwrap();
                assert!(self.worker.remove(flow, &self.endpoints));
            }
            time
        })
    }

    /// One pass of the sweep in which nothing is due: nanoseconds.
    fn pass(&mut self, now: Tick) -> f64 {
        let started = Instant::now();
        while !self.worker.sweep(now, 1 << 14, &self.endpoints, &mut End).complete {
            self.worker.quiesce();
        }
        started.elapsed().as_nanos() as f64
    }

    /// A pass per slot when nothing is due, and per flow when all of them end.
    fn swept(&mut self) -> (f64, f64) {
        // The first pass looks at everything.
        for second in 0..5 {
            self.pass(NOW.plus(16 * second));
        }
        let mut refilled = 0;
        while self.worker.insert(&flow(refilled, &self.endpoints), &self.endpoints, NOW).is_ok()
            && refilled < self.full
        {
            refilled += 1;
        }
        let idle = (0..5).map(|second| self.pass(NOW.plus(16 * (10 + second))));
        let idle = idle.fold(f64::MAX, f64::min) / self.table.capacity() as f64;
        // Slices that end a full batch each.
        let mut slices = Vec::new();
        for second in 0..20 {
            loop {
                let started = Instant::now();
                let swept = self.worker.sweep(
                    NOW.plus(16 * (180 + second)),
                    1 << 14,
                    &self.endpoints,
                    &mut End,
                );
                self.worker.quiesce();
                let time = started.elapsed().as_nanos() as f64;
                if swept.expired == BATCH {
                    slices.push(time / BATCH as f64);
                }
                if swept.complete {
                    break;
                }
            }
        }
        assert!(self.table.is_empty());
        (idle, lower_quartile(slices))
    }
}

/// Measures and prints one size; nanoseconds of a lookup.
fn run(flows: usize, hot: f64) -> f64 {
    let mut bench = Bench::new(flows);
    let (bound, bound_pages) = two_lines(flows, bench.rounds, &mut bench.rng);
    let batched = bench.batched();
    let (scalar, hash, created) = (bench.scalar(), bench.hash(), bench.created());
    let (idle, ended) = bench.swept();
    let memory = bench.table.memory();
    let ratio = batched / (hot.min(batched) + bound);
    println!(
        "{flows:>9} | {bound:6.1} | {batched:6.1} | {ratio:5.2} | {scalar:6.1} | {created:6.1} \
         | {hash:4.1} | {idle:7.3} | {ended:6.1} | {:6.1}, {} and {}",
        memory.per_flow,
        memory.pages.name(),
        bound_pages.name(),
    );
    batched
}

fn main() {
    let mut sizes: Vec<usize> =
        std::env::args().skip(1).map(|size| size.parse().unwrap()).collect();
    if sizes.is_empty() {
        sizes = vec![1000, 100_000, 1_000_000, 10_000_000];
    }
    println!(
        "ns: flows | two lines | lookup | lookup/(hot+two lines) | scalar lookup | insert | hash | idle sweep/slot | expire/flow | octets/flow, pages of table and bound"
    );
    let mut hot = f64::MAX;
    for size in sizes {
        hot = hot.min(run(size, hot));
    }
}
