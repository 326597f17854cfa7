//! Sending through raw sockets: one socket for all interfaces, a burst in one `sendmmsg`.
//!
//! Every frame goes or is refused with a reason; nothing is tried again, as nothing is on a wire.

use std::{io, os::fd::OwnedFd};

use arrayvec::ArrayVec;
use rustix::net::{netdevice, sockopt};

use super::{fits_mtu, glue::Train, sys};
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
    /// The same with a `struct virtio_net_hdr` in front of each frame: for trains.
    trains: OwnedFd,
    ports: Vec<Port>,
    /// Copies of frames that wait, one behind the other.
    outbox: Vec<u8>,
    /// The interface of each, and where it ends in `outbox`.
    waiting: ArrayVec<(u32, usize), BURST>,
}

impl Sender {
    /// A sender for `ports`, whose places are their device ids.
    pub(super) fn new(ports: Vec<Port>) -> io::Result<Self> {
        let open = || {
            let socket = sys::packet_socket()?;
            sockopt::set_socket_send_buffer_size_force(&socket, SEND_BUFFER)?;
            io::Result::Ok(socket)
        };
        let (socket, trains) = (open()?, open()?);
        sys::set_option(&trains, libc::PACKET_VNET_HDR, 1)?;
        let outbox = Vec::with_capacity(OUTBOX);
        Ok(Self { socket, trains, ports, outbox, waiting: ArrayVec::new() })
    }

    /// Sends what is to be sent, in order; what cannot go becomes a drop with its reason. Packets
    /// whose bit of `follows` is set are of one super-segment with the one before, and leave
    /// joined with it if they still go together.
    pub(super) fn carry_out(&self, packets: &mut [Packet<'_>], follows: u64) {
        let mut places: ArrayVec<usize, BURST> = ArrayVec::new();
        let mut refused: ArrayVec<(usize, DropReason), BURST> = ArrayVec::new();
        let mut place = 0;
        while place < packets.len() {
            if let Some((train, index)) = self.train(packets, place, follows) {
                self.single(packets, &mut places, &mut refused);
                let end = place + train.count;
                if let Err(reason) = self.send_train(&train, index, &packets[place..end]) {
                    refused.extend((place..end).map(|place| (place, reason)));
                }
                place = end;
                continue;
            }
            if let Verdict::Tx(egress) = packets[place].verdict {
                match self.admit(egress, packets[place].bytes()) {
                    Ok(_) => places.push(place),
                    Err(reason) => refused.push((place, reason)),
                }
            }
            place += 1;
        }
        self.single(packets, &mut places, &mut refused);
        for (place, reason) in refused {
            packets[place].verdict = Verdict::Drop(reason);
        }
    }

    /// The train that begins at a place, and the kernel's number of the interface it leaves by.
    fn train(&self, packets: &[Packet<'_>], place: usize, follows: u64) -> Option<(Train, u32)> {
        let next = |at: usize| at + 1 < packets.len() && follows >> (at + 1) & 1 == 1;
        let Verdict::Tx(egress) = packets[place].verdict else {
            return None;
        };
        if !next(place) {
            return None;
        }
        let index = self.admit(egress, packets[place].bytes()).ok()?;
        let together = (place..packets.len())
            .take_while(|&at| at == place || next(at - 1))
            .map(|at| &packets[at])
            .take_while(|packet| packet.verdict == Verdict::Tx(egress));
        Some((Train::join(together.map(Packet::bytes))?, index))
    }

    fn send_train(
        &self,
        train: &Train,
        index: u32,
        packets: &[Packet<'_>],
    ) -> Result<(), DropReason> {
        let mut parts: ArrayVec<&[u8], { sys::PARTS }> = ArrayVec::new();
        parts.push(train.head());
        parts.extend(packets.iter().map(|packet| &packet.bytes()[train.payload..]));
        let sent = sys::send_parts(&self.trains, index, &parts);
        sent.map_err(|error| refusal(error.raw_os_error()))
    }

    /// Sends what waits by itself.
    fn single(
        &self,
        packets: &[Packet<'_>],
        places: &mut ArrayVec<usize, BURST>,
        refused: &mut ArrayVec<(usize, DropReason), BURST>,
    ) {
        let frames: ArrayVec<(u32, &[u8]), BURST> = places
            .iter()
            .filter_map(|&place| match packets[place].verdict {
                Verdict::Tx(egress) => {
                    Some((self.ports[usize::from(egress.0)].index, packets[place].bytes()))
                }
                _ => None,
            })
            .collect();
        self.transmit(&frames, |frame, reason| refused.push((places[frame], reason)));
        drop(frames);
        places.clear();
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
