//! Copies of packets for whoever wants to see them: as they came, with what became of them, and as they
//! left.
//!
//! A capture is part of the configuration that workers forward by: without one a worker asks once a
//! burst and that is all. With one it copies every packet of the burst, decides as always, and keeps the
//! copies that the filter takes. Room is made beforehand: [`ROOM`] octets for each capture. When nobody
//! empties it in time packets are not kept, and counted; no worker ever waits.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use arrayvec::ArrayVec;
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::{
    addr::Addr,
    packet::{BURST, Packet},
    verdict::{DeviceId, Verdict},
    wire::frame::{self, Parsed},
};

/// Captures that can run at once.
pub const CAPTURES_MAX: usize = 4;

/// Octets of a packet that can be kept, at most and at least.
pub const SNAP_MAX: usize = 9216;
/// The fewest: an Ethernet, an IPv6 and a UDP header.
pub const SNAP_MIN: usize = 64;

/// Octets of copies that wait at most.
pub const ROOM: usize = 16 << 20;

/// Copies that wait at most, however small they are.
const RECORDS_MAX: usize = 8192;

/// The captures that run.
pub type Captures = ArrayVec<Arc<Capture>, CAPTURES_MAX>;

/// An address and a port, as far as they are given.
pub type End = (Option<Addr>, Option<u16>);

/// Which packets are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The protocol; of an ICMP error that of the packet it is about.
    pub protocol: Option<u8>,
    /// Each of these must be an end of the packet as it came or as it leaves, inside or outside a tunnel.
    pub ends: ArrayVec<End, 3>,
    /// Only those that are dropped.
    pub dropped: bool,
    /// Only those that come in, or are sent on, by this device.
    pub device: Option<DeviceId>,
}

impl Filter {
    /// Whether a packet is wanted that looked like this when it came and when it left.
    fn takes(
        &self,
        parsed: &[Option<Parsed>],
        verdict: Verdict,
        devices: [Option<DeviceId>; 2],
    ) -> bool {
        let keys = || parsed.iter().flatten().map(|parsed| &parsed.key);
        if self.dropped && !matches!(verdict, Verdict::Drop(_)) {
            return false;
        }
        if self.device.is_some_and(|wanted| !devices.contains(&Some(wanted))) {
            return false;
        }
        if self.protocol.is_some_and(|wanted| !keys().any(|key| key.protocol == wanted)) {
            return false;
        }
        self.ends.iter().all(|&(addr, port)| {
            let is = |own: Addr, own_port: u16| {
                let fits = |port| port == own_port || addr.is_some() && own_port == 0;
                addr.is_none_or(|addr| addr == own) && port.is_none_or(fits)
            };
            keys().any(|key| {
                is(key.source, key.source_port) || is(key.destination, key.destination_port)
            })
        })
    }
}

/// Where a copy was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// As it came.
    Received,
    /// As it was sent on.
    Sent,
    /// The box made it: an answer, an error, a piece.
    Originated,
}

/// A copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Numbers what was received, from 1; what was sent on has its number, what the box made has 0.
    pub number: u64,
    /// When, in nanoseconds of the worker's clock.
    pub at: u64,
    /// Where it was taken.
    pub stage: Stage,
    /// By which device it came or left.
    pub device: DeviceId,
    /// What became of what came.
    pub verdict: Verdict,
    /// Its whole length in octets.
    pub length: u32,
    /// What was kept of it.
    pub data: Vec<u8>,
}

/// A capture: filled by workers, emptied by control.
#[derive(Debug)]
pub struct Capture {
    filter: Filter,
    snap: usize,
    next: AtomicU64,
    lost: AtomicU64,
    /// Records without a copy.
    free: (Sender<Box<Record>>, Receiver<Box<Record>>),
    /// Records with one.
    full: (Sender<Box<Record>>, Receiver<Box<Record>>),
}

/// Copies of a burst before anything was decided about it.
#[derive(Debug, Default)]
pub struct Held(ArrayVec<Option<Box<Record>>, BURST>);

