//! The flow table as the pipeline uses it, by one worker: against a plain map, at its limits, and
//! over time.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod expiry;
mod limits;
mod model;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use xvs_dataplane::{
    addr::Addr,
    clock::Tick,
    endpoint::{Description, EndpointId, Endpoints},
    flow::{
        Audit, ClientPath, Direction, Entry, Expiry, FlowId, FlowKey, FlowTable, HashKey,
        InsertError, Inserted, NewFlow, Pages, TableConfig, TableError, TableWorker, flag,
    },
};

/// Virtual endpoints 1 to 8, real ones 9 to 24, local addresses 25 and 26: odd ids are IPv6.
const VIRTUALS: u32 = 8;
const REALS: u32 = 16;
const LOCALS: u32 = 2;

fn addr(family: u32, net: u8, host: u32) -> Addr {
    let host = u16::try_from(host).unwrap();
    let [high, low] = host.to_be_bytes();
    let ip: IpAddr = if family == 0 {
        Ipv4Addr::new(10, net, high, low).into()
    } else {
        Ipv6Addr::new(0xfd00, u16::from(net), 0, 0, 0, 0, 0, host).into()
    };
    ip.into()
}

fn endpoints() -> Endpoints {
    let endpoints = Endpoints::new(32);
    for id in 1..=VIRTUALS + REALS + LOCALS {
        let (net, port) = match id {
            1..=VIRTUALS => (1, 80),
            id if id <= VIRTUALS + REALS => (2, 8080),
            _ => (3, 0),
        };
        let addr = addr(id % 2, net, id);
        endpoints.get(EndpointId(id)).describe(&Description {
            addr,
            port,
            ..Description::default()
        });
    }
    endpoints
}

/// A flow of the given kind. Clients number `client`, reals and virtuals of its family.
fn new_flow(endpoints: &Endpoints, client: u32, kind: u8) -> NewFlow {
    let family = client % 2;
    let pick = |base: u32, count: u32| {
        let first = base + (base + family) % 2;
        EndpointId(first + client / 2 % (count / 2) * 2)
    };
    let (virt, real) = (pick(1, VIRTUALS), pick(1 + VIRTUALS, REALS));
    let service = endpoints.get(virt);
    let key = FlowKey {
        source: addr(family, 9, client),
        destination: service.addr(),
        source_port: u16::try_from(1000 + client % 7).unwrap(),
        destination_port: service.port(),
        protocol: if client.is_multiple_of(5) { 17 } else { 6 },
        template: kind == 3,
    };
    let local = pick(1 + VIRTUALS + REALS, LOCALS);
    NewFlow {
        key,
        virt,
        real,
        state: 2,
        class: 1,
        flags: if kind == 1 { flag::ONE_WAY } else { 0 },
        timeout: 160,
        local: (kind == 2).then(|| (local, u16::try_from(20_000 + client).unwrap())),
        any_port: 0,
    }
}

/// What a packet of the real server to this flow looks like.
fn reply_key(endpoints: &Endpoints, new: &NewFlow) -> Option<FlowKey> {
    let one_way = new.flags & flag::ONE_WAY != 0 || new.key.template;
    let real = endpoints.get(new.real);
    let (destination, destination_port) = match new.local {
        Some((local, port)) => (endpoints.get(local).addr(), port),
        None => (new.key.source, new.key.source_port),
    };
    let (source, source_port) = (real.addr(), real.port());
    (!one_way).then_some(FlowKey { source, destination, source_port, destination_port, ..new.key })
}

fn table(capacity: usize, half_open: usize) -> (Arc<FlowTable>, TableWorker) {
    let mut config = TableConfig::new(capacity, 1, HashKey::from_seed(1));
    (config.half_open, config.pages) = (half_open, Pages::Small);
    let table = Arc::new(FlowTable::new(&config).unwrap());
    let worker = table.worker(0).unwrap();
    (table, worker)
}

/// Flows live a fixed time after they were last seen; templates as long as they say.
#[derive(Default)]
struct Fixed {
    timeout: u32,
    expired: Vec<(Addr, u16, Tick)>,
}

impl Expiry for Fixed {
    fn deadline(&mut self, flow: &Entry) -> Tick {
        let template = flow.control().has(flag::TEMPLATE);
        flow.seen().plus(if template { flow.template_timeout() } else { self.timeout })
    }

