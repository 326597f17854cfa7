//! What the table needs of the CPU and safe Rust cannot say: prefetches, keyed AES rounds, and
//! the comparison of many tags or due octets at once.
//!
//! All of it is inline assembly and not intrinsics, for two reasons. A function that may use a CPU
//! feature is never inlined into one that may not, and a call per packet costs more than the
//! rounds. And the words compared here are atomics that other cores write meanwhile: to the
//! language a wide load of them would be a data race, to the hardware it is eight loads of
//! aligned words, which is what the callers rely on (they check what they find).
//! The portable forms beside them give the same answers and are what loom and other CPUs run.
//! Source: Intel SDM volume 2 (AESENC, PCMPEQD, PSHUFD, VPMINUB); AMD APM volume 3 (PREFETCHW).

#![expect(unsafe_code, reason = "inline assembly: see the module's head")]

#[cfg(all(target_arch = "x86_64", not(loom)))]
use std::arch::{asm, x86_64 as arch};

use super::{
    bucket::Bucket,
    sync::{AtomicU8, Ordering::Relaxed},
};

/// Slots whose due octets are compared at once.
pub(super) const DUE_BLOCK: usize = if cfg!(loom) { 4 } else { 64 };

/// Fetches the line at the start of `value` into the cache, to be read.
#[inline]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    // SAFETY: a prefetch neither faults nor changes memory, whatever the address.
    unsafe {
        asm!("prefetcht0 [{}]", in(reg) value, options(readonly, nostack, preserves_flags));
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    let _ = value;
}

