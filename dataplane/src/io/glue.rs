//! Pieces of a super-segment joined again when they leave: the reverse of `gso`.
//!
//! The pipeline sees and counts packets as they are on a wire, but what the kernel handed over as
//! one piece goes back to it as one, to be cut where the last device needs it, or not at all. Only
//! pieces of one super-segment are joined, whose checksums we made ourselves: gluing what a
//! stranger sent would put a good checksum over octets that may be damaged.
//!
//! The rule: what the kernel cuts again are the very packets that were joined; anything that
//! would differ (another length in the middle, other options, a flag) ends the train.
//! Sources: virtio 1.2, section 5.1.6.2; Linux Documentation/networking/segmentation-offloads.rst.

use super::gso::{self, NEEDS_CSUM};
use crate::{
    addr::Addr,
    wire::{
        checksum::{self, Sum},
        protocol,
    },
};

/// Octets of the longest head: Ethernet with a tag, IPv6, TCP with all options.
const HEAD_MAX: usize = 18 + 40 + 60;

/// TCP flags: ACK alone in the middle, FIN and PSH as well at the end.
const ACK: u8 = 0x10;
const FIN_PSH: u8 = 0x09;

/// Where a TCP packet's parts begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Places {
    l3: usize,
    l4: usize,
    payload: usize,
    v6: bool,
}

/// A train: what stands in front of the joined payloads.
#[derive(Debug)]
pub(super) struct Train {
    head: [u8; gso::HEADER + HEAD_MAX],
    length: usize,
    /// Where the payload begins in each piece.
    pub(super) payload: usize,
    /// How many pieces it has.
    pub(super) count: usize,
}

impl Train {
    /// Joins as many of the first frames as go together; `None` if not even two do.
    pub(super) fn join<'a>(mut frames: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let first = frames.next()?;
        let places = Places::of(first)?;
        let size = first.len() - places.payload;
        if size == 0 || first[places.l4 + 13] != ACK {
            return None;
        }
        let (mut total, mut count, mut flags) = (size, 1, ACK);
        for frame in frames {
            let more = frame.len().wrapping_sub(places.payload);
            let fits = places.payload - places.l3 + total + more <= usize::from(u16::MAX);
            if !(1..=size).contains(&more) || !fits || !places.follows(first, frame, total) {
                break;
            }
            flags = frame[places.l4 + 13];
            total += more;
            count += 1;
            if more < size || flags != ACK {
                break;
            }
        }
        (count > 1).then(|| Self::headed(first, places, (size, total, count), flags))
    }

    /// The head in front of the pieces: `struct virtio_net_hdr` and the frame's headers.
    pub(super) fn head(&self) -> &[u8] {
        &self.head[..self.length]
    }

    fn headed(
        first: &[u8],
        places: Places,
        (size, total, count): (usize, usize, usize),
        flags: u8,
    ) -> Self {
        let Places { l3, l4, payload, v6 } = places;
        let length = gso::HEADER + payload;
        let mut train = Self { head: [0; gso::HEADER + HEAD_MAX], length, payload, count };
        let (virtio, frame) = train.head[..length].split_at_mut(gso::HEADER);
        frame.copy_from_slice(&first[..payload]);
        virtio[0] = NEEDS_CSUM;
        virtio[1] = if v6 { 4 } else { 1 };
        for (at, value) in [(2, payload), (4, size), (6, l4), (8, 16)] {
            virtio[at..at + 2].copy_from_slice(&low16(value).to_ne_bytes());
        }
        if v6 {
            put(frame, l3 + 4, low16(payload - l3 - 40 + total));
        } else {
            put(frame, l3 + 2, low16(payload - l3 + total));
            put(frame, l3 + 10, 0);
            let checksum = Sum::of(&frame[l3..l4]).checksum();
            put(frame, l3 + 10, checksum);
        }
        frame[l4 + 13] = flags;
        let (source, destination) = addrs(frame, places);
        let transport = u32::from(low16(payload - l4 + total));
        let pseudo = checksum::pseudo(source, destination, protocol::TCP, transport).fold();
        put(frame, l4 + 16, pseudo);
        train
    }
}

impl Places {
    /// Of a TCP packet right behind its IP header, which is no fragment.
    fn of(frame: &[u8]) -> Option<Self> {
        let tagged = frame.get(12..14)? == [0x81, 0];
        let l3 = if tagged { 18 } else { 14 };
        let (v6, l4) = match frame.get(l3 - 2..l3 + 10)? {
            [8, 0, version, _, _, _, _, _, fragment, _, _, 6]
                if *version == 0x45 && fragment & 0x3f == 0 && frame[l3 + 7] == 0 =>
            {
                (false, l3 + 20)
            }
            [0x86, 0xdd, version, _, _, _, _, _, 6, _, _, _] if version >> 4 == 6 => {
                (true, l3 + 40)
            }
            _ => return None,
        };
        let payload = l4 + 4 * usize::from(frame.get(l4 + 12)? >> 4);
        let whole = payload >= l4 + 20 && payload <= frame.len() && payload <= HEAD_MAX;
        whole.then_some(Self { l3, l4, payload, v6 })
    }

