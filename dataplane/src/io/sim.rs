//! Simulated links: queues of frames in memory, for tests and simulations.
//!
//! A test pushes frames into a device, lets the worker take a turn, and takes out what left each
//! device and what went to the host; what the host's stack sends is pushed into
//! [`DeviceId::HOST`]. Nothing here depends on time or chance: the same pushes give
//! the same frames in the same order. Once a buffer has been in use it is used again, so a run
//! whose queues were warmed up allocates nothing in [`Io::burst`].

use std::{collections::VecDeque, io, time::Duration};

use arrayvec::ArrayVec;

use super::{Io, fits_mtu};
use crate::{
    packet::{BURST, HEADROOM, Packet},
    verdict::{DeviceId, DropReason, Verdict},
};

/// Room behind a received frame, in octets, as a ring's frames have it.
const TAILROOM: usize = 128;

/// One frame in its memory.
#[derive(Debug, Default)]
struct Buffer {
    memory: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// Puts `frame` into it with room on both sides.
    fn fill(&mut self, frame: &[u8]) {
        self.start = HEADROOM;
        self.end = HEADROOM + frame.len();
        self.memory.clear();
        self.memory.resize(HEADROOM, 0);
        self.memory.extend_from_slice(frame);
        self.memory.resize(self.end + TAILROOM, 0);
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }
}

/// One simulated interface.
#[derive(Debug)]
struct Link {
    /// Largest IP packet it sends, in octets.
    mtu: usize,
    /// Frames on their way to the worker, oldest first.
    received: VecDeque<Buffer>,
    /// Frames that the worker sent, oldest first.
    sent: VecDeque<Buffer>,
}

/// Simulated interfaces of one worker. Device ids count from 0 in the order of their MTUs.
#[derive(Debug)]
pub struct SimIo {
    links: Vec<Link>,
    /// Whose turn it is.
    turn: usize,
    /// Frames handed to the host, with the device they came in by.
    host: VecDeque<(DeviceId, Buffer)>,
    /// Frames that the host's stack sends, oldest first.
    from_host: VecDeque<Buffer>,
    /// Buffers to use again.
    spare: Vec<Buffer>,
    /// The burst in hand; empty between bursts.
    burst: Vec<Buffer>,
    /// Frames that each queue holds at most.
    capacity: usize,
}

impl SimIo {
    /// One interface for each of `mtus` (octets of IP). Every queue holds at most `capacity`
    /// frames: a full receive queue refuses the push, a full send queue drops with
    /// [`DropReason::TxRingFull`], a full host queue with [`DropReason::HostUnavailable`].
    ///
    /// # Panics
    ///
    /// If there are more than 256 interfaces.
    pub fn new(mtus: &[u16], capacity: usize) -> Self {
        assert!(mtus.len() <= 256, "a device id has eight bits");
        let link = |&mtu: &u16| Link {
            mtu: mtu.into(),
            received: VecDeque::with_capacity(capacity),
            sent: VecDeque::with_capacity(capacity),
        };
        Self {
            links: mtus.iter().map(link).collect(),
            turn: 0,
            host: VecDeque::with_capacity(capacity),
            from_host: VecDeque::with_capacity(capacity),
            spare: Vec::new(),
            burst: Vec::with_capacity(BURST),
            capacity,
        }
    }

    /// Puts a frame where the worker will receive it; `false` if the device's queue is full or
    /// there is no such device.
    pub fn push(&mut self, device: DeviceId, frame: &[u8]) -> bool {
        let received = match self.links.get_mut(usize::from(device.0)) {
            Some(link) => &mut link.received,
            None if device == DeviceId::HOST => &mut self.from_host,
            None => return false,
        };
        if received.len() == self.capacity {
            return false;
        }
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.fill(frame);
        received.push_back(buffer);
        true
    }

    /// The oldest frame that left through `device`; `None` if there is none.
    pub fn take(&mut self, device: DeviceId) -> Option<Vec<u8>> {
        let buffer = self.links.get_mut(usize::from(device.0))?.sent.pop_front()?;
        let frame = buffer.bytes().to_vec();
        self.spare.push(buffer);
        Some(frame)
    }

