//! Services over raw sockets: the kernels of client and server, the pipeline between them.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use xvs_dataplane::{
    addr::Addr,
    clock::SystemClock,
    director::{
        Director,
        network::{Interface, Neighbour, Network, Route},
        spec::{RealSpec, ServiceKey, ServiceSpec},
    },
    endpoint::{Endpoints, Method},
    flow::{FlowTable, HashKey, Pages, TableConfig},
    io::raw::RawIo,
    pipeline::{Parts, Pipeline},
    stats::Stats,
    verdict::DeviceId,
    worker::{Worker, WorkerLink},
};

use crate::{
    rig::{CLIENT, FIRST, LEFT, PATIENCE, RIGHT, Rig, SECOND, SERVER},
    stream,
};

/// Addresses of one family: the client's link is 1, the server's 2.
#[derive(Clone, Copy)]
struct Plan {
    v6: bool,
}

impl Plan {
    fn addr(self, link: u8, last: u8) -> IpAddr {
        let text =
            if self.v6 { format!("fd00:{link}::{last}") } else { format!("10.{link}.0.{last}") };
        text.parse().unwrap()
    }

    fn vip(self) -> IpAddr {
        self.addr(1, 100)
    }

    fn length(self) -> u8 {
        if self.v6 { 64 } else { 24 }
    }

    /// Gives the kernels their addresses. The box's own kernel has one for the server's link, so
    /// that it answers for the server's router, and does not know the VIP: it stays quiet.
    fn configure(self, rig: &Rig) {
        let nodad = if self.v6 { "nodad" } else { "" };
        let add = |link, last| {
            format!("addr add {}/{} {nodad} dev", self.addr(link, last), self.length())
        };
        rig.client.ip(&format!("{} c0", add(1, 2)));
        rig.server.ip(&format!("{} s0", add(2, 2)));
        rig.lb.ip(&format!("{} l1", add(2, 1)));
        let mac = LEFT.map(|octet| format!("{octet:02x}")).join(":");
        rig.client.ip(&format!("neigh add {} lladdr {mac} dev c0 nud permanent", self.vip()));
        let family = if self.v6 { "-6" } else { "-4" };
        rig.server.ip(&format!("{family} route add default via {} dev s0", self.addr(2, 1)));
    }

    fn network(self) -> Network {
        let interface = |device, name: &str, mac, link| Interface {
            device,
            name: name.to_owned(),
            index: 0,
            mac,
            mtu: 1500,
            addrs: vec![(self.addr(link, 1).into(), self.length())],
        };
        let route = |device, link| Route {
            prefix: (self.addr(link, 0).into(), self.length()),
            device,
            gateway: None,
            source: None,
            metric: 0,
            mtu: None,
        };
        let neighbour =
            |device, link, mac| Neighbour { device, addr: self.addr(link, 2).into(), mac };
        Network {
            interfaces: vec![interface(FIRST, "l0", LEFT, 1), interface(SECOND, "l1", RIGHT, 2)],
            routes: vec![route(FIRST, 1), route(SECOND, 2)],
            neighbours: vec![neighbour(FIRST, 1, CLIENT), neighbour(SECOND, 2, SERVER)],
            ..Network::default()
        }
    }

    /// Workers with one service: VIP port 80 to the server's port.
    fn workers(self, ios: Vec<RawIo>, stats: &Stats, stop: &Arc<AtomicBool>) -> Vec<Running> {
        let endpoints = Arc::new(Endpoints::new(16));
        let mut config = TableConfig::new(1024, ios.len(), HashKey::from_seed(1));
        config.pages = Pages::Small;
        let flows = Arc::new(FlowTable::new(&config).unwrap());
        let mut director = Director::new(Arc::clone(&endpoints), stats.clone());
        director.set_network(self.network());
        let key = ServiceKey::Address { protocol: 6, addr: self.vip().into(), port: 80 };
        director.add_service(&ServiceSpec::new(key, "rr")).unwrap();
        director
            .add_real(&key, &RealSpec::new(Addr::from(self.addr(2, 2)), 8080, Method::Nat))
            .unwrap();
        let snapshot = Arc::new(director.compile());
        let worker = |(number, io): (usize, RawIo)| {
            let pipeline = Pipeline::new(Parts {
                table: flows.worker(number).unwrap(),
                flows: Arc::clone(&flows),
                endpoints: Arc::clone(&endpoints),
                stats: Arc::clone(stats.worker(number)),
                resolve: crossbeam_channel::bounded::<(DeviceId, Addr)>(16).0,
                seed: 1,
                answers_per_second: 1000,
            });
            let (sender, incoming) = crossbeam_channel::bounded(1);
            sender.send(Arc::clone(&snapshot)).unwrap();
            let (retired, _) = crossbeam_channel::bounded(1);
            let link = WorkerLink { incoming, retired, stop: Arc::clone(stop) };
            Worker::new(io, SystemClock, pipeline, link, Duration::ZERO)
        };
        ios.into_iter().enumerate().map(worker).collect()
    }
}

type Running = Worker<RawIo, SystemClock>;

/// Tells the workers to stop however a test ends.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A stream to the server and back through the service.
fn exchange(plan: Plan) {
    let Some(rig) = Rig::new() else { return };
    plan.configure(&rig);
    let stats = Stats::new(2, 16);
    let stop = Arc::<AtomicBool>::default();
    let mut workers = plan.workers(rig.open(2), &stats, &stop);
    let sent = stream(4 << 20);
    thread::scope(|scope| {
        let guard = Stop(stop);
        for worker in &mut workers {
            scope.spawn(|| worker.run().unwrap());
        }
        let listener = rig.server.inside(|| TcpListener::bind((plan.addr(2, 2), 8080)).unwrap());
        let mut client = rig.client.inside(|| TcpStream::connect((plan.vip(), 80)).unwrap());
        let (mut server, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), plan.addr(1, 2), "the server sees the client");
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let echo = scope.spawn(move || {
            let mut all = Vec::new();
            server.read_to_end(&mut all).unwrap();
            server.write_all(&all).unwrap();
        });
        client.write_all(&sent).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        assert!(received == sent, "the stream came back changed");
        echo.join().unwrap();
        drop(guard);
    });
    for worker in stats.workers() {
        for device in &worker.devices {
            assert_eq!(device.dropped_total(), 0, "{device:?}");
        }
    }
}

#[test]
fn nat_carries_streams_between_kernels_with_all_offloads_on() {
    for v6 in [false, true] {
        exchange(Plan { v6 });
    }
}
