//! Raw sockets and the hand-over to the host, against the kernel: veth pairs in namespaces of their own.

#![cfg(feature = "raw")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

#[path = "../support/netns.rs"]
mod netns;
mod rig;
mod service;

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use etherparse::PacketBuilder;
use netns::Netns;
use rig::{CLIENT, FIRST, LEFT, PATIENCE, RIGHT, Rig, SECOND, SERVER};
use xvs_dataplane::{
    io::{Io as _, host, raw, raw::RawIo},
    verdict::{DeviceId, DropReason, Verdict},
};

/// One burst in which every packet gets `verdict`: frames as they came, and what became of them.
fn burst(io: &mut RawIo, verdict: Verdict) -> (Vec<Vec<u8>>, Vec<Verdict>) {
    let (mut frames, mut settled) = (Vec::new(), Vec::new());
    io.burst(
        |packets| {
            for packet in packets {
                frames.push(packet.bytes().to_vec());
                packet.verdict = verdict;
            }
        },
        |_, _, verdict| settled.push(verdict),
    )
    .unwrap();
    (frames, settled)
}

/// Bursts until `count` frames have come.
fn receive(io: &mut RawIo, count: usize, verdict: Verdict) -> (Vec<Vec<u8>>, Vec<Verdict>) {
    let (mut frames, mut settled) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        let (more, outcomes) = burst(io, verdict);
        if more.is_empty() {
            io.wait(PATIENCE / 100).unwrap();
        }
        frames.extend(more);
        settled.extend(outcomes);
        if frames.len() >= count {
            return (frames, settled);
        }
    }
    panic!("{} of {count} frames came", frames.len());
}

/// A UDP frame from the client's side.
fn datagram(to: [u8; 6], port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT, to)
        .ipv4([10, 9, 0, 1], [10, 9, 0, 2], 64)
        .udp(port, 5000)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

#[test]
fn frames_cross_the_box_and_what_is_not_for_it_is_not_seen() {
    let Some(rig) = Rig::new() else { return };
    let (mut peer, mut io) = (rig.peer(), rig.open(1).remove(0));
    let mut server = rig.server.inside(|| raw::open(&["s0".to_owned()], 1)).unwrap().remove(0);
    // Broadcast, and unicast to somebody else, belong to the kernel or to nobody.
    assert!(peer.send(FIRST, &datagram([0xff; 6], 1, b"all")));
    assert!(peer.send(FIRST, &datagram(SERVER, 2, b"other")));
    let sent: Vec<_> = (0..200).map(|port| datagram(LEFT, port, &[7; 30])).collect();
    assert!(sent.iter().all(|frame| peer.send(FIRST, frame)));
    peer.flush().unwrap();
    let (frames, settled) = receive(&mut io, sent.len(), Verdict::Tx(SECOND));
    assert_eq!(frames, sent);
    assert!(settled.iter().all(|&verdict| verdict == Verdict::Tx(SECOND)));
    // They left with LEFT as destination, so the server's filter drops them; send some for it.
    assert!(io.send(SECOND, &datagram(SERVER, 3, b"for you")));
    io.flush().unwrap();
    let (frames, _) = receive(&mut server, 1, Verdict::Consumed);
    assert_eq!(frames, [datagram(SERVER, 3, b"for you")]);
    assert!(burst(&mut io, Verdict::Host).0.is_empty(), "the box sees its own frames");
}

#[test]
fn a_vlan_tag_survives_the_kernel_taking_it_out() {
    let Some(rig) = Rig::new() else { return };
    let (mut peer, mut io) = (rig.peer(), rig.open(1).remove(0));
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT, LEFT)
        .single_vlan(77.try_into().unwrap())
        .ipv4([10, 9, 0, 1], [10, 9, 0, 2], 64)
        .udp(1, 2)
        .write(&mut frame, &[1; 1472])
        .unwrap();
    assert_eq!(frame.len(), 1518);
    assert!(peer.send(FIRST, &frame));
    peer.flush().unwrap();
    let (frames, settled) = receive(&mut io, 1, Verdict::Tx(SECOND));
    assert_eq!(frames, [frame]);
    assert_eq!(settled, [Verdict::Tx(SECOND)]);
}

#[test]
fn what_an_interface_cannot_send_is_dropped_with_its_reason() {
    let Some(rig) = Rig::new() else { return };
    rig.lb.ip("link set l1 mtu 1000");
    let (mut peer, mut io) = (rig.peer(), rig.open(1).remove(0));
    let mut outcome = |payload: usize, egress| {
        assert!(peer.send(FIRST, &datagram(LEFT, 1, &vec![0; payload])));
        peer.flush().unwrap();
        receive(&mut io, 1, Verdict::Tx(egress)).1
    };
    assert_eq!(outcome(1000 - 28, SECOND), [Verdict::Tx(SECOND)]);
    assert_eq!(outcome(1001 - 28, SECOND), [Verdict::Drop(DropReason::Oversized)]);
    assert_eq!(outcome(10, DeviceId(2)), [Verdict::Drop(DropReason::NoSuchDevice)]);
    rig.lb.ip("link set l1 mtu 900");
    assert_eq!(outcome(901 - 28, SECOND), [Verdict::Drop(DropReason::Oversized)]);
    rig.lb.ip("link set l1 down");
    assert_eq!(outcome(10, SECOND), [Verdict::Drop(DropReason::NoSuchDevice)]);
    rig.lb.ip("link set l1 up");
    assert_eq!(outcome(10, SECOND), [Verdict::Tx(SECOND)]);
}

