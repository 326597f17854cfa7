//! Hand-over to the host: packets that belong to the host's own stack enter it by a TUN device.
//!
//! The device carries IP packets without a link header, one queue for each worker, and goes away
//! with the last queue. Nothing routes into it; what real servers on the box itself send is
//! redirected there by the steering program and read by the workers, while
//! there are such real servers. Whatever else the host sends there (neighbour discovery, for
//! example) waits unread in the kernel, at most the device's transmit queue length (500 packets),
//! and is dropped beyond it.
//!
//! A packet that came with an unfinished checksum, as from a veth or virtio peer, is handed over
//! with `VIRTIO_NET_HDR_F_NEEDS_CSUM`, so that the host takes it as it would have from the peer.
//! Sources: Linux `Documentation/networking/tuntap.rst`, `ip-sysctl.rst` (rp_filter); virtio 1.2,
//! section 5.1.6.

use std::{
    fs::{self, File},
    io::{self, IoSlice, IoSliceMut, Read as _, Write as _},
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use arrayvec::ArrayVec;

use super::{
    gso::{self, ip_offset},
    sys,
};
use crate::{
    packet::{HEADROOM, Packet},
    verdict::DeviceId,
    wire::{
        checksum,
        ethernet::{self, ethertype},
        frame::{self, Kind},
        protocol,
    },
};

/// Queues of one TUN device at most (`MAX_TAP_QUEUES`).
const QUEUES_MAX: usize = 256;

/// The dummy address (RFC 7600, section 4.8), for a device that needs one and uses none.
const DUMMY_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// Why the hand-over could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// More workers than the device has queues.
    #[error("a TUN device has at most {QUEUES_MAX} queues, not {0}")]
    TooManyQueues(usize),
    /// The device could not be created.
    #[error("cannot create the TUN device {name}: {source}")]
    Create {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// It could not be brought up.
    #[error("cannot bring {name} up: {source}")]
    Up {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// It could not be given an address.
    #[error("cannot set the address of {name} to {DUMMY_ADDRESS}: {source}")]
    Address {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A setting of the device could not be changed.
    #[error("cannot set {path} to {value}: {source}")]
    Setting {
        /// The setting's file.
        path: String,
        /// What it should hold.
        value: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// One worker's queue into the host.
#[derive(Debug)]
pub struct HostPort {
    file: File,
    /// Whether there is something to be read: shared with control.
    read: Arc<AtomicBool>,
}

/// Creates the TUN device `name` with one queue for each of `workers`, in the network namespace of
/// the calling thread, and brings it up.
///
/// # Errors
///
/// Without `CAP_NET_ADMIN`, if the name is taken by another kind of device, or if its settings
/// cannot be made as they must be.
pub fn create(name: &str, workers: usize) -> Result<Vec<HostPort>, HostError> {
    if workers > QUEUES_MAX {
        return Err(HostError::TooManyQueues(workers));
    }
    let create = |source| HostError::Create { name: name.to_owned(), source };
    let read = Arc::default();
    let open = || sys::open_tun(name).map(|file| HostPort { file, read: Arc::clone(&read) });
    let ports = (0..workers).map(|_| open()).collect::<Result<_, _>>().map_err(create)?;
    configure(name)?;
    sys::bring_up(name).map_err(|source| HostError::Up { name: name.to_owned(), source })?;
    Ok(ports)
}

/// The host must take packets whose sources it reaches by another interface.
fn configure(name: &str) -> Result<(), HostError> {
    // The kernel uses the greater of this setting and that of `all`. Where that is strict (1), only
    // loose (2) avoids it, which asks for some route to the source and for an address on the
    // device, whatever it is.
    let all = fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter").unwrap_or_default();
    let strict = all.trim() == "1";
    let value = if strict { "2" } else { "0" };
    set(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), value)?;
    if strict {
        let address = |source| HostError::Address { name: name.to_owned(), source };
        sys::set_address(name, DUMMY_ADDRESS).map_err(address)?;
    }
    // No link-local address: it would only make the host talk into the device. There is no such
    // file where the host has no IPv6.
    let quiet = format!("/proc/sys/net/ipv6/conf/{name}/addr_gen_mode");
    if fs::exists(&quiet).unwrap_or(false) { set(quiet, "1") } else { Ok(()) }
}

fn set(path: String, value: &'static str) -> Result<(), HostError> {
    if fs::read_to_string(&path).is_ok_and(|current| current.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| HostError::Setting { path, value, source })
}

impl HostPort {
    /// Hands a frame, from its Ethernet header on, to the host. Does not block; `false` if it is not
    /// IP, or the device is gone, down or has no room.
    ///
    /// Costs one system call.
    pub fn send(&mut self, frame: &[u8]) -> bool {
        let Some(l3) = ip_offset(frame) else {
            return false;
        };
        let header = offload(frame, l3);
        let packet = &frame[l3..];
        let length = header.len() + packet.len();
        let written = self.file.write_vectored(&[IoSlice::new(&header), IoSlice::new(packet)]);
        written.is_ok_and(|written| written == length)
    }

    /// The switch, common to all ports of the device, that says whether workers read it.
    pub fn switch(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.read)
    }

    /// Whether what the host's stack sends is to be read.
    #[inline]
    pub(super) fn is_read(&self) -> bool {
        self.read.load(Relaxed)
    }

    /// What to poll for reading.
    pub(super) fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Reads one packet into `memory`, behind an Ethernet header without addresses; its length with
    /// it. Does not block; `None` if there is no packet, or one that does not fit.
    pub(super) fn receive(&mut self, memory: &mut [u8]) -> Option<usize> {
        let (link, room) = memory.split_first_chunk_mut::<{ ethernet::LEN }>()?;
        let mut header = [0; gso::HEADER];
        let places = &mut [IoSliceMut::new(&mut header), IoSliceMut::new(room)];
        let length = self.file.read_vectored(places).ok()?.checked_sub(gso::HEADER)?;
        let ethertype = match room.first()? >> 4 {
            4 => ethertype::IPV4,
            _ => ethertype::IPV6,
        };
        ethernet::Header { source: [0; 6], destination: [0; 6], ethertype }.emit(link);
        Some(ethernet::LEN + length)
    }
}

/// Packets read from the host's stack that wait for their burst.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// A slot for each of [`WAITING`] packets; none before there is a port.
    memory: Box<[u8]>,
    /// Lengths of those that wait.
    lengths: ArrayVec<usize, WAITING>,
}

/// Packets of the host's stack in one burst at most.
const WAITING: usize = 32;

/// Octets of a slot: headroom, and a packet as long as the kernel sends through a jumbo interface. A
/// longer one is cut by the read, and dropped by its length.
const SLOT: usize = HEADROOM + 9728;

impl Inbox {
    pub(super) fn new() -> Self {
        Self { memory: vec![0; WAITING * SLOT].into_boxed_slice(), lengths: ArrayVec::new() }
    }

    /// Reads what has come, unless something waits already; whether something waits then.
    pub(super) fn fill(&mut self, port: &mut HostPort) -> bool {
        if self.lengths.is_empty() {
            for slot in self.memory.chunks_exact_mut(SLOT) {
                let Some(length) = port.receive(&mut slot[HEADROOM..]) else { break };
                self.lengths.push(length);
            }
        }
        !self.lengths.is_empty()
    }

    /// Lends what waits; nothing waits afterwards.
    pub(super) fn lend(&mut self) -> ArrayVec<Packet<'_>, WAITING> {
        let lengths = std::mem::take(&mut self.lengths);
        let slots = self.memory.chunks_exact_mut(SLOT).zip(lengths);
        slots
            .map(|(slot, length)| Packet::new(slot, HEADROOM, HEADROOM + length, DeviceId::HOST))
            .collect()
    }
}

/// The `struct virtio_net_hdr` that goes with a frame: where its checksum still has to be
/// computed, if so. What cannot be parsed goes as it is, for the host to judge.
fn offload(frame: &[u8], l3: usize) -> [u8; gso::HEADER] {
    let mut header = [0; gso::HEADER];
    let Ok(parsed) = frame::parse(frame) else {
        return header;
    };
    let field: u16 = match (parsed.kind, parsed.key.protocol) {
        (Kind::Flow, protocol::TCP) => 16,
        (Kind::Flow, protocol::UDP) => 6,
        _ => return header,
    };
    let at = usize::from(parsed.l4 + field);
    let Some(&[high, low]) = frame.get(at..at + 2) else {
        return header;
    };
    let (key, length) = (&parsed.key, u32::from(parsed.end - parsed.l4));
    let pseudo = checksum::pseudo(key.source, key.destination, key.protocol, length);
    if checksum::is_unfinished(u16::from_be_bytes([high, low]), pseudo) {
        let start = usize::from(parsed.l4) - l3;
        let start = u16::try_from(start).expect("offsets within a frame have 16 bits");
        header[0] = gso::NEEDS_CSUM;
        header[6..8].copy_from_slice(&start.to_ne_bytes());
        header[8..10].copy_from_slice(&field.to_ne_bytes());
    }
    header
}
