//! Destination hashing: IPVS `dh`.
//!
//! A table of 256 slots is filled with the real servers in list order, over and over, whatever
//! their weights; the address that the client sent to names the slot. If the server there takes
//! no new flows the client gets none. Makes sense where one service has many addresses.
//! Source: Linux `net/netfilter/ipvs/ip_vs_dh.c`.

use super::{
    Candidate, Pick, SchedFlags, SchedState, Schedule,
    hash::{fold, hash_32},
};
use crate::rng::Rng;

/// log2 of the table's size; the kernel's default.
const BITS: u32 = 8;

/// The table, which is the list itself: slot s holds server s modulo their number.
#[derive(Clone, Copy, Debug, Default)]
pub struct DestinationHashing;

impl Schedule for DestinationHashing {
    fn new(_: &[Candidate], _: SchedFlags, _: Option<&Self>) -> Self {
        Self
    }

    fn pick(&self, pick: &Pick<'_>, _: &SchedState, _: &mut Rng) -> Option<usize> {
        let slot = hash_32(fold(pick.destination), BITS) as usize;
        let index = slot.checked_rem(pick.reals.len())?;
        pick.takes(index).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use crate::{clock::Tick, sched::tests::Bench};

    #[test]
    fn the_destination_alone_decides() {
        let mut bench = Bench::new("dh", &[1, 9, 0]);
        let first = bench.pick_for(1);
        assert!((0..100).all(|client| bench.pick_for(client) == first));
        let picks: Vec<_> = (0..300).map(|to| bench.pick_to(to, Tick(0))).collect();
        for (server, least) in [(Some(0), 90), (Some(1), 90), (None, 90)] {
            assert!(picks.iter().filter(|&&pick| pick == server).count() > least);
        }
    }
}
