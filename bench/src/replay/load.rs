//! Captures, found and read.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use dataplane::{
    io::pcap::{
        Tape,
        capture::{Capture, CaptureError, End},
        link::is_read,
    },
    verdict::DeviceId,
    wire::{
        checksum::Sum,
        ethernet::{self, ethertype},
    },
};

/// A capture, read.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) tape: Tape,
    /// Records in the file.
    pub(super) records: u64,
    /// Records of link types in which no IP is looked for, by link type.
    pub(super) foreign: BTreeMap<u32, u64>,
    /// Records of which the capture holds only the start.
    pub(super) cut: u64,
    /// IPv4 header checksums that were finished: see [`finish_checksum`].
    pub(super) finished: u64,
    /// How the reading ended.
    pub(super) end: End,
}

/// Finishes an IPv4 header checksum that the capturing host had left to its hardware: it stands in
/// the capture as 0, which no finished one can be but by chance. Says whether it did.
fn finish_checksum(frame: &mut [u8]) -> bool {
    let Some((ethertype::IPV4, l3)) = ethernet::payload(frame) else { return false };
    let Some(first) = frame.get(l3) else { return false };
    let end = l3 + usize::from(first & 0xf) * 4;
    let Some(header) = frame.get_mut(l3..end).filter(|header| header.len() >= 20) else {
        return false;
    };
    if header[10..12] != [0, 0] {
        return false;
    }
    let sum = Sum::of(header).checksum();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    sum != 0
}

/// Reads a capture; every frame comes in by device 0 until somebody says otherwise.
///
/// # Errors
///
/// The file cannot be read or is no capture.
pub(super) fn load(path: &Path) -> Result<Loaded, CaptureError> {
    let capture = Capture::open(path)?;
    let (mut tape, mut foreign) = (Tape::default(), BTreeMap::new());
    let mut records = capture.records();
    let (mut count, mut cut) = (0, 0);
    for record in records.by_ref() {
        count += 1;
        cut += u64::from((record.data.len() as u64) < u64::from(record.original));
        tape.add(&record, DeviceId(0));
        if !is_read(record.link) {
            *foreign.entry(record.link).or_insert(0) += 1;
        }
    }
    let end = records.end().unwrap_or(End::Whole);
    let finished = (0..tape.len()).filter(|&at| finish_checksum(tape.frame_mut(at))).count() as u64;
    Ok(Loaded { tape, records: count, foreign, cut, finished, end })
}

/// A file to be replayed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// Whether it was named itself, and so has to be a capture; a file found in a folder may be
    /// anything.
    pub(super) named: bool,
}

/// The files that `paths` stand for: files themselves, folders everything below them, sorted.
///
/// # Errors
///
/// A path that cannot be read, with the reason.
pub(super) fn sources(paths: &[PathBuf]) -> Result<Vec<Source>, (PathBuf, std::io::Error)> {
    let mut sources = Vec::new();
    for path in paths {
        let named = |error| (path.clone(), error);
        if fs::metadata(path).map_err(named)?.is_dir() {
            let mut below = Vec::new();
            collect(path, &mut below).map_err(named)?;
            below.sort();
            sources.extend(below.into_iter().map(|path| Source { path, named: false }));
        } else {
            sources.push(Source { path: path.clone(), named: true });
        }
    }
    Ok(sources)
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // A link to a folder is not followed: it may lead back.
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}
