//! The memory that a worker shares with the kernel, cut into frames.
//!
//! The rule: a [`Frame`] is the right to touch one frame. It cannot be copied, and exists only
//! while neither the kernel nor another part of the worker has the frame: handing it to a ring
//! gives it up, taking it from a ring gets it back. So a frame is never submitted twice, and what
//! is lent from it is lent once.
//!
//! xsk-rs gives no way to send from another place of a frame than it was received at, so what
//! does not start there any more is moved (measured: moving 1,400 octets costs some 30 ns, sending
//! a packet some 1,000). Its views of a frame leave out the octets that the kernel keeps free for
//! XDP programs; that is where our headroom is, so frames are addressed from the start of the
//! mapping.
//! Source: Linux Documentation/networking/af_xdp.rst, "UMEM".

#![expect(unsafe_code, reason = "the kernel and we take turns at the same memory")]

use std::{
    io::{self, Write as _},
    num::NonZeroU32,
    ptr, slice,
};

use xsk_rs::{
    config::UmemConfigBuilder,
    umem::{Umem, frame::FrameDesc},
};

use crate::{
    flow::cpu::prefetch,
    packet::{HEADROOM, Packet},
    verdict::DeviceId,
};

/// Octets the kernel keeps free in front of every received frame (`XDP_PACKET_HEADROOM`).
pub(super) const XDP_HEADROOM: u32 = 256;

const _: () = assert!(XDP_HEADROOM as usize >= HEADROOM, "the kernel's headroom is ours too");

/// Octets of a huge page; the memory is a multiple of it.
const HUGE_PAGE: u32 = 2 << 20;

/// The right to touch one frame, with the place and length of what is in it.
#[derive(Debug)]
pub(super) struct Frame(pub(super) FrameDesc);

/// The memory of one worker.
#[derive(Debug)]
pub(super) struct Frames {
    pub(super) umem: Umem,
    /// Where the mapping starts.
    base: usize,
    /// Octets of a frame, headroom included: a power of two.
    chunk: usize,
    /// How many frames there are.
    total: usize,
    /// Frames that are nowhere else.
    pub(super) free: Vec<Frame>,
    /// Whether the memory lies in huge pages.
    pub(super) huge_pages: bool,
}

impl Frames {
    /// Maps at least `count` frames of `chunk` octets, in huge pages if there are enough.
    /// `ring` is the size of every socket's completion ring; the fill ring has twice that.
    pub(super) fn new(chunk: u32, count: usize, ring: u32) -> io::Result<Self> {
        let count = count.next_multiple_of((HUGE_PAGE / chunk) as usize);
        let count = u32::try_from(count).ok().and_then(NonZeroU32::new);
        let count = count.ok_or(io::ErrorKind::InvalidInput)?;
        let config = UmemConfigBuilder::new()
            .frame_size(chunk.try_into().map_err(io::Error::other)?)
            .fill_queue_size((2 * ring).try_into().map_err(io::Error::other)?)
            .comp_queue_size(ring.try_into().map_err(io::Error::other)?)
            .build()
            .map_err(io::Error::other)?;
        let (umem, descs, huge_pages) = match Umem::new(config, count, true) {
            Ok((umem, descs)) => (umem, descs, true),
            Err(_) => {
                let (umem, descs) = Umem::new(config, count, false).map_err(cause)?;
                (umem, descs, false)
            }
        };
        let mut first = FrameDesc::default();
        // SAFETY: the default descriptor describes offset 0, the start of this UMEM's first frame,
        // and nobody has any frame yet: `descs` was just made.
        let mut data = unsafe { umem.data_mut(&mut first) };
        let base = data.contents_mut().as_mut_ptr().expose_provenance();
        let free: Vec<_> = descs.into_iter().map(Frame).collect();
        Ok(Self { umem, base, chunk: chunk as usize, total: free.len(), free, huge_pages })
    }

    /// How many frames there are, wherever they are.
    pub(super) const fn total(&self) -> usize {
        self.total
    }

    /// Longest packet a frame takes where the kernel puts it.
    pub(super) const fn capacity(&self) -> usize {
        self.chunk - XDP_HEADROOM as usize
    }

    /// The packet in a frame, with the whole frame around it. Its headers are fetched meanwhile:
    /// another CPU wrote them, and a burst is lent before its first packet is looked at.
    pub(super) fn lend<'a>(&'a self, frame: &'a mut Frame, device: DeviceId) -> Packet<'a> {
        let start = self.start(frame);
        let end = start + frame.0.lengths().data();
        let memory = self.memory(frame);
        prefetch(&memory[start]);
        Packet::new(memory, start, end, device)
    }

    /// Makes `length` octets from `start` of the frame what is sent from it.
    /// `false`, and nothing done, if they do not fit where a packet must start.
    pub(super) fn place(&self, frame: &mut Frame, start: usize, length: usize) -> bool {
        let at = self.start(frame);
        if at + length > self.chunk {
            return false;
        }
        if start != at {
            self.memory(frame).copy_within(start..start + length, at);
        }
        frame.0.set_options(0);
        // SAFETY: `frame` is the right to touch this frame, and `lend` and `memory` borrow it, so
        // nothing else refers to its memory.
        let mut data = unsafe { self.umem.data_mut(&mut frame.0) };
        data.cursor().set_pos(length);
        true
    }

    /// A free frame holding a copy of `octets`; `None` if none is free or they do not fit.
    pub(super) fn filled(&mut self, octets: &[u8]) -> Option<Frame> {
        if octets.len() > self.capacity() {
            return None;
        }
        let mut frame = self.free.pop()?;
        // SAFETY: as in `place`; the frame was free.
        let mut data = unsafe { self.umem.data_mut(&mut frame.0) };
        data.cursor().write_all(octets).expect("a frame takes its capacity");
        Some(frame)
    }

    /// Where in its frame a packet starts.
    fn start(&self, frame: &Frame) -> usize {
        frame.0.addr() & (self.chunk - 1)
    }

    /// All of a frame's octets.
    fn memory<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        let start = frame.0.addr() & !(self.chunk - 1);
        assert!(start / self.chunk < self.total, "the kernel names a frame outside the memory");
        let address = ptr::with_exposed_provenance_mut(self.base + start);
        // SAFETY: the range is a whole frame of the mapping, which lives as long as `self.umem`; its
        // octets were zeroed by the kernel; `frame` is the only right to touch it and is borrowed
        // as long as the slice lives; the mapping's pointer was exposed where `base` was taken.
        unsafe { slice::from_raw_parts_mut(address, self.chunk) }
    }
}

/// The kernel's error behind one of xsk-rs.
pub(super) fn cause(error: impl std::error::Error) -> io::Error {
    let number = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error);
    number.map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}
