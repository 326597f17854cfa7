//! The orders in which services and real servers are listed.
//!
//! ipvsadm sorts by 32-bit differences taken as signed numbers, so addresses that are more than
//! 2^31 apart come in the wrong order, and the outcome depends on how the sort goes about it.
//! It is the C library's merge sort; done the same way here, the listing is the same. Without
//! sorting, services come in the order of the kernel's hash table.

use crate::{
    addr::Addr,
    director::spec::{RealInfo, RealSpec, ServiceInfo, ServiceKey},
};

/// The kernel's table of services has 256 rows (IP_VS_SVC_TAB_BITS 8).
const ROWS: u32 = 256;
/// The kernel starts its hash at an address of its own, another one at every boot. This is the
/// low octet of one of them.
const SEED: u32 = 0x80;

/// Services as ipvsadm sorts them.
pub(super) fn sorted_services(services: &[ServiceInfo]) -> Vec<&ServiceInfo> {
    merge_sort(services.iter().collect(), |a, b| difference(&key(a), &key(b)))
}

/// Real servers as ipvsadm sorts them.
pub(super) fn sorted_reals(reals: &[RealInfo]) -> Vec<&RealInfo> {
    merge_sort(reals.iter().collect(), |a, b| {
        let words = |spec: &RealSpec| words(spec.addr);
        // Whether one word counts or all four is up to the first of the two.
        let count = if a.spec.addr.is_v4() { 1 } else { 4 };
        let (first, second) = (words(&a.spec), words(&b.spec));
        difference(&first[..count], &second[..count]).then_with(|| a.spec.port.cmp(&b.spec.port))
    })
}

/// Services, given in the order in which they were added, as the kernel's table gives them back:
/// row by row, in each row the one added last first, marks after all others.
pub(super) fn kernel_services(services: &[ServiceInfo]) -> Vec<&ServiceInfo> {
    let mut all: Vec<_> = services.iter().rev().collect();
    all.sort_by_key(|service| match service.spec.key {
        ServiceKey::Address { protocol, addr, port } => {
            let folded = words(addr).iter().fold(0, |folded, word| folded ^ word);
            let port = u32::from(port);
            (false, (u32::from(protocol) ^ folded ^ SEED ^ port >> 8 ^ port) % ROWS)
        }
        ServiceKey::Mark { mark, .. } => (true, (mark ^ SEED) % ROWS),
    });
    all
}

/// What ipvsadm compares, in turn: mark, family, protocol, address, port.
fn key(service: &ServiceInfo) -> [u32; 8] {
    let family = |addr: Addr| if addr.is_v4() { 2 } else { 10 };
    match service.spec.key {
        ServiceKey::Address { protocol, addr, port } => {
            let [a, b, c, d] = words(addr);
            [0, family(addr), protocol.into(), a, b, c, d, port.into()]
        }
        ServiceKey::Mark { mark, family } => {
            [mark, if family == crate::addr::Family::V4 { 2 } else { 10 }, 0, 0, 0, 0, 0, 0]
        }
    }
}

/// An address as four words, an IPv4 one in the first.
#[expect(clippy::cast_possible_truncation, reason = "each word is 32 of the 128 bits")]
fn words(addr: Addr) -> [u32; 4] {
    if addr.is_v4() {
        [addr.low32(), 0, 0, 0]
    } else {
        [96, 64, 32, 0].map(|shift| (addr.bits() >> shift) as u32)
    }
}

/// Compares the first words that differ, by the sign of their difference.
fn difference(a: &[u32], b: &[u32]) -> std::cmp::Ordering {
    let differ = a.iter().zip(b).find(|(a, b)| a != b);
    differ.map_or(std::cmp::Ordering::Equal, |(a, b)| a.wrapping_sub(*b).cast_signed().cmp(&0))
}

/// qsort(3) of the GNU C library: splits in halves, the first the smaller, and merges. Unlike the
/// standard library's sorts it makes something of an order that is none.
fn merge_sort<T: Copy>(
    items: Vec<T>,
    compare: impl Fn(&T, &T) -> std::cmp::Ordering + Copy,
) -> Vec<T> {
    if items.len() < 2 {
        return items;
    }
    let second = merge_sort(items[items.len() / 2..].to_vec(), compare);
    let first = merge_sort(items[..items.len() / 2].to_vec(), compare);
    let mut merged = Vec::with_capacity(items.len());
    let (mut first, mut second) = (first.as_slice(), second.as_slice());
    while let ([a, rest_of_first @ ..], [b, rest_of_second @ ..]) = (first, second) {
        if compare(a, b).is_le() {
            merged.push(*a);
            first = rest_of_first;
        } else {
            merged.push(*b);
            second = rest_of_second;
        }
    }
    merged.extend_from_slice(first);
    merged.extend_from_slice(second);
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_addresses_sort_by_the_sign_of_their_difference() {
        let sort = |items: &[u32]| merge_sort(items.to_vec(), |a, b| difference(&[*a], &[*b]));
        assert_eq!(sort(&[0x0a00_0001, 0x0900_0001]), [0x0900_0001, 0x0a00_0001]);
        assert_eq!(sort(&[0x0a00_0001, 0xc800_0001]), [0xc800_0001, 0x0a00_0001]);
    }
}
