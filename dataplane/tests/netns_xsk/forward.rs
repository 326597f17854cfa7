//! Packets of a service go through a worker, everything else through the kernel.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use xvs_dataplane::{
    io::{
        host,
        xsk::{self, BusyPoll, Transmit, XskError, XskOptions},
    },
    packet::Packet,
    steering::{AttachMode, Limits, Mode, Steering},
    verdict::Verdict,
};

use crate::{
    forwarder::{
        Forwarder, PATIENCE, Seen, Setup, assert_whole, bind, echo, exchange, forward, in_bursts,
        options, payloads,
    },
    rig::{Netns, Rig, VIP},
};

/// A TCP connection to the box itself, and a datagram to a port of it that is no service: found
/// by ARP and neighbour discovery, served by the kernel.
fn kernel_is_reachable(rig: &Rig) {
    for addr in ["10.1.0.1", "fd01::1"] {
        let at = SocketAddr::new(addr.parse().unwrap(), 22);
        let listener = rig.lb.run(|| TcpListener::bind(at).unwrap());
        let served = thread::spawn(move || listener.accept().unwrap().0.write_all(b"SSH-2.0"));
        let mut stream = rig.client.run(|| TcpStream::connect_timeout(&at, PATIENCE).unwrap());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut banner = String::new();
        stream.read_to_string(&mut banner).unwrap();
        assert_eq!(banner, "SSH-2.0");
        served.join().unwrap().unwrap();
    }
}

fn forwards(mode: AttachMode, reached: Mode, mtu: usize) {
    forwards_with(&options(mode), reached, mtu);
}

fn forwards_with(options: &XskOptions, reached: Mode, mtu: usize) {
    let mtu32 = u32::try_from(mtu).unwrap();
    let Some(rig) = Rig::new(1, mtu32) else { return };
    let mut setup = Setup::new(&rig.lb, 1, options);
    assert_eq!(setup.reports.len(), 2);
    for report in &setup.reports {
        println!("{report}");
        assert_eq!(report.attachment.mode, reached);
        assert!(!report.zero_copy, "veth cannot without its peer");
        assert_eq!(report.in_bursts, options.transmit == Transmit::Auto, "{report}");
    }
    let io = setup.workers.pop().unwrap();
    let forwarder = rig.lb.run(|| Forwarder::start(io, forward));
    echo(&rig.server);
    let lengths = || (1..40).chain([300, 777, mtu - 49, mtu - 48]);
    exchange(&rig.client, "10.1.0.2", &payloads(lengths().chain([mtu - 28])));
    exchange(&rig.client, "fd01::2", &payloads(lengths()));
    kernel_is_reachable(&rig);

    let (io, seen) = forwarder.stop();
    let datagrams = 2 * (2 * 43 + 1);
    assert_eq!((seen.received, seen.sent), (datagrams, datagrams), "{seen:?}");
    let counters = setup.steering.counters().unwrap();
    assert_eq!(counters.redirected, datagrams, "{counters:?}");
    assert_eq!(counters.unserved, 0);
    // Each of two TCP connections needs a SYN, an ACK and a FIN at least.
    assert!(counters.passed >= 6, "{counters:?}");
    assert_eq!(counters.seen, counters.passed + counters.redirected);
    assert_whole(&io);
}

#[test]
fn a_service_is_forwarded_in_native_mode_and_the_box_stays_reachable() {
    forwards(AttachMode::Native, Mode::Native, 1500);
}

#[test]
fn a_service_is_forwarded_in_generic_mode_and_the_box_stays_reachable() {
    forwards(AttachMode::Generic, Mode::Generic, 1500);
}

#[test]
fn a_service_is_forwarded_while_the_worker_polls_the_device_itself() {
    let busy = BusyPoll { micros: 20, budget: 64 };
    let options = XskOptions { busy_poll: Some(busy), ..options(AttachMode::Native) };
    forwards_with(&options, Mode::Native, 1500);
}

#[test]
fn a_service_is_forwarded_in_bursts_whatever_the_mode_and_the_length() {
    forwards_with(&in_bursts(AttachMode::Native), Mode::Native, 1500);
    forwards_with(&in_bursts(AttachMode::Generic), Mode::Generic, 1500);
    forwards_with(&in_bursts(AttachMode::Native), Mode::Native, 3498);
}

#[test]
fn larger_packets_get_larger_frames() {
    forwards(AttachMode::Auto, Mode::Native, 3000);
}

#[test]
fn native_mode_gives_way_to_generic_where_the_driver_cannot() {
    // A veth device attaches natively up to a peer MTU of 3,506 octets.
    forwards(AttachMode::Auto, Mode::Generic, 3700);
}