/// Fetches 64 octets at `at` in `memory` into the cache, to be read: one line where frames start on lines,
/// and no second one for what lies beyond, which only IPv6 has and IPv4 would pay for. What lies outside
/// of `memory` is fetched as well, or not: no matter.
#[inline(always)]
pub(crate) fn prefetch_head(memory: &[u8], at: usize) {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    // SAFETY: a prefetch neither faults nor changes memory, whatever the address.
    unsafe {
        asm!(
            "prefetcht0 [{memory} + {at}]",
            "prefetcht0 [{memory} + {at} + 63]",
            memory = in(reg) memory.as_ptr(),
            at = in(reg) at,
            options(readonly, nostack, preserves_flags)
        );
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    let _ = (memory, at);
}

/// Fetches the line at the start of `value` into the cache, to be written.
#[inline]
pub(super) fn prefetch_write<T>(value: &T) {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    // SAFETY: a prefetch neither faults nor changes memory, whatever the address; CPUs that do
    // not know this one take it for a no-operation.
    unsafe {
        asm!("prefetchw [{}]", in(reg) value, options(readonly, nostack, preserves_flags));
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    let _ = value;
}

/// Shows that this CPU has what x86-64 has had since 2013 beyond its beginnings: shifts that leave the
/// flags alone, loads that swap octets (BMI, MOVBE).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wide(());

impl Wide {
    /// Asks the CPU.
    pub(crate) fn detect() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("bmi1")
            && std::arch::is_x86_feature_detected!("bmi2")
            && std::arch::is_x86_feature_detected!("movbe")
        {
            return Some(Self(()));
        }
        None
    }

    /// Runs `work`, all of it that is inlined compiled for such a CPU.
    #[inline]
    pub(crate) fn run<R>(self, work: impl FnOnce() -> R) -> R {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Self` exists only where the CPU has all that is asked for.
        return unsafe { wide(work) };
        #[cfg(not(target_arch = "x86_64"))]
        work()
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "bmi1,bmi2,movbe")]
fn wide<R>(work: impl FnOnce() -> R) -> R {
    work()
}

/// Shows that this CPU has AES instructions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aes(());

impl Aes {
    /// Asks the CPU.
    pub(super) fn detect() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("aes") {
            return Some(Self(()));
        }
        None
    }

    /// Four AES rounds over `block`, whitened with the first of the five keys: the low half of
    /// what comes out.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    pub(super) fn four_rounds(self, block: u128, keys: &[u128; 5]) -> u64 {
        let (low, high) = (block as u64, (block >> 64) as u64);
        let out: u64;
        // SAFETY: `Self` exists only where the CPU has AESENC; reads the 80 octets of `keys`, which
        // as u128 are aligned to 16 as the memory operands demand.
        unsafe {
            std::arch::asm!(
                "movq {x}, {low}",
                "movq {y}, {high}",
                "punpcklqdq {x}, {y}",
                "pxor {x}, [{keys}]",
                "aesenc {x}, [{keys} + 16]",
                "aesenc {x}, [{keys} + 32]",
                "aesenc {x}, [{keys} + 48]",
                "aesenc {x}, [{keys} + 64]",
                "movq {out}, {x}",
                low = in(reg) low,
                high = in(reg) high,
                keys = in(reg) keys,
                x = out(xmm_reg) _,
                y = out(xmm_reg) _,
                out = lateout(reg) out,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        out
    }

    /// Never called: no such value exists on other CPUs.
    #[cfg(not(target_arch = "x86_64"))]
    #[expect(clippy::cast_possible_truncation, reason = "never called")]
    pub(super) fn four_rounds(self, block: u128, _: &[u128; 5]) -> u64 {
        block as u64
    }
}

/// Which cells of `bucket` carry `tag`: bit `n` for cell `n`.
///
/// A cell may change meanwhile; the caller loads it once more and checks what it names. `tag` has
/// its top bit set, which the bucket's last word never has.
#[cfg(all(target_arch = "x86_64", not(loom)))]
#[inline]
pub(super) fn tags_equal(bucket: &Bucket, tag: u32) -> u32 {
    let hits: u32;
    // SAFETY: reads the 64 octets of `bucket`, which are aligned to 64 as the aligned loads
    // demand; SSE2 is part of every x86-64.
    unsafe {
        asm!(
            "movd {wanted}, {tag:e}",
            "pshufd {wanted}, {wanted}, 0",
            "movdqa {low}, [{bucket}]",
            "movdqa {high}, [{bucket} + 32]",
            // The upper half of each 64-bit word is its tag.
            "shufps {low}, [{bucket} + 16], 0xdd",
            "shufps {high}, [{bucket} + 48], 0xdd",
            "pcmpeqd {low}, {wanted}",
            "pcmpeqd {high}, {wanted}",
            "packssdw {low}, {high}",
            "packsswb {low}, {low}",
            "pmovmskb {hits:e}, {low}",
            bucket = in(reg) bucket,
            tag = in(reg) tag,
            wanted = out(xmm_reg) _,
            low = out(xmm_reg) _,
            high = out(xmm_reg) _,
            hits = lateout(reg) hits,
            options(nostack, preserves_flags, readonly)
        );
    }
    // The loads above come before whatever the caller loads next.
    super::sync::fence(super::sync::Ordering::Acquire);
    hits & 0x7f
}

/// Which cells of `bucket` carry `tag`: bit `n` for cell `n`.
#[cfg(not(all(target_arch = "x86_64", not(loom))))]
#[inline]
pub(super) fn tags_equal(bucket: &Bucket, tag: u32) -> u32 {
    bucket.tags_equal(tag)
}

/// A set of due octets: those from `low` on, `width` more, wrapping, without 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct DueSet {
    /// First member.
    pub(super) low: u8,
    /// How many follow it.
    pub(super) width: u8,
}

impl DueSet {
    /// Whether `octet` belongs to the set.
    #[inline]
    pub(super) const fn contains(self, octet: u8) -> bool {
        octet.wrapping_sub(self.low) <= self.width && octet != 0
    }
}

/// Finds the first block at or after `block` with an octet in `set`: its number, and a bit for each
/// such octet.
///
/// Octets may change meanwhile; the caller checks what it finds.
pub(super) fn next_due(map: &[[AtomicU8; DUE_BLOCK]], set: DueSet) -> Option<(usize, u64)> {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2.
        return unsafe { next_due_avx2(map, set) };
    }
    next_due_portable(map, set)
}

/// [`next_due`] for every CPU.
fn next_due_portable(map: &[[AtomicU8; DUE_BLOCK]], set: DueSet) -> Option<(usize, u64)> {
    map.iter().enumerate().find_map(|(number, block)| {
        let hits = block
            .iter()
            .rev()
            .fold(0, |hits, octet| hits << 1 | u64::from(set.contains(octet.load(Relaxed))));
        (hits != 0).then_some((number, hits))
    })
}

/// [`next_due`] by 32 octets at a time: 0.1 ns a slot where memory keeps up.
#[cfg(all(target_arch = "x86_64", not(loom)))]
#[target_feature(enable = "avx2")]
fn next_due_avx2(map: &[[AtomicU8; DUE_BLOCK]], set: DueSet) -> Option<(usize, u64)> {
    let low = arch::_mm256_set1_epi8(set.low.cast_signed());
    let width = arch::_mm256_set1_epi8(set.width.cast_signed());
    let zero = arch::_mm256_setzero_si256();
    map.iter().enumerate().find_map(|(number, block)| {
        let (first, second): (u32, u32);
        // SAFETY: reads the 64 octets of `block` by loads that need no alignment; the CPU has
        // AVX2, or this function may not be called.
        unsafe {
            asm!(
                "vmovdqu {a}, [{block}]",
                "vmovdqu {b}, [{block} + 32]",
                // octet - low, not above width: the smaller of the two is the former.
                "vpsubb {c}, {a}, {low}",
                "vpsubb {d}, {b}, {low}",
                "vpminub {e}, {c}, {width}",
                "vpcmpeqb {c}, {c}, {e}",
                "vpminub {e}, {d}, {width}",
                "vpcmpeqb {d}, {d}, {e}",
                // And not zero.
                "vpcmpeqb {a}, {a}, {zero}",
                "vpcmpeqb {b}, {b}, {zero}",
                "vpandn {a}, {a}, {c}",
                "vpandn {b}, {b}, {d}",
                "vpmovmskb {first:e}, {a}",
                "vpmovmskb {second:e}, {b}",
                block = in(reg) block,
                low = in(ymm_reg) low,
                width = in(ymm_reg) width,
                zero = in(ymm_reg) zero,
                a = out(ymm_reg) _,
                b = out(ymm_reg) _,
                c = out(ymm_reg) _,
                d = out(ymm_reg) _,
                e = out(ymm_reg) _,
                first = lateout(reg) first,
                second = lateout(reg) second,
                options(nostack, preserves_flags, readonly)
            );
        }
        let hits = u64::from(second) << 32 | u64::from(first);
        (hits != 0).then_some((number, hits))
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    #[expect(clippy::cast_possible_truncation, reason = "random octets")]
    fn vector_and_portable_due_scans_agree() {
        let mut rng = Rng::from_seed(3);
        for _ in 0..2000 {
            let sparse = rng.below(2) == 0;
            let map: Vec<[AtomicU8; DUE_BLOCK]> = (0..3)
                .map(|_| {
                    std::array::from_fn(|_| {
                        let blank = sparse && rng.below(64) != 0;
                        AtomicU8::new(if blank { 0 } else { rng.below(256) as u8 })
                    })
                })
                .collect();
            let set = DueSet { low: rng.below(256) as u8, width: rng.below(255) as u8 };
            assert_eq!(next_due(&map, set), next_due_portable(&map, set), "{set:?}");
        }
    }

    #[test]
    #[expect(clippy::cast_possible_truncation, reason = "random words")]
    fn vector_and_portable_tag_scans_agree() {
        let mut rng = Rng::from_seed(4);
        for _ in 0..10_000 {
            let tags: Vec<u32> = (0..3).map(|_| rng.next_u64() as u32 | 1 << 31).collect();
            let bucket = Bucket::default();
            for cell in bucket.cells() {
                let tag = u64::from(tags[rng.below(3) as usize]);
                let word = tag << 32 | rng.below(1 << 32);
                cell.store(if rng.below(3) == 0 { 0 } else { word }, Relaxed);
            }
            for tag in tags {
                assert_eq!(tags_equal(&bucket, tag), bucket.tags_equal(tag));
            }
        }
    }

    #[test]
    fn aes_rounds_match_the_published_example() {
        // FIPS 197, appendix B.
        let Some(aes) = Aes::detect() else { return };
        let big = |hex: &str| u128::from_str_radix(hex, 16).unwrap().swap_bytes();
        let keys = [
            "2b7e151628aed2a6abf7158809cf4f3c",
            "a0fafe1788542cb123a339392a6c7605",
            "f2c295f27a96b9435935807a7359f67f",
            "3d80477d4716fe3e1e237e446d7a883b",
            "ef44a541a8525b7fb671253bdb0bad00",
        ];
        let input = big("3243f6a8885a308d313198a2e0370734");
        let start_of_round_5 = big("e0927fe8c86363c0d9b1355085b8be01");
        assert_eq!(
            u128::from(aes.four_rounds(input, &keys.map(big))),
            start_of_round_5 << 64 >> 64
        );
    }
}
