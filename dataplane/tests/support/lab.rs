//! A director and one worker over simulated links, with the network of the recordings: clients
//! behind 10.1.0.254 on device 0, real servers 10.2.0.11 to .13 on device 1.

use std::{net::IpAddr, sync::Arc, time::Duration};

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use xvs_dataplane::{
    addr::Addr,
    clock::{ManualClock, Tick},
    director::{
        Director,
        spec::{RealSpec, ServiceKey, ServiceSpec, TunnelSpec},
    },
    endpoint::{Endpoints, Method},
    flow::{FlowTable, HashKey, Pages, TableConfig},
    io::sim::SimIo,
    pipeline::{Parts, Pipeline},
    service::Snapshot,
    stats::Stats,
    verdict::{DeviceId, DropReason},
    worker::{Worker, WorkerLink},
};

use super::network::{BACKEND, CLIENT, OWN, ROUTER, addr, network};

/// A director and one worker.
pub(crate) struct Lab {
    pub(crate) director: Director,
    pub(crate) worker: Worker<SimIo, ManualClock>,
    snapshots: crossbeam_channel::Sender<Arc<Snapshot>>,
    pub(crate) stats: Stats,
    pub(crate) flows: Arc<FlowTable>,
    pub(crate) wanted: crossbeam_channel::Receiver<(DeviceId, Addr)>,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let endpoints = Arc::new(Endpoints::new(128));
        let stats = Stats::new(1, 128);
        let mut config = TableConfig::new(2048, 1, HashKey::from_seed(1));
        config.pages = Pages::Small;
        let flows = Arc::new(FlowTable::new(&config).unwrap());
        let (resolve, wanted) = crossbeam_channel::bounded(16);
        let pipeline = Pipeline::new(Parts {
            table: flows.worker(0).unwrap(),
            flows: Arc::clone(&flows),
            endpoints: Arc::clone(&endpoints),
            stats: Arc::clone(stats.worker(0)),
            resolve,
            seed: 1,
            answers_per_second: 1000,
        });
        let (snapshots, incoming) = crossbeam_channel::bounded(4);
        let (retired, _) = crossbeam_channel::bounded(4);
        let link = WorkerLink { incoming, retired, stop: Arc::default() };
        let io = SimIo::new(&[1500, 1500], 256);
        let worker = Worker::new(io, ManualClock::default(), pipeline, link, Duration::ZERO);
        let mut director = Director::new(endpoints, stats.clone());
        director.set_network(network());
        Self { director, worker, snapshots, stats, flows, wanted }
    }

    pub(crate) fn with(method: Method, vip: &str, reals: &[&str], port: u16) -> Self {
        let mut it = Self::new();
        let key = ServiceKey::Address { protocol: 6, addr: addr(vip), port: 80 };
        it.director.add_service(&ServiceSpec::new(key, "rr")).unwrap();
        for real in reals {
            it.director
                .add_real(
                    &key,
                    &RealSpec {
                        tunnel: TunnelSpec { port: 6080, ..TunnelSpec::default() },
                        ..RealSpec::new(addr(real), port, method)
                    },
                )
                .unwrap();
        }
        it.publish();
        it
    }

    /// What control does every two seconds.
    pub(crate) fn reap(&mut self, now: Tick) {
        let generation = self.director.generation();
        self.director.reap(now, generation);
    }

    pub(crate) fn publish(&mut self) {
        self.snapshots.send(Arc::new(self.director.compile())).unwrap();
        self.worker.turn().unwrap();
    }

    /// Sends a frame in and returns what came out.
    pub(crate) fn pass(&mut self, device: DeviceId, frame: &[u8]) -> Vec<(DeviceId, Vec<u8>)> {
        assert!(self.worker.io_mut().push(device, frame));
        self.worker.turn().unwrap();
        let io = self.worker.io_mut();
        let mut out = Vec::new();
        for device in [CLIENT, BACKEND] {
            while let Some(frame) = io.take(device) {
                out.push((device, frame));
            }
        }
        out
    }

    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.stats.worker(0).devices.iter().map(|d| d.dropped[reason as usize].get()).sum()
    }
}

/// A TCP frame from a client or a real server.
pub(crate) fn tcp(from: (&str, u16), to: (&str, u16), flags: &str, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(ROUTER, OWN[0]);
    let builder = match (addr(from.0).to_ip(), addr(to.0).to_ip()) {
        (IpAddr::V4(s), IpAddr::V4(d)) => builder.ipv4(s.octets(), d.octets(), 64),
        (IpAddr::V6(s), IpAddr::V6(d)) => builder.ipv6(s.octets(), d.octets(), 64),
        _ => unreachable!("one family"),
    };
    let mut builder = builder.tcp(from.1, to.1, 1000, 64_240);
    for flag in flags.chars() {
        builder = match flag {
            'S' => builder.syn(),
            'A' => builder.ack(5000),
            'F' => builder.fin(),
            'R' => builder.rst(),
            _ => unreachable!("flags are SAFR"),
        };
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// Addresses, ports and link addresses of a TCP frame whose checksums must be right.
pub(crate) fn read(frame: &[u8]) -> (String, String, [u8; 6], u8) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("no TCP: {sliced:?}") };
    let (source, destination, ttl) = match sliced.net.as_ref().unwrap() {
        etherparse::NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum);
            let sum = tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination());
            assert_eq!(sum.unwrap(), tcp.checksum());
            let h = ip.header();
            (IpAddr::V4(h.source_addr()), IpAddr::V4(h.destination_addr()), h.ttl())
        }
        etherparse::NetSlice::Ipv6(ip) => {
            let h = ip.header();
            let sum = tcp.calc_checksum_ipv6(h.source(), h.destination());
            assert_eq!(sum.unwrap(), tcp.checksum());
            let (s, d) = (h.source_addr(), h.destination_addr());
            (IpAddr::V6(s), IpAddr::V6(d), h.hop_limit())
        }
        _ => panic!("no IP"),
    };
    let name = |ip: IpAddr, port| format!("{ip} {port}");
    (
        name(source, tcp.source_port()),
        name(destination, tcp.destination_port()),
        frame[..6].try_into().unwrap(),
        ttl,
    )
}
