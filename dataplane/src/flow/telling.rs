//! How far a real server was told its client by the PROXY protocol: a step, and a number that stands in
//! place of the octets to the real server while that goes on.
//!
//! The rule: the step is written after the number and read before it, so whoever sees a step sees
//! its number; and octets are counted only by who sees that it is over. Two workers may both tell: a
//! header that comes twice does no harm.

use super::{
    entry::Entry,
    sync::Ordering::{Acquire, Relaxed, Release},
};

/// How far a real server was told its client by the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Telling {
    /// It is not told, or knows.
    Over = 0,
    /// It was not told yet, or what was sent got lost.
    Untold = 1,
    /// It was told by a segment without data.
    Told = 2,
    /// The client's first data went too.
    Followed = 3,
}

impl Entry {
    /// How far the real server was told its client, and the sequence number of the client's first
    /// octet of data; meaningless once that is over.
    pub fn telling(&self) -> (Telling, u32) {
        let step = match self.telling.load(Acquire) {
            1 => Telling::Untold,
            2 => Telling::Told,
            3 => Telling::Followed,
            _ => Telling::Over,
        };
        (step, self.octets[0].load(Relaxed))
    }

    /// Begins to tell a real server its client, whose data begins at `start`: what the entry counted of
    /// octets to the real server is lost.
    pub fn begin_telling(&self, start: u32) {
        self.octets[0].store(start, Relaxed);
        self.telling.store(Telling::Untold as u8, Release);
    }

    /// Notes how far it is; the octets count again from none once it is over.
    pub fn tell(&self, step: Telling) {
        if step == Telling::Over {
            self.octets[0].store(0, Relaxed);
        }
        self.telling.store(step as u8, Release);
    }
}