#[test]
fn an_interface_that_does_not_exist_is_named_and_one_that_goes_is_an_error() {
    let Some(rig) = Rig::new() else { return };
    let error = rig.lb.inside(|| raw::open(&["eth7".to_owned()], 1)).unwrap_err();
    assert_eq!(error.to_string(), "interface eth7 does not exist");
    let mut io = rig.open(1).remove(0);
    rig.lb.ip("link set l0 down");
    for _ in 0..4 {
        assert_eq!(io.burst(|_| (), |_, _, _| ()).unwrap(), 0, "down is no error");
    }
    rig.lb.ip("link del l0");
    let gone = (0..4).any(|_| io.burst(|_| (), |_, _, _| ()).is_err());
    assert!(gone);
}

#[test]
fn workers_share_an_interface_and_each_flow_has_one() {
    let Some(rig) = Rig::new() else { return };
    let mut peer = rig.peer();
    let mut workers = rig.open(2);
    for round in 0..4 {
        for port in 0..100 {
            assert!(peer.send(FIRST, &datagram(LEFT, port, &[round; 20])));
        }
    }
    peer.flush().unwrap();
    let mut seen = [[0; 100]; 2];
    for _ in 0..100 {
        for (worker, seen) in workers.iter_mut().zip(&mut seen) {
            for frame in burst(worker, Verdict::Consumed).0 {
                seen[usize::from(u16::from_be_bytes([frame[34], frame[35]]))] += 1;
            }
        }
        if seen.as_flattened().iter().sum::<u32>() == 400 {
            break;
        }
        thread::yield_now();
    }
    let [first, second] = seen;
    assert!(first.iter().zip(&second).all(|pair| matches!(pair, (4, 0) | (0, 4))), "{seen:?}");
    assert!(first.contains(&4) && second.contains(&4), "one worker got everything");
}

#[test]
fn what_a_slow_worker_misses_is_counted() {
    let Some(rig) = Rig::new() else { return };
    let (mut peer, mut io) = (rig.peer(), rig.open(1).remove(0));
    let mut missed = [0; 2];
    let mut look = |io: &mut RawIo| {
        let at = |device: DeviceId| usize::from(device.0);
        io.missed(|device, packets| missed[at(device)] += packets).unwrap();
        let [first, second] = missed;
        assert_eq!(second, 0);
        first
    };
    assert_eq!(look(&mut io), 0);
    let frame = datagram(LEFT, 1, &[0; 1400]);
    let mut sent = 0;
    // More than any receive buffer that the kernel grants holds.
    while sent < 100_000 && look(&mut io) == 0 {
        for _ in 0..1000 {
            sent += u64::from(peer.send(FIRST, &frame));
        }
    }
    peer.flush().unwrap();
    let dropped = look(&mut io);
    assert!(dropped > 0, "{sent} frames fit");
    let mut received = 0;
    loop {
        match burst(&mut io, Verdict::Consumed).0.len() {
            0 => break,
            count => received += count as u64,
        }
    }
    assert_eq!(received + dropped, sent);
}

/// Carries frames between client and server until `stop`, as the kernel's bridge would.
fn bridge(mut io: RawIo, stop: &AtomicBool) -> u64 {
    let mut dropped = 0;
    while !stop.load(Ordering::Relaxed) {
        let came = io
            .burst(
                |packets| {
                    for packet in packets {
                        let (to, from, egress) = if packet.device == FIRST {
                            (SERVER, RIGHT, SECOND)
                        } else {
                            (CLIENT, LEFT, FIRST)
                        };
                        packet.bytes_mut()[..6].copy_from_slice(&to);
                        packet.bytes_mut()[6..12].copy_from_slice(&from);
                        packet.verdict = Verdict::Tx(egress);
                    }
                },
                |_, _, verdict| dropped += u64::from(matches!(verdict, Verdict::Drop(_))),
            )
            .unwrap();
        if came == 0 {
            io.wait(Duration::from_millis(10)).unwrap();
        }
    }
    dropped
}

/// Stops the bridge however a test ends: its scope would wait for it for ever.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Octets that no shift or repetition of themselves equals.
fn stream(length: usize) -> Vec<u8> {
    let mut rng = xvs_dataplane::rng::Rng::from_seed(9);
    (0..length.div_ceil(8)).flat_map(|_| rng.next_u64().to_le_bytes()).take(length).collect()
}