    /// The oldest frame that went to the host, with the device it came in by.
    pub fn take_host(&mut self) -> Option<(DeviceId, Vec<u8>)> {
        let (device, buffer) = self.host.pop_front()?;
        let frame = buffer.bytes().to_vec();
        self.spare.push(buffer);
        Some((device, frame))
    }

    /// How many frames wait to be received, over all devices.
    pub fn pending(&self) -> usize {
        self.links.iter().map(|link| link.received.len()).sum()
    }

    /// Receives a burst from the next device that has frames.
    fn receive(&mut self) -> DeviceId {
        for _ in 0..self.links.len() {
            let place = self.turn;
            self.turn = (self.turn + 1) % self.links.len();
            let received = &mut self.links[place].received;
            if !received.is_empty() {
                let count = received.len().min(BURST);
                self.burst.extend(received.drain(..count));
                return device_id(place);
            }
        }
        if !self.from_host.is_empty() {
            let count = self.from_host.len().min(BURST);
            self.burst.extend(self.from_host.drain(..count));
            return DeviceId::HOST;
        }
        DeviceId::default()
    }

    /// Carries `verdict` out and returns what became of the frame.
    fn settle(&mut self, device: DeviceId, buffer: Buffer, verdict: Verdict) -> Verdict {
        let refused = match verdict {
            Verdict::Tx(DeviceId::HOST) => self.hand_over(device, buffer),
            Verdict::Tx(egress) => self.transmit(egress, buffer),
            Verdict::Host => self.hand_over(device, buffer),
            Verdict::Consumed | Verdict::Drop(_) => {
                self.spare.push(buffer);
                return verdict;
            }
        };
        match refused {
            None => verdict,
            Some((buffer, reason)) => {
                self.spare.push(buffer);
                Verdict::Drop(reason)
            }
        }
    }

    /// Queues a frame for sending; gives it back with the reason if that cannot be.
    fn transmit(&mut self, egress: DeviceId, buffer: Buffer) -> Option<(Buffer, DropReason)> {
        let Some(link) = self.links.get_mut(usize::from(egress.0)) else {
            return Some((buffer, DropReason::NoSuchDevice));
        };
        if !fits_mtu(buffer.bytes(), link.mtu) {
            return Some((buffer, DropReason::Oversized));
        }
        if link.sent.len() == self.capacity {
            return Some((buffer, DropReason::TxRingFull));
        }
        link.sent.push_back(buffer);
        None
    }

    /// Queues a frame for the host; gives it back with the reason if that cannot be.
    fn hand_over(&mut self, device: DeviceId, buffer: Buffer) -> Option<(Buffer, DropReason)> {
        if self.host.len() == self.capacity {
            return Some((buffer, DropReason::HostUnavailable));
        }
        self.host.push_back((device, buffer));
        None
    }

    /// A used buffer, or a new one, with a copy of `frame`.
    fn copy(&mut self, frame: &[u8]) -> Buffer {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.fill(frame);
        buffer
    }
}

