//! The ordinary way and the long way, side by side: whatever the packets, two pipelines of which
//! one never takes the ordinary way send the same octets, and end with the same flows and counters.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::{
    director::{
        Director,
        network::{Interface, Neighbour, Network, Route},
        spec::{RealSpec, ServiceKey, ServiceSpec},
    },
    endpoint::Method,
    flow::{FlowView, HashKey, Pages, TableConfig},
    packet::HEADROOM,
    stats::Stats,
    wire::{
        checksum::{Sum, pseudo},
        protocol,
    },
};

/// A load balancer with one worker.
struct Side {
    pipeline: Pipeline,
    flows: Arc<FlowTable>,
    stats: Stats,
}

/// The services: method, port, whether flows hang on a template, whether every port is taken.
const SERVICES: [(Method, u16, bool); 5] = [
    (Method::Nat, 80, false),
    (Method::Dr, 81, false),
    (Method::Ipip, 82, false),
    (Method::Nat, 83, true),
    (Method::Nat, 0, false),
];

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

fn network() -> Network {
    let interface = |device: u8, addrs: [(&str, u8); 2]| Interface {
        device: DeviceId(device),
        name: format!("if{device}"),
        index: u32::from(device) + 1,
        mac: [2, 0, 0, 0, device, 1],
        mtu: 600,
        addrs: addrs.map(|(a, length)| (addr(a), length)).to_vec(),
    };
    let route = |prefix: (&str, u8), device, gateway: Option<&str>| Route {
        prefix: (addr(prefix.0), prefix.1),
        device: DeviceId(device),
        gateway: gateway.map(addr),
        source: None,
        metric: 0,
        mtu: None,
    };
    let neighbour = |device, at, last| Neighbour {
        device: DeviceId(device),
        addr: addr(at),
        mac: [2, 0, 0, 0, 9, last],
    };
    Network {
        interfaces: vec![
            interface(0, [("10.1.0.1", 24), ("fd01::1", 64)]),
            interface(1, [("10.2.0.1", 24), ("fd02::1", 64)]),
        ],
        routes: vec![
            route(("0.0.0.0", 0), 0, Some("10.1.0.254")),
            route(("10.2.0.0", 24), 1, None),
            route(("::", 0), 0, Some("fd01::fe")),
            route(("fd02::", 64), 1, None),
        ],
        neighbours: vec![
            neighbour(0, "10.1.0.254", 1),
            neighbour(0, "fd01::fe", 1),
            neighbour(1, "10.2.0.11", 11),
            neighbour(1, "fd02::11", 11),
        ],
        local: Vec::new(),
    }
}

fn side() -> Side {
    let endpoints = Arc::new(Endpoints::new(64));
    let stats = Stats::new(1, 64);
    let mut director = Director::new(Arc::clone(&endpoints), stats.clone());
    director.set_network(network());
    for (vip, real, protocol) in [
        ("10.0.0.1", "10.2.0.11", protocol::TCP),
        ("10.0.0.1", "10.2.0.11", protocol::UDP),
        ("fd00::1", "fd02::11", protocol::TCP),
        ("fd00::1", "fd02::11", protocol::UDP),
    ] {
        for (method, port, persistent) in SERVICES {
            let key = ServiceKey::Address { protocol, addr: addr(vip), port };
            let service = ServiceSpec {
                persistence_s: (persistent || port == 0).then_some(300),
                ..ServiceSpec::new(key, "rr")
            };
            director.add_service(&service).unwrap();
            let real = RealSpec::new(
                addr(real),
                if method == Method::Nat && port != 0 { 8000 + port } else { port },
                method,
            );
            director.add_real(&key, &real).unwrap();
        }
    }
    let hash_key = HashKey::from_seed(7);
    let config = TableConfig { pages: Pages::Small, ..TableConfig::new(1000, 1, hash_key) };
    let flows = Arc::new(FlowTable::new(&config).unwrap());
    let (resolve, _) = crossbeam_channel::bounded(16);
    let mut pipeline = Pipeline::new(Parts {
        table: flows.worker(0).unwrap(),
        flows: Arc::clone(&flows),
        endpoints,
        stats: Arc::clone(stats.worker(0)),
        resolve,
        seed: 1,
        answers_per_second: 1_000_000,
    });
    pipeline.adopt(Arc::new(director.compile()), Tick(100));
    Side { pipeline, flows, stats }
}

