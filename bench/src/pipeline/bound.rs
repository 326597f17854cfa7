//! What the memory alone costs: the bound that no flow table of this shape can beat.
//!
//! A lookup touches two lines that depend on each other, one of the index and one of the entries, and
//! writes the second. This does just that, at random, in batches of 32, on the same kind of pages and as
//! many lines as the table has, with no packet work at all.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::Context as _;
use dataplane::{
    flow::{Pages, Region},
    rng::Rng,
};

use super::windows::Windows;

/// Octets and words of a cache line.
const LINE: usize = 64;
const WORDS: usize = LINE / 8;
/// Lookups in flight together.
const BATCH: usize = 32;
/// Index lines for each flow, times 1000: a flow that is translated has two words of 8 octets, seven
/// of them share a line, and the index is half full.
const INDEX_PER_MILLE: usize = 1000 * 2 * 2 / 7;

/// Nanoseconds that two dependent random lines of a table for `flows` flows cost, in memory of the
/// kind `pages`.
///
/// # Errors
///
/// There is not so much memory.
pub(super) fn measure(
    flows: usize,
    pages: Pages,
    seed: u64,
    windows: usize,
) -> anyhow::Result<f64> {
    let index = (flows * INDEX_PER_MILLE).div_ceil(1000).max(1);
    let region = Region::new((index + flows) * LINE, pages)
        .with_context(|| format!("no memory for {flows} flows"))?;
    let words = region.words();
    let mut rng = Rng::from_seed(seed);
    // Every word of the index names an entry, so that all entries are as likely.
    for word in &words[..index * WORDS] {
        word.store(rng.below(flows as u64), Relaxed);
    }
    let mut measured = Windows::with_capacity(windows);
    for _ in 0..windows {
        measured.time(Windows::PACKETS, || {
            for _ in 0..Windows::PACKETS / BATCH {
                batch(words, index, &mut rng);
            }
        });
    }
    Ok(measured.nanos_per_packet())
}

#[expect(clippy::cast_possible_truncation, reason = "numbers of lines fit in memory")]
fn batch(words: &[AtomicU64], index: usize, rng: &mut Rng) {
    let mut entries = [0; BATCH];
    // The loads of one loop do not depend on each other: the CPU overlaps their misses.
    for entry in &mut entries {
        let word = rng.below((index * WORDS) as u64) as usize;
        *entry = words[word].load(Relaxed) as usize;
    }
    for entry in entries {
        let word = &words[(index + entry) * WORDS];
        word.store(word.load(Relaxed).wrapping_add(1), Relaxed);
    }
}
