//! The engine with workers that only take snapshots over: a change is answered when all of them
//! have it, steering follows in the right order, and a failing worker is mended.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use dataplane::{
    director::{
        Director,
        network::Network,
        spec::{ServiceKey, ServiceSpec},
    },
    endpoint::Endpoints,
    flow::{FlowTable, HashKey, Pages, TableConfig},
    stats::{Stats, WorkerStats},
    steering::{
        SteeringError,
        rules::{SteeringRules, Target},
    },
};
use tokio::{sync::watch, task::JoinHandle};
use xvs_control::engine::{
    Engine, EngineError, events,
    fleet::{Duty, Fleet, Machine, OpenError, Opened, Orders},
    publish::Surroundings,
    report::InterfaceReport,
};

/// What the test does to workers and machine, and what it sees of them.
#[derive(Debug, Default)]
struct Hand {
    /// The worker of this number, less one, panics at its next look; 0: none.
    panic: AtomicUsize,
    /// Workers take nothing over.
    stuck: AtomicBool,
    /// Devices cannot be opened.
    broken: AtomicBool,
    /// How often devices were opened.
    opened: AtomicUsize,
    /// What happened, in order: ports steered, and generations taken over.
    events: Mutex<Vec<Event>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Steered(Vec<u16>),
    TakenOver { worker: usize, ports: Vec<u16> },
}

#[derive(Debug)]
struct SimMachine {
    hand: Arc<Hand>,
    stats: Stats,
}

#[derive(Debug)]
struct SimDuty {
    number: usize,
    hand: Arc<Hand>,
    stats: Arc<WorkerStats>,
}

impl Machine for SimMachine {
    fn open(&mut self) -> Result<Opened, OpenError> {
        if self.hand.broken.load(Relaxed) {
            return Err(OpenError("sim0: no such device".to_owned()));
        }
        self.hand.opened.fetch_add(1, Relaxed);
        let duty = |(number, stats): (usize, &Arc<WorkerStats>)| {
            let (hand, stats) = (Arc::clone(&self.hand), Arc::clone(stats));
            Box::new(SimDuty { number, hand, stats }) as Box<dyn Duty>
        };
        Ok(Opened {
            interfaces: vec![InterfaceReport::default()],
            workers: self.stats.workers().iter().enumerate().map(duty).collect(),
        })
    }

    fn steer(&mut self, rules: &SteeringRules) -> Result<(), SteeringError> {
        let ports = rules.services.iter().map(|target: &Target| target.port).collect();
        self.hand.events.lock().unwrap().push(Event::Steered(ports));
        Ok(())
    }

    fn close(&mut self) {}
}

impl Duty for SimDuty {
    fn alarm(&self) -> Arc<dyn Fn() + Send + Sync> {
        Arc::new(|| {})
    }

    fn run(self: Box<Self>, orders: Orders) -> io::Result<()> {
        let mut held = Arc::default();
        while !orders.stop.load(Relaxed) {
            let ordered = self.number + 1;
            if self.hand.panic.compare_exchange(ordered, 0, Relaxed, Relaxed).is_ok() {
                panic!("told to");
            }
            let Ok(snapshot) = orders.incoming.recv_timeout(Duration::from_millis(1)) else {
                continue;
            };
            while self.hand.stuck.load(Relaxed) && !orders.stop.load(Relaxed) {
                thread::sleep(Duration::from_millis(1));
            }
            let mut ports: Vec<_> = snapshot.exact.keys().map(|&(_, _, port)| port).collect();
            ports.sort_unstable();
            let event = Event::TakenOver { worker: self.number, ports };
            self.hand.events.lock().unwrap().push(event);
            self.stats.work.generation.set(snapshot.generation);
            orders.retired.try_send(std::mem::replace(&mut held, snapshot)).unwrap();
        }
        Ok(())
    }
}

struct Rig {
    hand: Arc<Hand>,
    engine: Arc<Engine>,
    stop: watch::Sender<bool>,
    publisher: JoinHandle<Fleet>,
    network: watch::Sender<Network>,
}

const WORKERS: usize = 3;

impl Rig {
    fn start() -> Self {
        let stats = Stats::new(WORKERS, 64);
        let director = Director::new(Arc::new(Endpoints::new(64)), stats.clone());
        let table =
            TableConfig { pages: Pages::Small, ..TableConfig::new(1024, 1, HashKey::from_seed(1)) };
        let table = Arc::new(FlowTable::new(&table).unwrap());
        let engine = Arc::new(Engine::new(director, stats.clone(), table));
        let hand = Arc::new(Hand::default());
        let machine = SimMachine { hand: Arc::clone(&hand), stats: stats.clone() };
        let mut fleet = Fleet::new(Box::new(machine), stats, &[None; WORKERS]);
        fleet.start().unwrap();
        let (stop, stopped) = watch::channel(false);
        let (network, networks) = watch::channel(Network::default());
        let surroundings = Surroundings { network: networks, hops: None };
        let publisher = tokio::spawn(Arc::clone(&engine).publish(fleet, surroundings, stopped));
        Self { hand, engine, stop, publisher, network }
    }

    async fn add(&self, port: u16) -> Result<u64, EngineError> {
        let spec = spec(port);
        let change = self.engine.change(|state| state.add_service(&spec));
        change.await.map(|(generation, ())| generation)
    }

