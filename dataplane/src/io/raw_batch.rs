//! What one `recvmmsg` brought, lent to the pipeline a burst at a time.
//!
//! A plain frame is lent where it was received. A super-segment is cut into slots of its own; as
//! it may give more pieces than a burst takes, the batch remembers how far it has come, and
//! nothing is received before all of it has been lent.

use std::{io, os::fd::OwnedFd};

use arrayvec::ArrayVec;

use super::{
    gso::{self, Offload, Segments},
    sys::{self, Received},
};
use crate::{
    packet::{BURST, HEADROOM, Packet},
    verdict::DeviceId,
};

/// Octets of a VLAN tag.
const TAG: usize = 4;

/// Where a frame starts in its slot as received: behind the headroom and room for a VLAN tag.
const START: usize = HEADROOM + TAG;

/// Octets of a slot: a super-segment of 64 KB with its Ethernet header, and room on both sides. A
/// longer one ("BIG TCP", off by default) is cut by the kernel and refused by the parser. Memory
/// is touched only as far as frames reach.
pub(super) const SLOT: usize = 68 * 1024;

const _: () = assert!(BURST <= 64, "`follows` has a bit for each packet");

/// One received frame in its slot.
#[derive(Clone, Copy, Debug)]
struct Frame {
    start: usize,
    end: usize,
    /// How to cut it, if it is a super-segment.
    segments: Option<Segments>,
}

/// The frames of one receive call.
#[derive(Debug)]
pub(super) struct Batch {
    memory: Vec<u8>,
    /// As the kernel described them; kept for its room alone.
    received: ArrayVec<Received, BURST>,
    frames: ArrayVec<Frame, BURST>,
    /// The first frame not lent entirely, and the first of its pieces not lent.
    next: (usize, usize),
    /// Where they came in.
    pub(super) device: DeviceId,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            memory: vec![0; BURST * SLOT],
            received: ArrayVec::new(),
            frames: ArrayVec::new(),
            next: (0, 0),
            device: DeviceId::default(),
        }
    }

    /// Whether everything has been lent.
    pub(super) fn is_empty(&self) -> bool {
        self.next.0 == self.frames.len()
    }

    /// Receives anew. What was there is gone.
    ///
    /// # Errors
    ///
    /// As [`sys::receive`]; then the batch is empty.
    pub(super) fn receive(&mut self, socket: &OwnedFd, device: DeviceId) -> io::Result<()> {
        self.frames.clear();
        self.next = (0, 0);
        self.device = device;
        // The virtio header comes in front of the frame, into the headroom.
        let place = (SLOT, START - gso::HEADER);
        sys::receive(socket, &mut self.memory, place, &mut self.received)?;
        let slots = self.memory.chunks_exact_mut(SLOT);
        self.frames
            .extend(slots.zip(&self.received).map(|(slot, &received)| prepare(slot, received)));
        Ok(())
    }

    /// Lends the next frames, pieces of super-segments in slots of `pieces`, at most [`BURST`]. The
    /// burst counts as lent with this call. A bit of `follows` is set for each packet that is of
    /// one super-segment with the packet before it.
    pub(super) fn lend<'a>(
        &'a mut self,
        pieces: &'a mut [u8],
        follows: &mut u64,
    ) -> ArrayVec<Packet<'a>, BURST> {
        let device = self.device;
        *follows = 0;
        let mut packets = ArrayVec::new();
        let mut rooms = pieces.chunks_exact_mut(SLOT);
        let (first, mut piece) = self.next;
        for (slot, frame) in self.memory.chunks_exact_mut(SLOT).zip(&self.frames).skip(first) {
            let Some(segments) = frame.segments else {
                if packets.is_full() {
                    return packets;
                }
                packets.push(Packet::new(slot, frame.start, frame.end, device));
                self.next = (self.next.0 + 1, 0);
                continue;
            };
            let count = segments.count();
            while piece < count {
                let Some(room) = rooms.next().filter(|_| !packets.is_full()) else {
                    return packets;
                };
                let length =
                    segments.emit(&slot[frame.start..frame.end], piece, &mut room[START..]);
                // The first of a burst follows nothing in it.
                *follows |= u64::from(piece > 0 && !packets.is_empty()) << packets.len();
                packets.push(Packet::new(room, START, START + length, device));
                piece += 1;
                // Moves on with the last piece, so that a batch all lent is empty.
                self.next = if piece < count { (self.next.0, piece) } else { (self.next.0 + 1, 0) };
            }
            piece = 0;
        }
        packets
    }
}

