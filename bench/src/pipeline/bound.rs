//! What the memory alone costs: the bounds that no flow table of this shape can beat.
//!
//! A lookup touches two lines that depend on each other, one of the index and one of the entries, and
//! writes the second. This does just that, at random, in batches of 32, on the same kind of pages and as
//! many lines as the table has, with no packet work at all.

use std::{
    hint::black_box,
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Relaxed, Release},
    },
};

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

/// What a new flow needs whatever makes it, and the end of another one: random lines and locked operations.
const FLOW_LINES: usize = 6;

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
    let (index, region) = region(flows, pages)?;
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

/// Nanoseconds of what a new flow and the end of another one cannot do without, in the same memory and in
/// batches as well, with all lines fetched beforehand: for each of the two flows two lines of the index and
/// an entry, written; the locks of four buckets, two cells claimed, the announcement and the end of a
/// life, the real server's load up and down, the scheduler's position: eleven locked operations.
///
/// # Errors
///
/// There is not so much memory.
pub(super) fn new_flow(
    flows: usize,
    pages: Pages,
    seed: u64,
    windows: usize,
) -> anyhow::Result<f64> {
    let (index, region) = region(flows, pages)?;
    let (words, mut rng) = (region.words(), Rng::from_seed(seed));
    let shared = [const { AtomicU64::new(0) }; 2];
    let mut lines = vec![[0; FLOW_LINES]; Windows::PACKETS];
    let mut measured = Windows::with_capacity(windows);
    for _ in 0..windows {
        // Random lines are none of the work.
        lines.fill_with(|| flow_lines((index, flows), &mut rng));
        measured.time(Windows::PACKETS, || {
            lines.chunks(BATCH).for_each(|lines| flow_batch(words, lines, &shared));
        });
    }
    Ok(measured.nanos_per_packet())
}

/// As many lines as a table for `flows` flows has, and how many of them, the first, are the index.
fn region(flows: usize, pages: Pages) -> anyhow::Result<(usize, Region)> {
    let index = (flows * INDEX_PER_MILLE).div_ceil(1000).max(1);
    let region = Region::new((index + flows) * LINE, pages)
        .with_context(|| format!("no memory for {flows} flows"))?;
    Ok((index, region))
}

/// Where the words of two random flows begin: two buckets and an entry, twice.
#[expect(clippy::cast_possible_truncation, reason = "numbers of lines fit in memory")]
fn flow_lines((index, flows): (usize, usize), rng: &mut Rng) -> [usize; FLOW_LINES] {
    std::array::from_fn(|at| {
        let (first, count) = if at % 3 == 2 { (index, flows) } else { (0, index) };
        (first + rng.below(count as u64) as usize) * WORDS
    })
}

fn flow_batch(words: &[AtomicU64], lines: &[[usize; FLOW_LINES]], shared: &[AtomicU64; 2]) {
    let fetched = lines.iter().flatten().fold(0, |sum, &line| sum ^ words[line].load(Relaxed));
    black_box(fetched);
    let [load, position] = shared;
    for &[first, second, entry, old_first, old_second, old_entry] in lines {
        position.fetch_add(1, Relaxed);
        load.fetch_add(1, Relaxed);
        for bucket in [first, second] {
            words[bucket].fetch_add(1, AcqRel);
            words[bucket + 1].fetch_add(1, AcqRel);
            words[bucket].store(0, Release);
        }
        words[entry..entry + WORDS].iter().for_each(|word| word.store(1, Relaxed));
        words[entry].fetch_and(!1, AcqRel);
        words[old_entry].fetch_and(!1, AcqRel);
        for bucket in [old_first, old_second] {
            words[bucket].fetch_add(1, AcqRel);
            words[bucket + 1].store(0, Relaxed);
            words[bucket].store(0, Release);
        }
        load.fetch_sub(1, Relaxed);
    }
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
