//! Raw sockets (AF_PACKET): where AF_XDP cannot be had, and for any interface without settings.
//!
//! One receiving socket for each interface, workers sharing an interface by the kernel's fanout
//! (hash of the flow; fragments of one datagram stay together, unassembled); one sending socket for
//! all. A burst costs one `recvmmsg` and one `sendmmsg`. Received are unicast frames to this box
//! only, never its own; the kernel's stack gets its copy of each all the same, so
//! [`Verdict::Host`] needs nothing done. Not ideal: where the steering program shields that stack
//! from what is ours, the few packets that it takes and the pipeline then leaves to the host (a
//! fragment to a VIP without a flow, say) reach nobody, though they count as the host's.
//!
//! What the kernel or a virtual peer left undone is done here, so that no interface needs its
//! offloads switched off: VLAN tags put back, checksums finished, super-segments cut (`gso`), and
//! their pieces joined again when they leave together (`glue`).
//!
//! Sources: packet(7); Linux `net/packet/af_packet.c` (fanout, `PACKET_VNET_HDR`).

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use arrayvec::ArrayVec;
use mio::{Events, Interest, Poll, Token, Waker, unix::SourceFd};

use super::{
    Io,
    raw_batch::{Batch, SLOT},
    raw_send::{Port, Sender},
    sys,
};
use crate::{
    packet::{BURST, Packet},
    verdict::{DeviceId, Verdict},
};

/// Receive buffer of a socket, in octets as the kernel counts them (a small frame costs some 768):
/// 40 000 small frames or 200 super-segments; what comes beyond is dropped and counted by the kernel.
const RECEIVE_BUFFER: usize = 32 << 20;

/// The wake-up among the events; others are interfaces.
const WAKE: Token = Token(usize::MAX);

/// Why raw sockets could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    /// There is no such interface in this network namespace.
    #[error("interface {0} does not exist")]
    NoSuchInterface(String),
    /// A socket could not be made as it must be.
    #[error("cannot open a raw socket on {interface}: {source}")]
    Socket {
        /// The interface it was for.
        interface: String,
        /// Why.
        source: io::Error,
    },
    /// A worker's sending socket or poll could not be made.
    #[error("cannot set up raw sending: {0}")]
    Worker(#[source] io::Error),
}

impl RawError {
    fn interface(name: &str, source: io::Error) -> Self {
        let interface = name.to_owned();
        match source.raw_os_error() {
            Some(libc::ENODEV) => Self::NoSuchInterface(interface),
            _ => Self::Socket { interface, source },
        }
    }
}

/// Raw sockets of one worker over all interfaces.
#[derive(Debug)]
pub struct RawIo {
    /// One receiving socket for each interface.
    sockets: Vec<OwnedFd>,
    /// Which interfaces went down and have not received since.
    down: Vec<bool>,
    /// Whose turn it is.
    turn: usize,
    batch: Batch,
    /// Slots for pieces of super-segments.
    pieces: Vec<u8>,
    sender: Sender,
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
}

/// Opens raw sockets for `workers` workers on `interfaces`, whose places are their device ids.
///
/// # Errors
///
/// Without `CAP_NET_RAW` and `CAP_NET_ADMIN`, or if an interface does not exist.
///
/// # Panics
///
/// If there are more than 256 interfaces: a device id has eight bits.
pub fn open(interfaces: &[String], workers: usize) -> Result<Vec<RawIo>, RawError> {
    assert!(interfaces.len() <= 256, "a device id has eight bits");
    let mut fanouts = vec![None; interfaces.len()];
    (0..workers).map(|_| RawIo::open(interfaces, &mut fanouts, workers > 1)).collect()
}

impl RawIo {
    fn open(
        interfaces: &[String],
        fanouts: &mut [Option<i32>],
        shared: bool,
    ) -> Result<Self, RawError> {
        let poll = Poll::new().map_err(RawError::Worker)?;
        let (mut sockets, mut ports) = (Vec::new(), Vec::new());
        for (place, (name, fanout)) in interfaces.iter().zip(fanouts).enumerate() {
            let (index, mtu) =
                sys::interface(name).map_err(|error| RawError::interface(name, error))?;
            let socket = receiver(index)
                .and_then(|socket| if shared { join(socket, fanout) } else { Ok(socket) })
                .and_then(|socket| {
                    let descriptor = socket.as_raw_fd();
                    let mut source = SourceFd(&descriptor);
                    poll.registry().register(&mut source, Token(place), Interest::READABLE)?;
                    Ok(socket)
                })
                .map_err(|source| RawError::Socket { interface: name.clone(), source })?;
            sockets.push(socket);
            ports.push(Port { index, mtu });
        }
        let waker = Waker::new(poll.registry(), WAKE).map_err(RawError::Worker)?;
        Ok(Self {
            down: vec![false; sockets.len()],
            sockets,
            turn: 0,
            batch: Batch::new(),
            pieces: vec![0; BURST * SLOT],
            sender: Sender::new(ports).map_err(RawError::Worker)?,
            poll,
            events: Events::with_capacity(16),
            waker: Arc::new(waker),
        })
    }

