//! Capture files as devices: what was recorded comes in, what we would have sent is kept.
//!
//! A [`Tape`] holds the frames of one or more captures; every worker plays its share of it through
//! a [`PcapIo`]. The capture's time is the clock: whoever drives the worker sets the clock to
//! [`PcapIo::next_nanos`] before each turn. The same tape gives the same bursts, always.

pub mod capture;
pub mod link;
pub mod write;

use std::{io, sync::Arc, time::Duration};

use arrayvec::ArrayVec;

use self::{
    capture::Record,
    link::{ETHERNET_HEADER, Framing, framing},
};
use super::Io;
use crate::{
    clock::TICKS_PER_SECOND,
    packet::{BURST, HEADROOM, Packet},
    verdict::{DeviceId, DropReason, Verdict},
};

/// Room behind a received frame, in octets, as a ring's frames have it.
const TAILROOM: usize = 128;

/// The longest frame that is played, in octets; of a longer one the start (libpcap's
/// `MAXIMUM_SNAPLEN`). Bounds the memory of a burst to 16 MiB.
pub const FRAME_MAX: usize = 262_144;

/// The longest time between the first and the last frame of a burst, in nanoseconds: one tick, so
/// that every frame is processed in the tick it was captured in or the one before.
const BURST_SPAN: u64 = 1_000_000_000 / TICKS_PER_SECOND as u64;

/// Between two passes over a tape, in nanoseconds.
const PASS_GAP: u64 = 1_000_000_000;

/// A frame of a tape.
#[derive(Clone, Copy, Debug)]
struct Cue {
    /// Capture time; never before the frame in front of it.
    nanos: u64,
    device: DeviceId,
    start: usize,
    length: usize,
}

/// Frames in the order in which they are to be received.
#[derive(Debug, Default)]
pub struct Tape {
    octets: Vec<u8>,
    cues: Vec<Cue>,
    /// Length of the longest frame.
    longest: usize,
}

impl Tape {
    /// Appends a packet that will come in by `device`. A capture's time may jump back; the tape's
    /// then stands still.
    pub fn add(&mut self, record: &Record<'_>, device: DeviceId) {
        let start = self.octets.len();
        let mut data = record.data;
        match framing(record.link, data) {
            Framing::Ethernet => {}
            Framing::Header { strip, header } => {
                self.octets.extend_from_slice(&header);
                data = &data[strip..];
            }
        }
        let room = FRAME_MAX - (self.octets.len() - start);
        self.octets.extend_from_slice(&data[..data.len().min(room)]);
        let length = self.octets.len() - start;
        let nanos = self.cues.last().map_or(record.nanos, |last| last.nanos.max(record.nanos));
        self.cues.push(Cue { nanos, device, start, length });
        self.longest = self.longest.max(length);
    }

    /// How many frames there are.
    pub const fn len(&self) -> usize {
        self.cues.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.cues.is_empty()
    }

    /// The frame at `position`, with the device it comes in by.
    ///
    /// # Panics
    ///
    /// If `position` is not below [`Tape::len`].
    pub fn frame(&self, position: usize) -> (DeviceId, &[u8]) {
        let cue = &self.cues[position];
        (cue.device, &self.octets[cue.start..cue.start + cue.length])
    }

    /// The frame at `position`, to be changed before it is played.
    ///
    /// # Panics
    ///
    /// If `position` is not below [`Tape::len`].
    pub fn frame_mut(&mut self, position: usize) -> &mut [u8] {
        let cue = &self.cues[position];
        &mut self.octets[cue.start..cue.start + cue.length]
    }

    /// Lets the frame at `position` come in by another device.
    ///
    /// # Panics
    ///
    /// If `position` is not below [`Tape::len`].
    pub fn set_device(&mut self, position: usize, device: DeviceId) {
        self.cues[position].device = device;
    }

    /// When the frame at `position` was captured, in nanoseconds; positions past the end are those
    /// of further passes. `None` if the tape is empty.
    pub fn nanos(&self, position: usize) -> Option<u64> {
        let (first, last) = (self.cues.first()?, self.cues.last()?);
        let pass = (position / self.cues.len()) as u64;
        let shift = (last.nanos - first.nanos).saturating_add(PASS_GAP).saturating_mul(pass);
        Some(self.cues[position % self.cues.len()].nanos.saturating_add(shift))
    }
}

/// A frame that left.
#[derive(Clone, Copy, Debug)]
struct Sent {
    device: DeviceId,
    start: usize,
    end: usize,
}

