//! The generator and the sink of the rig, in namespaces of their own (`load.c`).
//!
//! Each is a thread that entered its namespace. The generator keeps its CPU busy; the sink is only
//! a program on a hook and costs no thread once attached.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use aya::{
    Ebpf, TestRun as _, TestRunAttrs, TestRunOptions, include_bytes_aligned,
    maps::{Array, MapData, PerCpuArray},
    programs::{
        LinkOrder, SchedClassifier, TcAttachType, Xdp,
        tc::{NlOptions, TcAttachOptions, qdisc_add_clsact},
    },
};
use rustix::net::netdevice::name_to_index;
use xvs_bench::lab::{Namespace, process::pin};

/// The compiled `load.c`.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/load.o"));

/// Octets of a frame without its check sequence, as in `load.c`.
const FRAME: usize = 60;

/// Octets of it behind the IPv4 header.
const FRAME_L4: u8 = 26;

/// Octets of `struct plan`.
const PLAN: usize = 88;

/// Frames that the kernel hands over in one go: a driver's burst.
const BATCH: u32 = 64;

/// Frames of one call: some seconds. Each call costs the kernel some 24 ms to set up and tear
/// down, which short ones would mostly consist of.
const CALL: u32 = 1 << 23;

/// How long the generator may take to begin.
const PATIENCE: Duration = Duration::from_secs(5);

/// What packets are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// `true`: TCP SYNs, each of a new connection; `false`: UDP over `flows` flows.
    pub(super) fresh: bool,
    /// Flows that take turns.
    pub(super) flows: u32,
    /// Where packets go.
    pub(super) to: (Ipv4Addr, u16),
    /// The first of the senders' addresses, which end in two free octets.
    pub(super) from: Ipv4Addr,
    /// The link address of the load balancer.
    pub(super) mac: [u8; 6],
    /// The first new flow's number.
    pub(super) first: u32,
}

impl Plan {
    /// As `struct plan` holds it.
    fn octets(&self, interface: u32, stop: bool) -> [u8; PLAN] {
        let mut out = [0; PLAN];
        out[..4].copy_from_slice(&interface.to_ne_bytes());
        let flows = if self.fresh { 0 } else { self.flows };
        out[4..8].copy_from_slice(&flows.to_ne_bytes());
        out[8..12].copy_from_slice(&self.first.to_ne_bytes());
        out[12..16].copy_from_slice(&u32::from(stop).to_ne_bytes());
        let frame = self.frame();
        let (header, segment) = (&frame[14..34], &frame[26..]);
        let pseudo = [0, frame[23], 0, FRAME_L4];
        out[16..20].copy_from_slice(&sum(&[header]).to_ne_bytes());
        out[20..24].copy_from_slice(&sum(&[segment, &pseudo]).to_ne_bytes());
        out[24..24 + FRAME].copy_from_slice(&frame);
        out
    }

    /// The packet, but for what `load.c` fills in.
    fn frame(&self) -> [u8; FRAME] {
        let mut frame = [0; FRAME];
        frame[..6].copy_from_slice(&self.mac);
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        frame[12..14].copy_from_slice(&[8, 0]);
        let (ip, l4) = frame[14..].split_at_mut(20);
        let length = u16::try_from(20 + l4.len()).expect("a small packet");
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&length.to_be_bytes());
        ip[8] = 64;
        ip[9] = if self.fresh { 6 } else { 17 };
        ip[12..16].copy_from_slice(&self.from.octets());
        ip[16..20].copy_from_slice(&self.to.0.octets());
        l4[2..4].copy_from_slice(&self.to.1.to_be_bytes());
        if self.fresh {
            // A sequence number, no options, SYN, a window.
            l4[4..8].copy_from_slice(&[1, 2, 3, 4]);
            l4[12..16].copy_from_slice(&[0x50, 0x02, 0xff, 0xff]);
        } else {
            l4[4..6].copy_from_slice(&(length - 20).to_be_bytes());
        }
        frame
    }
}