#[test]
fn kernels_talk_tcp_through_it_with_all_their_offloads_on() {
    let Some(rig) = Rig::new() else { return };
    rig.one_subnet();
    let io = rig.open(1).remove(0);
    let stop = AtomicBool::new(false);
    let expected = stream(8 << 20);
    let dropped = thread::scope(|scope| {
        let forwarder = scope.spawn(|| bridge(io, &stop));
        let guard = Stop(&stop);
        // Two ports: a process that another test starts holds the first listener until it executes.
        for (bind, connect) in [("0.0.0.0:80", "10.9.0.2:80"), ("[::]:81", "[fd09::2]:81")] {
            let listener = rig.server.inside(|| TcpListener::bind(bind).unwrap());
            let client = rig.client.inside(|| TcpStream::connect(connect).unwrap());
            let (mut server, _) = listener.accept().unwrap();
            let sender = scope.spawn({
                let (mut client, expected) = (client, &expected);
                move || client.write_all(expected).unwrap()
            });
            let mut received = Vec::new();
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            server.read_to_end(&mut received).unwrap();
            sender.join().unwrap();
            assert!(received == expected, "{connect}: the stream arrived changed");
        }
        drop(guard);
        forwarder.join().unwrap()
    });
    assert_eq!(dropped, 0);
}

#[test]
fn a_train_of_datagrams_arrives_as_datagrams() {
    let Some(rig) = Rig::new() else { return };
    rig.one_subnet();
    let io = rig.open(1).remove(0);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let forwarder = scope.spawn(|| bridge(io, &stop));
        let guard = Stop(&stop);
        let server = rig.server.inside(|| UdpSocket::bind("10.9.0.2:53").unwrap());
        let client = rig.client.inside(|| UdpSocket::bind("10.9.0.1:0").unwrap());
        client.connect("10.9.0.2:53").unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        set_udp_segment(&client, 1000);
        let sent = stream(20_500);
        client.send(&sent).unwrap();
        let mut received = Vec::new();
        let mut room = [0; 2000];
        for number in 0..21 {
            let length = server.recv(&mut room).unwrap();
            assert_eq!(length, if number < 20 { 1000 } else { 500 });
            received.extend_from_slice(&room[..length]);
        }
        drop(guard);
        forwarder.join().unwrap();
        assert_eq!(received, sent);
    });
}

/// Lets the kernel send what is written as datagrams of `size` octets in one super-segment.
#[expect(unsafe_code, reason = "UDP_SEGMENT has no safe wrapper among our dependencies")]
fn set_udp_segment(socket: &UdpSocket, size: i32) {
    use std::os::fd::AsRawFd as _;
    let value = std::ptr::from_ref(&size).cast();
    // SAFETY: `value` points to a live integer of the length that goes with it.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, value, 4) };
    assert_eq!(result, 0);
}

#[test]
fn the_host_takes_what_is_handed_to_it_by_any_worker() {
    let Some(namespace) = Netns::new() else { return };
    namespace.ip("addr add 10.9.0.2/32 dev lo");
    // A route back to the client by another way than the TUN: strict reverse path filtering
    // would drop everything.
    namespace.ip("route add 10.9.0.0/24 dev lo");
    let mut ports = namespace.inside(|| {
        std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "1").unwrap();
        host::create("xvs0", 2).unwrap()
    });
    let socket = namespace.inside(|| UdpSocket::bind("10.9.0.2:5000").unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut room = [0; 100];
    let finished = datagram(LEFT, 1, b"finished");
    let mut unfinished = datagram(LEFT, 1, b"unfinished");
    let pseudo = 0x0a09u16 * 2 + 1 + 2 + 17 + 8 + 10;
    unfinished[40..42].copy_from_slice(&pseudo.to_be_bytes());
    let mut tagged = finished.clone();
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    for port in &mut ports {
        for (frame, payload) in
            [(&finished, &b"finished"[..]), (&unfinished, b"unfinished"), (&tagged, b"finished")]
        {
            assert!(port.send(frame));
            let (length, from) = socket.recv_from(&mut room).unwrap();
            assert_eq!((&room[..length], from.to_string().as_str()), (payload, "10.9.0.1:1"));
        }
    }
    let mut arp = finished.clone();
    arp[12..14].copy_from_slice(&[8, 6]);
    assert!(!ports[0].send(&arp) && !ports[0].send(&[]), "only IP can be handed over");
    let mut damaged = finished;
    damaged[45] ^= 1;
    assert!(ports[0].send(&damaged), "the host judges checksums");
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(socket.recv(&mut room).is_err(), "and refuses the wrong one");
    namespace.ip("link del xvs0");
    assert!(!ports[1].send(&datagram(LEFT, 1, b"gone")));
}

#[test]
fn a_name_that_is_taken_is_refused() {
    let Some(namespace) = Netns::new() else { return };
    let error = namespace.inside(|| host::create("lo", 1)).unwrap_err();
    assert!(error.to_string().starts_with("cannot create the TUN device lo: "), "{error}");
    assert!(namespace.inside(|| host::create("a-name-beyond-15-octets", 1)).is_err());
}