    async fn delete(&self, port: u16) {
        let key = spec(port).key;
        self.engine.change(|state| state.director.delete_service(&key)).await.unwrap();
    }

    fn generations(&self) -> Vec<u64> {
        let workers = self.engine.stats().workers().iter();
        workers.map(|stats| stats.work.generation.get()).collect()
    }

    fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut self.hand.events.lock().unwrap())
    }

    /// Waits until the report says so.
    async fn until(&self, when: impl FnMut(&xvs_control::engine::report::Report) -> bool) {
        let mut report = self.engine.report();
        tokio::time::timeout(Duration::from_secs(20), report.wait_for(when))
            .await
            .unwrap()
            .unwrap();
    }
}

fn spec(port: u16) -> ServiceSpec {
    ServiceSpec::new(
        ServiceKey::Address { protocol: 6, addr: dataplane::addr::Addr::v4(1), port },
        "rr",
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_answered_when_every_worker_has_it() {
    let rig = Rig::start();
    for port in 1..20 {
        let generation = rig.add(port).await.unwrap();
        assert!(rig.generations().iter().all(|reached| *reached >= generation));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_steered_after_and_unsteered_before_the_workers_know() {
    let rig = Rig::start();
    rig.add(80).await.unwrap();
    rig.take_events();
    rig.add(81).await.unwrap();
    let events = rig.take_events();
    let taken = |ports: &[u16]| {
        let ports = ports.to_vec();
        move |event: &Event| matches!(event, Event::TakenOver { ports: p, .. } if *p == ports)
    };
    let last_taken = events.iter().rposition(taken(&[80, 81])).unwrap();
    let steered = events.iter().position(|e| *e == Event::Steered(vec![80, 81])).unwrap();
    assert!(steered > last_taken, "{events:?}");

    rig.delete(80).await;
    let events = rig.take_events();
    let first_taken = events.iter().position(taken(&[81])).unwrap();
    let steered = events.iter().position(|e| *e == Event::Steered(vec![81])).unwrap();
    assert!(steered < first_taken, "{events:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_panics_is_counted_told_and_started_again_with_fresh_devices() {
    let rig = Rig::start();
    rig.until(|report| report.all_running() && report.workers.len() == WORKERS).await;
    let generation = rig.add(80).await.unwrap();
    let opened = rig.hand.opened.load(Relaxed);
    let mut watched = rig.engine.watch();
    // While devices cannot be opened the daemon stays, says so, and takes changes.
    rig.hand.broken.store(true, Relaxed);
    rig.hand.panic.store(2, Relaxed);
    rig.until(|report| !report.all_running()).await;
    let failure = rig.engine.report().borrow().workers[1].last_failure.clone();
    assert_eq!(failure, "it panicked: told to");
    let later = rig.add(81).await.unwrap();
    assert!(later > generation);
    rig.hand.broken.store(false, Relaxed);
    rig.until(|report| report.all_running() && report.workers[1].restarts == 1).await;
    assert_eq!(rig.hand.opened.load(Relaxed), opened + 1);
    let generation = rig.add(82).await.unwrap();
    assert!(rig.generations().iter().all(|reached| *reached >= generation));
    let events = rig.take_events();
    assert!(events.contains(&Event::Steered(vec![80, 81, 82])), "{events:?}");
    // Whoever watches was told of each worker that stopped, why, and of each that works again.
    let mut told = Vec::new();
    while let Ok(happened) = watched.try_recv() {
        if let events::Event::Worker { worker, running, restarts, failure } = &happened.event {
            told.push((*worker, *running, *restarts, failure.clone()));
        }
    }
    for worker in [0, 1, 2] {
        let of_it: Vec<_> = told.iter().filter(|(number, ..)| *number == worker).collect();
        let failure = if worker == 1 { "it panicked: told to" } else { "" };
        let stopped = (worker, false, 0, failure.to_owned());
        assert_eq!(of_it, [&stopped, &(worker, true, 1, failure.to_owned())]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_stuck_is_named_and_catches_up() {
    let rig = Rig::start();
    rig.add(80).await.unwrap();
    rig.hand.stuck.store(true, Relaxed);
    let refused = rig.add(81).await.unwrap_err();
    assert!(matches!(refused, EngineError::WorkersLate { .. }), "{refused}");
    rig.hand.stuck.store(false, Relaxed);
    let generation = rig.add(82).await.unwrap();
    assert!(rig.generations().iter().all(|reached| *reached >= generation));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_network_reaches_the_workers() {
    let rig = Rig::start();
    let before = rig.add(80).await.unwrap();
    let interface = dataplane::director::network::Interface {
        device: dataplane::verdict::DeviceId(0),
        name: "sim0".to_owned(),
        index: 1,
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        addrs: vec![],
    };
    rig.network.send(Network { interfaces: vec![interface], ..Network::default() }).unwrap();
    let arrived = || {
        let state = rig.engine.lock();
        let known = state.director.network().interfaces.len() == 1;
        known.then(|| state.director.generation()).filter(|generation| *generation > before)
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            if let Some(generation) = arrived()
                && rig.generations().iter().all(|reached| *reached >= generation)
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_every_worker() {
    let rig = Rig::start();
    rig.add(80).await.unwrap();
    rig.stop.send(true).unwrap();
    let mut fleet = rig.publisher.await.unwrap();
    fleet.stop();
    assert!(fleet.report().workers.iter().all(|w| !w.running && w.last_failure.is_empty()));
}
