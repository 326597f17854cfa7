//! Packets through a worker over simulated links, with the network of the recordings:
//! clients behind 10.1.0.254 on device 0, real servers 10.2.0.N on device 1. Frames are built and
//! judged by etherparse.

use std::{net::IpAddr, sync::Arc, time::Duration};

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

use super::*;
use crate::{
    clock::ManualClock,
    director::{
        Director,
        network::{Interface, Neighbour, Network, Route},
        spec::{RealSpec, ServiceKey, ServiceSpec, TunnelSpec},
    },
    endpoint::Method,
    flow::{HashKey, Pages, TableConfig},
    io::sim::SimIo,
    sched::SchedFlags,
    stats::Stats,
    worker::{Worker, WorkerLink},
};

const CLIENT: DeviceId = DeviceId(0);
const BACKEND: DeviceId = DeviceId(1);
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
const OWN: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 1, 1]];

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

fn real_mac(last: u8) -> [u8; 6] {
    [2, 0, 0, 0, 2, last]
}

fn network() -> Network {
    let interface = |device: u8, addrs: [(&str, u8); 2]| Interface {
        device: DeviceId(device),
        name: format!("if{device}"),
        index: u32::from(device) + 1,
        mac: OWN[usize::from(device)],
        mtu: 1500,
        addrs: addrs.map(|(a, length)| (addr(a), length)).to_vec(),
    };
    let route = |prefix: &str, length, device, gateway: Option<&str>| Route {
        prefix: (addr(prefix), length),
        device: DeviceId(device),
        gateway: gateway.map(addr),
        source: None,
        metric: 0,
        mtu: None,
    };
    let mut neighbours = vec![
        Neighbour { device: CLIENT, addr: addr("10.1.0.254"), mac: ROUTER },
        Neighbour { device: CLIENT, addr: addr("fd01::fe"), mac: ROUTER },
    ];
    for last in 11..=13u8 {
        let mac = real_mac(last);
        neighbours.push(Neighbour { device: BACKEND, addr: addr(&format!("10.2.0.{last}")), mac });
        neighbours.push(Neighbour { device: BACKEND, addr: addr(&format!("fd02::{last}")), mac });
    }
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
        neighbours,
    }
}

/// A director and one worker.
struct Box1 {
    director: Director,
    worker: Worker<SimIo, ManualClock>,
    snapshots: crossbeam_channel::Sender<Arc<Snapshot>>,
    stats: Stats,
    wanted: crossbeam_channel::Receiver<(DeviceId, Addr)>,
}

