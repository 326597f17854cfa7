//! Capture files: pcap (microseconds, nanoseconds, Kuznetzov's variant; both byte orders) and pcapng.
//!
//! Tolerant by design: a capture is evidence, and what is whole in it is read. A record longer than
//! the file's own snapshot length, a length that contradicts another, an option nobody knows: none of
//! these stops the reading. Only a broken frame of the format itself does, and [`Records::end`]
//! says where. Source: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng.

use std::{fs, io, path::Path};

use pcap_parser::{
    Linktype, PcapError,
    nom::{self, IResult},
    pcap, pcapng,
    pcapng::Block,
    traits::PcapNGPacketBlock as _,
};

/// First octets of a pcapng file.
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
/// pcapng blocks that are read; all others are skipped.
const INTERFACE: u32 = 1;
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
/// Octets before the data of the obsolete packet block.
const PACKET_HEADER: usize = 20;
/// Option codes of an interface: resolution and offset of its time stamps.
const IF_TSRESOL: u16 = 9;
const IF_TSOFFSET: u16 = 14;
/// The bits of a pcap header's link type that name it (the others tell of a frame check sequence).
const LINK_MASK: u32 = 0x03ff_ffff;

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The operating system's reason.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It does not begin like a capture.
    #[error("is neither a pcap nor a pcapng file")]
    NotACapture,
}

/// One packet of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// When it was captured, in nanoseconds since 1970; saturates.
    pub nanos: u64,
    /// Link type (`LINKTYPE_*`).
    pub link: u32,
    /// Its length on the wire, in octets; more than `data.len()` if the capture cut it.
    pub original: u32,
    /// What was captured of it.
    pub data: &'a [u8],
}

/// How the reading of a capture ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At the end of the file.
    Whole,
    /// The file ends within a record; `octets` of it are left over.
    Cut {
        /// How many octets were left.
        octets: usize,
    },
    /// The file is broken at this octet.
    Malformed {
        /// Offset from the file's start.
        at: usize,
    },
}

/// A capture file in memory.
#[derive(Debug)]
pub struct Capture {
    octets: Vec<u8>,
    format: Format,
}

/// What the head of the file says.
#[derive(Clone, Debug)]
enum Format {
    Pcap { header: pcap::PcapHeader },
    PcapNg,
}

impl Capture {
    /// Reads a file whole: a capture takes as much memory as it is long.
    ///
    /// # Errors
    ///
    /// The file cannot be read or is no capture.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        Self::from_octets(fs::read(path)?)
    }

    /// Takes the octets of a file.
    ///
    /// # Errors
    ///
    /// [`CaptureError::NotACapture`] if they do not begin like one.
    pub fn from_octets(octets: Vec<u8>) -> Result<Self, CaptureError> {
        let format = if octets.first_chunk() == Some(&SECTION_HEADER.to_be_bytes()) {
            match pcapng::parse_sectionheaderblock(&octets) {
                Ok(_) | Err(nom::Err::Incomplete(_)) => Format::PcapNg,
                Err(_) => return Err(CaptureError::NotACapture),
            }
        } else {
            match pcap::parse_pcap_header(&octets) {
                Ok((_, header)) => Format::Pcap { header },
                Err(_) => return Err(CaptureError::NotACapture),
            }
        };
        Ok(Self { octets, format })
    }

    /// The packets, in the order of the file.
    pub fn records(&self) -> Records<'_> {
        let offset = match &self.format {
            Format::Pcap { header } => header.size(),
            Format::PcapNg => 0,
        };
        Records { capture: self, offset, big_endian: false, interfaces: Vec::new(), end: None }
    }
}

/// How an interface of a pcapng section takes its packets and their time.
#[derive(Clone, Copy, Debug)]
struct Interface {
    link: u32,
    /// Units per second.
    resolution: u64,
    /// Seconds to add.
    offset: i64,
}