/// A packet as the stages before the last one leave it.
fn staged<'p, 'm, 't>(look: Look<'t>, packet: &'p mut Packet<'m>) -> Staged<'p, 'm, 't> {
    let (hash, checksum_at) = hash(&look, packet);
    let primary = look.prefetch(hash);
    let (mut probe, mut entry) = look.probe(hash, primary);
    if probe.needs_alternate() {
        (probe, entry) = look.probe_again(hash);
    }
    Staged { packet, hash, primary, probe, entry, checksum_at, ahead: None }
}

impl Side {
    /// What became of a frame: verdict, octets, own frames.
    fn pass(&mut self, frame: &[u8], now: Tick, long: bool) -> (Verdict, Vec<u8>, Vec<Vec<u8>>) {
        let mut memory = vec![0; 2048];
        memory[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
        let mut packets = [Packet::new(&mut memory, HEADROOM, HEADROOM + frame.len(), DeviceId(0))];
        if long {
            self.pipeline.with(now, |pipeline, cx| {
                let [packet] = &mut packets;
                if frame::parse(packet.bytes()).is_ok() {
                    pipeline.long_way(cx, &mut staged(cx.table.look(), packet));
                }
            });
            self.pipeline.table.quiesce();
        } else {
            self.pipeline.process(&mut packets, now);
        }
        let own = self.pipeline.outbox.frames().map(|(_, frame)| frame.to_vec()).collect();
        self.pipeline.outbox.clear();
        (packets[0].verdict, packets[0].bytes().to_vec(), own)
    }

    fn flows(&self) -> Vec<FlowView> {
        self.flows.flows(0).collect()
    }
}

/// A packet to be made.
#[derive(Clone, Debug)]
struct Made {
    v6: bool,
    udp: bool,
    /// Of the client or of the real server.
    reply: bool,
    service: usize,
    client: u8,
    flags: u8,
    ttl: u8,
    payload: usize,
    /// Octets behind the IP packet.
    padding: usize,
    /// Right, unfinished, none, wrong.
    checksum: u8,
    dont_fragment: bool,
}

fn made() -> impl Strategy<Value = Made> {
    let flags = prop_oneof![6 => Just(0x10u8), 2 => Just(0x02u8), 1 => any::<u8>()];
    let ttl = prop_oneof![8 => 2..=64u8, 1 => 0..=2u8];
    let payload = prop_oneof![6 => 0..40usize, 2 => 400..560usize, 1 => 500..700usize];
    let kinds = (any::<bool>(), any::<bool>(), any::<bool>(), 0..SERVICES.len(), 0..3u8);
    let rest = (0..8usize, prop_oneof![6 => Just(0u8), 1 => 1..4u8], any::<bool>());
    (kinds, flags, ttl, payload, rest).prop_map(
        |((v6, udp, reply, service, client), flags, ttl, payload, rest)| {
            let (padding, checksum, dont_fragment) = rest;
            Made {
                v6,
                udp,
                reply,
                service,
                client,
                flags,
                ttl,
                payload,
                padding,
                checksum,
                dont_fragment,
            }
        },
    )
}

impl Made {
    fn frame(&self) -> Vec<u8> {
        let (vip, real, client) = if self.v6 {
            (
                addr("fd00::1"),
                addr("fd02::11"),
                Addr::v6(addr("2001:db8::").bits() + u128::from(self.client)),
            )
        } else {
            (addr("10.0.0.1"), addr("10.2.0.11"), Addr::v4(0x0a09_0000 + u32::from(self.client)))
        };
        let (method, port, _) = SERVICES[self.service];
        let port = if port == 0 { 9000 } else { port };
        let real_port = if method == Method::Nat && port != 9000 { 8000 + port } else { port };
        let (from, to) = if self.reply {
            ((real, real_port), (client, 1025))
        } else {
            ((client, 1025), (vip, port))
        };
        let protocol = if self.udp { protocol::UDP } else { protocol::TCP };
        let mut segment = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
        segment.resize(if self.udp { 8 } else { 20 } + self.payload, 0x5a);
        let length = u16::try_from(segment.len()).unwrap();
        let at = if self.udp {
            segment[4..6].copy_from_slice(&length.to_be_bytes());
            6
        } else {
            segment[12..14].copy_from_slice(&[5 << 4, self.flags]);
            16
        };
        segment[at..at + 2].fill(0);
        let pseudo = pseudo(from.0, to.0, protocol, length.into());
        let checksum = match self.checksum {
            0 => Sum::of(&segment).plus(pseudo).udp_checksum(),
            1 => pseudo.fold(),
            2 => 0,
            _ => 0x1234,
        };
        segment[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0xfe];
        if self.v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([protocol, self.ttl]);
            frame.extend(from.0.bits().to_be_bytes());
            frame.extend(to.0.bits().to_be_bytes());
        } else {
            let mut header = vec![0x45, 0];
            header.extend((length + 20).to_be_bytes());
            header.extend([
                0,
                9,
                if self.dont_fragment { 0x40 } else { 0 },
                0,
                self.ttl,
                protocol,
                0,
                0,
            ]);
            header.extend(from.0.low32().to_be_bytes());
            header.extend(to.0.low32().to_be_bytes());
            let sum = Sum::of(&header).checksum();
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend([0x08, 0x00]);
            frame.extend(header);
        }
        frame.extend(segment);
        frame.resize(frame.len() + self.padding, 0);
        frame
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn the_ordinary_way_does_what_the_long_way_does(
        packets in proptest::collection::vec((made(), 0..3u32), 1..60),
    ) {
        let (mut ordinary, mut long) = (side(), side());
        let mut now = Tick(100);
        for (packet, passed) in &packets {
            now = now.plus(*passed);
            let frame = packet.frame();
            let expected = long.pass(&frame, now, true);
            prop_assert_eq!(ordinary.pass(&frame, now, false), expected, "{:?}", packet);
        }
        prop_assert_eq!(ordinary.flows(), long.flows());
        for id in 0..64 {
            let id = crate::endpoint::EndpointId(id);
            prop_assert_eq!(ordinary.stats.endpoint(id), long.stats.endpoint(id));
        }
    }
}

#[test]
fn data_of_an_established_flow_takes_the_ordinary_way() {
    let request = Made {
        v6: false,
        udp: false,
        reply: false,
        service: 0,
        client: 1,
        flags: 0x02,
        ttl: 64,
        payload: 10,
        padding: 0,
        checksum: 0,
        dont_fragment: true,
    };
    let reply = Made { reply: true, flags: 0x12, ..request.clone() };
    for v6 in [false, true] {
        for (service, (method, ..)) in SERVICES.iter().enumerate() {
            let mut it = side();
            let of = |made: &Made, flags| Made { v6, service, flags, ..made.clone() };
            it.pass(&of(&request, 0x02).frame(), Tick(100), false);
            let answered = method.translates();
            if answered {
                it.pass(&of(&reply, 0x12).frame(), Tick(100), false);
            }
            it.pass(&of(&request, 0x10).frame(), Tick(100), false);
            for made in [&request, &reply].into_iter().take(1 + usize::from(answered)) {
                let frame = of(made, 0x10).frame();
                let mut memory = vec![0; 2048];
                memory[HEADROOM..HEADROOM + frame.len()].copy_from_slice(&frame);
                let mut packet =
                    Packet::new(&mut memory, HEADROOM, HEADROOM + frame.len(), DeviceId(0));
                it.pipeline.with(Tick(101), |pipeline, cx| {
                    let ordinary = Ordinary::new(cx, false);
                    let mut staged = staged(ordinary.look, &mut packet);
                    let verdict = ordinary.take(&mut staged, &mut pipeline.next_id);
                    assert!(matches!(verdict, Some(Verdict::Tx(_))), "{v6} {service} {made:?}");
                });
            }
        }
    }
}
