//! Maglev hashing: IPVS `mh`.
//!
//! Every real server has its own order of preference over the slots of a table of prime size;
//! in turns, heavier ones with more slots a turn, they take the next slot on their list that is
//! free. A change of one server moves few slots of the others. Draining a server moves none: its
//! last weight above 0 goes on counting, so that its clients are refused, or with `mh-fallback`
//! spread, and find it again when its weight comes back.
//! Source: Linux `net/netfilter/ipvs/ip_vs_mh.c`; Eisenbud et al., "Maglev: a fast and reliable
//! software network load balancer", NSDI 2016, section 3.4.

use super::{
    Candidate, Pick, SchedFlags, SchedState, Schedule,
    hash::{fold, hsiphash},
    sh::client_port,
};
use crate::{addr::Addr, endpoint::EndpointId, rng::Rng};

/// Slots: the kernel's default (CONFIG_IP_VS_MH_TAB_INDEX 12).
const SLOTS: u32 = 4093;
/// Most slots that one server may take in a turn, in bits (half of the same number).
const TURN_BITS: u32 = 6;
/// The kernel's fixed keys, for where a server's order begins (and for clients) and its stride.
const KEYS: [u64; 2] = [2_654_435_761, 2_654_446_892];

/// The table.
#[derive(Clone, Debug)]
pub struct MaglevHashing {
    /// Index of the real server by slot; empty if no server ever had a weight.
    slots: Box<[u16]>,
    /// Index that 0 in `slots` stands for; see [`MaglevHashing::new`].
    base: usize,
    /// The last weight above 0 of every real server, sorted by id: for the next one's `previous`.
    weights: Box<[(EndpointId, u32)]>,
    flags: SchedFlags,
}

impl Schedule for MaglevHashing {
    /// Servers beyond the table's size get no slots: those added last, as in the kernel, which
    /// refuses to fill the table anew.
    fn new(reals: &[Candidate], flags: SchedFlags, previous: Option<&Self>) -> Self {
        let last: Vec<u32> = reals.iter().map(|real| last_weight(real, previous)).collect();
        let base = reals.len().saturating_sub(SLOTS as usize);
        let slots = populate(&reals[base..], &last[base..]);
        let mut weights: Box<[_]> = reals.iter().map(|real| real.id).zip(last).collect();
        weights.sort_unstable();
        Self { slots, base, weights, flags }
    }

    fn pick(&self, pick: &Pick<'_>, _: &SchedState, _: &mut Rng) -> Option<usize> {
        let port = if self.flags.port { client_port(pick) } else { 0 };
        let slot = |offset| hash(pick.client, port, KEYS[0], offset) % SLOTS;
        let server = |slot: u32| Some(self.base + usize::from(*self.slots.get(slot as usize)?));
        let first = slot(0);
        let index = server(first)?;
        if pick.takes(index) {
            return Some(index);
        }
        // Nobody to fall back to: spare the client's packet all the hashing.
        if !self.flags.fallback || !(0..pick.reals.len()).any(|i| pick.takes(i)) {
            return None;
        }
        (0..SLOTS)
            .filter_map(|offset| server(slot((first + offset) % SLOTS)))
            .find(|&index| pick.takes(index))
    }
}

/// A server's weight, or while it is drained the one it had before.
fn last_weight(real: &Candidate, previous: Option<&MaglevHashing>) -> u32 {
    if real.weight != 0 {
        return real.weight;
    }
    let Some(previous) = previous else { return 0 };
    previous
        .weights
        .binary_search_by_key(&real.id, |&(id, _)| id)
        .map_or(0, |found| previous.weights[found].1)
}

/// Where a client's slot is, or a server's order begins.
#[inline]
const fn hash(addr: Addr, port: u16, key: u64, offset: u32) -> u32 {
    hsiphash(offset.wrapping_add(port as u32).wrapping_add(fold(addr)), key)
}

/// One server's way through the slots.
struct Order {
    index: u16,
    /// Next slot to try.
    next: u32,
    /// From one slot to the next; prime table size, so that all slots are visited.
    stride: u32,
    /// Slots taken in one turn.
    turn: u32,
}