    fn expired(&mut self, flow: &Entry) {
        assert!(!flow.control().is_live());
        self.expired.push((flow.client(), flow.client_port(), flow.seen()));
    }
}

/// Sweeps until nothing is left to do at `now`.
fn sweep_all(worker: &mut TableWorker, now: Tick, endpoints: &Endpoints, expiry: &mut impl Expiry) {
    while !worker.sweep(now, 1 << 20, endpoints, expiry).complete {
        worker.quiesce();
    }
    worker.quiesce();
    worker.quiesce();
}

/// Both ways to look a packet up must agree.
fn find(worker: &TableWorker, key: &FlowKey, endpoints: &Endpoints) -> Option<(FlowId, Direction)> {
    let table = worker.table();
    let hash = table.hash(key);
    table.prefetch(hash);
    let mut probe = table.probe(hash);
    if probe.needs_alternate() {
        probe = table.probe_again(hash);
    }
    let staged = table.find(key, hash, probe, endpoints).map(|(flow, way)| (flow.id(), way));
    let at_once = table.lookup(key, endpoints).map(|(flow, way)| (flow.id(), way));
    assert_eq!(staged, at_once);
    staged
}

#[test]
fn two_services_may_share_a_reply_key_and_each_removal_takes_its_own_word() {
    let endpoints = endpoints();
    let (table, worker) = table(100, 1);
    let now = Tick::from_secs(5);
    // One client port through seven virtual endpoints of one real server.
    let base = new_flow(&endpoints, 0, 0);
    let mut ids = Vec::new();
    for port in 0..7 {
        let virt = EndpointId(27 + port % 4);
        let addr = addr(0, 1, 200 + port);
        let about = Description { addr, port: 81, ..Description::default() };
        let virt =
            if port < 4 { virt } else { EndpointId(u32::from([2u8, 4, 6][port as usize - 4])) };
        if port < 4 {
            endpoints.get(virt).describe(&about);
        }
        let service = endpoints.get(virt);
        let mut new = NewFlow { virt, ..base };
        new.key.destination = service.addr();
        new.key.destination_port = service.port();
        let Ok(Inserted::New(flow)) = worker.insert(&new, &endpoints, now) else { panic!() };
        ids.push((flow.id(), new));
    }
    let reply = reply_key(&endpoints, &base).unwrap();
    while let Some((id, new)) = ids.pop() {
        assert_eq!(find(&worker, &new.key, &endpoints), Some((id, Direction::ToReal)));
        let (found, direction) = find(&worker, &reply, &endpoints).unwrap();
        assert_eq!(direction, Direction::ToClient);
        assert!(found == id || ids.iter().any(|(other, _)| *other == found));
        assert!(worker.remove(table.get(id).unwrap(), &endpoints));
        assert!(find(&worker, &new.key, &endpoints).is_none());
    }
    assert!(find(&worker, &reply, &endpoints).is_none());
    assert_eq!(worker.counters().lost_words, 0);
}

#[test]
fn an_entry_says_what_was_put_into_it_and_counts() {
    let endpoints = endpoints();
    let (table, worker) = table(10, 1);
    let now = Tick::from_secs(5);
    let new = new_flow(&endpoints, 7, 2);
    let Ok(Inserted::New(flow)) = worker.insert(&new, &endpoints, now) else { panic!() };
    flow.count(Direction::ToReal, 100);
    flow.count(Direction::ToReal, 50);
    flow.count(Direction::ToClient, 1500);
    flow.touch(now.plus(3));
    flow.touch(now);
    flow.set_client_path(ClientPath::new(12, 34));
    assert_eq!(flow.client_path().number(34), 12);
    assert!(flow.client_path().number(35) > 0xffff, "a number of another generation");
    let view = table.flows(0).next().unwrap();
    assert_eq!((view.packets, view.octets), ([2, 1], [150, 1500]));
    assert_eq!((view.client, view.client_port), (new.key.source, new.key.source_port));
    assert_eq!((view.virt, view.real, view.local), (new.virt, new.real, new.local));
    assert_eq!((view.protocol, view.seen), (new.key.protocol, now.plus(3)));
    assert_eq!((view.control.state(), view.control.class()), (2, 1));
    assert!(view.control.has(flag::FULLNAT) && flow.is_live());
    assert_eq!(endpoints.get(new.real).load.refs.load(Relaxed), 0, "counters are the caller's");
}