impl Box1 {
    fn new() -> Self {
        let endpoints = Arc::new(Endpoints::new(128));
        let stats = Stats::new(1, 128);
        let mut config = TableConfig::new(1024, 1, HashKey::from_seed(1));
        config.pages = Pages::Small;
        let flows = Arc::new(FlowTable::new(&config).unwrap());
        let (resolve, wanted) = crossbeam_channel::bounded(16);
        let pipeline = Pipeline::new(Parts {
            table: flows.worker(0).unwrap(),
            flows,
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
        Self { director, worker, snapshots, stats, wanted }
    }

    fn with(method: Method, vip: &str, reals: &[&str], port: u16) -> Self {
        let mut it = Self::new();
        let key = ServiceKey::Address { protocol: 6, addr: addr(vip), port: 80 };
        it.director
            .add_service(&ServiceSpec {
                key,
                scheduler: "rr".to_owned(),
                flags: SchedFlags::default(),
                persistence_s: None,
                netmask: if addr(vip).is_v4() { u32::MAX } else { 128 },
                one_packet: false,
                engine: None,
            })
            .unwrap();
        for real in reals {
            it.director
                .add_real(
                    &key,
                    &RealSpec {
                        addr: addr(real),
                        port,
                        method,
                        tunnel: TunnelSpec::default(),
                        weight: 1,
                        upper: 0,
                        lower: 0,
                    },
                )
                .unwrap();
        }
        it.publish();
        it
    }

    fn publish(&mut self) {
        self.snapshots.send(Arc::new(self.director.compile())).unwrap();
        self.worker.turn().unwrap();
    }

    /// Sends a frame in and returns what came out.
    fn pass(&mut self, device: DeviceId, frame: &[u8]) -> Vec<(DeviceId, Vec<u8>)> {
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

    fn dropped(&self, reason: DropReason) -> u64 {
        self.stats.worker(0).devices.iter().map(|d| d.dropped[reason as usize].get()).sum()
    }
}

/// A TCP frame from a client or a real server.
fn tcp(from: (&str, u16), to: (&str, u16), flags: &str, payload: &[u8]) -> Vec<u8> {
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
fn read(frame: &[u8]) -> (String, String, [u8; 6], u8) {
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

#[test]
fn nat_rewrites_there_and_back() {
    for (vip, real, client, last) in
        [("10.0.0.1", "10.2.0.11", "10.9.0.7", 11), ("fd00::1", "fd02::11", "2001:db8:9::7", 11)]
    {
        let mut it = Box1::with(Method::Nat, vip, &[real], 8080);
        let out = it.pass(CLIENT, &tcp((client, 1025), (vip, 80), "S", b""));
        assert_eq!(out.len(), 1, "{vip}");
        assert_eq!(out[0].0, BACKEND);
        let (source, destination, mac, ttl) = read(&out[0].1);
        assert_eq!((source, destination), (format!("{client} 1025"), format!("{real} 8080")));
        assert_eq!((mac, ttl), (real_mac(last), 63));
        let out = it.pass(BACKEND, &tcp((real, 8080), (client, 1025), "SA", b""));
        assert_eq!(out[0].0, CLIENT);
        let (source, destination, mac, _) = read(&out[0].1);
        assert_eq!((source, destination), (format!("{vip} 80"), format!("{client} 1025")));
        assert_eq!(mac, ROUTER);
        let listed = it.director.services();
        let real = &listed[0].reals[0];
        assert_eq!((real.active, real.inactive, real.counters.conns), (1, 0, 1));
        assert_eq!((real.counters.in_packets, real.counters.out_packets), (1, 1));
    }
}

#[test]
fn two_packets_of_one_new_flow_in_a_burst_meet_one_flow() {
    let mut it = Box1::with(Method::Nat, "10.0.0.1", &["10.2.0.11", "10.2.0.12"], 80);
    let syn = tcp(("10.9.0.7", 1025), ("10.0.0.1", 80), "S", b"");
    it.worker.io_mut().push(CLIENT, &syn);
    let out = it.pass(CLIENT, &syn);
    assert_eq!(out.len(), 2);
    assert_eq!(read(&out[0].1), read(&out[1].1));
    assert_eq!(it.director.services()[0].counters.conns, 1);
}

#[test]
fn dr_changes_link_addresses_only() {
    let mut it = Box1::with(Method::Dr, "10.0.0.1", &["10.2.0.11"], 80);
    let syn = tcp(("10.9.0.7", 1025), ("10.0.0.1", 80), "S", b"");
    let out = it.pass(CLIENT, &syn);
    assert_eq!(out[0].0, BACKEND);
    assert_eq!(out[0].1[..6], real_mac(11));
    assert_eq!(out[0].1[34..], syn[34..], "the TCP segment is untouched");
}

#[test]
fn ipip_wraps_the_packet_whole() {
    let mut it = Box1::with(Method::Ipip, "10.0.0.1", &["fd02::11"], 80);
    let syn = tcp(("10.9.0.7", 1025), ("10.0.0.1", 80), "S", b"");
    let out = it.pass(CLIENT, &syn);
    let frame = &out[0].1;
    assert_eq!(frame.len(), syn.len() + 40);
    assert_eq!(&frame[12..14], [0x86, 0xdd]);
    assert_eq!(frame[20], 4, "the next header is IPv4");
    assert_eq!(frame[54 + 20..], syn[34..]);
}

#[test]
fn an_unfinished_checksum_is_finished() {
    let mut it = Box1::with(Method::Nat, "10.0.0.1", &["10.2.0.11"], 8080);
    let mut syn = tcp(("10.9.0.7", 1025), ("10.0.0.1", 80), "S", b"some data");
    let length = u32::try_from(syn.len() - 34).unwrap();
    let pseudo =
        crate::wire::checksum::pseudo(addr("10.9.0.7"), addr("10.0.0.1"), 6, length).fold();
    syn[50..52].copy_from_slice(&pseudo.to_be_bytes());
    let out = it.pass(CLIENT, &syn);
    read(&out[0].1);
}

#[test]
fn a_service_without_real_servers_answers_port_unreachable() {
    let mut it = Box1::with(Method::Nat, "10.0.0.1", &[], 80);
    let out = it.pass(CLIENT, &tcp(("10.9.0.7", 1025), ("10.0.0.1", 80), "S", b""));
    assert_eq!((out.len(), out[0].0), (1, CLIENT));
    assert_eq!(&out[0].1[34..36], [3, 3]);
    assert_eq!(it.dropped(DropReason::NoRealServer), 1);
}

#[test]
fn a_stray_segment_is_reset_and_a_reset_is_not() {
    let mut it = Box1::with(Method::Nat, "10.0.0.1", &["10.2.0.11"], 80);
    let out = it.pass(CLIENT, &tcp(("10.9.0.7", 1025), ("10.0.0.1", 80), "A", b""));
    let (source, destination, ..) = read(&out[0].1);
    assert_eq!((source.as_str(), destination.as_str()), ("10.0.0.1 80", "10.9.0.7 1025"));
    assert_eq!(out[0].1[47], 4, "flags: RST");
    assert!(it.pass(CLIENT, &tcp(("10.9.0.7", 1026), ("10.0.0.1", 80), "R", b"")).is_empty());
}

#[test]
fn what_is_not_for_a_service_goes_to_the_host() {
    let mut it = Box1::with(Method::Nat, "10.0.0.1", &["10.2.0.11"], 80);
    assert!(it.pass(CLIENT, &tcp(("10.9.0.7", 1025), ("10.0.0.1", 22), "S", b"")).is_empty());
    assert!(it.worker.io_mut().take_host().is_some());
    assert_eq!(it.stats.worker(0).devices[0].host.get(), 1);
}

#[test]
fn a_removed_real_servers_flows_are_dropped_until_it_returns() {
    let mut it = Box1::with(Method::Nat, "10.0.0.1", &["10.2.0.11"], 8080);
    let key = it.director.services()[0].spec.key;
    let spec = it.director.services()[0].reals[0].spec;
    it.pass(CLIENT, &tcp(("10.9.0.7", 1025), ("10.0.0.1", 80), "S", b""));
    it.director.delete_real(&key, spec.addr, spec.port).unwrap();
    it.publish();
    let ack = tcp(("10.9.0.7", 1025), ("10.0.0.1", 80), "A", b"");
    assert!(it.pass(CLIENT, &ack).is_empty());
    assert_eq!(it.dropped(DropReason::NoDestination), 1);
    let reply = tcp(("10.2.0.11", 8080), ("10.9.0.7", 1025), "SA", b"");
    assert_eq!(it.pass(BACKEND, &reply).len(), 1, "replies are still translated");
    it.director.add_real(&key, &spec).unwrap();
    it.publish();
    assert_eq!(it.pass(CLIENT, &ack).len(), 1);
}

#[test]
fn a_reply_waits_for_the_clients_link_address() {
    let mut it = Box1::with(Method::Nat, "10.0.0.1", &["10.2.0.11"], 8080);
    it.pass(CLIENT, &tcp(("10.1.0.9", 1025), ("10.0.0.1", 80), "S", b""));
    assert_eq!(it.wanted.try_recv(), Ok((CLIENT, addr("10.1.0.9"))));
    let reply = tcp(("10.2.0.11", 8080), ("10.1.0.9", 1025), "SA", b"");
    assert!(it.pass(BACKEND, &reply).is_empty());
    let mut known = network();
    known.neighbours.push(Neighbour { device: CLIENT, addr: addr("10.1.0.9"), mac: [6; 6] });
    it.director.set_network(known);
    it.publish();
    let frame = it.worker.io_mut().take(CLIENT).expect("the reply leaves with the new snapshot");
    let (source, _, mac, _) = read(&frame);
    assert_eq!((source.as_str(), mac), ("10.0.0.1 80", [6; 6]));
}

#[test]
fn flows_expire_and_leave_no_load_behind() {
    let mut it = Box1::with(Method::Nat, "10.0.0.1", &["10.2.0.11"], 8080);
    for port in 1000..1100 {
        it.pass(CLIENT, &tcp(("10.9.0.7", port), ("10.0.0.1", 80), "S", b""));
    }
    assert_eq!(it.director.services()[0].reals[0].active, 100);
    for second in 1..=63 {
        it.worker.clock().set_nanos(second * 1_000_000_000);
        for _ in 0..4 {
            it.worker.turn().unwrap();
        }
        let left = it.director.services()[0].reals[0].active;
        assert!(second >= 60 || left == 100, "{left} left after {second} s");
    }
    let real = it.director.services()[0].reals[0];
    assert_eq!((real.active, real.inactive), (0, 0));
}