/// Does to a received frame what the kernel or the peer left undone, short of cutting it.
fn prepare(slot: &mut [u8], received: Received) -> Frame {
    let header = slot[START - gso::HEADER..].first_chunk().expect("the slot is longer");
    let mut offload = Offload::parse(header);
    let end = (START - gso::HEADER + received.length).max(START);
    let mut start = START;
    if let Some((ethertype, tag)) = received.vlan.filter(|_| end - START >= 12) {
        start -= TAG;
        slot.copy_within(START..START + 12, start);
        slot[start + 12..start + 14].copy_from_slice(&ethertype.to_be_bytes());
        slot[start + 14..start + 16].copy_from_slice(&tag.to_be_bytes());
        offload = offload.shifted(4);
    }
    let frame = &mut slot[start..end];
    let segments = Segments::new(frame, offload);
    if let (None, Some(place)) = (segments, offload.checksum) {
        gso::finish_checksum(frame, place);
    }
    Frame { start, end, segments }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch as if these frames, each behind its virtio header, had been received.
    fn batch(frames: &[Vec<u8>], vlan: Option<(u16, u16)>) -> Batch {
        let mut batch = Batch::new();
        for (octets, slot) in frames.iter().zip(batch.memory.chunks_exact_mut(SLOT)) {
            slot[START - gso::HEADER..][..octets.len()].copy_from_slice(octets);
            let received = Received { length: octets.len(), vlan };
            batch.frames.push(prepare(slot, received));
        }
        batch
    }

    fn plain(number: u8) -> Vec<u8> {
        [[0; gso::HEADER].as_slice(), &[number; 60]].concat()
    }

    /// A super-segment of TCP over IPv4 with `payload` octets, 100 of them to a piece.
    fn super_segment(payload: usize) -> Vec<u8> {
        let mut frame = vec![0; gso::HEADER];
        frame[0] = gso::NEEDS_CSUM;
        frame[1] = 1;
        frame[4..6].copy_from_slice(&100u16.to_ne_bytes());
        frame[6..8].copy_from_slice(&34u16.to_ne_bytes());
        frame[8..10].copy_from_slice(&16u16.to_ne_bytes());
        etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(1, 2, 0, 100)
            .write(&mut frame, &vec![9; payload])
            .unwrap();
        frame
    }

    #[test]
    fn super_segments_are_lent_piece_by_piece_between_plain_frames() {
        let mut batch = batch(&[plain(1), super_segment(15_000), plain(2)], None);
        let mut pieces = vec![0; BURST * SLOT];
        let mut lengths = Vec::new();
        while !batch.is_empty() {
            let packets = batch.lend(&mut pieces, &mut 0);
            assert!(!packets.is_empty() && packets.len() <= BURST);
            assert!(packets.iter().all(|packet| packet.start() >= HEADROOM));
            lengths.extend(packets.iter().map(Packet::len));
        }
        assert_eq!(lengths.len(), 152);
        assert_eq!((lengths[0], lengths[151]), (60, 60));
        assert!(lengths[1..151].iter().all(|&length| length == 154));
    }

    #[test]
    fn a_burst_that_takes_the_last_piece_empties_the_batch() {
        let mut batch = batch(&[super_segment(100 * BURST)], None);
        assert_eq!(batch.lend(&mut vec![0; BURST * SLOT], &mut 0).len(), BURST);
        assert!(batch.is_empty());
    }

    #[test]
    fn many_small_super_segments_fill_burst_after_burst() {
        let frames: Vec<_> = (0..BURST).map(|_| super_segment(350)).collect();
        let mut batch = batch(&frames, None);
        let mut pieces = vec![0; BURST * SLOT];
        let mut count = 0;
        while !batch.is_empty() {
            count += batch.lend(&mut pieces, &mut 0).len();
        }
        assert_eq!(count, 4 * BURST);
    }

    #[test]
    fn a_vlan_tag_goes_back_where_it_was() {
        let mut octets = plain(0);
        for (place, octet) in octets[gso::HEADER..].iter_mut().enumerate() {
            *octet = u8::try_from(place).unwrap();
        }
        let mut batch = batch(&[octets], Some((0x8100, 0x2005)));
        let mut pieces = Vec::new();
        let packets = batch.lend(&mut pieces, &mut 0);
        let frame = packets[0].bytes();
        assert_eq!(frame.len(), 64);
        assert_eq!(frame[..12], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        assert_eq!(frame[12..18], [0x81, 0x00, 0x20, 0x05, 12, 13]);
        assert_eq!(packets[0].start(), HEADROOM);
    }
}
