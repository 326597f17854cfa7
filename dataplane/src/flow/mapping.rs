//! The memory under the table: one mapping, in huge pages where they can be had.
//!
//! A lookup touches two random lines of up to a gigabyte; with small pages address translation
//! costs more than the lines do (2 to 4 times at 1 GB, measured). So huge pages are asked for, first
//! from the reserved pool (`MAP_HUGETLB`), then as transparent ones (`madvise`), and what was
//! reached is said, as the kernel reports it and not as we asked.
//! All memory is touched at start: the packet path meets no page fault.
//! Nothing in a mapping is a pointer; structures are found by offset from its start.
//! Source: mmap(2), madvise(2), proc_pid_smaps(5).

#![expect(unsafe_code, reason = "mmap, and typed views of what it returns")]

use std::{ffi::c_void, ptr::NonNull, slice};

use rustix::{
    io::Errno,
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap},
};

/// Octets of a huge page.
const HUGE: usize = 2 << 20;

/// Octets of a small page.
const SMALL: usize = 4096;

/// Kinds of pages, the best first. As a wish: this kind or the next that can be had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// 2 MiB from the reserved pool (`vm.nr_hugepages`).
    #[default]
    Reserved,
    /// 2 MiB that the kernel puts together.
    Transparent,
    /// 4 KiB.
    Small,
}

impl Pages {
    /// The word for reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reserved => "hugetlb",
            Self::Transparent => "transparent",
            Self::Small => "small",
        }
    }
}

/// What may be seen in a mapping.
///
/// # Safety
///
/// Every bit pattern, all zeroes among them, is a value; all of it may change behind a shared
/// reference (it is made of atomics); it needs no drop.
pub(super) unsafe trait Shared {}

// SAFETY: an atomic integer.
unsafe impl Shared for std::sync::atomic::AtomicU8 {}
// SAFETY: an atomic integer.
unsafe impl Shared for std::sync::atomic::AtomicU64 {}
// SAFETY: an array of what is shared.
unsafe impl<T: Shared, const N: usize> Shared for [T; N] {}
// SAFETY: words of atomics only.
#[cfg(not(loom))]
unsafe impl Shared for super::bucket::Bucket {}
// SAFETY: atomics only.
#[cfg(not(loom))]
unsafe impl Shared for super::entry::Entry {}
// SAFETY: atomics only.
#[cfg(not(loom))]
unsafe impl Shared for super::reclaim::Line {}
// SAFETY: atomics only.
#[cfg(not(loom))]
unsafe impl Shared for super::layout::Header {}

/// A zeroed, shared, anonymous piece of memory.
#[derive(Debug)]
pub struct Region {
    /// What mmap returned, and how much of it there is.
    mapped: NonNull<c_void>,
    mapped_octets: usize,
    /// The part in use: aligned to a huge page unless pages are small.
    base: NonNull<u8>,
    octets: usize,
    pages: Pages,
}

// SAFETY: a region is memory of its own, reached only through types that are shared by nature.
unsafe impl Send for Region {}
// SAFETY: as above: `Shared` types change through atomics only.
unsafe impl Sync for Region {}

impl Region {
    /// Maps at least `octets`, in pages of the kind `wish` or the next that can be had, all of it
    /// touched.
    ///
    /// # Errors
    ///
    /// Those of mmap: mostly that there is not so much memory.
    pub fn new(octets: usize, wish: Pages) -> Result<Self, Errno> {
        let octets = octets.max(1).next_multiple_of(SMALL);
        // A table smaller than a huge page would waste most of it.
        let wish = if octets < HUGE { Pages::Small } else { wish };
        if wish == Pages::Reserved {
            let flags = MapFlags::HUGETLB | MapFlags::HUGE_2MB | MapFlags::POPULATE;
            let octets = octets.next_multiple_of(HUGE);
            if let Ok(region) = Self::map(octets, flags, Pages::Reserved) {
                return Ok(region);
            }
        }
        if wish == Pages::Small {
            return Self::map(octets, MapFlags::POPULATE, Pages::Small);
        }
        let mut region = Self::map(octets.next_multiple_of(HUGE), MapFlags::empty(), Pages::Small)?;
        region.advise(Advice::LinuxHugepage).ok();
        region.touch();
        if region.has_huge_pages() {
            region.pages = Pages::Transparent;
        }
        Ok(region)
    }

