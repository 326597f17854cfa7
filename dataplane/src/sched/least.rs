//! What the schedulers that look for the least busy real server have in common.
//!
//! Costs are compared per weight by cross-multiplying, as the kernel does; in 128 bits, so that
//! no count of flows and no weight can overflow.

use super::Pick;

/// The real server that takes new flows with the least `cost` per weight; of several the first.
#[inline]
pub(super) fn per_weight(pick: &Pick<'_>, cost: impl Fn(usize) -> u64) -> Option<usize> {
    among(pick, 0..pick.reals.len(), cost)
}

/// The same among the real servers at `indices`, in their order.
#[inline]
pub(super) fn among(
    pick: &Pick<'_>,
    indices: impl Iterator<Item = usize>,
    cost: impl Fn(usize) -> u64,
) -> Option<usize> {
    let mut candidates = indices.filter(|&i| pick.takes(i));
    let mut least = candidates.next()?;
    let mut least_cost = cost(least);
    for index in candidates {
        let index_cost = cost(index);
        let weights = (pick.reals[least].weight, pick.reals[index].weight);
        if exceeds(least_cost, weights.0, index_cost, weights.1) {
            least = index;
            least_cost = index_cost;
        }
    }
    Some(least)
}

/// Whether `cost` / `weight` is more than `other_cost` / `other_weight`.
#[inline]
pub(super) fn exceeds(cost: u64, weight: u32, other_cost: u64, other_weight: u32) -> bool {
    u128::from(cost) * u128::from(other_weight) > u128::from(other_cost) * u128::from(weight)
}

#[cfg(test)]
mod tests {
    use super::exceeds;

    #[test]
    fn the_greatest_costs_and_weights_compare() {
        let (cost, weight) = (u64::from(u32::MAX) * 257, u32::MAX);
        assert!(exceeds(cost, 1, cost, weight));
        assert!(!exceeds(cost, weight, cost, weight));
        assert!(exceeds(cost, weight, cost - 1, weight));
    }
}
