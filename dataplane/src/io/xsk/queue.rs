//! One AF_XDP socket: the four rings of one queue of one interface.
//!
//! The rule: what the kernel holds is counted. `filling` frames wait in the fill ring or already
//! hold a received packet, `sending` ones wait in the transmit ring or for their completion; both
//! are at most `ring`, so a completion always has room. The kernel says late what it took (packets
//! appear in the receive ring before their places in the fill ring are given back), so these two
//! rings have twice as many places; should one refuse frames all the same, they stay with us until
//! the next turn. Only frames with a packet the kernel accepts may be sent: it drops others without
//! ever completing them.
//! Source: Linux Documentation/networking/af_xdp.rst, net/xdp/xsk.c (`__xsk_generic_xmit`).

#![expect(unsafe_code, reason = "ring operations hand memory to the kernel and take it back")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
};

use arrayvec::ArrayVec;
use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags},
};
use xsk_rs::{
    CompQueue, FillQueue, RxQueue, TxQueue,
    config::{BindFlags, Interface, LibxdpFlags, SocketConfig},
    socket::Socket,
    umem::frame::FrameDesc,
};

use super::frames::{Frame, Frames, cause};
use crate::{packet::BURST, verdict::DeviceId};

/// `XDP_MAX_TX_SKB_BUDGET`: frames that one system call sends in copy mode; 32 if not set.
const TX_BUDGET: libc::c_int = 9;

/// Frames per call if the kernel does not know [`TX_BUDGET`] (before 6.17).
const DEFAULT_BUDGET: u32 = 32;

/// `SO_PREFER_BUSY_POLL` and `SO_BUSY_POLL_BUDGET`, which the libc crate does not name everywhere.
const PREFER_BUSY_POLL: libc::c_int = 69;
const BUSY_POLL_BUDGET: libc::c_int = 70;

/// Octets of the `int` that socket options take.
const INT: libc::socklen_t = 4;

/// The driver's work is done in our own system calls, instead of in interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyPoll {
    /// How long a call may poll the device, in microseconds.
    pub micros: u16,
    /// Packets it may take in that time.
    pub budget: u16,
}

/// One queue of one interface.
#[derive(Debug)]
pub(super) struct Queue {
    /// The interface's slot.
    pub(super) device: DeviceId,
    /// For each slot the worker's queue through which packets received here leave it.
    pub(super) egress: Box<[Option<u16>]>,
    /// Longest frame the interface sends, in octets.
    pub(super) longest: usize,
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    /// Most frames to fill, and most to send.
    ring: usize,
    filling: usize,
    sending: usize,
    /// To be handed to the transmit ring together.
    staged: ArrayVec<FrameDesc, BURST>,
    /// The kernel has to be told of frames to send.
    kick: bool,
    /// Frames one kick sends.
    budget: u32,
    busy_poll: bool,
    /// Packets that the kernel had dropped when it was asked last.
    missed: u64,
    /// Where the rings write to.
    scratch: [FrameDesc; BURST],
}

/// How a socket is bound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Binding<'a> {
    pub(super) interface: &'a str,
    pub(super) slot: DeviceId,
    pub(super) queue: u32,
    pub(super) ring: u32,
    pub(super) zero_copy: bool,
    pub(super) busy_poll: Option<BusyPoll>,
}

