//! No allocation per packet: a counting allocator watches the pipeline over every kind of packet.
#![expect(clippy::unwrap_used, reason = "a failed set-up ends the test")]
#![expect(unsafe_code, reason = "a global allocator is an unsafe trait")]

mod support {
    pub(crate) mod network;
}

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::Arc,
};

use etherparse::PacketBuilder;
use support::network::{addr, network};
use xvs_dataplane::{
    capture::{Capture, Filter},
    clock::Tick,
    director::{
        Director,
        spec::{RealSpec, ServiceKey, ServiceSpec, TunnelSpec},
    },
    endpoint::{Endpoints, Method},
    flow::{FlowTable, HashKey, Pages, TableConfig},
    packet::{HEADROOM, Packet},
    pipeline::{Parts, Pipeline},
    sched::Scheduler,
    stats::Stats,
    verdict::{DeviceId, DropReason, Verdict},
};

/// Counts what this thread asks for.
struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator unchanged; the count is a
// thread-local cell that needs no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps to the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps to the contract of `dealloc`; `alloc` above is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A pipeline with one service for each of these ports: protocol, port, method, scheduler.
fn pipeline(services: &[(u8, u16, Method, &str)]) -> Pipeline {
    let endpoints = Arc::new(Endpoints::new(256));
    let stats = Stats::new(1, 256);
    let mut director = Director::new(Arc::clone(&endpoints), stats.clone());
    director.set_network(network());
    for &(protocol, port, method, scheduler) in services {
        let key = ServiceKey::Address { protocol, addr: addr("10.0.0.1"), port };
        let calls = port == 5060;
        director
            .add_service(&ServiceSpec {
                persistence_s: calls.then_some(60),
                one_packet: calls,
                engine: calls.then(|| "sip".to_owned()),
                ..ServiceSpec::new(key, scheduler)
            })
            .unwrap();
        for real in ["10.2.0.11", "10.2.0.12"] {
            let spec = RealSpec {
                tunnel: TunnelSpec { port: 6080, ..TunnelSpec::default() },
                ..RealSpec::new(addr(real), port, method)
            };
            director.add_real(&key, &spec).unwrap();
        }
    }
    let mut config = TableConfig::new(50_000, 1, HashKey::from_seed(7));
    config.pages = Pages::Small;
    let flows = Arc::new(FlowTable::new(&config).unwrap());
    let (resolve, _) = crossbeam_channel::bounded(16);
    let mut pipeline = Pipeline::new(Parts {
        table: flows.worker(0).unwrap(),
        flows,
        endpoints,
        stats: Arc::clone(stats.worker(0)),
        resolve,
        seed: 3,
        answers_per_second: 1_000_000,
    });
    drop(pipeline.adopt(Arc::new(director.compile()), Tick(0)));
    pipeline
}

/// Lends `frame` to the pipeline; returns the verdict and how often memory was asked for.
fn pass(pipeline: &mut Pipeline, frame: &[u8], now: Tick) -> (Verdict, u64) {
    let mut memory = [0u8; 2048];
    let end = HEADROOM + frame.len();
    memory[HEADROOM..end].copy_from_slice(frame);
    let before = COUNT.with(Cell::get);
    let mut burst = [Packet::new(&mut memory, HEADROOM, end, DeviceId(0))];
    pipeline.process(&mut burst, now);
    pipeline.housekeep(now, 4096);
    let verdict = burst[0].verdict;
    pipeline.outbox_mut().clear();
    (verdict, COUNT.with(Cell::get) - before)
}

fn tcp(client: u32, port: u16, to: u16, syn: bool) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4((0x0b00_0000 + client).to_be_bytes(), [10, 0, 0, 1], 64)
        .tcp(port, to, 1, 1000);
    let builder = if syn { builder.syn() } else { builder.ack(1) };
    let mut frame = Vec::new();
    builder.write(&mut frame, b"data").unwrap();
    frame
}

#[test]
fn no_packet_asks_for_memory() {
    let services: Vec<_> = Scheduler::NAMES
        .iter()
        .zip([Method::Nat, Method::Dr, Method::Ipip, Method::Gue, Method::Gre].iter().cycle())
        .zip(80u16..)
        .map(|((name, method), port)| (6, port, *method, *name))
        .chain([(17, 53, Method::Nat, "rr")])
        .collect();
    let mut pipeline = pipeline(&services);
    let ports: Vec<u16> = services.iter().map(|s| s.1).filter(|&p| p >= 80).collect();
    let mut sent = 0;
    for round in 0..3u32 {
        for client in 0..600u32 {
            let to = ports[client as usize % ports.len()];
            let now = Tick(round * 16 + client / 64);
            for syn in [true, false, false] {
                let (verdict, asked) =
                    pass(&mut pipeline, &tcp(client + round * 1000, 1024, to, syn), now);
                assert_eq!(asked, 0, "port {to}, syn {syn}: {verdict:?}");
                sent += u32::from(matches!(verdict, Verdict::Tx(_)));
            }
        }
    }
    // ovf fills up and answers; all others are sent on.
    assert!(sent > 4500, "{sent} of 5400 were sent on");
}

