//! More than fits: frames are dropped and counted, and none is lost.

use std::{
    thread,
    time::{Duration, Instant},
};

use etherparse::PacketBuilder;
use xvs_dataplane::{
    io::{Io as _, xsk::XskIo},
    packet::Packet,
    steering::{AttachMode, rules::SteeringRules},
    verdict::{DeviceId, DropReason, Verdict},
};

use crate::{
    forwarder::{
        Forwarder, PATIENCE, PORT, Seen, Setup, assert_whole, bind, echo, exchange, forward,
        in_bursts, options, payloads, turn,
    },
    rig::{C0, L0, Rig, VIP},
};

/// A frame of the service from the client, with this source port.
fn frame(port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(C0, L0)
        .ipv4([10, 1, 0, 2], [10, 1, 0, 100], 64)
        .udp(port, 9)
        .write(&mut frame, &[0; 18])
        .unwrap();
    frame[37] = 0;
    frame
}

/// Sends `count` frames as fast as they go; returns how many were taken.
fn flood(io: &mut XskIo, count: u32) -> u64 {
    let mut taken = 0;
    for i in 0..count {
        let port = u16::try_from(i % 60_000).unwrap() + 1000;
        taken += u64::from(io.send(DeviceId(0), &frame(port)));
        if i % 64 == 63 {
            io.flush().unwrap();
        }
    }
    io.flush().unwrap();
    taken
}

/// A worker in the client's namespace that takes nothing and sends what it is given.
fn generator(rig: &Rig) -> Setup {
    let options = options(AttachMode::Native);
    Setup::on(&rig.client, &["c0"], 1, &options, &SteeringRules::default())
}

/// Each kind of verdict in turn.
fn mixed(packet: &mut Packet<'_>) {
    let port = u16::from_be_bytes([packet.bytes()[34], packet.bytes()[35]]);
    match port % 6 {
        0 => packet.verdict = Verdict::Host,
        1 => packet.verdict = Verdict::Consumed,
        2 => packet.verdict = Verdict::Drop(DropReason::NoRoute),
        3 => packet.verdict = Verdict::Tx(DeviceId(7)),
        4 => {
            packet.strip(40).unwrap();
            packet.verdict = Verdict::Tx(DeviceId(1));
        }
        _ => forward(packet),
    }
}

#[test]
fn a_flood_with_every_verdict_loses_no_frame() {
    let Some(rig) = Rig::new(1, 1500) else { return };
    // To the VIP at any port of the flood.
    let mut rules = crate::forwarder::rules();
    let service = *rules.services.first().unwrap();
    rules.services.insert(xvs_dataplane::steering::rules::Target { port: 0, ..service });
    let options = options(AttachMode::Native);
    let mut setup = Setup::on(&rig.lb, &["l0", "l1"], 1, &options, &rules);
    let forwarder = Forwarder::start(setup.workers.pop().unwrap(), mixed);
    let mut sender = generator(&rig);
    let io = &mut sender.workers[0];
    let taken = flood(io, 100_000);
    assert!(taken > 50_000, "only {taken} frames were sent");

    let (mut worker, mut seen) = forwarder.stop();
    // What the last wait left behind.
    while turn(&mut worker, &mut seen, mixed).unwrap() > 0 {}
    let Seen { received, sent, host, consumed, dropped } = seen;
    assert_eq!(received, sent + host + consumed + dropped);
    assert_eq!(host, 0, "there is no hand-over: dropped");
    for (name, count) in [("sent", sent), ("consumed", consumed), ("dropped", dropped)] {
        assert!(count > 0, "none {name}: {seen:?}");
    }
    let (census, drops) = assert_whole(&worker);
    println!("{taken} flooded, {seen:?}, {census:?}, {drops:?}");
    let redirected = setup.steering.counters().unwrap().redirected;
    assert_eq!(redirected, received + drops.ring_full + drops.dropped);
    let mut missed = [0; 2];
    let mut look = || {
        let at = |device: DeviceId| usize::from(device.0);
        worker.missed(|device, packets| missed[at(device)] += packets).unwrap();
        missed
    };
    assert_eq!(look(), [redirected - received, 0]);
    assert_eq!(look(), [redirected - received, 0], "asked again it tells what came since");
    assert_whole(io);
    drop(sender);

    let forwarder = Forwarder::start(worker, forward);
    echo(&rig.server);
    exchange(&rig.client, "10.1.0.2", &payloads([10, 1000]));
    forwarder.stop();
}

#[test]
fn an_interface_that_goes_down_gives_its_frames_back_when_it_is_up_again() {
    let Some(rig) = Rig::new(1, 1500) else { return };
    let mut setup = generator(&rig);
    let mut io = setup.workers.pop().unwrap();
    rig.client.ip("link set c0 down");
    let taken = flood(&mut io, 2000);
    assert_eq!(taken, 512, "a ring full and no more");
    assert!(io.census().adds_up());
    assert_eq!(io.census().sending, 512);

    rig.client.ip("link set c0 up");
    let deadline = Instant::now() + PATIENCE;
    while io.census().sending > 0 {
        assert!(Instant::now() < deadline, "{:?}", io.census());
        io.wait(Duration::from_millis(10)).unwrap();
        io.flush().unwrap();
        thread::yield_now();
    }
    assert_whole(&io);
    assert_eq!(flood(&mut io, 100), 100);
}

#[test]
fn a_burst_by_an_interface_that_is_down_is_dropped_and_told_and_one_that_is_gone_an_error() {
    let Some(rig) = Rig::new(1, 1500) else { return };
    let mut setup = Setup::new(&rig.lb, 1, &in_bursts(AttachMode::Native));
    let mut io = setup.workers.pop().unwrap();
    let client = rig.client.run(|| bind("10.1.0.2", 0));
    let told = |io: &mut XskIo, state: &str| {
        rig.lb.ip(state);
        client.send_to(b"?", (VIP, PORT)).unwrap();
        let mut verdicts = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        rig.lb.run(|| {
            loop {
                let process = |packets: &mut [Packet<'_>]| packets.iter_mut().for_each(forward);
                // The server may answer what came before.
                io.burst(process, |device, _, verdict| {
                    verdicts.extend((device == DeviceId(0)).then_some(verdict));
                })?;
                if !verdicts.is_empty() {
                    return Ok(verdicts);
                }
                assert!(Instant::now() < deadline, "no packet came");
                io.wait(Duration::from_millis(10))?;
            }
        })
    };
    // The queue of an interface that is down refuses all.
    let lost = vec![Verdict::Drop(DropReason::TxRingFull)];
    assert_eq!(told(&mut io, "link set l1 down").unwrap(), lost);
    assert_eq!(told(&mut io, "link set l1 up").unwrap(), [Verdict::Tx(DeviceId(1))]);
    assert_whole(&io);
    let gone: Result<Vec<Verdict>, std::io::Error> = told(&mut io, "link del l1");
    assert!(gone.is_err(), "{gone:?}");
}

#[test]
fn a_removed_interface_is_an_error_and_not_an_endless_loop() {
    let Some(rig) = Rig::new(1, 1500) else { return };
    let mut setup = generator(&rig);
    let mut io = setup.workers.pop().unwrap();
    rig.client.ip("link del c0");
    let deadline = Instant::now() + PATIENCE;
    while io.wait(Duration::from_millis(100)).is_ok() {
        assert!(Instant::now() < deadline, "nobody noticed");
    }
}