impl Capture {
    /// Makes room. Of each packet at most `snap` octets are kept, within [`SNAP_MIN`] and
    /// [`SNAP_MAX`].
    pub fn new(filter: Filter, snap: usize) -> Self {
        let snap = snap.clamp(SNAP_MIN, SNAP_MAX);
        let count = (ROOM / snap).min(RECORDS_MAX);
        let capture = Self {
            filter,
            snap,
            next: AtomicU64::new(1),
            lost: AtomicU64::new(0),
            free: bounded(count),
            full: bounded(count),
        };
        for _ in 0..count {
            // Written, so that the memory is there when a worker needs it.
            let mut data = Vec::with_capacity(snap);
            data.resize(snap, 1);
            capture.give_back(Box::new(Record {
                number: 0,
                at: 0,
                stage: Stage::Received,
                device: DeviceId(0),
                verdict: Verdict::Host,
                length: 0,
                data,
            }));
        }
        capture
    }

    /// A copy of a frame, if there is room.
    fn copy(
        &self,
        frame: &[u8],
        at: u64,
        (stage, device): (Stage, DeviceId),
    ) -> Option<Box<Record>> {
        let mut record = self.free.1.try_recv().ok()?;
        record.data.clear();
        record.data.extend_from_slice(&frame[..frame.len().min(self.snap)]);
        record.length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        (record.number, record.at, record.stage, record.device) = (0, at, stage, device);
        Some(record)
    }

    /// Copies a burst as it came, at `at` nanoseconds of the worker's clock.
    pub fn hold(&self, burst: &[Packet<'_>], at: u64) -> Held {
        let copy =
            |packet: &Packet<'_>| self.copy(packet.bytes(), at, (Stage::Received, packet.device));
        Held(burst.iter().take(BURST).map(copy).collect())
    }

    /// Keeps the copies of what the filter takes, now that all is decided, and copies what leaves.
    pub fn keep(&self, held: Held, burst: &[Packet<'_>]) {
        for (copy, packet) in held.0.into_iter().zip(burst) {
            let sent = match packet.verdict {
                Verdict::Tx(device) => Some(device),
                _ => None,
            };
            let Some(mut record) = copy else {
                self.lost.fetch_add(1, Relaxed);
                continue;
            };
            let before = frame::parse(&record.data).ok();
            let after = sent.and_then(|_| frame::parse(packet.bytes()).ok());
            let devices = [Some(packet.device), sent];
            if !self.filter.takes(&[before, after], packet.verdict, devices) {
                self.give_back(record);
                continue;
            }
            record.number = self.next.fetch_add(1, Relaxed);
            record.verdict = packet.verdict;
            let (number, at) = (record.number, record.at);
            self.put(Some(record));
            if let Some(device) = sent {
                let copy = self.copy(packet.bytes(), at, (Stage::Sent, device));
                self.put(copy.map(|mut copy| {
                    copy.number = number;
                    copy
                }));
            }
        }
    }

    /// Keeps copies of what the box made itself, as far as the filter takes it.
    pub fn originated<'a>(&self, frames: impl Iterator<Item = (DeviceId, &'a [u8])>, at: u64) {
        for (device, frame) in frames {
            let parsed = frame::parse(frame).ok();
            if self.filter.takes(&[parsed], Verdict::Tx(device), [None, Some(device)]) {
                self.put(self.copy(frame, at, (Stage::Originated, device)));
            }
        }
    }