/// One worker's share of a tape.
#[derive(Debug)]
pub struct PcapIo {
    tape: Arc<Tape>,
    /// The positions that this worker plays in one pass, ascending.
    share: Vec<usize>,
    /// How many frames were played, over all passes.
    played: usize,
    /// How many will be.
    total: usize,
    /// Position before which frames may be received.
    until: usize,
    /// How many devices there are.
    devices: u8,
    /// The lent memory of a burst.
    memory: Vec<u8>,
    /// Octets of each slot in it.
    slot: usize,
    /// What left since it was last taken, if it is kept at all.
    sent: Option<(Vec<u8>, Vec<Sent>)>,
}

impl PcapIo {
    /// Plays the positions `share` of `tape`, `passes` times. `devices` is how many there are to
    /// send through; what is sent is kept if `keep` is set, and forgotten otherwise.
    pub fn new(tape: Arc<Tape>, share: Vec<usize>, passes: usize, devices: u8, keep: bool) -> Self {
        let slot = HEADROOM + tape.longest.max(ETHERNET_HEADER) + TAILROOM;
        Self {
            total: share.len().saturating_mul(passes),
            memory: vec![0; slot * BURST],
            tape,
            share,
            played: 0,
            until: usize::MAX,
            devices,
            slot,
            sent: keep.then(Default::default),
        }
    }

    /// Position of the next frame, counted over all passes; `None` at the end.
    pub fn position(&self) -> Option<usize> {
        (self.played < self.total).then(|| self.position_of(self.played))
    }

    /// When the next frame was captured, in nanoseconds; `None` at the end.
    pub fn next_nanos(&self) -> Option<u64> {
        self.tape.nanos(self.position()?)
    }

    /// Receives no frame at or after `position` from now on, so that several workers can be driven
    /// in the order of the capture.
    pub const fn play_until(&mut self, position: usize) {
        self.until = position;
    }

    /// Shows every frame that left since the last call, in order, and forgets it.
    pub fn take_sent(&mut self, mut each: impl FnMut(DeviceId, &[u8])) {
        if let Some((octets, frames)) = &mut self.sent {
            for sent in frames.drain(..) {
                each(sent.device, &octets[sent.start..sent.end]);
            }
            octets.clear();
        }
    }

    fn position_of(&self, played: usize) -> usize {
        let pass = played / self.share.len();
        pass * self.tape.len() + self.share[played % self.share.len()]
    }

    /// The positions of the next burst: frames of one device and one pass, at most [`BURST`].
    fn next_burst(&self) -> ArrayVec<usize, BURST> {
        let mut burst = ArrayVec::new();
        let Some(first) = self.position() else {
            return burst;
        };
        let last = self.tape.nanos(first).unwrap_or(0).saturating_add(BURST_SPAN);
        let (device, _) = self.tape.frame(first % self.tape.len());
        let pass_end = (self.played / self.share.len() + 1) * self.share.len();
        for played in self.played..pass_end.min(self.played + BURST) {
            let position = self.position_of(played);
            let index = position % self.tape.len();
            if position >= self.until
                || self.tape.frame(index).0 != device
                || self.tape.nanos(position) > Some(last)
            {
                break;
            }
            burst.push(index);
        }
        burst
    }

    fn transmit(&mut self, device: DeviceId, frame: &[u8]) -> Option<DropReason> {
        if device.0 >= self.devices {
            return Some(DropReason::NoSuchDevice);
        }
        if let Some((octets, frames)) = &mut self.sent {
            let start = octets.len();
            octets.extend_from_slice(frame);
            frames.push(Sent { device, start, end: octets.len() });
        }
        None
    }
}

