//! Source hashing: IPVS `sh`.
//!
//! A table of 256 slots is filled with the real servers in list order, each as many times in a
//! row as its weight says (a drained one once); the client's address, with `sh-port` its port
//! too, names the slot. If the server there takes no new flows the client gets none; with
//! `sh-fallback` the following slots are tried, in an order that depends on the client alone.
//! Source: Linux `net/netfilter/ipvs/ip_vs_sh.c`.

use super::{
    Candidate, Pick, SchedFlags, SchedState, Schedule,
    hash::{fold, hash_32},
};
use crate::{rng::Rng, wire::protocol};

/// log2 of the table's size; the kernel's default.
const BITS: u32 = 8;
/// Slots.
const SLOTS: u32 = 1 << BITS;

/// The table.
#[derive(Clone, Debug)]
pub struct SourceHashing {
    /// Index of the real server by slot; empty if there is none.
    slots: Box<[u32]>,
    flags: SchedFlags,
}

impl Schedule for SourceHashing {
    fn new(reals: &[Candidate], flags: SchedFlags, _: Option<&Self>) -> Self {
        let runs = (0u32..).zip(reals);
        let turn = runs.flat_map(|(index, real)| {
            std::iter::repeat_n(index, real.weight.clamp(1, SLOTS) as usize)
        });
        let slots = if reals.is_empty() {
            Box::default()
        } else {
            turn.cycle().take(SLOTS as usize).collect()
        };
        Self { slots, flags }
    }

    fn pick(&self, pick: &Pick<'_>, _: &SchedState, _: &mut Rng) -> Option<usize> {
        let port = if self.flags.port { client_port(pick) } else { 0 };
        let key = fold(pick.client).wrapping_add(u32::from(port));
        let slot = hash_32(key, BITS);
        let first = *self.slots.get(slot as usize)? as usize;
        if pick.takes(first) {
            return Some(first);
        }
        if !self.flags.fallback {
            return None;
        }
        // The kernel adds the slot again: it starts twice as far.
        (0..SLOTS)
            .map(|offset| self.slots[((2 * slot + offset) % SLOTS) as usize] as usize)
            .find(|&index| pick.takes(index))
    }
}

/// The port that `sh-port` and `mh-port` add; protocols without ports have 0.
pub(super) const fn client_port(pick: &Pick<'_>) -> u16 {
    match pick.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => pick.client_port,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::tests::{Bench, candidates};

    #[test]
    fn slots_are_filled_weight_by_weight_and_a_drained_server_keeps_one() {
        let table = SourceHashing::new(&candidates(&[2, 0, 3]), SchedFlags::default(), None);
        assert_eq!(table.slots[..8], [0, 0, 1, 2, 2, 2, 0, 0]);
        assert_eq!(table.slots.len(), SLOTS as usize);
        let heavy = SourceHashing::new(&candidates(&[u32::MAX, 1]), SchedFlags::default(), None);
        assert!(heavy.slots.iter().all(|&index| index == 0));
    }

    #[test]
    fn without_fallback_a_drained_servers_clients_get_none() {
        let flags = SchedFlags { fallback: true, ..SchedFlags::default() };
        let mut strict = Bench::new("sh", &[1, 0]);
        let mut kind = Bench::with_flags("sh", &[1, 0], flags);
        let picks: Vec<_> = (0..64).map(|client| strict.pick_for(client)).collect();
        assert!(picks.contains(&Some(0)) && picks.contains(&None) && !picks.contains(&Some(1)));
        assert!((0..64).all(|client| kind.pick_for(client) == Some(0)));
    }
}
