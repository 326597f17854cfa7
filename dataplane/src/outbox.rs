//! Packets that we make ourselves: answers, ICMP errors, fragments.
//!
//! Bounded: a worker's outbox holds [`FRAMES`] frames of at most [`FRAME`] octets between two
//! visits of the device. When it is full the packet is lost and counted; whoever made it says what
//! that means (an answer is simply not given, a datagram whose fragments do not all fit is not
//! begun).

use crate::verdict::DeviceId;

/// Frames held at most.
pub const FRAMES: usize = 128;

/// Octets in a frame at most: a jumbo frame with its tunnel headers.
pub const FRAME: usize = 9216;

/// Frames on their way out.
#[derive(Debug)]
pub struct Outbox {
    /// `FRAMES` slots of `FRAME` octets.
    octets: Box<[u8]>,
    /// Device and length of each frame, in order.
    frames: arrayvec::ArrayVec<(DeviceId, u16), FRAMES>,
    /// Frames that found no room since the last [`Outbox::clear`].
    lost: u32,
}

impl Default for Outbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Outbox {
    /// An empty outbox.
    pub fn new() -> Self {
        Self {
            octets: vec![0; FRAMES * FRAME].into_boxed_slice(),
            frames: arrayvec::ArrayVec::new(),
            lost: 0,
        }
    }

    /// How many more frames fit.
    pub const fn room(&self) -> usize {
        self.frames.remaining_capacity()
    }

    /// Adds a frame that `write` puts into the slot, returning its length; `None` from `write`
    /// adds nothing. `false` if there was no room.
    pub fn push(
        &mut self,
        device: DeviceId,
        write: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> bool {
        if self.frames.is_full() {
            self.lost += 1;
            return false;
        }
        let start = self.frames.len() * FRAME;
        let length = write(&mut self.octets[start..start + FRAME]);
        let Some(length) = length.filter(|&length| length <= FRAME) else { return false };
        let length = u16::try_from(length).expect("a frame's length fits 16 bits");
        self.frames.push((device, length));
        true
    }

    /// The frames, in the order in which they were added.
    pub fn frames(&self) -> impl Iterator<Item = (DeviceId, &[u8])> {
        self.frames.iter().enumerate().map(|(slot, &(device, length))| {
            (device, &self.octets[slot * FRAME..slot * FRAME + usize::from(length)])
        })
    }

    /// Whether nothing waits.
    pub const fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Forgets all frames; returns how many had found no room.
    pub fn clear(&mut self) -> u32 {
        self.frames.clear();
        std::mem::take(&mut self.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_outbox_loses_and_counts() {
        let mut outbox = Outbox::new();
        for number in 0..FRAMES {
            assert!(outbox.push(DeviceId(1), |slot| {
                slot[0] = u8::try_from(number).unwrap();
                Some(1)
            }));
        }
        assert!(!outbox.push(DeviceId(1), |_| Some(1)));
        assert_eq!(outbox.frames().nth(5), Some((DeviceId(1), &[5u8][..])));
        assert_eq!(outbox.clear(), 1);
        assert!(outbox.is_empty());
        assert!(!outbox.push(DeviceId(0), |_| None));
        assert!(outbox.is_empty());
    }
}