#[test]
fn packets_larger_than_any_frame_are_refused_with_the_limit() {
    let Some(rig) = Rig::new(1, 9000) else { return };
    let error = open(&rig.lb, 1);
    assert!(matches!(error, XskError::Mtu { mtu: 9000, .. }));
    let text = "l0: an MTU of 9000 is too large for AF_XDP, at most 3822 is possible";
    assert_eq!(error.to_string(), text);
}

#[test]
fn more_workers_than_queues_are_refused() {
    let Some(rig) = Rig::new(1, 1500) else { return };
    let text = open(&rig.lb, 2).to_string();
    assert!(text.starts_with("l0 has 1 receive queues for 2 workers"), "{text}");
}

#[test]
fn an_interface_that_does_not_exist_is_named() {
    let Some(rig) = Rig::new(1, 1500) else { return };
    rig.lb.ip("link del l0");
    let text = open(&rig.lb, 1).to_string();
    assert!(text.starts_with("l0: "), "{text}");
}

fn open(lb: &Netns, workers: usize) -> XskError {
    lb.run(|| {
        let mut steering = Steering::load(Limits::default()).unwrap();
        let interfaces = ["l0".into(), "l1".into()];
        xsk::open(&mut steering, &interfaces, workers, &options(AttachMode::Native)).unwrap_err()
    })
}

/// Flows from many ports, which the client's kernel spreads over its queues.
fn many_flows(rig: &Rig) {
    for _ in 0..64 {
        exchange(&rig.client, "10.1.0.2", &payloads([100]));
    }
}

#[test]
fn two_workers_serve_a_queue_of_each_interface() {
    let Some(rig) = Rig::new(2, 1500) else { return };
    let setup = Setup::new(&rig.lb, 2, &options(AttachMode::Native));
    let places: Vec<_> =
        setup.reports.iter().map(|r| (r.worker, r.interface.as_str(), r.queue)).collect();
    assert_eq!(places, [(0, "l0", 0), (0, "l1", 0), (1, "l0", 1), (1, "l1", 1)]);
    let forwarders: Vec<_> =
        setup.workers.into_iter().map(|io| Forwarder::start(io, forward)).collect();
    echo(&rig.server);
    many_flows(&rig);
    let mut total = 0;
    for forwarder in forwarders {
        let (io, Seen { received, .. }) = forwarder.stop();
        assert!(received > 0, "one of two workers had nothing to do");
        total += received;
        assert_whole(&io);
    }
    assert_eq!(total, 128);
}

#[test]
fn one_worker_serves_all_queues_of_an_interface() {
    let Some(rig) = Rig::new(2, 1500) else { return };
    let mut setup = Setup::new(&rig.lb, 1, &options(AttachMode::Native));
    assert_eq!(setup.reports.len(), 4);
    let forwarder = Forwarder::start(setup.workers.pop().unwrap(), forward);
    echo(&rig.server);
    many_flows(&rig);
    let (io, seen) = forwarder.stop();
    assert_eq!((seen.received, seen.sent), (128, 128));
    assert_whole(&io);
    assert_eq!(setup.steering.counters().unwrap().unserved, 0);
}

/// Everything back to the host.
const fn hand_over(packet: &mut Packet<'_>) {
    packet.verdict = Verdict::Host;
}

#[test]
fn what_a_worker_gives_back_reaches_the_box() {
    let Some(rig) = Rig::new(1, 1500) else { return };
    rig.lb.ip(&format!("addr add {VIP}/32 dev lo"));
    let mut setup = Setup::new(&rig.lb, 1, &options(AttachMode::Native));
    let mut worker = setup.workers.pop().unwrap();
    worker.set_host(rig.lb.run(|| host::create("xvx-tun", 1)).unwrap().pop().unwrap()).unwrap();
    let forwarder = Forwarder::start(worker, hand_over);
    let here = rig.lb.run(|| bind(VIP, 7000));
    let client = rig.client.run(|| bind("10.1.0.2", 0));
    let mut buffer = [0; 2048];
    for length in [1, 1472] {
        client.send_to(&vec![7; length], (VIP, 7000)).unwrap();
        let (count, from) = here.recv_from(&mut buffer).unwrap();
        here.send_to(&buffer[..count], from).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), length);
    }
    let (io, seen) = forwarder.stop();
    assert_eq!((seen.received, seen.host), (2, 2));
    assert_whole(&io);
}

#[test]
fn a_datagram_that_no_rule_names_reaches_the_box() {
    let Some(rig) = Rig::new(1, 1500) else { return };
    let setup = Setup::new(&rig.lb, 1, &options(AttachMode::Native));
    let here = rig.lb.run(|| bind("10.1.0.1", 7000));
    let socket = rig.client.run(|| bind("10.1.0.2", 0));
    socket.send_to(b"to the box", ("10.1.0.1", 7000)).unwrap();
    let mut buffer = [0; 64];
    assert_eq!(here.recv(&mut buffer).unwrap(), 10);
    assert_eq!(setup.steering.counters().unwrap().redirected, 0);
}
