//! Sending through raw sockets: one socket for all interfaces, a burst in one `sendmmsg`.
//!
//! Every frame goes or is refused with a reason; nothing is tried again, as nothing is on a wire.

use std::{io, os::fd::OwnedFd};

use arrayvec::ArrayVec;
use rustix::net::{netdevice, sockopt};

use super::{fits_mtu, sys};
use crate::{
    packet::{BURST, Packet},
    verdict::{DeviceId, DropReason, Verdict},
};

/// Send buffer: what may be on its way to the drivers; a full one drops with
/// [`DropReason::TxRingFull`].
const SEND_BUFFER: usize = 8 << 20;

/// Room for frames that wait for [`Sender::flush`], in octets; when it is used up, they are sent
/// on the spot.
const OUTBOX: usize = 256 * 1024;

/// One interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Port {
    /// The kernel's number of it.
    pub(super) index: u32,
    /// Largest IP packet it sends, in octets, as of the start. The kernel refuses what has become
    /// too long since.
    pub(super) mtu: usize,
}

/// The sending side of one worker.
#[derive(Debug)]
pub(super) struct Sender {
    socket: OwnedFd,
    ports: Vec<Port>,
    /// Copies of frames that wait, one behind the other.
    outbox: Vec<u8>,
    /// The interface of each, and where it ends in `outbox`.
    waiting: ArrayVec<(u32, usize), BURST>,
}

impl Sender {
    /// A sender for `ports`, whose places are their device ids.
    pub(super) fn new(ports: Vec<Port>) -> io::Result<Self> {
        let socket = sys::packet_socket()?;
        sockopt::set_socket_send_buffer_size_force(&socket, SEND_BUFFER)?;
        let outbox = Vec::with_capacity(OUTBOX);
        Ok(Self { socket, ports, outbox, waiting: ArrayVec::new() })
    }

    /// Sends what is to be sent, in order; what cannot go becomes a drop with its reason.
    pub(super) fn carry_out(&self, packets: &mut [Packet<'_>]) {
        let mut places: ArrayVec<usize, BURST> = ArrayVec::new();
        let mut frames: ArrayVec<(u32, &[u8]), BURST> = ArrayVec::new();
        let mut refused: ArrayVec<(usize, DropReason), BURST> = ArrayVec::new();
        for (place, packet) in packets.iter().enumerate() {
            if let Verdict::Tx(egress) = packet.verdict {
                match self.admit(egress, packet.bytes()) {
                    Ok(index) => {
                        places.push(place);
                        frames.push((index, packet.bytes()));
                    }
                    Err(reason) => refused.push((place, reason)),
                }
            }
        }
        self.transmit(&frames, |frame, reason| refused.push((places[frame], reason)));
        drop(frames);
        for (place, reason) in refused {
            packets[place].verdict = Verdict::Drop(reason);
        }
    }

    /// Takes a copy of `frame`, to be sent with the next [`Sender::flush`]; `false` if the device
    /// cannot send it.
    pub(super) fn push(&mut self, device: DeviceId, frame: &[u8]) -> bool {
        let Ok(index) = self.admit(device, frame) else {
            return false;
        };
        if self.waiting.is_full() || self.outbox.len() + frame.len() > OUTBOX {
            self.flush();
        }
        if frame.len() > OUTBOX {
            return false;
        }
        self.outbox.extend_from_slice(frame);
        self.waiting.push((index, self.outbox.len()));
        true
    }

    /// Sends everything that waits.
    pub(super) fn flush(&mut self) {
        let starts = [0].into_iter().chain(self.waiting.iter().map(|&(_, end)| end));
        let frames: ArrayVec<(u32, &[u8]), BURST> = self
            .waiting
            .iter()
            .zip(starts)
            .map(|(&(interface, end), start)| (interface, &self.outbox[start..end]))
            .collect();
        self.transmit(&frames, |_, _| {});
        drop(frames);
        self.waiting.clear();
        self.outbox.clear();
    }

    /// Checks that an interface which is down has not gone.
    pub(super) fn still_there(&self, device: DeviceId) -> io::Result<()> {
        let port = &self.ports[usize::from(device.0)];
        netdevice::index_to_name(&self.socket, port.index)?;
        Ok(())
    }

    /// Checks that `frame` may leave through `egress`, and returns the kernel's number for that.
    fn admit(&self, egress: DeviceId, frame: &[u8]) -> Result<u32, DropReason> {
        let port = self.ports.get(usize::from(egress.0)).ok_or(DropReason::NoSuchDevice)?;
        if fits_mtu(frame, port.mtu) { Ok(port.index) } else { Err(DropReason::Oversized) }
    }

    /// Sends `frames`, each through the interface it names; calls `refused` with the place of each
    /// that could not go. Ends, as every call sends or refuses one frame at least.
    fn transmit(&self, frames: &[(u32, &[u8])], mut refused: impl FnMut(usize, DropReason)) {
        let mut done = 0;
        while done < frames.len() {
            match sys::send(&self.socket, &frames[done..]) {
                Ok(count) if count > 0 => done += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    (done..frames.len()).for_each(|place| refused(place, DropReason::TxRingFull));
                    return;
                }
                result => {
                    let number = result.err().and_then(|error| error.raw_os_error());
                    refused(done, refusal(number));
                    done += 1;
                }
            }
        }
    }
}

/// The drop reason behind the error number of a refused frame.
const fn refusal(number: Option<i32>) -> DropReason {
    match number {
        Some(libc::EMSGSIZE) => DropReason::Oversized,
        Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => DropReason::NoSuchDevice,
        Some(libc::EINVAL) => DropReason::Truncated,
        _ => DropReason::TxRingFull,
    }
}
