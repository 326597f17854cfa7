//! A worker that gives packets new link addresses, and the UDP ends it works between.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use mio::Waker;
use xvs_dataplane::{
    addr::Addr,
    io::{
        Io as _,
        xsk::{self, Census, KernelDrops, Offloads, Transmit, XskIo, XskOptions, XskReport},
    },
    packet::Packet,
    steering::{
        AttachMode, Limits, Steering,
        rules::{SteeringRules, Target},
    },
    verdict::{DeviceId, Verdict},
    wire::{checksum, frame, protocol},
};

use crate::rig::{C0, L0, L1, Netns, S0, VIP, VIP6};

/// The service's port.
pub(crate) const PORT: u16 = 7000;

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// UDP to the VIPs, and from the VIPs, whose real server is the server itself.
pub(crate) fn rules() -> SteeringRules {
    let ends = [VIP, VIP6].map(|vip| vip.parse::<std::net::IpAddr>().unwrap());
    let target = |addr| Target { protocol: protocol::UDP, addr: Addr::from(addr), port: PORT };
    SteeringRules {
        services: ends.map(target).into(),
        nat_reals: ends.map(target).into(),
        ..SteeringRules::default()
    }
}

/// Everything a box's workers need, opened inside its namespace.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) steering: Steering,
    pub(crate) workers: Vec<XskIo>,
    pub(crate) reports: Vec<XskReport>,
    pub(crate) offloads: Offloads,
}

impl Setup {
    /// Opens sockets on l0 and l1 and follows [`rules`].
    pub(crate) fn new(lb: &Netns, workers: usize, options: &XskOptions) -> Self {
        Self::on(lb, &["l0", "l1"], workers, options, &rules())
    }

    pub(crate) fn on(
        netns: &Netns,
        interfaces: &[&str],
        workers: usize,
        options: &XskOptions,
        rules: &SteeringRules,
    ) -> Self {
        let interfaces: Vec<String> = interfaces.iter().map(ToString::to_string).collect();
        netns.run(|| {
            let mut steering = Steering::load(Limits::default()).unwrap();
            let opened = xsk::open(&mut steering, &interfaces, workers, options).unwrap();
            steering.follow(rules).unwrap();
            let xsk::Opened { workers, reports, offloads } = opened;
            Self { steering, workers, reports, offloads }
        })
    }
}

/// Small rings, and packets leave by them.
pub(crate) const fn options(mode: AttachMode) -> XskOptions {
    let transmit = Transmit::Ring;
    XskOptions { mode, zero_copy: true, ring: 512, busy_poll: None, transmit }
}

/// The same, and packets leave in bursts: a worker must run in the box's namespace.
pub(crate) const fn in_bursts(mode: AttachMode) -> XskOptions {
    XskOptions { transmit: Transmit::Auto, ..options(mode) }
}

/// What a forwarder saw.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) host: u64,
    pub(crate) consumed: u64,
    pub(crate) dropped: u64,
}

/// A running worker.
#[derive(Debug)]
pub(crate) struct Forwarder {
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
    thread: JoinHandle<(XskIo, Seen)>,
}

impl Forwarder {
    /// Runs `decide` over every packet that comes.
    pub(crate) fn start(io: XskIo, decide: fn(&mut Packet<'_>)) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let waker = io.waker();
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || run(io, &stopped, decide).unwrap());
        Self { stop, waker, thread }
    }

    /// Ends it and says what it saw.
    pub(crate) fn stop(self) -> (XskIo, Seen) {
        self.stop.store(true, Ordering::Relaxed);
        self.waker.wake().unwrap();
        self.thread.join().unwrap()
    }
}

fn run(mut io: XskIo, stop: &AtomicBool, decide: fn(&mut Packet<'_>)) -> io::Result<(XskIo, Seen)> {
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        let received = turn(&mut io, &mut seen, decide)?;
        if received == 0 {
            io.wait(PATIENCE)?;
        }
    }
    Ok((io, seen))
}

