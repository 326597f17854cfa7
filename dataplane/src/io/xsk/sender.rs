//! Sending a burst in one system call, where the driver has no zero-copy (`send.c`).
//!
//! The transmit ring of a copy-mode socket costs a softirq for every packet; here the kernel takes
//! a burst at once, says of each frame whether it went, and keeps none: frames are ours again when
//! the call returns. Packets pass the device's queueing discipline and its taps, as those of the kernel do.
//!
//! The rule: slots are shared with a program that runs only inside our own system call, so between
//! calls they are ordinary memory that nobody else touches.

#![expect(unsafe_code, reason = "a BPF map is mapped into memory")]

use std::{
    io,
    os::fd::AsFd as _,
    ptr::{self, NonNull},
};

use arrayvec::ArrayVec;
use aya::{
    Ebpf, EbpfError, TestRun as _, TestRunOptions, include_bytes_aligned,
    maps::{Map, MapError},
    programs::{ProgramError, SchedClassifier},
};
use rustix::mm::{MapFlags, ProtFlags};

use crate::{
    packet::{BURST, Packet},
    verdict::{DeviceId, DropReason, Verdict},
};

/// The compiled `send.c`.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/send.o"));

/// Octets of the longest frame, as in `send.c`: more than AF_XDP receives in one piece.
const CAPACITY: usize = 4096;

/// Octets of the shortest mould: the kernel looks at the IP header behind the link header.
const MOULD_MIN: usize = 60;

/// Octets of the longest mould: what the kernel builds into one page. AF_XDP's longest frame, of an
/// MTU of 3,498 octets, is shorter.
const MOULD_MAX: usize = 3600;

/// Octets of an Ethernet header: nothing shorter is sent.
pub(super) const SHORTEST: usize = 14;

/// The result of a frame that no run has met.
const PENDING: i32 = i32::MIN;

/// Octets of all frames of a burst, as in `send.c`.
const ROOM: usize = BURST * CAPACITY;

/// Frames begin at a multiple of this: a cache line.
const ALIGN: usize = 64;

/// One frame to be sent: `struct slot` of `send.c`.
#[derive(Debug)]
#[repr(C)]
struct Slot {
    interface: u32,
    /// 0 ends the burst.
    length: u16,
    protocol: [u8; 2],
    offset: u32,
    result: i32,
}

/// `struct burst` of `send.c`: one slot more than a burst, for the end.
#[repr(C)]
struct Burst {
    slots: [Slot; BURST + 1],
    room: [u8; ROOM],
}

