//! Faults of a link, seeded: loss, reordering, duplication, corruption.
//!
//! A step between two ends of a simulated link. The same seed and the same frames give the same
//! faults; a duplicate is a fault of its own right and may be lost, damaged or delayed like any frame.

use std::collections::VecDeque;

use crate::{rng::Rng, wire::ethernet};

/// Frames held back at most; when as many are held, no further frame is delayed.
const HELD_MAX: usize = 64;

/// How many later frames overtake a delayed one, at most.
const OVERTAKEN_MAX: u64 = 16;

/// How often each fault strikes, per mille of frames (1000: always).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// The frame vanishes.
    pub loss: u16,
    /// A second copy follows.
    pub duplicate: u16,
    /// Up to 16 later frames overtake it.
    pub reorder: u16,
    /// One bit flips, anywhere behind the link header: a frame that goes to somebody else is
    /// another fault. Checksums of the Internet always notice one bit.
    pub corrupt: u16,
}

/// What befell the frames so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames that came.
    pub frames: u64,
    /// Frames lost.
    pub lost: u64,
    /// Copies added.
    pub duplicated: u64,
    /// Frames delayed.
    pub reordered: u64,
    /// Frames with a flipped bit.
    pub corrupted: u64,
}

/// One direction of a faulty link.
#[derive(Debug)]
pub struct Faults {
    rates: Rates,
    rng: Rng,
    /// Delayed frames, with how many frames may still overtake each.
    held: VecDeque<(u64, Vec<u8>)>,
    counts: Counts,
}

impl Faults {
    /// A link with these faults. `seed` decides which frames they strike.
    pub const fn new(seed: u64, rates: Rates) -> Self {
        let counts = Counts { frames: 0, lost: 0, duplicated: 0, reordered: 0, corrupted: 0 };
        Self { rates, rng: Rng::from_seed(seed), held: VecDeque::new(), counts }
    }

    /// Sends `frame` in at one end; calls `deliver` with every frame that now comes out at the other.
    pub fn pass(&mut self, frame: Vec<u8>, mut deliver: impl FnMut(Vec<u8>)) {
        self.counts.frames += 1;
        if self.strikes(self.rates.duplicate) {
            self.counts.duplicated += 1;
            self.one(frame.clone(), &mut deliver);
        }
        self.one(frame, &mut deliver);
    }

    /// Delivers what is still held back: the link has fallen quiet, so nothing can overtake.
    pub fn release(&mut self, mut deliver: impl FnMut(Vec<u8>)) {
        self.held.drain(..).for_each(|(_, frame)| deliver(frame));
    }

    /// What befell the frames so far.
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    fn one(&mut self, mut frame: Vec<u8>, deliver: &mut impl FnMut(Vec<u8>)) {
        if self.strikes(self.rates.loss) {
            self.counts.lost += 1;
            return;
        }
        if self.strikes(self.rates.corrupt) && !frame.is_empty() {
            self.counts.corrupted += 1;
            let header = if frame.len() > ethernet::LEN { ethernet::LEN } else { 0 };
            let bits = 8 * (frame.len() - header) as u64;
            let bit = 8 * header as u64 + self.rng.below(bits);
            let octet = usize::try_from(bit / 8).expect("below the frame's length");
            frame[octet] ^= 1 << (bit % 8);
        }
        if self.strikes(self.rates.reorder) && self.held.len() < HELD_MAX {
            self.counts.reordered += 1;
            self.held.push_back((1 + self.rng.below(OVERTAKEN_MAX), frame));
            return;
        }
        deliver(frame);
        for (overtakers, _) in &mut self.held {
            *overtakers -= 1;
        }
        while let Some(due) = self.held.iter().position(|&(overtakers, _)| overtakers == 0) {
            let (_, frame) = self.held.remove(due).expect("position is within");
            deliver(frame);
        }
    }

    fn strikes(&mut self, per_mille: u16) -> bool {
        self.rng.below(1000) < per_mille.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seed: u64, rates: Rates) -> (Vec<Vec<u8>>, Counts) {
        let mut faults = Faults::new(seed, rates);
        let mut out = Vec::new();
        for number in 0..10_000u32 {
            faults.pass(number.to_be_bytes().to_vec(), |frame| out.push(frame));
        }
        faults.release(|frame| out.push(frame));
        (out, faults.counts())
    }

    #[test]
    fn same_seed_same_faults() {
        let rates = Rates { loss: 10, duplicate: 20, reorder: 30, corrupt: 40 };
        assert_eq!(run(1, rates), run(1, rates));
        assert_ne!(run(1, rates).0, run(2, rates).0);
    }

    #[test]
    fn a_link_without_faults_changes_nothing() {
        let (out, counts) = run(1, Rates::default());
        let expected: Vec<_> = (0..10_000u32).map(|number| number.to_be_bytes().to_vec()).collect();
        assert_eq!(out, expected);
        assert_eq!(counts, Counts { frames: 10_000, ..Counts::default() });
    }

    #[test]
    fn every_fault_strikes_as_often_as_asked_and_frames_are_conserved() {
        let (out, counts) = run(3, Rates { loss: 100, duplicate: 100, reorder: 100, corrupt: 100 });
        for struck in [counts.lost, counts.duplicated, counts.reordered, counts.corrupted] {
            assert!((800..1300).contains(&struck), "{counts:?}");
        }
        assert_eq!(out.len() as u64, counts.frames + counts.duplicated - counts.lost);
    }

    #[test]
    fn a_delayed_frame_is_overtaken_by_few_and_none_is_lost() {
        let (mut out, counts) = run(4, Rates { reorder: 100, ..Rates::default() });
        assert!(counts.reordered > 0);
        let numbers: Vec<u32> =
            out.iter().map(|frame| u32::from_be_bytes(frame[..].try_into().unwrap())).collect();
        assert!(!numbers.is_sorted());
        for (place, &number) in numbers.iter().enumerate() {
            assert!(place.abs_diff(number as usize) <= HELD_MAX + 16, "{number} at {place}");
        }
        out.sort_unstable();
        out.dedup();
        assert_eq!(out.len(), 10_000);
    }

    #[test]
    fn corruption_flips_one_bit() {
        let (out, counts) = run(5, Rates { corrupt: 1000, ..Rates::default() });
        assert_eq!(counts.corrupted, 10_000);
        for (number, frame) in out.iter().enumerate() {
            let got = u32::from_be_bytes(frame[..].try_into().unwrap());
            assert_eq!((got ^ u32::try_from(number).unwrap()).count_ones(), 1);
        }
    }
}
