//! Fragments: put together before a flow is looked up, taken apart again behind it.
//!
//! As the kernel does (`ip_vs_gather_frags`), a datagram for a VIP, or from a real server whose
//! replies are translated, is reassembled whole, treated as one packet and fragmented again on
//! its way out. The store is bounded: [`DATAGRAMS`] at a time, [`PIECES`] pieces each, for
//! [`HELD_TICKS`]. A new datagram that finds the store full displaces the one that has waited
//! longest, so that a flood of first halves cannot hold the store. Overlaps, pieces beyond 64 KB
//! and contradictory ends discard the datagram (RFC 5722; RFC 8200, section 4.5; for IPv4 as
//! Linux since 4.20). Each worker has a store of its own: pieces of one datagram come by one
//! queue, as NICs hash fragments by addresses alone.

use arrayvec::ArrayVec;

use crate::{
    addr::Addr,
    clock::{TICKS_PER_SECOND, Tick},
    packet::HEADROOM,
    verdict::{DeviceId, DropReason},
    wire::extension::FRAGMENT_LEN,
};

/// Datagrams held at a time.
pub const DATAGRAMS: usize = 64;

/// Pieces of one datagram: 64 KB in pieces of 512 octets.
pub const PIECES: usize = 128;

/// How long an incomplete datagram is held: 30 s, as `net.ipv4.ipfrag_time`.
pub const HELD_TICKS: u32 = 30 * TICKS_PER_SECOND;

/// Where a datagram's data begins in its buffer; in front lie headroom and headers.
const DATA: usize = HEADROOM + HEADERS;

/// Room for link and IP headers in front of the data.
const HEADERS: usize = 512;

/// Octets of data at most.
const DATA_MAX: usize = 65_535;

/// What names a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name {
    /// Its source.
    source: Addr,
    /// Its destination.
    destination: Addr,
    /// Its identification: 16 bits for IPv4.
    id: u32,
    /// Its protocol; 0 for IPv6.
    protocol: u8,
    /// The device its pieces come by.
    device: DeviceId,
}

/// One fragment, found out about.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Frame up to the end of the part that every fragment repeats: link header and IPv4 header,
    /// or IPv6 header and extension headers in front of the fragment header.
    pub header: &'a [u8],
    /// Offset of the IP header in the frame.
    pub l3: usize,
    /// IPv6: offset in `header` of the octet that names the fragment header.
    pub next_header_at: Option<usize>,
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// Identification.
    pub id: u32,
    /// Protocol of what is fragmented.
    pub protocol: u8,
    /// Offset of this piece in octets.
    pub offset: usize,
    /// Whether more pieces follow.
    pub more: bool,
    /// Whether DF was set on it.
    pub dont_fragment: bool,
    /// The data.
    pub data: &'a [u8],
    /// The device it came by.
    pub device: DeviceId,
}

/// A datagram being put together.
#[derive(Debug)]
struct Datagram {
    /// Its name; `None` while the slot is free.
    name: Option<Name>,
    /// When its first piece came.
    since: Tick,
    /// Ranges of data that have come, in order, not touching.
    pieces: ArrayVec<(usize, usize), PIECES>,
    /// Its length in octets, once the last piece has come.
    total: Option<usize>,
    /// Length of the header of the first piece; 0 before it has come.
    header: usize,
    /// Offset of the IP header in that header.
    l3: usize,
    /// Longest fragment as an IP packet, and longest with DF set.
    longest: (usize, usize),
    /// Headroom, headers, data.
    octets: Box<[u8]>,
}

/// What became of a piece.
#[derive(Debug)]
pub enum Gathered {
    /// Kept until the others come.
    Kept,
    /// It was the last one missing: the datagram is in this slot.
    Whole(usize),
}

/// The store of one worker.
#[derive(Debug)]
pub struct Fragments {
    /// The slots.
    datagrams: Box<[Datagram]>,
    /// Datagrams given up because their time was over, or displaced by others.
    pub lost: u64,
}

impl Default for Fragments {
    fn default() -> Self {
        Self::new()
    }
}

impl Fragments {
    /// An empty store.
    pub fn new() -> Self {
        let datagram = || Datagram {
            name: None,
            since: Tick(0),
            pieces: ArrayVec::new(),
            total: None,
            header: 0,
            l3: 0,
            longest: (0, 0),
            octets: vec![0; DATA + DATA_MAX].into_boxed_slice(),
        };
        Self { datagrams: (0..DATAGRAMS).map(|_| datagram()).collect(), lost: 0 }
    }

    /// Takes in a piece.
    ///
    /// # Errors
    ///
    /// [`DropReason::BadFragment`]: the piece contradicts the others; the datagram is given up.
    pub fn gather(&mut self, piece: &Piece<'_>, now: Tick) -> Result<Gathered, DropReason> {
        let name = Name {
            source: piece.source,
            destination: piece.destination,
            id: piece.id,
            // Of IPv6 only the first piece says what is fragmented (RFC 8200, section 4.5).
            protocol: if piece.next_header_at.is_some() { 0 } else { piece.protocol },
            device: piece.device,
        };
        let slot = self.slot(&name, now);
        let datagram = &mut self.datagrams[slot];
        if datagram.name.is_none() {
            datagram.start(name, now);
        }
        match datagram.add(piece) {
            Ok(true) => Ok(Gathered::Whole(slot)),
            Ok(false) => Ok(Gathered::Kept),
            Err(reason) => {
                datagram.name = None;
                Err(reason)
            }
        }
    }