/// The sum of 16-bit words as their octets lie.
fn sum(pieces: &[&[u8]]) -> u32 {
    let words = pieces.iter().flat_map(|piece| piece.as_chunks().0);
    words.map(|&word| u32::from(u16::from_ne_bytes(word))).sum()
}

/// The map that holds the plan.
type Plans = Array<MapData, [u8; PLAN]>;

/// A generator at work. Dropping it stops it.
pub(super) struct Generator {
    plan: Plan,
    plans: Plans,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Generator {
    /// Starts one on a device of a namespace, on a CPU of its own.
    ///
    /// # Errors
    ///
    /// The kernel refuses it.
    pub(super) fn start(
        namespace: &Arc<Namespace>,
        device: &'static str,
        cpu: usize,
        plan: Plan,
    ) -> anyhow::Result<Self> {
        let stop = Arc::<AtomicBool>::default();
        let (namespace, stopped) = (Arc::clone(namespace), Arc::clone(&stop));
        let (ready, is_ready) = crossbeam_channel::bounded(1);
        let thread = thread::spawn(move || {
            namespace.enter()?;
            pin(cpu)?;
            let (bpf, plans) = prepared(device, plan)?;
            ready.send(plans)?;
            generate(&bpf, plan, &stopped)
        });
        match is_ready.recv_timeout(PATIENCE) {
            Ok(plans) => Ok(Self { plan, plans, stop, thread: Some(thread) }),
            Err(_closed) => Err(match thread.join() {
                Ok(Err(error)) => error,
                _ => anyhow!("the generator does not begin"),
            }),
        }
    }

    /// Stops it.
    ///
    /// # Errors
    ///
    /// Why it did not work.
    pub(super) fn end(mut self) -> anyhow::Result<()> {
        self.halt();
        let thread = self.thread.take().expect("only here and in drop");
        thread.join().map_err(|_panic| anyhow!("the generator panicked"))?
    }

    fn halt(&mut self) {
        self.stop.store(true, Relaxed);
        // Without it the call runs to its own end.
        self.plans.set(0, self.plan.octets(0, true), 0).ok();
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.halt();
        if let Some(thread) = self.thread.take() {
            // Whoever drops it has an error of its own to tell.
            drop(thread.join());
        }
    }
}

/// Loads the generator for a device.
fn prepared(device: &str, plan: Plan) -> anyhow::Result<(Ebpf, Plans)> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    let index = name_to_index(&socket, device).with_context(|| device.to_owned())?;
    let mut bpf = Ebpf::load(OBJECT).context("the generator")?;
    let program: &mut Xdp = bpf.program_mut("xvs_generate").context("program")?.try_into()?;
    program.load()?;
    let mut plans = Array::try_from(bpf.take_map("plans").context("plans")?)?;
    plans.set(0, plan.octets(index, false), 0)?;
    Ok((bpf, plans))
}