    /// Maps `octets` and, unless they come in reserved pages anyway, aligns them to a huge page.
    fn map(octets: usize, flags: MapFlags, pages: Pages) -> Result<Self, Errno> {
        let slack = if flags.is_empty() { HUGE } else { 0 };
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, flags | MapFlags::PRIVATE);
        let mapped_octets = octets + slack;
        // SAFETY: a new mapping where the kernel likes: no other memory is concerned.
        let mapped =
            unsafe { mmap_anonymous(std::ptr::null_mut(), mapped_octets, protection, flags)? };
        let mapped = NonNull::new(mapped).ok_or(Errno::NOMEM)?;
        let skip = if slack == 0 {
            0
        } else {
            mapped.as_ptr().addr().next_multiple_of(HUGE) - mapped.as_ptr().addr()
        };
        // SAFETY: `skip` is less than the slack the mapping has beyond `octets`.
        let base = unsafe { mapped.cast::<u8>().add(skip) };
        Ok(Self { mapped, mapped_octets, base, octets, pages })
    }

    /// Advises the kernel about the part in use.
    fn advise(&self, advice: Advice) -> Result<(), Errno> {
        // SAFETY: the range is ours and mapped; the advices used here keep its content.
        unsafe { madvise(self.base.as_ptr().cast(), self.octets, advice) }
    }

    /// Makes the kernel back every page now.
    fn touch(&self) {
        if self.advise(Advice::LinuxPopulateWrite).is_ok() {
            return;
        }
        // Linux before 5.14.
        for page in self.view::<[std::sync::atomic::AtomicU64; SMALL / 8]>(0, self.octets / SMALL) {
            page[0].store(0, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// Whether the kernel reports that at least half of the region is in huge pages.
    fn has_huge_pages(&self) -> bool {
        let (from, to) = (self.base.as_ptr().addr(), self.base.as_ptr().addr() + self.octets);
        std::fs::read_to_string("/proc/self/smaps")
            .is_ok_and(|smaps| huge_octets(&smaps, from, to) >= self.octets / 2)
    }

    /// Octets in use.
    #[must_use]
    pub const fn octets(&self) -> usize {
        self.octets
    }

    /// The kind of pages reached.
    #[must_use]
    pub const fn pages(&self) -> Pages {
        self.pages
    }

    /// The region as words, for measurements on the same kind of memory.
    #[must_use]
    pub fn words(&self) -> &[std::sync::atomic::AtomicU64] {
        self.view(0, self.octets / 8)
    }

    /// Fetches the line of a word into the cache, to be written: for measurements.
    #[inline]
    pub fn prefetch(&self, word: usize) {
        super::cpu::prefetch_write(&self.words()[word]);
    }

    /// `count` values of `T` from `offset` octets on.
    ///
    /// # Panics
    ///
    /// If they are misaligned or reach beyond the region: the layout is wrong, whatever the input.
    #[inline]
    pub(super) fn view<T: Shared>(&self, offset: usize, count: usize) -> &[T] {
        debug_assert!(
            count
                .checked_mul(size_of::<T>())
                .and_then(|n| n.checked_add(offset))
                .is_some_and(|end| end <= self.octets)
        );
        debug_assert!(offset.is_multiple_of(align_of::<T>()));
        // SAFETY: the layout keeps `offset` within the region, whose start is page-aligned.
        let start = unsafe { self.base.add(offset) };
        // SAFETY: the memory from `start` on is mapped for `count` values as long as `self` lives,
        // initialised (zeroed by the kernel) and aligned; `T` is `Shared`.
        unsafe { slice::from_raw_parts(start.cast::<T>().as_ptr(), count) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: exactly what mmap returned; no view outlives the region.
        unsafe { munmap(self.mapped.as_ptr(), self.mapped_octets) }.ok();
    }
}

/// Octets in transparent huge pages that `smaps` reports for mappings that overlap `from..to`.
fn huge_octets(smaps: &str, from: usize, to: usize) -> usize {
    let mut inside = false;
    let mut octets = 0;
    for line in smaps.lines() {
        if let Some(kib) = line.strip_prefix("AnonHugePages:") {
            let kib = kib.trim().trim_end_matches(" kB").trim();
            octets += if inside { kib.parse::<usize>().map_or(0, |kib| kib << 10) } else { 0 };
        } else if let Some((start, end)) = range(line) {
            inside = start < to && from < end;
        }
    }
    octets
}

/// The address range at the start of a mapping's first line in smaps.
fn range(line: &str) -> Option<(usize, usize)> {
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn every_kind_of_page_gives_zeroed_memory_that_keeps_what_is_written() {
        for wish in [Pages::Reserved, Pages::Transparent, Pages::Small] {
            for octets in [1, 5 << 20] {
                let region = Region::new(octets, wish).unwrap();
                assert!(region.octets() >= octets);
                let words = region.words();
                assert!(words.iter().all(|word| word.load(Relaxed) == 0));
                for (value, word) in (1..).zip(words) {
                    word.store(value, Relaxed);
                }
                assert_eq!(words[words.len() - 1].load(Relaxed), words.len() as u64);
            }
        }
    }

    #[test]
    fn huge_pages_are_counted_in_the_mapping_asked_about_only() {
        let smaps = "\
7f0000000000-7f0000400000 rw-p 00000000 00:00 0\n\
Size:               4096 kB\n\
AnonHugePages:      2048 kB\n\
7f0000800000-7f0000a00000 rw-p 00000000 00:00 0 [heap]\n\
AnonHugePages:      4096 kB\n";
        assert_eq!(huge_octets(smaps, 0x7f00_0000_0000, 0x7f00_0040_0000), 2 << 20);
        assert_eq!(huge_octets(smaps, 0x7f00_0080_0000, 0x7f00_0080_1000), 4 << 20);
        assert_eq!(huge_octets(smaps, 0x7f00_0040_0000, 0x7f00_0080_0000), 0);
    }
}