    /// The slot of a datagram: its own, a free one, or that of the one that waited longest.
    fn slot(&mut self, name: &Name, now: Tick) -> usize {
        let mut oldest = 0;
        let mut free = None;
        for (at, datagram) in self.datagrams.iter_mut().enumerate() {
            if datagram.name.is_some() && now.since(datagram.since) >= HELD_TICKS {
                datagram.name = None;
                self.lost += 1;
            }
            match &datagram.name {
                Some(other) if other == name => return at,
                Some(_) => {}
                None => free = free.or(Some(at)),
            }
        }
        for (at, datagram) in self.datagrams.iter().enumerate() {
            if now.since(datagram.since) > now.since(self.datagrams[oldest].since) {
                oldest = at;
            }
        }
        free.unwrap_or_else(|| {
            self.datagrams[oldest].name = None;
            self.lost += 1;
            oldest
        })
    }

    /// Hands out the whole datagram in `slot`: its memory, where the frame starts and ends in it,
    /// and the length of its longest fragment as an IP packet. The slot is free from then on.
    pub fn take(&mut self, slot: usize) -> (&mut [u8], usize, usize, u16) {
        let datagram = &mut self.datagrams[slot];
        datagram.name = None;
        let total = datagram.total.unwrap_or(0);
        let start = DATA - datagram.header;
        let end = DATA + total;
        let longest = u16::try_from(datagram.longest.0).unwrap_or(u16::MAX);
        datagram.finish_header(start, total);
        (&mut datagram.octets, start, end, longest)
    }
}

impl Datagram {
    /// Begins a new datagram in this slot.
    fn start(&mut self, name: Name, now: Tick) {
        self.name = Some(name);
        self.since = now;
        self.pieces.clear();
        self.total = None;
        self.header = 0;
        self.longest = (0, 0);
    }

    /// Adds a piece; whether the datagram is whole now.
    fn add(&mut self, piece: &Piece<'_>) -> Result<bool, DropReason> {
        let end = piece.offset + piece.data.len();
        let aligned = !piece.more || piece.data.len().is_multiple_of(8);
        if end > DATA_MAX || !aligned || piece.data.is_empty() {
            return Err(DropReason::BadFragment);
        }
        let known_end = self.pieces.last().map_or(0, |last| last.1);
        match self.total {
            Some(total) if end > total || (!piece.more && end != total) => {
                return Err(DropReason::BadFragment);
            }
            None if !piece.more && known_end > end => return Err(DropReason::BadFragment),
            _ => {}
        }
        if self.pieces.contains(&(piece.offset, end)) {
            return Ok(false);
        }
        self.insert(piece.offset, end)?;
        if !piece.more {
            self.total = Some(end);
        }
        self.octets[DATA + piece.offset..DATA + end].copy_from_slice(piece.data);
        if piece.offset == 0 {
            self.keep_header(piece)?;
        }
        let fragment_header = if piece.next_header_at.is_some() { FRAGMENT_LEN } else { 0 };
        let length = piece.header.len() - piece.l3 + fragment_header + piece.data.len();
        self.longest.0 = self.longest.0.max(length);
        if piece.dont_fragment {
            self.longest.1 = self.longest.1.max(length);
        }
        Ok(self.is_whole())
    }

    /// Notes a range; an overlap is an error.
    fn insert(&mut self, start: usize, end: usize) -> Result<(), DropReason> {
        let at = self.pieces.iter().take_while(|piece| piece.0 < start).count();
        let before = at.checked_sub(1).map(|at| self.pieces[at].1);
        let after = self.pieces.get(at).map(|piece| piece.0);
        if before.is_some_and(|before| before > start) || after.is_some_and(|after| after < end) {
            return Err(DropReason::BadFragment);
        }
        if self.pieces.is_full() {
            return Err(DropReason::BadFragment);
        }
        self.pieces.insert(at, (start, end));
        Ok(())
    }

    /// Keeps the first piece's headers, directly in front of the data.
    fn keep_header(&mut self, piece: &Piece<'_>) -> Result<(), DropReason> {
        if piece.header.len() > HEADERS {
            return Err(DropReason::BadFragment);
        }
        self.header = piece.header.len();
        self.l3 = piece.l3;
        let header = &mut self.octets[DATA - self.header..DATA];
        header.copy_from_slice(piece.header);
        if let Some(next_header) = piece.next_header_at {
            header[next_header] = piece.protocol;
        }
        Ok(())
    }

    /// Whether nothing is missing.
    fn is_whole(&self) -> bool {
        let Some(total) = self.total.filter(|_| self.header != 0) else { return false };
        let mut end = 0;
        for piece in &self.pieces {
            if piece.0 != end {
                return false;
            }
            end = piece.1;
        }
        end == total
    }

    /// Makes the kept header that of a packet that was never fragmented.
    fn finish_header(&mut self, start: usize, total: usize) {
        let header = &mut self.octets[start..DATA];
        let ip = &mut header[self.l3..];
        if ip[0] >> 4 == 4 {
            // DF only if the longest fragment carried it (ip_frag_reasm).
            let dont_fragment = self.longest.0 == self.longest.1;
            let length = u16::try_from(ip.len() + total).unwrap_or(u16::MAX);
            ip[2..4].copy_from_slice(&length.to_be_bytes());
            ip[6..8].copy_from_slice(&(u16::from(dont_fragment) << 14).to_be_bytes());
            ip[10..12].fill(0);
            let sum = crate::wire::checksum::Sum::of(ip).checksum();
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            let length = u16::try_from(ip.len() - 40 + total).unwrap_or(u16::MAX);
            ip[4..6].copy_from_slice(&length.to_be_bytes());
        }
    }
}