/// Fills the table; `weights` are the last ones above 0.
fn populate(reals: &[Candidate], weights: &[u32]) -> Box<[u16]> {
    let divisor = weights.iter().copied().fold(0, gcd);
    if divisor == 0 {
        return Box::default();
    }
    let most = weights.iter().max().map_or(0, |most| most / divisor);
    let shift = (u32::BITS - most.leading_zeros()).saturating_sub(TURN_BITS);
    let mut orders: Vec<Order> = (0u16..)
        .zip(reals.iter().zip(weights))
        .filter(|&(_, (_, &weight))| weight != 0)
        .map(|(index, (real, &weight))| Order {
            index,
            next: hash(real.addr, real.port, KEYS[0], 0) % SLOTS,
            stride: hash(real.addr, real.port, KEYS[1], 0) % (SLOTS - 1) + 1,
            turn: ((weight / divisor) >> shift).max(1),
        })
        .collect();
    const FREE: u16 = u16::MAX;
    let mut slots: Box<[u16]> = std::iter::repeat_n(FREE, SLOTS as usize).collect();
    let mut left = SLOTS;
    loop {
        for order in &mut orders {
            for _ in 0..order.turn {
                while slots[order.next as usize] != FREE {
                    order.next = (order.next + order.stride) % SLOTS;
                }
                slots[order.next as usize] = order.index;
                left -= 1;
                if left == 0 {
                    return slots;
                }
            }
        }
    }
}

const fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::tests::{Bench, candidates};

    fn shares(slots: &[u16], servers: usize) -> Vec<usize> {
        (0..servers).map(|i| slots.iter().filter(|&&slot| usize::from(slot) == i).count()).collect()
    }

    #[test]
    fn slots_are_shared_by_weight() {
        let table = populate(&candidates(&[3, 2, 1]), &[3, 2, 1]);
        let shares = shares(&table, 3);
        for (share, weight) in shares.iter().zip([3, 2, 1]) {
            assert!(share.abs_diff(weight * SLOTS as usize / 6) <= 3, "{shares:?}");
        }
    }

    #[test]
    fn great_weights_are_scaled_and_small_ones_keep_a_turn() {
        let weights = [1_000_000, 1];
        let table = populate(&candidates(&weights), &weights);
        // 1,000,000 has 20 bits: shifted by 14 it takes 61 slots a turn, the other one.
        let shares = shares(&table, 2);
        assert!(shares[0].abs_diff(SLOTS as usize * 61 / 62) <= 61, "{shares:?}");
    }

    #[test]
    fn draining_moves_no_slot_and_forgets_nothing() {
        let flags = SchedFlags::default();
        let before = MaglevHashing::new(&candidates(&[3, 2, 1]), flags, None);
        let drained = MaglevHashing::new(&candidates(&[3, 0, 1]), flags, Some(&before));
        let still = MaglevHashing::new(&candidates(&[3, 0, 1]), flags, Some(&drained));
        assert_eq!(before.slots, still.slots);
        let fresh = MaglevHashing::new(&candidates(&[3, 0, 1]), flags, None);
        assert!(!fresh.slots.contains(&1));
    }

    #[test]
    fn fallback_reaches_the_only_server_left() {
        let flags = SchedFlags { fallback: true, ..SchedFlags::default() };
        let mut bench = Bench::with_flags("mh", &[1, 1, 1], flags);
        bench.overload(0);
        bench.overload(2);
        assert!((0..256).all(|client| bench.pick_for(client) == Some(1)));
        bench.overload(1);
        assert!((0..256).all(|client| bench.pick_for(client).is_none()));
    }

    #[test]
    fn more_servers_than_slots_leave_those_added_last_without() {
        let reals = candidates(&vec![1; SLOTS as usize + 5]);
        let table = MaglevHashing::new(&reals, SchedFlags::default(), None);
        assert_eq!(table.base, 5);
        let mut seen: Vec<_> = table.slots.to_vec();
        seen.sort_unstable();
        assert!(seen.iter().enumerate().all(|(i, &slot)| usize::from(slot) == i));
    }
}
