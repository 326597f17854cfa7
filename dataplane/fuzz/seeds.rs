//! Turns the frames of captures into seeds: `seeds FOLDER...` reads every pcap and pcapng file
//! below the folders and writes each frame once to `corpus/wire`, and the beginning of each capture
//! to `corpus/pipeline`, once for every forwarding method.
//!
//! Frames of raw-IP links get an Ethernet header; other links and long frames are left out.

use pcap_file::{
    DataLink,
    pcap::PcapReader,
    pcapng::{Block, PcapNgReader},
};
use std::{
    collections::hash_map::DefaultHasher,
    env, fs,
    hash::{Hash as _, Hasher as _},
    io,
    path::{Path, PathBuf},
};

/// Longer frames teach a fuzzer nothing that shorter ones do not.
const FRAME_MAX: usize = 400;

/// Frames of one capture that become one seed of the pipeline.
const SEQUENCE_MAX: usize = 16;

/// Forwarding methods that the first octet of such a seed chooses from.
const METHODS: u8 = 5;

fn main() -> io::Result<()> {
    let mut count = 0;
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in ["wire", "pipeline"] {
        fs::create_dir_all(corpus.join(target))?;
    }
    for folder in env::args_os().skip(1) {
        for path in captures(Path::new(&folder))? {
            let frames = frames(&path)?;
            for frame in &frames {
                write(&corpus.join("wire"), frame)?;
            }
            for sequence in frames.chunks(SEQUENCE_MAX) {
                for method in 0..METHODS {
                    write(&corpus.join("pipeline"), &seed(method, sequence))?;
                }
            }
            count += frames.len();
        }
    }
    println!("{count} frames");
    Ok(())
}

/// Writes a seed under a name made of its content.
fn write(folder: &Path, seed: &[u8]) -> io::Result<()> {
    let mut hasher = DefaultHasher::new();
    seed.hash(&mut hasher);
    fs::write(folder.join(format!("{:016x}", hasher.finish())), seed)
}

/// Frames as the pipeline's target reads them. In the recordings the box has 02:00:00:00:01:01
/// towards the real servers.
fn seed(method: u8, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut seed = vec![method];
    for frame in frames {
        let from_backend = frame.starts_with(&[2, 0, 0, 0, 1, 1]);
        let length = u16::try_from(frame.len()).expect("long frames were left out");
        seed.push(from_backend.into());
        seed.extend(length.to_le_bytes());
        seed.extend(frame);
    }
    seed
}

/// All files below a folder that are named like captures.
fn captures(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(captures(&path)?);
        } else if path
            .extension()
            .is_some_and(|kind| ["pcap", "cap", "pcapng"].map(Some).contains(&kind.to_str()))
        {
            found.push(path);
        }
    }
    Ok(found)
}

/// The frames of one file, up to its first error: some captures are broken on purpose.
fn frames(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    let mut add = |link: DataLink, data: &[u8]| {
        let frame = match (link, data.first().map(|first| first >> 4)) {
            (DataLink::ETHERNET, _) => data.to_vec(),
            (DataLink::RAW | DataLink::IPV4 | DataLink::IPV6, Some(version)) => {
                let ethertype = if version == 6 { [0x86, 0xdd] } else { [8, 0] };
                [&[2; 12], &ethertype[..], data].concat()
            }
            _ => return,
        };
        if frame.len() <= FRAME_MAX {
            found.push(frame);
        }
    };
    if let Ok(mut reader) = PcapReader::new(fs::File::open(path)?) {
        let link = reader.header().datalink;
        while let Some(Ok(packet)) = reader.next_packet() {
            add(link, &packet.data);
        }
    } else if let Ok(mut reader) = PcapNgReader::new(fs::File::open(path)?) {
        let mut link = DataLink::ETHERNET;
        while let Some(Ok(block)) = reader.next_block() {
            match block {
                Block::InterfaceDescription(interface) => link = interface.linktype,
                Block::EnhancedPacket(packet) => add(link, &packet.data),
                Block::SimplePacket(packet) => add(link, &packet.data),
                _ => {}
            }
        }
    }
    Ok(found)
}