/// The packets of a capture.
#[derive(Debug)]
pub struct Records<'a> {
    capture: &'a Capture,
    /// Where the next record or block starts.
    offset: usize,
    /// Byte order of the pcapng section.
    big_endian: bool,
    /// Interfaces of the pcapng section.
    interfaces: Vec<Interface>,
    end: Option<End>,
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        while self.end.is_none() {
            let rest = &self.capture.octets[self.offset..];
            if rest.is_empty() {
                self.end = Some(End::Whole);
                break;
            }
            let read = match &self.capture.format {
                Format::Pcap { header } => {
                    pcap_record(rest, header).map(|(left, record)| (left, Some(record)))
                }
                Format::PcapNg => self.block(rest),
            };
            match read {
                Ok((left, record)) => {
                    self.offset = self.capture.octets.len() - left.len();
                    if record.is_some() {
                        return record;
                    }
                }
                Err(nom::Err::Incomplete(_)) => self.end = Some(End::Cut { octets: rest.len() }),
                Err(_) => self.end = Some(End::Malformed { at: self.offset }),
            }
        }
        None
    }
}

type Read<'a, T> = IResult<&'a [u8], T, PcapError<&'a [u8]>>;

impl<'a> Records<'a> {
    /// How the reading ended; `None` while there may be more.
    pub const fn end(&self) -> Option<End> {
        self.end
    }

    /// Reads one block of a pcapng file; most kinds hold no packet.
    fn block(&mut self, octets: &'a [u8]) -> Read<'a, Option<Record<'a>>> {
        let Some(kind) = self.u32_at(octets, 0) else {
            return Err(nom::Err::Incomplete(nom::Needed::Unknown));
        };
        let (left, block) = match kind {
            SECTION_HEADER | INTERFACE | SIMPLE_PACKET | ENHANCED_PACKET if self.big_endian => {
                pcapng::parse_block_be(octets)?
            }
            SECTION_HEADER | INTERFACE | SIMPLE_PACKET | ENHANCED_PACKET => {
                pcapng::parse_block_le(octets)?
            }
            _ => {
                let parse = if self.big_endian {
                    pcapng::parse_unknownblock_be
                } else {
                    pcapng::parse_unknownblock_le
                };
                let (left, block) = parse(octets)?;
                (left, Block::Unknown(block))
            }
        };
        let record = match block {
            Block::SectionHeader(section) => {
                self.big_endian = section.big_endian();
                self.interfaces.clear();
                None
            }
            Block::InterfaceDescription(description) => {
                self.interfaces.push(self.interface(&description));
                None
            }
            Block::EnhancedPacket(packet) => {
                let stamp = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                let length = packet.data.len().min(packet.caplen as usize);
                self.record(packet.if_id, stamp, packet.origlen, &packet.data[..length])
            }
            Block::SimplePacket(packet) => {
                let length = packet.data.len().min(packet.orig_len() as usize);
                self.record(0, 0, packet.origlen, &packet.data[..length])
            }
            Block::Unknown(block) if kind == PACKET => self.obsolete_packet(block.data),
            _ => None,
        };
        Ok((left, record))
    }

    /// The obsolete packet block: draft-ietf-opsawg-pcapng, appendix A.
    fn obsolete_packet(&self, body: &'a [u8]) -> Option<Record<'a>> {
        let word = self.u32_at(body, 0)?;
        let interface = if self.big_endian { word >> 16 } else { word & 0xffff };
        let stamp = u64::from(self.u32_at(body, 4)?) << 32 | u64::from(self.u32_at(body, 8)?);
        let data = body.get(PACKET_HEADER..)?;
        let length = data.len().min(self.u32_at(body, 12)? as usize);
        self.record(interface, stamp, self.u32_at(body, 16)?, &data[..length])
    }

    /// A packet of the section's interface number `interface`; `None` if there is no such one.
    fn record(
        &self,
        interface: u32,
        stamp: u64,
        original: u32,
        data: &'a [u8],
    ) -> Option<Record<'a>> {
        let interface = self.interfaces.get(interface as usize)?;
        let nanos = u128::from(stamp) * 1_000_000_000 / u128::from(interface.resolution);
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        let shift = interface.offset.saturating_mul(1_000_000_000);
        let nanos = nanos.saturating_add_signed(shift);
        Some(Record { nanos, link: interface.link, original, data })
    }

