//! Frames in memory, as a device's rings would hold them, and the measured call.

use arrayvec::ArrayVec;
use dataplane::{
    clock::Tick,
    packet::{BURST, HEADROOM, Packet},
    pipeline::Pipeline,
    verdict::{DeviceId, Verdict},
};

use super::{traffic::Frame, windows::Windows};

/// When everything happens: flows neither begin nor end by time.
pub(super) const NOW: Tick = Tick(16_000);

/// Octets of a cache line.
const LINE: usize = 64;

/// Where a frame lies when it was processed, and whether it was sent on.
type Left = (usize, usize, bool);

/// Frames in windows of [`Windows::PACKETS`].
pub(super) struct Ring {
    memory: Vec<u8>,
    /// Where the first frame's memory starts: frames start on cache lines, as AF_XDP's do.
    first: usize,
    /// Octets between the starts of two frames' memory.
    slot: usize,
    frames: Vec<(DeviceId, usize)>,
    /// Those of the window processed last.
    left: Vec<Left>,
}

impl Ring {
    /// Room for so many windows of frames, each frame with `slot` octets.
    pub(super) fn new(windows: usize, slot: usize) -> Self {
        let frames = windows * Windows::PACKETS;
        let slot = slot.next_multiple_of(LINE);
        let memory = vec![0; frames * slot + LINE];
        Self {
            first: memory.as_ptr().align_offset(LINE),
            memory,
            slot,
            frames: vec![(DeviceId(0), 0); frames],
            left: Vec::with_capacity(Windows::PACKETS),
        }
    }

    /// Puts frames into a window.
    pub(super) fn fill(&mut self, window: usize, frames: impl Iterator<Item = Frame>) {
        let first = window * Windows::PACKETS;
        let slots = self.memory[self.first + first * self.slot..].chunks_exact_mut(self.slot);
        for ((slot, place), frame) in slots.zip(&mut self.frames[first..]).zip(frames) {
            let octets = frame.octets();
            slot[HEADROOM..HEADROOM + octets.len()].copy_from_slice(octets);
            *place = (frame.device(), octets.len());
        }
    }

    /// Has `handle` handle the first `count` frames of a window in bursts; how many were sent on.
    pub(super) fn each_burst(
        &mut self,
        window: usize,
        count: usize,
        mut handle: impl FnMut(&mut [Packet<'_>]),
    ) -> usize {
        self.left.clear();
        let first = window * Windows::PACKETS;
        let slots = self.memory[self.first + first * self.slot..].chunks_mut(self.slot * BURST);
        for (memory, frames) in slots.zip(self.frames[first..first + count].chunks(BURST)) {
            let mut burst: ArrayVec<Packet<'_>, BURST> = ArrayVec::new();
            for (slot, &(device, length)) in memory.chunks_exact_mut(self.slot).zip(frames) {
                burst.push(Packet::new(slot, HEADROOM, HEADROOM + length, device));
            }
            handle(&mut burst);
            self.left.extend(burst.iter().map(|packet| {
                (packet.start(), packet.len(), matches!(packet.verdict, Verdict::Tx(_)))
            }));
        }
        self.left.iter().filter(|(.., sent)| *sent).count()
    }

    /// Processes the first `count` frames; how many were sent on.
    pub(super) fn process(&mut self, pipeline: &mut Pipeline, count: usize) -> usize {
        self.each_burst(0, count, |burst| turn(pipeline, burst))
    }

    /// The same for a whole window, under a name that callgrind can tell from the rest.
    pub(super) fn measure(&mut self, window: usize, pipeline: &mut Pipeline) -> usize {
        self.each_burst(window, Windows::PACKETS, |burst| measured_turn(pipeline, burst))
    }

    /// The frame at `place` of the first window as the pipeline left it.
    pub(super) fn frame(&self, place: usize) -> &[u8] {
        let (start, length, _) = self.left[place];
        &self.memory[self.first + place * self.slot + start..][..length]
    }
}

/// What a worker does in a turn, but for its devices.
#[inline(always)]
fn turn(pipeline: &mut Pipeline, burst: &mut [Packet<'_>]) {
    pipeline.process(burst, NOW);
    pipeline.outbox_mut().clear();
    pipeline.housekeep(NOW, BURST);
}

/// [`turn`], where it is measured.
#[inline(never)]
fn measured_turn(pipeline: &mut Pipeline, burst: &mut [Packet<'_>]) {
    turn(pipeline, burst);
}