impl Queue {
    /// Opens and binds a socket, and gives it frames to receive into.
    pub(super) fn open(frames: &mut Frames, binding: &Binding<'_>) -> io::Result<Self> {
        let interface: Interface = binding.interface.parse().map_err(io::Error::other)?;
        let copy = if binding.zero_copy { BindFlags::empty() } else { BindFlags::XDP_COPY };
        let config = SocketConfig::builder()
            .rx_queue_size(binding.ring.try_into().map_err(io::Error::other)?)
            .tx_queue_size((2 * binding.ring).try_into().map_err(io::Error::other)?)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(copy | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        // SAFETY: the program load is inhibited, which is what the function asks for.
        let opened = unsafe { Socket::new(config, &frames.umem, &interface, binding.queue) };
        let (tx, rx, shared) = opened.map_err(cause)?;
        // Without rings of its own the pair was bound before through this memory.
        let (fill, completion) = shared.ok_or_else(|| io::Error::from(io::ErrorKind::AddrInUse))?;
        let mut queue = Self {
            device: binding.slot,
            egress: Box::default(),
            longest: 0,
            rx,
            tx,
            fill,
            completion,
            ring: binding.ring as usize,
            filling: 0,
            sending: 0,
            staged: ArrayVec::new(),
            kick: false,
            budget: DEFAULT_BUDGET,
            busy_poll: binding.busy_poll.is_some(),
            missed: 0,
            scratch: [FrameDesc::default(); BURST],
        };
        if queue.set(libc::SOL_XDP, TX_BUDGET, binding.ring).is_ok() {
            queue.budget = binding.ring;
        }
        if let Some(busy) = binding.busy_poll {
            queue.set(libc::SOL_SOCKET, PREFER_BUSY_POLL, 1)?;
            queue.set(libc::SOL_SOCKET, libc::SO_BUSY_POLL, busy.micros.into())?;
            queue.set(libc::SOL_SOCKET, BUSY_POLL_BUDGET, busy.budget.into())?;
        }
        queue.refill(frames);
        Ok(queue)
    }

    /// Whether frames travel without being copied.
    pub(super) fn zero_copy(&self) -> io::Result<bool> {
        let options = rustix::net::sockopt::xdp_options(self)?;
        Ok(options.contains(rustix::net::xdp::XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY))
    }

    /// What the kernel dropped at this socket: the fields of [`super::KernelDrops`] in order.
    pub(super) fn kernel_drops(&self) -> io::Result<[u64; 3]> {
        let seen = self.rx.fd().xdp_statistics()?;
        Ok([seen.rx_ring_full(), seen.rx_fill_ring_empty_descs(), seen.rx_dropped()])
    }

    /// Packets that the kernel dropped since this was asked last: for lack of a place in the ring, or
    /// at the socket. With zero-copy, what the driver drops for lack of frames is in its own counts.
    pub(super) fn missed(&mut self) -> io::Result<u64> {
        let [ring_full, _, dropped] = self.kernel_drops()?;
        let before = std::mem::replace(&mut self.missed, ring_full + dropped);
        Ok(self.missed.saturating_sub(before))
    }

    /// Frames that the kernel has to receive into, and to send.
    pub(super) const fn held(&self) -> (usize, usize) {
        (self.filling, self.sending + self.staged.len())
    }

    /// Whether a packet waits.
    pub(super) fn is_ready(&mut self) -> bool {
        self.rx.nb_avail(1) > 0
    }

    /// Takes at most a burst of received packets.
    pub(super) fn receive(&mut self, into: &mut ArrayVec<Frame, BURST>) {
        if self.rx.nb_avail(1) == 0 {
            if self.busy_poll {
                self.drive();
            }
            return;
        }
        // SAFETY: the ring belongs to the UMEM whose frames these descriptors will name, and every
        // frame it names was given up in `refill`.
        let count = unsafe { self.rx.consume(&mut self.scratch) };
        into.extend(self.scratch[..count].iter().copied().map(Frame));
        self.filling -= count;
    }

    /// Fills the fill ring up from the free frames.
    pub(super) fn refill(&mut self, frames: &mut Frames) {
        if self.filling == self.ring {
            return;
        }
        while self.filling < self.ring {
            let count = (self.ring - self.filling).min(BURST).min(frames.free.len());
            let from = frames.free.len() - count;
            let descs: ArrayVec<_, BURST> = frames.free.drain(from..).map(|f| f.0).collect();
            // SAFETY: these frames are of this UMEM, and were free: taking them out of `free` gives
            // them up.
            let taken = unsafe { self.fill.produce(&descs) };
            self.filling += taken;
            if taken == 0 {
                // Refused, all of them: they are still ours.
                frames.free.extend(descs.into_iter().map(Frame));
                break;
            }
        }
        if self.fill.needs_wakeup() {
            self.drive();
        }
    }

    /// Makes room for one more frame to be staged; `false` if the kernel holds a ring full.
    pub(super) fn make_room(&mut self, frames: &mut Frames) -> bool {
        if self.staged.is_full() {
            self.submit();
        }
        if self.sending + self.staged.len() == self.ring {
            self.reap(frames);
        }
        self.sending + self.staged.len() < self.ring && !self.staged.is_full()
    }

    /// Puts a frame in line to be sent. There must be room, and a packet of at least an Ethernet
    /// header in the frame.
    pub(super) fn stage(&mut self, frame: Frame) {
        debug_assert!(frame.0.lengths().data() >= 14, "the kernel would keep the frame for ever");
        self.staged.push(frame.0);
    }

    /// Hands what is staged to the transmit ring; what it refuses stays staged.
    pub(super) fn submit(&mut self) {
        if self.staged.is_empty() {
            return;
        }
        // SAFETY: these frames are of this UMEM, and were given up in `stage`; they are handed over
        // once, as `staged` is cleared if the ring takes them.
        let taken = unsafe { self.tx.produce(&self.staged) };
        self.kick = true;
        if taken > 0 {
            self.sending += taken;
            self.staged.clear();
        }
    }

    /// Takes back frames that were sent.
    pub(super) fn reap(&mut self, frames: &mut Frames) {
        while self.sending > 0 {
            // SAFETY: the ring belongs to the UMEM whose frames these descriptors will name, and
            // every frame it names was given up in `submit`.
            let count = unsafe { self.completion.consume(&mut self.scratch) };
            frames.free.extend(self.scratch[..count].iter().copied().map(Frame));
            self.sending -= count;
            if count < BURST {
                break;
            }
        }
    }

    /// Whether the kernel still has to be told of frames, because it had no room or no time.
    pub(super) const fn is_pending(&self) -> bool {
        self.kick
    }

    /// Has the kernel send what was submitted. What it cannot send now is tried again next time;
    /// an interface that is down keeps it.
    ///
    /// # Errors
    ///
    /// The interface is gone.
    pub(super) fn kick(&mut self) -> io::Result<()> {
        if !self.kick {
            return Ok(());
        }
        if !self.tx.needs_wakeup() {
            self.kick = false;
            return Ok(());
        }
        let calls = self.sending.div_ceil(self.budget as usize) + 1;
        for _ in 0..calls {
            match rustix::net::send(&*self, &[], SendFlags::DONTWAIT) {
                Ok(_) => {
                    self.kick = false;
                    return Ok(());
                }
                // The budget is used up, or the driver's queue is full for a moment.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::BUSY | Errno::NOBUFS | Errno::NETDOWN) => return self.still_there(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The error the kernel noted on the socket: the interface was removed.
    ///
    /// # Errors
    ///
    /// That error.
    pub(super) fn still_there(&self) -> io::Result<()> {
        Ok(rustix::net::sockopt::socket_error(self)??)
    }

    /// Lets the driver receive in our time.
    fn drive(&self) {
        // Whatever it answers, packets or none, the receive ring tells.
        rustix::net::recv(self, &mut [0u8; 0][..], RecvFlags::DONTWAIT).ok();
    }

    fn set(&self, level: libc::c_int, option: libc::c_int, value: u32) -> io::Result<()> {
        // SAFETY: the options used here take an `int`, which `value` is as long as, and the kernel
        // copies it.
        let result = unsafe {
            libc::setsockopt(
                self.rx.fd().as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                INT,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is closed when the last of the socket's queues is dropped, and
        // `self.rx` is one of them.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }
}