impl Io for PcapIo {
    fn burst(
        &mut self,
        process: impl FnOnce(&mut [Packet<'_>]),
        mut settle: impl FnMut(DeviceId, usize, Verdict),
    ) -> io::Result<usize> {
        let positions = self.next_burst();
        if positions.is_empty() {
            return Ok(0);
        }
        let mut memory = std::mem::take(&mut self.memory);
        let mut packets: ArrayVec<Packet<'_>, BURST> = ArrayVec::new();
        for (slot, &position) in memory.chunks_exact_mut(self.slot).zip(&positions) {
            let (device, frame) = self.tape.frame(position);
            let end = HEADROOM + frame.len();
            slot[HEADROOM..end].copy_from_slice(frame);
            packets.push(Packet::new(slot, HEADROOM, end, device));
        }
        process(&mut packets);
        for (packet, &position) in packets.iter().zip(&positions) {
            let (device, frame) = self.tape.frame(position);
            let came = frame.len();
            let refused = match packet.verdict {
                Verdict::Tx(egress) => self.transmit(egress, packet.bytes()),
                _ => None,
            };
            settle(device, came, refused.map_or(packet.verdict, Verdict::Drop));
        }
        drop(packets);
        self.memory = memory;
        self.played += positions.len();
        Ok(positions.len())
    }

    fn send(&mut self, device: DeviceId, frame: &[u8]) -> bool {
        self.transmit(device, frame).is_none()
    }

    /// There is no host behind a capture: its stack takes everything and answers nothing.
    fn to_host(&mut self, _: DeviceId, _: &[u8]) -> bool {
        true
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Returns at once: the capture's time is the clock.
    fn wait(&mut self, _: Duration) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: DeviceId = DeviceId(0);
    const B: DeviceId = DeviceId(1);

    fn tape(frames: &[(u64, DeviceId, &[u8])]) -> Arc<Tape> {
        let mut tape = Tape::default();
        for &(nanos, device, data) in frames {
            tape.add(&Record { nanos, link: 1, original: 0, data }, device);
        }
        Arc::new(tape)
    }

    /// Plays one burst in which everything is sent to `to`; what came, and how it ended.
    fn burst(io: &mut PcapIo, to: DeviceId) -> Vec<(DeviceId, usize, Verdict)> {
        let mut settled = Vec::new();
        io.burst(
            |packets| packets.iter_mut().for_each(|packet| packet.verdict = Verdict::Tx(to)),
            |device, length, verdict| settled.push((device, length, verdict)),
        )
        .unwrap();
        settled
    }

    #[test]
    fn a_burst_holds_frames_of_one_device_in_the_order_of_the_tape() {
        let tape = tape(&[(5, A, b"one"), (6, A, b"two"), (4, B, b"three"), (9, A, b"")]);
        let mut io = PcapIo::new(tape, vec![0, 1, 2, 3], 2, 2, true);
        for pass in 0..2 {
            let shift = pass * (PASS_GAP + 4);
            assert_eq!(io.next_nanos(), Some(5 + shift));
            assert_eq!(burst(&mut io, B), [(A, 3, Verdict::Tx(B)), (A, 3, Verdict::Tx(B))]);
            assert_eq!(io.next_nanos(), Some(6 + shift), "time does not run backwards");
            assert_eq!(burst(&mut io, A), [(B, 5, Verdict::Tx(A))]);
            let nowhere = DeviceId(2);
            let drop = Verdict::Drop(DropReason::NoSuchDevice);
            assert_eq!(burst(&mut io, nowhere), [(A, 0, drop)]);
            let mut sent = Vec::new();
            io.take_sent(|device, frame| sent.push((device, frame.to_vec())));
            let frames = [(B, b"one".to_vec()), (B, b"two".to_vec()), (A, b"three".to_vec())];
            assert_eq!(sent, frames);
        }
        assert_eq!((io.position(), burst(&mut io, A)), (None, vec![]));
    }

    #[test]
    fn frames_further_apart_than_a_tick_come_in_two_bursts() {
        let tape = tape(&[(0, A, b"a"), (BURST_SPAN, A, b"b"), (BURST_SPAN + 1, A, b"c")]);
        let mut io = PcapIo::new(tape, vec![0, 1, 2], 1, 1, false);
        assert_eq!((burst(&mut io, A).len(), burst(&mut io, A).len()), (2, 1));
    }

    #[test]
    fn workers_share_a_tape_and_stop_where_they_are_told() {
        let frames: Vec<_> = (0..200).map(|nanos| (nanos, A, &b"frame"[..])).collect();
        let tape = tape(&frames);
        let share = |odd| (0..200).filter(|n| n % 2 == odd).collect();
        let mut even = PcapIo::new(Arc::clone(&tape), share(0), 1, 1, false);
        let mut odd = PcapIo::new(tape, share(1), 1, 1, false);
        odd.play_until(11);
        assert_eq!(burst(&mut odd, A).len(), 5);
        assert_eq!((odd.position(), burst(&mut odd, A).len()), (Some(11), 0));
        assert_eq!(burst(&mut even, A).len(), BURST);
        assert_eq!(burst(&mut even, A).len(), 100 - BURST);
    }

    #[test]
    fn a_longer_frame_than_any_reader_takes_is_cut() {
        let mut tape = Tape::default();
        let record = Record { nanos: 0, link: 101, original: 0, data: &[0x45; FRAME_MAX] };
        tape.add(&record, A);
        assert_eq!(tape.frame(0).1.len(), FRAME_MAX);
        let mut io = PcapIo::new(Arc::new(tape), vec![0], 1, 1, false);
        assert_eq!(burst(&mut io, A), [(A, FRAME_MAX, Verdict::Tx(A))]);
    }
}