#[test]
fn nothing_else_asks_for_memory_either() {
    let mut pipeline = pipeline(&[(6, 80, Method::Nat, "rr"), (17, 53, Method::Ipip, "rr")]);
    let now = Tick(5);
    let stray = tcp(1, 1, 80, false);
    let other = tcp(1, 1, 22, true);
    let mut ping = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([11, 0, 0, 1], [10, 0, 0, 1], 64)
        .icmpv4_echo_request(1, 2)
        .write(&mut ping, b"ping")
        .unwrap();
    let mut bad = stray.clone();
    bad[24] ^= 1;
    for (frame, want) in [
        (&stray, Verdict::Consumed),
        (&other, Verdict::Host),
        (&ping, Verdict::Consumed),
        (&bad, Verdict::Drop(DropReason::BadHeaderChecksum)),
        (&stray[..20].to_vec(), Verdict::Drop(DropReason::Truncated)),
    ] {
        assert_eq!(pass(&mut pipeline, frame, now), (want, 0));
    }
    // A datagram in two fragments, of which each could be the one that completes it.
    let mut datagram = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([11, 0, 0, 1], [10, 0, 0, 1], 64)
        .udp(5000, 53)
        .write(&mut datagram, &[7; 1000])
        .unwrap();
    for order in [[0, 1], [1, 0]] {
        let id = order[0] + 1;
        for at in order {
            let fragment = fragment(&datagram, at, id);
            let (verdict, asked) = pass(&mut pipeline, &fragment, now);
            assert_eq!((verdict, asked), (Verdict::Consumed, 0));
        }
    }
}

#[test]
fn no_call_asks_for_memory() {
    let mut pipeline = pipeline(&[(17, 5060, Method::Nat, "rr")]);
    for round in 0..3u32 {
        for call in 0..300 {
            let mut frame = Vec::new();
            let message = format!("INVITE x SIP/2.0\r\nCall-ID: {call}@10.9.0.7\r\n\r\n");
            PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv4([11, 0, 0, 1], [10, 0, 0, 1], 64)
                .udp(5060, 5060)
                .write(&mut frame, message.as_bytes())
                .unwrap();
            let (verdict, asked) = pass(&mut pipeline, &frame, Tick(round * 16));
            assert_eq!((verdict, asked), (Verdict::Tx(DeviceId(1)), 0));
        }
    }
}

/// The first 512 octets of a datagram's data, or the rest.
fn fragment(datagram: &[u8], at: u8, id: u8) -> Vec<u8> {
    let data = if at == 0 { &datagram[34..34 + 512] } else { &datagram[34 + 512..] };
    let mut frame = datagram[..34].to_vec();
    let field: u16 = if at == 0 { 0x2000 } else { 64 };
    frame[16..18].copy_from_slice(&u16::try_from(20 + data.len()).unwrap().to_be_bytes());
    frame[18..20].copy_from_slice(&[0, id]);
    frame[20..22].copy_from_slice(&field.to_be_bytes());
    frame[24..26].fill(0);
    let sum =
        frame[14..34].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame.extend_from_slice(data);
    frame
}

#[test]
fn no_packet_that_is_captured_asks_for_memory() {
    let mut pipeline = pipeline(&[(6, 80, Method::Nat, "rr")]);
    let filter = Filter { ends: [(None, Some(80))].into_iter().collect(), ..Filter::default() };
    let capture = Capture::new(filter, 100);
    let frame = tcp(1, 1024, 80, true);
    let mut memory = [0u8; 2048];
    let end = HEADROOM + frame.len();
    memory[HEADROOM..end].copy_from_slice(&frame);
    let before = COUNT.with(Cell::get);
    for _ in 0..300_000 {
        let mut burst = [Packet::new(&mut memory, HEADROOM, end, DeviceId(0))];
        let held = capture.hold(&burst, 1);
        pipeline.process(&mut burst, Tick(1));
        capture.keep(held, &burst);
        capture.originated([(DeviceId(0), frame.as_slice())].into_iter(), 1);
    }
    assert_eq!(COUNT.with(Cell::get), before);
    assert!(capture.lost() > 100_000 && capture.take().is_some());
}