    fn put(&self, record: Option<Box<Record>>) {
        let put = record.map(|record| self.full.0.try_send(record));
        if !matches!(put, Some(Ok(()))) {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// The next copy, if there is one; give its record back when it is used.
    pub fn take(&self) -> Option<Box<Record>> {
        self.full.1.try_recv().ok()
    }

    /// Makes room again.
    pub fn give_back(&self, record: Box<Record>) {
        // There is room for all that were made.
        self.free.0.try_send(record).ok();
    }

    /// Packets that found no room so far, wanted or not.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use etherparse::PacketBuilder;

    use super::*;
    use crate::{packet::HEADROOM, verdict::DropReason};

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn frame(to: [u8; 4], port: u16) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4([10, 9, 0, 7], to, 64);
        builder.udp(1025, port).write(&mut frame, &[7; 200]).unwrap();
        frame
    }

    /// One packet through a capture: it comes to 10.0.0.1:53, and leaves to 10.2.0.11:5353 if it is sent.
    fn pass(capture: &Capture, verdict: Verdict) -> Vec<Record> {
        let came = frame([10, 0, 0, 1], 53);
        let mut memory = vec![0; HEADROOM + came.len()];
        memory[HEADROOM..].copy_from_slice(&came);
        let end = memory.len();
        let mut burst = [Packet::new(&mut memory, HEADROOM, end, DeviceId(0))];
        let held = capture.hold(&burst, 99);
        burst[0].bytes_mut().copy_from_slice(&frame([10, 2, 0, 11], 5353));
        burst[0].verdict = verdict;
        capture.keep(held, &burst);
        let taken = std::iter::from_fn(|| capture.take());
        taken
            .map(|record| {
                let copy = Record::clone(&record);
                capture.give_back(record);
                copy
            })
            .collect()
    }

    #[test]
    fn a_packet_is_kept_as_it_came_and_as_it_left() {
        let capture = Capture::new(Filter::default(), 100);
        let kept = pass(&capture, Verdict::Tx(DeviceId(1)));
        assert_eq!(kept.len(), 2);
        let [came, left] = [&kept[0], &kept[1]];
        assert_eq!((came.stage, came.device, came.number), (Stage::Received, DeviceId(0), 1));
        assert_eq!((left.stage, left.device, left.number), (Stage::Sent, DeviceId(1), 1));
        assert_eq!(came.verdict, Verdict::Tx(DeviceId(1)));
        assert_eq!(came.data, frame([10, 0, 0, 1], 53)[..100]);
        assert_eq!(left.data, frame([10, 2, 0, 11], 5353)[..100]);
        assert_eq!((came.length, came.at), (242, 99));
        let kept = pass(&capture, Verdict::Drop(DropReason::NoRoute));
        assert_eq!((kept.len(), kept[0].number), (1, 2));
    }

    #[test]
    fn a_filter_sees_both_sides_of_the_translation() {
        let end = |text: &str, port| (Some(addr(text)), port);
        let with =
            |ends: &[End]| Filter { ends: ends.iter().copied().collect(), ..Filter::default() };
        let tcp = Filter { protocol: Some(6), ..Filter::default() };
        for (filter, sent, dropped) in [
            (with(&[end("10.9.0.7", Some(1025))]), 2, 1),
            (with(&[end("10.0.0.1", Some(53)), end("10.2.0.11", Some(5353))]), 2, 0),
            (with(&[end("10.0.0.1", Some(54))]), 0, 0),
            (with(&[(None, Some(5353))]), 2, 0),
            (Filter { dropped: true, ..Filter::default() }, 0, 1),
            (Filter { device: Some(DeviceId(1)), ..Filter::default() }, 2, 0),
            (Filter { device: Some(DeviceId(2)), ..Filter::default() }, 0, 0),
            (tcp, 0, 0),
        ] {
            let capture = Capture::new(filter.clone(), SNAP_MAX);
            assert_eq!(pass(&capture, Verdict::Tx(DeviceId(1))).len(), sent, "{filter:?}");
            assert_eq!(pass(&capture, Verdict::Drop(DropReason::NoRoute)).len(), dropped);
            assert_eq!(capture.lost(), 0);
        }
    }

    #[test]
    fn without_room_packets_are_counted_and_nobody_waits() {
        let capture = Capture::new(Filter::default(), SNAP_MAX);
        let count = ROOM / SNAP_MAX;
        let own = frame([10, 0, 0, 1], 53);
        for _ in 0..count + 5 {
            capture.originated([(DeviceId(0), own.as_slice())].into_iter(), 1);
        }
        assert_eq!(capture.lost(), 5);
        let record = capture.take().unwrap();
        assert_eq!((record.stage, record.number), (Stage::Originated, 0));
        capture.give_back(record);
        capture.originated([(DeviceId(0), own.as_slice())].into_iter(), 1);
        assert_eq!(capture.lost(), 5, "what was used is used again");
    }
}