    /// Whether a frame is the piece `ahead` octets behind the first.
    fn follows(self, first: &[u8], frame: &[u8], ahead: usize) -> bool {
        let Self { l3, l4, payload, v6 } = self;
        let same = |from: usize, to: usize| first[from..to] == frame[from..to];
        // Lengths, the number of the datagram and checksums differ.
        let ip = if v6 {
            same(0, l3 + 4) && same(l3 + 6, l4)
        } else {
            same(0, l3 + 2) && same(l3 + 6, l3 + 10) && same(l3 + 12, l4)
        };
        let sequence = |frame: &[u8]| {
            u32::from_be_bytes([frame[l4 + 4], frame[l4 + 5], frame[l4 + 6], frame[l4 + 7]])
        };
        ip && same(l4, l4 + 4)
            && same(l4 + 8, l4 + 13)
            && same(l4 + 14, l4 + 16)
            && same(l4 + 18, payload)
            && frame[l4 + 13] & !FIN_PSH == ACK
            && sequence(frame).wrapping_sub(sequence(first)) as usize == ahead
    }
}

/// Addresses of a packet.
fn addrs(frame: &[u8], Places { l3, v6, .. }: Places) -> (Addr, Addr) {
    if v6 {
        let addr = |at: usize| frame[at..].first_chunk().map_or(0, |a| u128::from_be_bytes(*a));
        (Addr::v6(addr(l3 + 8)), Addr::v6(addr(l3 + 24)))
    } else {
        let addr = |at: usize| frame[at..].first_chunk().map_or(0, |a| u32::from_be_bytes(*a));
        (Addr::v4(addr(l3 + 12)), Addr::v4(addr(l3 + 16)))
    }
}

fn put(octets: &mut [u8], at: usize, value: u16) {
    octets[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// A length within one train, which IP keeps within 16 bits.
#[expect(clippy::cast_possible_truncation, reason = "`join` bounds what it adds up")]
const fn low16(value: usize) -> u16 {
    value as u16
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;
    use crate::io::gso::{Offload, Segments};

    /// TCP pieces of `lengths` octets one behind the other, valid as on a wire.
    fn pieces(v6: bool, lengths: &[usize]) -> Vec<Vec<u8>> {
        let mut sequence = 0xffff_fff0_u32;
        let mut out = Vec::new();
        for (at, &length) in lengths.iter().enumerate() {
            let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
            let ip = if v6 {
                ethernet.ipv6([1; 16], [2; 16], 64)
            } else {
                ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            };
            let mut tcp = ip.tcp(1000, 80, sequence, 1024).ack(5);
            if at + 1 == lengths.len() {
                tcp = tcp.psh();
            }
            let octet = u8::try_from(at).unwrap();
            let mut frame = Vec::new();
            tcp.write(&mut frame, &vec![octet; length]).unwrap();
            if !v6 {
                // Pieces are numbered one behind the other.
                put(&mut frame, 18, low16(at));
                put(&mut frame, 24, 0);
                let checksum = Sum::of(&frame[14..34]).checksum();
                put(&mut frame, 24, checksum);
            }
            sequence = sequence.wrapping_add(u32::try_from(length).unwrap());
            out.push(frame);
        }
        out
    }

    fn joined(frames: &[Vec<u8>]) -> Option<Train> {
        Train::join(frames.iter().map(Vec::as_slice))
    }

    #[test]
    fn what_is_joined_and_cut_again_is_what_it_was() {
        for v6 in [false, true] {
            let frames = pieces(v6, &[1000, 1000, 1000, 300]);
            let train = joined(&frames).unwrap();
            assert_eq!(train.count, 4);
            let mut whole = train.head()[gso::HEADER..].to_vec();
            for frame in &frames {
                whole.extend(&frame[train.payload..]);
            }
            let offload = Offload::parse(train.head().first_chunk().unwrap());
            let segments = Segments::new(&whole, offload).unwrap();
            assert_eq!(segments.count(), 4);
            let mut room = vec![0; whole.len()];
            for (at, frame) in frames.iter().enumerate() {
                let length = segments.emit(&whole, at, &mut room);
                assert_eq!(&room[..length], frame, "piece {at}");
            }
        }
    }

    #[test]
    fn a_train_ends_where_its_pieces_would_not_come_out_alike() {
        let good = || pieces(false, &[1000, 1000, 1000]);
        let count = |frames: &[Vec<u8>]| joined(frames).map_or(1, |train| train.count);
        assert_eq!(count(&good()), 3);
        assert_eq!(count(&pieces(false, &[1000, 900, 900])), 2, "a short one is the last");
        assert_eq!(count(&pieces(false, &[1000, 1001])), 1, "none is longer than the first");
        assert_eq!(count(&pieces(false, &[1000])), 1);
        // Another port, window, time to live, sequence number; a flag in the middle.
        for (place, with) in [(34, 9), (48, 9), (22, 9), (38, 9), (47, 0x18)] {
            let mut frames = good();
            frames[1][place] = with;
            assert!(count(&frames) < 3, "octet {place}");
        }
        let mut frames = good();
        frames[0][47] = 0x12;
        assert_eq!(count(&frames), 1, "not with SYN");
        let many = vec![1448; 64];
        let long = count(&pieces(false, &many));
        assert_eq!(long, (65_535 - 40) / 1448, "IP carries no more");
    }
}