/// One burst and what follows from it.
pub(crate) fn turn(
    io: &mut XskIo,
    seen: &mut Seen,
    decide: fn(&mut Packet<'_>),
) -> io::Result<usize> {
    let process = |packets: &mut [Packet<'_>]| packets.iter_mut().for_each(decide);
    let received = io.burst(process, |_, _, verdict| match verdict {
        Verdict::Tx(_) => seen.sent += 1,
        Verdict::Host => seen.host += 1,
        Verdict::Consumed => seen.consumed += 1,
        Verdict::Drop(_) => seen.dropped += 1,
    })?;
    seen.received += received as u64;
    io.flush()?;
    Ok(received)
}

/// To the server what comes from the client, and back, with finished checksums.
pub(crate) fn forward(packet: &mut Packet<'_>) {
    finish(packet);
    readdress(packet);
}

/// New link addresses and a way out.
pub(crate) fn readdress(packet: &mut Packet<'_>) {
    let (source, destination, out) =
        if packet.device == DeviceId(0) { (L1, S0, DeviceId(1)) } else { (L0, C0, DeviceId(0)) };
    let bytes = packet.bytes_mut();
    bytes[..6].copy_from_slice(&destination);
    bytes[6..12].copy_from_slice(&source);
    packet.verdict = Verdict::Tx(out);
}

/// Finishes the checksum that a veth peer leaves to the hardware.
fn finish(packet: &mut Packet<'_>) {
    let parsed = frame::parse(packet.bytes()).unwrap();
    let (l4, end) = (usize::from(parsed.l4), usize::from(parsed.end));
    let segment = &mut packet.bytes_mut()[l4..end];
    let key = parsed.key;
    let length = u32::try_from(segment.len()).unwrap();
    let pseudo = checksum::pseudo(key.source, key.destination, key.protocol, length);
    if checksum::is_unfinished(u16::from_be_bytes([segment[6], segment[7]]), pseudo) {
        segment[6..8].fill(0);
        let finished = pseudo.plus(checksum::Sum::of(segment)).udp_checksum();
        segment[6..8].copy_from_slice(&finished.to_be_bytes());
    }
}

/// Answers every datagram to the VIPs with itself, until the test ends.
pub(crate) fn echo(server: &Netns) {
    for vip in [VIP, VIP6] {
        let socket = server.run(|| bind(vip, PORT));
        socket.set_read_timeout(None).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                if socket.send_to(&buffer[..length], from).is_err() {
                    break;
                }
            }
        });
    }
}

/// A UDP socket in the calling thread's namespace.
pub(crate) fn bind(addr: &str, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind(SocketAddr::new(addr.parse().unwrap(), port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends each payload to the VIP of its family and expects it back.
pub(crate) fn exchange(client: &Netns, from: &str, payloads: &[Vec<u8>]) {
    let vip = if from.contains(':') { VIP6 } else { VIP };
    let socket = client.run(|| bind(from, 0));
    socket.connect(SocketAddr::new(vip.parse().unwrap(), PORT)).unwrap();
    for payload in payloads {
        socket.send(payload).unwrap();
        let mut buffer = [0; 4096];
        let length = socket
            .recv(&mut buffer)
            .unwrap_or_else(|error| panic!("{} octets to {vip}: {error}", payload.len()));
        assert_eq!(&buffer[..length], payload);
    }
}

/// Payloads of these lengths, all different.
pub(crate) fn payloads(lengths: impl IntoIterator<Item = usize>) -> Vec<Vec<u8>> {
    let fill = |length| (0..length).map(|i| ((i * 7 + length) % 251).try_into().unwrap()).collect();
    lengths.into_iter().map(fill).collect()
}

/// Asserts that no frame is missing and none is still to be sent.
pub(crate) fn assert_whole(io: &XskIo) -> (Census, KernelDrops) {
    let census = io.census();
    assert!(census.adds_up(), "{census:?}");
    assert_eq!(census.sending, 0, "{census:?}");
    (census, io.kernel_drops().unwrap())
}
