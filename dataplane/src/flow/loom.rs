//! The flow table under loom, which runs every interleaving of a few steps, and every stale value
//! that the orderings allow: `RUSTFLAGS="--cfg loom" cargo test -p xvs-dataplane --release --lib loom`.
//!
//! The tables are tiny (two cells a bucket, a few slots) and preemptions are bounded, or it would
//! not end; the stress test in `tests/flow_stress.rs` does the rest by mass.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use loom::{model::Builder, thread};

use super::{
    Direction, Entry, Expiry, FlowHash, FlowKey, FlowTable, HashKey, Inserted, NewFlow,
    TableConfig, TableWorker,
    bucket::{Bucket, CELLS, Word, home_tag},
    index::{Index, Placed, alternate},
    layout::Header,
    slots::{Depot, Magazine},
};
use crate::{
    addr::Addr,
    clock::Tick,
    endpoint::{Description, EndpointId, Endpoints},
};

const NOW: Tick = Tick::from_secs(100);

/// Runs `body` in every interleaving with at most this many preemptions.
fn model(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

/// Virtual endpoint 1, real ones 2 and 3.
fn endpoints() -> Arc<Endpoints> {
    let endpoints = Endpoints::new(4);
    for id in 1..4u8 {
        let about =
            Description { addr: Addr::v4(u32::from(id)), port: 80, ..Description::default() };
        endpoints.get(EndpointId(u32::from(id))).describe(&about);
    }
    Arc::new(endpoints)
}

/// A flow of client `port` to real endpoint 2 or 3.
fn flow(port: u16) -> NewFlow {
    let key = FlowKey {
        source: Addr::v4(99),
        destination: Addr::v4(1),
        source_port: port,
        destination_port: 80,
        protocol: 6,
        template: false,
    };
    let real = EndpointId(2 + u32::from(port % 2));
    NewFlow { key, virt: EndpointId(1), real, timeout: 16, ..NewFlow::default() }
}

fn reply_key(new: &NewFlow) -> FlowKey {
    let FlowKey { source, source_port, .. } = new.key;
    FlowKey {
        source: Addr::v4(new.real.0),
        destination: source,
        source_port: 80,
        destination_port: source_port,
        ..new.key
    }
}

fn table(capacity: usize) -> (Arc<FlowTable>, TableWorker, TableWorker) {
    let config =
        TableConfig { half_open: 1, ..TableConfig::new(capacity, 2, HashKey::from_seed(1)) };
    let table = Arc::new(FlowTable::new(&config).unwrap());
    let (a, b) = (table.worker(0).unwrap(), table.worker(1).unwrap());
    (table, a, b)
}

fn check(worker: &TableWorker, key: &FlowKey, new: &NewFlow, endpoints: &Endpoints) {
    if let Some((flow, _)) = worker.table().lookup(key, endpoints) {
        // As late as a packet is rewritten.
        thread::yield_now();
        assert_eq!((flow.client_port(), flow.real()), (new.key.source_port, new.real));
    }
}

/// One worker looks for a flow while the other ends it and uses its only slot for another.
fn reuse(protected: bool) {
    model(3, move || {
        let endpoints = endpoints();
        let (_, mut a, mut b) = table(1);
        assert!(matches!(a.insert(&flow(1), &endpoints, NOW), Ok(Inserted::New(_))));
        let theirs = Arc::clone(&endpoints);
        let reader = thread::spawn(move || {
            if !protected {
                b.offline();
            }
            check(&b, &reply_key(&flow(1)), &flow(1), &theirs);
            b.quiesce();
        });
        let (first, _) = a.table().lookup(&flow(1).key, &endpoints).unwrap();
        assert!(a.remove(first, &endpoints));
        a.quiesce();
        a.quiesce();
        if let Ok(Inserted::New(second)) = a.insert(&flow(2), &endpoints, NOW) {
            assert_eq!(second.id().slot, 1);
        }
        reader.join().unwrap();
        a.quiesce();
        assert_eq!(a.counters().lost_words, 0);
    });
}

#[test]
fn a_flow_found_stays_the_one_asked_for_until_the_finder_is_quiescent() {
    reuse(true);
}

#[test]
#[should_panic(expected = "assertion `left == right` failed")]
fn without_quiescence_a_flow_found_becomes_another() {
    reuse(false);
}

#[test]
fn a_sleeping_worker_delays_nobody_and_sees_removals_when_it_wakes() {
    model(3, || {
        let endpoints = endpoints();
        let (_, mut a, mut b) = table(1);
        assert!(matches!(a.insert(&flow(1), &endpoints, NOW), Ok(Inserted::New(_))));
        b.offline();
        let theirs = Arc::clone(&endpoints);
        let sleeper = thread::spawn(move || {
            b.online();
            check(&b, &flow(1).key, &flow(1), &theirs);
            b.offline();
        });
        let (first, _) = a.table().lookup(&flow(1).key, &endpoints).unwrap();
        assert!(a.remove(first, &endpoints));
        a.quiesce();
        a.quiesce();
        let at_once = a.insert(&flow(2), &endpoints, NOW).is_ok();
        sleeper.join().unwrap();
        a.quiesce();
        a.quiesce();
        let second = a.table().lookup(&flow(2).key, &endpoints).is_some();
        assert!(second == at_once);
        let now = at_once || a.insert(&flow(2), &endpoints, NOW).is_ok();
        assert!(now, "the sleeper holds the slot");
    });
}

#[test]
fn two_workers_that_insert_one_flow_get_one() {
    model(3, || {
        let endpoints = endpoints();
        let (table, a, b) = table(2);
        let theirs = Arc::clone(&endpoints);
        let insert = |worker: &TableWorker, endpoints: &Endpoints| {
            let (id, new) = match worker.insert(&flow(1), endpoints, NOW).unwrap() {
                Inserted::New(flow) => (flow.id(), true),
                Inserted::Existing(flow, _) => (flow.id(), false),
            };
            let found = worker.table().lookup(&flow(1).key, endpoints).unwrap();
            assert_eq!(found.0.id(), id);
            let reply = worker.table().lookup(&reply_key(&flow(1)), endpoints).unwrap();
            assert_eq!(reply.1, Direction::ToClient);
            (id, new)
        };
        let other = thread::spawn(move || (insert(&b, &theirs), b));
        let (id, new) = insert(&a, &endpoints);
        let ((other_id, other_new), _b) = other.join().unwrap();
        assert_eq!(id, other_id);
        assert!(new != other_new);
        let audit = table.audit(&endpoints);
        assert!(audit.is_sound() && audit.flows == 1, "{audit:?}");
    });
}

#[test]
fn one_of_two_workers_ends_a_flow_and_its_words_go_even_while_it_arrives() {
    model(3, || {
        let endpoints = endpoints();
        let (table, a, b) = table(1);
        let theirs = Arc::clone(&endpoints);
        let other = thread::spawn(move || {
            let key = reply_key(&flow(1));
            let found = b.table().lookup(&key, &theirs);
            (found.is_some_and(|(flow, _)| b.remove(flow, &theirs)), b)
        });
        let Ok(Inserted::New(flow)) = a.insert(&flow(1), &endpoints, NOW) else { panic!() };
        let mine = a.remove(flow, &endpoints);
        let (other, b) = other.join().unwrap();
        assert!(mine != other);
        assert_eq!(a.counters().lost_words + b.counters().lost_words, 0);
        assert_eq!(table.audit(&endpoints).words, 0);
        assert!(table.is_empty());
    });
}

/// A hash whose primary is `primary` of four buckets, with this tag.
const fn hash(primary: u64, tag: u64) -> FlowHash {
    FlowHash((primary << 30 | 1 << 29) << 32 | tag << 1)
}

#[test]
fn a_locked_bucket_is_one_workers_at_a_time() {
    model(3, || {
        let buckets: Arc<[Bucket]> = (0..4).map(|_| Bucket::default()).collect();
        let put = |buckets: &[Bucket], slot| {
            let mut locked = Index(buckets).lock(hash(0, 5));
            if Index(buckets).find(hash(0, 5), Some).is_some() {
                return false;
            }
            locked.insert(Word::new(hash(0, 5), slot, Direction::ToReal)).is_ok()
        };
        let theirs = Arc::clone(&buckets);
        let other = thread::spawn(move || put(&theirs, 1));
        let mine = put(&buckets, 2);
        assert!(mine != other.join().unwrap());
    });
}

#[test]
fn a_word_is_found_at_every_moment_while_it_makes_room_for_another() {
    // Both buckets of the newcomer are full; one word at home in its primary can go elsewhere.
    let (victims, newcomer, others) = layout();
    model(3, move || {
        let buckets: Arc<[Bucket]> = (0..4).map(|_| Bucket::default()).collect();
        for (slot, hash) in (1..).zip(victims.into_iter().chain(others)) {
            let word = Word::new(hash, slot, Direction::ToReal);
            assert_eq!(Index(&buckets).lock(hash).insert(word), Ok(Placed::Home));
        }
        let theirs = Arc::clone(&buckets);
        let reader = thread::spawn(move || {
            for (slot, hash) in (1..).zip(victims) {
                let is_it = |word: Word| (word.slot() == slot).then_some(());
                assert!(Index(&theirs).find(hash, is_it).is_some(), "word {slot} was lost");
            }
        });
        let word = Word::new(newcomer, 9, Direction::ToReal);
        let placed = Index(&buckets).lock(newcomer).insert(word);
        assert_eq!(placed, Ok(Placed::Displaced));
        reader.join().unwrap();
        for (slot, hash) in (1..).zip(victims) {
            assert!(Index(&buckets).lock(hash).remove(Word::new(hash, slot, Direction::ToReal)));
        }
        assert!(Index(&buckets).lock(newcomer).remove(word));
    });
}

/// Two words of bucket 0, one more of it whose alternate is full of others, and those others.
fn layout() -> ([FlowHash; CELLS], FlowHash, [FlowHash; CELLS]) {
    let mut tags = 1..;
    let mut going_to = |place| {
        let goes = |tag: &u64| alternate(0, home_tag(hash(0, *tag)), 4) == place;
        hash(0, tags.by_ref().find(goes).unwrap())
    };
    (std::array::from_fn(|_| going_to(2)), going_to(1), [1001, 1002].map(|tag| hash(1, tag)))
}

/// Flows live ten seconds in state 0, one in state 1.
struct ByState;

impl Expiry for ByState {
    fn deadline(&mut self, flow: &Entry) -> Tick {
        flow.seen().plus(if flow.control().state() == 0 { 160 } else { 16 })
    }

    fn expired(&mut self, _: &Entry) {}
}

#[test]
fn a_timeout_lowered_while_a_sweep_rearms_is_not_forgotten() {
    model(3, || {
        let endpoints = endpoints();
        let (table, a, b) = table(1);
        // Looked at after one second, when nine are left.
        let Ok(Inserted::New(flow)) = a.insert(&flow(1), &endpoints, NOW) else { panic!() };
        let id = flow.id();
        let now = NOW.plus(16);
        let theirs = Arc::clone(&endpoints);
        let sweeper = thread::spawn(move || {
            while !b.sweep(now, 100, &theirs, &mut ByState).complete {}
            b
        });
        let flow = table.get(id).unwrap();
        flow.touch(now);
        let seen = flow.control();
        flow.try_update(seen, seen.with_state(1)).unwrap();
        a.expire_at(flow, 16, now);
        let b = sweeper.join().unwrap();
        let later = NOW.plus(48);
        while !b.sweep(later, 100, &endpoints, &mut ByState).complete {}
        assert!(table.get(id).is_none(), "not looked at in time");
    });
}

#[test]
fn the_depot_gives_no_slot_to_two_workers() {
    model(2, || {
        let entries = (0..4).map(|_| Entry::default()).collect();
        let shared: Arc<(Header, Vec<Entry>)> = Arc::new((Header::default(), entries));
        fn depot(shared: &(Header, Vec<Entry>)) -> Depot<'_> {
            Depot { header: &shared.0, entries: &shared.1, slots: 0 }
        }
        for slot in 1..4 {
            let mut magazine = Magazine::new();
            magazine.put(slot, depot(&shared));
            magazine.empty(depot(&shared));
        }
        // One pops while the other pops two and gives the first back: the stack's top is as it was,
        // what lies below is not.
        let theirs = Arc::clone(&shared);
        let other = thread::spawn(move || Magazine::new().take(depot(&theirs)));
        let mut magazine = Magazine::new();
        let first = magazine.take(depot(&shared)).unwrap();
        let second = magazine.take(depot(&shared)).unwrap();
        magazine.put(first, depot(&shared));
        magazine.empty(depot(&shared));
        let mut taken = vec![second];
        taken.extend(other.join().unwrap());
        taken.extend(std::iter::from_fn(|| Magazine::new().take(depot(&shared))));
        taken.sort_unstable();
        assert_eq!(taken, [1, 2, 3]);
    });
}