fn generate(bpf: &Ebpf, plan: Plan, stop: &AtomicBool) -> anyhow::Result<()> {
    let program: &Xdp = bpf.program("xvs_generate").context("program")?.try_into()?;
    let frame = plan.frame();
    while !stop.load(Relaxed) {
        let options = TestRunOptions {
            data_in: Some(&frame),
            repeat: CALL,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        program.test_run(options).context("live frames; Linux 5.18 or newer has them")?;
    }
    Ok(())
}

/// What counts and drops at the far end. Gone when dropped.
pub(super) struct Sink {
    bpf: Ebpf,
}

impl Sink {
    /// Puts one on a device of a namespace.
    ///
    /// # Errors
    ///
    /// The kernel refuses it.
    pub(super) fn start(namespace: &Arc<Namespace>, device: &'static str) -> anyhow::Result<Self> {
        let namespace = Arc::clone(namespace);
        let attach = move || {
            namespace.enter()?;
            let mut bpf = Ebpf::load(OBJECT).context("the sink")?;
            let program: &mut SchedClassifier =
                bpf.program_mut("xvs_sink").context("program")?.try_into()?;
            program.load()?;
            let tcx = TcAttachOptions::TcxOrder(LinkOrder::first());
            if program.attach_with_options(device, TcAttachType::Ingress, tcx).is_err() {
                qdisc_add_clsact(device).context("clsact")?;
                let clsact = TcAttachOptions::Netlink(NlOptions::default());
                program.attach_with_options(device, TcAttachType::Ingress, clsact)?;
            }
            Ok(Self { bpf })
        };
        thread::spawn(attach).join().map_err(|_panic| anyhow!("the sink panicked"))?
    }

    /// Packets that arrived so far.
    ///
    /// # Errors
    ///
    /// The kernel's, which has no reason for one.
    pub(super) fn arrived(&self) -> anyhow::Result<u64> {
        let map = self.bpf.map("arrived").context("arrived")?;
        let counts: PerCpuArray<_, u64> = PerCpuArray::try_from(map)?;
        Ok(counts.get(&0, 0)?.iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use etherparse::SlicedPacket;

    use super::*;

    fn plan(fresh: bool) -> Plan {
        let (to, from) = ((Ipv4Addr::new(10, 96, 0, 1), 80), Ipv4Addr::new(10, 7, 0, 0));
        Plan { fresh, flows: 1000, to, from, mac: [2, 0, 0, 0, 0, 9], first: 7 }
    }

    #[test]
    fn packets_are_what_they_are_called() {
        for fresh in [false, true] {
            let frame = plan(fresh).frame();
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            match packet.transport.unwrap() {
                etherparse::TransportSlice::Tcp(tcp) => {
                    assert!(fresh && tcp.syn() && !tcp.ack());
                    assert_eq!(tcp.destination_port(), 80);
                }
                etherparse::TransportSlice::Udp(udp) => {
                    assert!(!fresh);
                    assert_eq!((udp.destination_port(), udp.length()), (80, 26));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_sums_of_a_plan_make_right_checksums() {
        let folded = |sum: u32| {
            let sum = (sum & 0xffff) + (sum >> 16);
            u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()
        };
        for fresh in [false, true] {
            let octets = plan(fresh).octets(3, false);
            let word = |at: usize| u32::from_ne_bytes(octets[at..at + 4].try_into().unwrap());
            let mut frame: [u8; FRAME] = octets[24..24 + FRAME].try_into().unwrap();
            // As the program fills the frame in.
            let (port, source) = (16391u16.to_be(), 1u16.to_be());
            frame[28..30].copy_from_slice(&source.to_ne_bytes());
            frame[34..36].copy_from_slice(&port.to_ne_bytes());
            let at = if fresh { 50 } else { 40 };
            let ip = !folded(word(16) + u32::from(source));
            let l4 = !folded(word(20) + u32::from(source) + u32::from(port));
            frame[24..26].copy_from_slice(&ip.to_ne_bytes());
            frame[at..at + 2].copy_from_slice(&l4.to_ne_bytes());
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(etherparse::NetSlice::Ipv4(net)) = packet.net else { panic!() };
            let header = net.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            let (right, found) = match packet.transport.unwrap() {
                etherparse::TransportSlice::Tcp(tcp) => {
                    (tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()), tcp.checksum())
                }
                etherparse::TransportSlice::Udp(udp) => {
                    (udp.to_header().calc_checksum_ipv4(&header, udp.payload()), udp.checksum())
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(right.unwrap(), found);
        }
    }

    #[test]
    fn a_plan_is_laid_out_as_the_program_reads_it() {
        let octets = plan(true).octets(3, true);
        let word = |at: usize| u32::from_ne_bytes(octets[at..at + 4].try_into().unwrap());
        assert_eq!([word(0), word(4), word(8), word(12)], [3, 0, 7, 1]);
        assert_eq!(octets[24..30], [2, 0, 0, 0, 0, 9]);
    }
}