impl Io for SimIo {
    fn burst(
        &mut self,
        process: impl FnOnce(&mut [Packet<'_>]),
        mut settle: impl FnMut(DeviceId, usize, Verdict),
    ) -> io::Result<usize> {
        let device = self.receive();
        let mut burst = std::mem::take(&mut self.burst);
        let outcomes: ArrayVec<_, BURST> = {
            let mut packets: ArrayVec<_, BURST> = burst
                .iter_mut()
                .map(|buffer| Packet::new(&mut buffer.memory, buffer.start, buffer.end, device))
                .collect();
            if !packets.is_empty() {
                process(&mut packets);
            }
            packets.iter().map(|packet| (packet.start(), packet.len(), packet.verdict)).collect()
        };
        for (mut buffer, &(start, length, verdict)) in burst.drain(..).zip(&outcomes) {
            let came = buffer.end - buffer.start;
            (buffer.start, buffer.end) = (start, start + length);
            settle(device, came, self.settle(device, buffer, verdict));
        }
        self.burst = burst;
        Ok(outcomes.len())
    }

    fn send(&mut self, device: DeviceId, frame: &[u8]) -> bool {
        if device == DeviceId::HOST {
            return self.to_host(device, frame);
        }
        let buffer = self.copy(frame);
        match self.transmit(device, buffer) {
            None => true,
            Some((buffer, _)) => {
                self.spare.push(buffer);
                false
            }
        }
    }

    fn to_host(&mut self, device: DeviceId, frame: &[u8]) -> bool {
        let buffer = self.copy(frame);
        match self.hand_over(device, buffer) {
            None => true,
            Some((buffer, _)) => {
                self.spare.push(buffer);
                false
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Returns at once: who simulates decides how time passes.
    fn wait(&mut self, _: Duration) -> io::Result<()> {
        Ok(())
    }
}

fn device_id(place: usize) -> DeviceId {
    DeviceId(u8::try_from(place).expect("at most 256 interfaces"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: DeviceId = DeviceId(0);
    const B: DeviceId = DeviceId(1);

    /// One burst in which every packet gets `verdict`; what became of each.
    fn burst(io: &mut SimIo, verdict: Verdict) -> Vec<(DeviceId, usize, Verdict)> {
        let mut settled = Vec::new();
        let count = io
            .burst(
                |packets| packets.iter_mut().for_each(|packet| packet.verdict = verdict),
                |device, length, verdict| settled.push((device, length, verdict)),
            )
            .unwrap();
        assert_eq!(count, settled.len());
        settled
    }

    #[test]
    fn devices_take_turns_and_order_is_kept() {
        let mut io = SimIo::new(&[1500, 1500], 200);
        for number in 0..100u8 {
            assert!(io.push(A, &[number; 60]));
        }
        assert!(io.push(B, &[200; 60]));
        assert_eq!(burst(&mut io, Verdict::Tx(B)).len(), BURST);
        assert_eq!(burst(&mut io, Verdict::Tx(A)), [(B, 60, Verdict::Tx(A))]);
        assert_eq!(burst(&mut io, Verdict::Tx(B)).len(), 100 - BURST);
        assert!(burst(&mut io, Verdict::Tx(B)).is_empty());
        for number in 0..100 {
            assert_eq!(io.take(B).unwrap(), [number; 60]);
        }
        assert_eq!(io.take(A).unwrap(), [200; 60]);
        assert_eq!(io.take(A), None);
    }

    #[test]
    fn a_frame_leaves_as_the_pipeline_left_it() {
        let mut io = SimIo::new(&[1500], 4);
        io.push(A, b"headers and payload");
        io.burst(
            |packets| {
                packets[0].strip(8).unwrap();
                packets[0].prepend_slice(b"tunnel ").unwrap();
                packets[0].truncate(10);
                packets[0].verdict = Verdict::Tx(A);
            },
            |_, length, _| assert_eq!(length, 19),
        )
        .unwrap();
        assert_eq!(io.take(A).unwrap(), b"tunnel and");
    }

    #[test]
    fn what_cannot_be_carried_out_becomes_a_drop_with_its_reason() {
        let mut io = SimIo::new(&[100], 1);
        let cases = [
            (60, Verdict::Tx(B), Verdict::Drop(DropReason::NoSuchDevice)),
            (115, Verdict::Tx(A), Verdict::Drop(DropReason::Oversized)),
            (114, Verdict::Tx(A), Verdict::Tx(A)),
            (60, Verdict::Tx(A), Verdict::Drop(DropReason::TxRingFull)),
            (60, Verdict::Host, Verdict::Host),
            (60, Verdict::Host, Verdict::Drop(DropReason::HostUnavailable)),
            (60, Verdict::Consumed, Verdict::Consumed),
        ];
        for (length, verdict, outcome) in cases {
            assert!(io.push(A, &vec![0; length]));
            assert!(!io.push(A, &[0; 60]), "one frame fills the queue");
            assert_eq!(burst(&mut io, verdict), [(A, length, outcome)]);
        }
        assert!(!io.send(A, &[0; 60]) && !io.send(B, &[0; 60]) && !io.to_host(A, &[0; 60]));
        assert_eq!(io.take_host().unwrap(), (A, vec![0; 60]));
        assert!(io.to_host(A, &[1; 60]));
        assert_eq!(io.take_host().unwrap(), (A, vec![1; 60]));
        io.take(A).unwrap();
        assert!(io.send(A, &[7; 60]));
        assert_eq!(io.take(A).unwrap(), [7; 60]);
    }
}