    fn interface(&self, block: &pcapng::InterfaceDescriptionBlock<'_>) -> Interface {
        let option = |code: u16| block.options.iter().find(|option| option.code.0 == code);
        let resolution = option(IF_TSRESOL).and_then(|option| option.value().first().copied());
        let offset = option(IF_TSOFFSET).and_then(|option| option.value().first_chunk().copied());
        let Linktype(link) = block.linktype;
        Interface {
            link: link.cast_unsigned(),
            resolution: resolution.and_then(units_per_second).unwrap_or(1_000_000),
            offset: offset.map_or(0, |octets| {
                if self.big_endian {
                    i64::from_be_bytes(octets)
                } else {
                    i64::from_le_bytes(octets)
                }
            }),
        }
    }

    fn u32_at(&self, octets: &[u8], offset: usize) -> Option<u32> {
        let octets = *octets.get(offset..)?.first_chunk()?;
        Some(if self.big_endian { u32::from_be_bytes(octets) } else { u32::from_le_bytes(octets) })
    }
}

/// What `if_tsresol` says; `None` if no 64-bit clock could tick like that.
const fn units_per_second(resolution: u8) -> Option<u64> {
    let power = (resolution & 0x7f) as u32;
    if resolution & 0x80 == 0 { 10u64.checked_pow(power) } else { 1u64.checked_shl(power) }
}