/// Why bursts cannot be sent this way.
#[derive(Debug, thiserror::Error)]
pub(super) enum SenderError {
    /// The kernel refuses the program or its map (Linux before 5.17, or a missing right).
    #[error("the kernel does not take the sending program: {0}")]
    Load(#[from] EbpfError),
    /// The kernel's verifier refuses the program.
    #[error("the kernel does not take the sending program: {0}")]
    Program(#[from] ProgramError),
    /// The map is not as it was compiled.
    #[error("the sending program's map: {0}")]
    Map(#[from] MapError),
    /// The map cannot be mapped.
    #[error("the sending program's map cannot be mapped: {0}")]
    Mapping(#[from] io::Error),
}

/// Where frames leave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Port {
    /// The kernel's number of the interface.
    pub(super) index: u32,
    /// Octets of the longest frame it sends.
    pub(super) longest: usize,
}

/// One worker's.
#[derive(Debug)]
pub(super) struct Sender {
    /// The interfaces, by device id.
    ports: Vec<Port>,
    /// Holds program and map.
    bpf: Ebpf,
    burst: NonNull<Burst>,
    /// How many slots are filled.
    count: usize,
    /// How much of the room is.
    used: usize,
    /// What the kernel makes the skb of: zeros but for the ethertype.
    mould: [u8; MOULD_MAX],
}

// SAFETY: the mapping is used through this owner alone, on whatever thread that is.
unsafe impl Send for Sender {}

impl Sender {
    /// Loads the program and tries it on nothing.
    pub(super) fn new(ports: Vec<Port>) -> Result<Self, SenderError> {
        let mut bpf = Ebpf::load(OBJECT)?;
        let burst = map(&bpf)?;
        let sender = |bpf| Self { ports, bpf, burst, count: 0, used: 0, mould: [0; MOULD_MAX] };
        let program = bpf.program_mut("xvs_send").expect("send.c has it");
        let program: &mut SchedClassifier = program.try_into()?;
        program.load()?;
        let sender = sender(bpf);
        sender.call(MOULD_MIN)?;
        Ok(sender)
    }

    /// Sends what is to be sent of a burst; what cannot go becomes a drop with its reason.
    /// Returns whether an interface may be gone.
    pub(super) fn carry_out(&mut self, packets: &mut [Packet<'_>]) -> bool {
        let mut places = ArrayVec::<usize, BURST>::new();
        for (place, packet) in packets.iter_mut().enumerate() {
            if let Verdict::Tx(device) = packet.verdict
                && device != DeviceId::HOST
            {
                match self.push(device, packet.bytes()) {
                    Ok(()) => places.push(place),
                    Err(reason) => packet.verdict = Verdict::Drop(reason),
                }
            }
        }
        let mut gone = false;
        self.send(|at, number| {
            let reason = refusal(number);
            gone |= reason == DropReason::NoSuchDevice;
            packets[places[at]].verdict = Verdict::Drop(reason);
        });
        gone
    }

    /// Takes a copy of a frame, to be sent with the next [`Sender::send`]. If there is no room,
    /// what waits is sent first.
    pub(super) fn push(&mut self, device: DeviceId, frame: &[u8]) -> Result<(), DropReason> {
        let port = self.ports.get(usize::from(device.0)).ok_or(DropReason::NoSuchDevice)?;
        if frame.len() < SHORTEST {
            return Err(DropReason::Truncated);
        }
        if frame.len() > port.longest.min(CAPACITY) {
            return Err(DropReason::Oversized);
        }
        if self.count == BURST {
            // Only frames of our own are that many; one that is lost is lost as on the wire.
            self.send(|_, _| {});
        }
        let interface = self.ports[usize::from(device.0)].index;
        let (at, offset) = (self.count, self.used);
        let burst = self.burst();
        burst.room[offset..offset + frame.len()].copy_from_slice(frame);
        burst.slots[at] = Slot {
            interface,
            length: u16::try_from(frame.len()).expect("it fitted"),
            protocol: [frame[12], frame[13]],
            offset: u32::try_from(offset).expect("a small room"),
            result: PENDING,
        };
        self.used += frame.len().next_multiple_of(ALIGN);
        self.count += 1;
        Ok(())
    }

    /// Sends what was pushed, in order for each ethertype, and calls `failed` with the place of
    /// each frame that did not go and its error: the kernel's number, `ENOBUFS` for a queue that
    /// was full or whose interface is down.
    pub(super) fn send(&mut self, mut failed: impl FnMut(usize, i32)) {
        let count = self.count;
        if count == 0 {
            return;
        }
        let slots = &mut self.burst().slots;
        slots[count].length = 0;
        let filled = &slots[..count];
        let longest = filled.iter().map(|slot| slot.length.into()).max().unwrap_or(0);
        let length = longest.clamp(MOULD_MIN, MOULD_MAX);
        while let Some(at) = self.burst().slots[..count].iter().position(|s| s.result == PENDING) {
            let protocol = self.burst().slots[at].protocol;
            self.mould[12..14].copy_from_slice(&protocol);
            let called = self.call(length);
            // A run meets every frame of its ethertype; one that did not take place meets none.
            let number = called.err().map_or(libc::EIO, |error| errno(&error));
            for slot in &mut self.burst().slots[..count] {
                if slot.protocol == protocol && slot.result == PENDING {
                    slot.result = -number;
                }
            }
        }
        (self.count, self.used) = (0, 0);
        for (at, slot) in self.burst().slots[..count].iter().enumerate() {
            match slot.result {
                0 => {}
                // `NET_XMIT_DROP` and its like.
                1.. => failed(at, libc::ENOBUFS),
                error => failed(at, -error),
            }
        }
    }

    /// Runs the program on a mould of this length.
    fn call(&self, length: usize) -> Result<(), ProgramError> {
        let program = self.bpf.program("xvs_send").expect("send.c has it");
        let program: &SchedClassifier = program.try_into()?;
        let mould = Some(&self.mould[..length]);
        program.test_run(TestRunOptions { data_in: mould, ..TestRunOptions::new() }).map(drop)
    }

    const fn burst(&mut self) -> &mut Burst {
        // SAFETY: the mapping is as large as `Burst`, plain numbers for which every content is
        // valid, and lives until `drop`; we alone refer to it, as `self` is borrowed exclusively
        // and the program runs only within `call`, which no such reference outlives.
        unsafe { self.burst.as_mut() }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let address = self.burst.as_ptr().cast();
        // SAFETY: the mapping was made by `map` with this length, and is not used any more.
        let unmapped = unsafe { rustix::mm::munmap(address, size_of::<Burst>()) };
        debug_assert!(unmapped.is_ok(), "the mapping is ours: {unmapped:?}");
    }
}

/// Maps the program's burst, an empty one.
fn map(bpf: &Ebpf) -> Result<NonNull<Burst>, SenderError> {
    let Some(Map::Array(data)) = bpf.map("bursts") else {
        return Err(io::Error::other("there is no array called bursts").into());
    };
    let (length, fd) = (size_of::<Burst>(), data.fd().as_fd());
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at a place of the kernel's choice; the array is at least as long, as the
    // kernel checks.
    let address =
        unsafe { rustix::mm::mmap(ptr::null_mut(), length, access, MapFlags::SHARED, fd, 0) };
    let address = address.map_err(io::Error::from)?;
    Ok(NonNull::new(address.cast()).expect("the kernel maps nothing at 0"))
}

/// The drop reason behind the error number of a refused frame.
const fn refusal(number: i32) -> DropReason {
    match number {
        libc::EMSGSIZE => DropReason::Oversized,
        libc::ENETDOWN | libc::ENXIO | libc::ENODEV | libc::EINVAL => DropReason::NoSuchDevice,
        _ => DropReason::TxRingFull,
    }
}

/// The kernel's number behind an error of aya.
fn errno(error: &ProgramError) -> i32 {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        if let Some(number) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return number;
        }
        source = error.source();
    }
    libc::EIO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_cannot_leave_is_told_with_its_reason() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: BPF needs root");
            return;
        }
        let port = Port { index: u32::MAX >> 1, longest: 1514 };
        let mut sender = Sender::new(vec![port]).unwrap();
        let mut memory = [[0; 60]; 4];
        for (frame, ethertype) in memory.iter_mut().zip([[8, 0], [0x86, 0xdd], [8, 0], [8, 0]]) {
            frame[12..14].copy_from_slice(&ethertype);
        }
        let packet = |(at, frame): (u8, &'static mut [u8; 60])| {
            let mut packet = Packet::new(frame, 0, 60, DeviceId(0));
            packet.verdict = Verdict::Tx(DeviceId(at / 3));
            packet
        };
        let memory = Box::leak(Box::new(memory));
        let mut packets: Vec<_> = (0..).zip(memory).map(packet).collect();
        assert!(sender.carry_out(&mut packets));
        let gone = Verdict::Drop(DropReason::NoSuchDevice);
        assert!(packets.iter().all(|packet| packet.verdict == gone), "{packets:?}");
        assert_eq!(sender.push(DeviceId(0), &[0; 13]), Err(DropReason::Truncated));
        assert_eq!(sender.push(DeviceId(0), &[0; 1515]), Err(DropReason::Oversized));
        sender.send(|_, _| panic!("nothing is left"));
    }
}