    /// Ends a [`Io::wait`] of this worker, from any thread.
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }
}

impl Io for RawIo {
    fn burst(
        &mut self,
        process: impl FnOnce(&mut [Packet<'_>]),
        mut settle: impl FnMut(DeviceId, usize, Verdict),
    ) -> io::Result<usize> {
        if self.batch.is_empty() {
            self.receive()?;
        }
        let device = self.batch.device;
        let mut follows = 0;
        let mut packets = self.batch.lend(&mut self.pieces, &mut follows);
        if packets.is_empty() {
            return Ok(0);
        }
        let came: ArrayVec<usize, BURST> = packets.iter().map(Packet::len).collect();
        process(&mut packets);
        self.sender.carry_out(&mut packets, follows);
        for (packet, &length) in packets.iter().zip(&came) {
            settle(device, length, packet.verdict);
        }
        Ok(came.len())
    }

    fn send(&mut self, device: DeviceId, frame: &[u8]) -> bool {
        self.sender.push(device, frame)
    }

    /// The kernel has seen what came: there is nothing to hand over.
    fn to_host(&mut self, _: DeviceId, _: &[u8]) -> bool {
        true
    }

    /// A frame that the kernel refuses at this point is lost as on the wire.
    fn flush(&mut self) -> io::Result<()> {
        self.sender.flush();
        Ok(())
    }

    fn missed(&mut self, mut tell: impl FnMut(DeviceId, u64)) -> io::Result<()> {
        for (slot, socket) in (0..).zip(&self.sockets) {
            tell(DeviceId(slot), sys::dropped(socket)?.into());
        }
        Ok(())
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            result => result,
        }
    }
}

impl RawIo {
    /// Fills the batch from the next interface that has frames.
    fn receive(&mut self) -> io::Result<()> {
        for _ in 0..self.sockets.len() {
            let place = self.turn;
            self.turn = (self.turn + 1) % self.sockets.len();
            if self.receive_from(place)? {
                break;
            }
        }
        Ok(())
    }

    /// Fills the batch from one interface; `false` if there is nothing.
    fn receive_from(&mut self, place: usize) -> io::Result<bool> {
        let device = DeviceId(u8::try_from(place).expect("open() bounds the interfaces"));
        // What cannot be received (a kind of super-segment that has no virtio name) is used up by
        // the failing call; all of it must be, or no event would announce the rest.
        for _ in 0..BURST {
            match self.batch.receive(&self.sockets[place], device) {
                Ok(()) => {
                    self.down[place] = false;
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => self.down[place] |= error.raw_os_error() == Some(libc::ENETDOWN),
            }
        }
        if self.down[place] {
            // Down is no error: it may come up again. Gone is, and only asking tells.
            self.sender.still_there(device)?;
        }
        Ok(false)
    }
}

/// A socket that receives unicast frames to this box on one interface.
fn receiver(interface: u32) -> io::Result<OwnedFd> {
    let socket = sys::packet_socket()?;
    sys::set_option(&socket, libc::PACKET_VNET_HDR, 1)?;
    sys::set_option(&socket, libc::PACKET_AUXDATA, 1)?;
    sys::set_option(&socket, libc::PACKET_IGNORE_OUTGOING, 1)?;
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)?;
    sys::attach_filter(&socket, &mut to_this_box())?;
    sys::listen(&socket, interface)?;
    Ok(socket)
}

/// Lets workers share an interface: the first socket makes a group, others join it.
fn join(socket: OwnedFd, fanout: &mut Option<i32>) -> io::Result<OwnedFd> {
    // The group has a packet hook of its own, so "not my own frames" must be said again.
    let kind = (libc::PACKET_FANOUT_HASH | libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING).cast_signed();
    let unique = libc::PACKET_FANOUT_FLAG_UNIQUEID.cast_signed();
    match *fanout {
        None => {
            sys::set_option(&socket, libc::PACKET_FANOUT, (kind | unique) << 16)?;
            *fanout = Some(sys::fanout(&socket)? & 0xffff);
        }
        Some(group) => {
            sys::set_option(&socket, libc::PACKET_FANOUT, kind << 16 | group)?;
        }
    }
    Ok(socket)
}

/// Classic BPF: frames addressed to this box; not those of others, broadcast or multicast, which are
/// the kernel's.
fn to_this_box() -> [libc::sock_filter; 4] {
    const LOAD_OCTET: u16 = 0x30;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let packet_type = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE).cast_unsigned();
    let line = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    [
        line(LOAD_OCTET, 0, 0, packet_type),
        line(JUMP_IF_EQUAL, 0, 1, libc::PACKET_HOST.into()),
        line(RETURN, 0, 0, u32::MAX),
        line(RETURN, 0, 0, 0),
    ]
}