fn pcap_record<'a>(octets: &'a [u8], header: &pcap::PcapHeader) -> Read<'a, Record<'a>> {
    let parse = if header.is_modified_format() {
        pcap::parse_pcap_frame_modified
    } else if header.is_bigendian() {
        pcap::parse_pcap_frame_be
    } else {
        pcap::parse_pcap_frame
    };
    let (left, frame) = parse(octets)?;
    let unit = if header.is_nanosecond_precision() { 1 } else { 1_000 };
    let Linktype(link) = header.network;
    let record = Record {
        nanos: u64::from(frame.ts_sec) * 1_000_000_000 + u64::from(frame.ts_usec) * unit,
        link: link.cast_unsigned() & LINK_MASK,
        original: frame.origlen,
        data: frame.data,
    };
    Ok((left, record))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words in either byte order, as octets.
    fn octets(big_endian: bool, words: &[u32]) -> Vec<u8> {
        let order = if big_endian { u32::to_be_bytes } else { u32::to_le_bytes };
        words.iter().flat_map(|&word| order(word)).collect()
    }

    /// A pcap header with one record of 4 octets at 3 s and 7 units.
    fn pcap(big_endian: bool, magic: u32) -> Vec<u8> {
        let version = if big_endian { 0x0002_0004 } else { 0x0004_0002 };
        let mut file =
            octets(big_endian, &[magic, version, 0, 0, 65_535, 0x3000_0001, 3, 7, 4, 60]);
        file.extend(b"abcd");
        file
    }

    /// A pcapng block.
    fn block(big_endian: bool, kind: u32, body: &[u8]) -> Vec<u8> {
        let mut body = body.to_vec();
        body.resize(body.len().next_multiple_of(4), 0);
        let length = u32::try_from(body.len() + 12).unwrap();
        let mut block = octets(big_endian, &[kind, length]);
        block.extend(body);
        block.extend(octets(big_endian, &[length]));
        block
    }

    fn section(big_endian: bool) -> Vec<u8> {
        block(
            big_endian,
            SECTION_HEADER,
            &octets(big_endian, &[0x1a2b_3c4d, 1, u32::MAX, u32::MAX]),
        )
    }

    /// Link type and resolution of an interface; `resolution` as `if_tsresol` has it.
    fn interface(big_endian: bool, link: u16, resolution: u8) -> Vec<u8> {
        let order = if big_endian { u16::to_be_bytes } else { u16::to_le_bytes };
        let mut body = order(link).to_vec();
        body.extend([0; 6]);
        body.extend(order(IF_TSRESOL));
        body.extend(order(1));
        body.extend([resolution, 0, 0, 0]);
        block(big_endian, INTERFACE, &body)
    }

    #[test]
    fn both_byte_orders_and_resolutions_of_pcap_give_the_same_packet() {
        for big_endian in [false, true] {
            for (magic, nanos) in [(0xa1b2_c3d4, 3_000_007_000), (0xa1b2_3c4d, 3_000_000_007)] {
                let capture = Capture::from_octets(pcap(big_endian, magic)).unwrap();
                let mut records = capture.records();
                let record = Record { nanos, link: 1, original: 60, data: b"abcd" };
                assert_eq!(records.next(), Some(record));
                assert_eq!(records.next(), None);
                assert_eq!(records.end(), Some(End::Whole));
            }
        }
    }

    #[test]
    fn sections_of_pcapng_may_differ_in_byte_order_and_interfaces() {
        let mut file = Vec::new();
        for big_endian in [false, true] {
            file.extend(section(big_endian));
            file.extend(interface(big_endian, 101, 9));
            file.extend(interface(big_endian, 1, 0x80 | 10));
            file.extend(block(big_endian, 0x0bad_cafe, b"nobody knows this one"));
            let mut packet = octets(big_endian, &[1, 0, 2048, 3, 60]);
            packet.extend(b"abc");
            file.extend(block(big_endian, ENHANCED_PACKET, &packet));
            let mut packet = octets(big_endian, &[2]);
            packet.extend(b"xy");
            file.extend(block(big_endian, SIMPLE_PACKET, &packet));
            let first = if big_endian { 1 << 16 } else { 1 };
            let mut packet = octets(big_endian, &[first, 0, 1024, 4, 4]);
            packet.extend(b"dcba");
            file.extend(block(big_endian, PACKET, &packet));
        }
        let capture = Capture::from_octets(file).unwrap();
        let mut records = capture.records();
        for _ in 0..2 {
            let nanos = 2_000_000_000;
            let record = Record { nanos, link: 1, original: 60, data: b"abc" };
            assert_eq!(records.next(), Some(record));
            let record = Record { nanos: 0, link: 101, original: 2, data: b"xy" };
            assert_eq!(records.next(), Some(record));
            let nanos = 1_000_000_000;
            let record = Record { nanos, link: 1, original: 4, data: b"dcba" };
            assert_eq!(records.next(), Some(record));
        }
        assert_eq!(records.next(), None);
        assert_eq!(records.end(), Some(End::Whole));
    }

    #[test]
    fn a_file_cut_anywhere_gives_what_is_whole_in_it() {
        let mut file = pcap(false, 0xa1b2_c3d4);
        let record = file[24..].to_vec();
        file.extend(&record);
        for length in 0..file.len() {
            match Capture::from_octets(file[..length].to_vec()) {
                Ok(capture) => {
                    let mut records = capture.records();
                    assert_eq!(records.by_ref().count(), (length - 24) / record.len());
                    let octets = (length - 24) % record.len();
                    let end = if octets == 0 { End::Whole } else { End::Cut { octets } };
                    assert_eq!(records.end(), Some(end));
                }
                Err(error) => {
                    assert!(matches!(error, CaptureError::NotACapture) && length < 24);
                }
            }
        }
    }

    #[test]
    fn nothing_that_follows_a_good_header_makes_it_panic() {
        let mut heads = vec![pcap(false, 0xa1b2_c3d4)[..24].to_vec()];
        for big_endian in [false, true] {
            let mut head = section(big_endian);
            head.extend(interface(big_endian, 1, 6));
            heads.push(head);
        }
        let mut rng = crate::rng::Rng::from_seed(5);
        for round in 0..20_000u32 {
            let mut file = heads[round as usize % heads.len()].clone();
            // Small words make plausible lengths and block kinds more likely than noise does.
            for _ in 0..rng.below(24) {
                let masks = [0x7, 0x3f, 0xffff_ffff, 0xffff_ffff];
                let word = rng.next_u64() & masks[rng.below(3).count_ones() as usize];
                file.extend(&word.to_ne_bytes()[..4]);
            }
            let capture = Capture::from_octets(file).unwrap();
            let mut records = capture.records();
            while records.next().is_some() {}
            assert!(records.end().is_some());
        }
    }

    #[test]
    fn what_is_no_capture_is_refused() {
        for octets in
            [&b""[..], b"# a text", &[0; 100], b"\x0a\x0d\x0d\x0aAAAABBBBCCCCDDDDEEEEFFFF"]
        {
            let error = Capture::from_octets(octets.to_vec()).unwrap_err();
            assert!(matches!(error, CaptureError::NotACapture));
        }
    }
}
