//! Devices: where packets come from and go to.
//!
//! An [`Io`] is everything one worker receives from and sends to: one queue of every interface, a
//! capture file, a simulated link. Frames are lent to the pipeline, never handed over; the device
//! acts on the verdicts, so that frame ownership stays in one file.

pub mod fault;
#[cfg(feature = "raw")]
mod glue;
#[cfg(feature = "raw")]
mod gso;
#[cfg(feature = "raw")]
pub mod host;
#[cfg(feature = "pcap")]
pub mod pcap;
#[cfg(feature = "raw")]
pub mod raw;
#[cfg(feature = "raw")]
mod raw_batch;
#[cfg(feature = "raw")]
mod raw_send;
pub mod sim;
#[cfg(feature = "raw")]
mod sys;
#[cfg(feature = "raw")]
pub mod tap;
#[cfg(feature = "xsk")]
pub mod xsk;

use std::{io, time::Duration};

use crate::{
    packet::Packet,
    verdict::{DeviceId, Verdict},
};

/// The devices of one worker.
pub trait Io {
    /// Receives at most one burst ([`crate::packet::BURST`] packets, all from one device, the devices taking
    /// turns), lends it to `process`, which sets each packet's verdict, and acts on the verdicts.
    /// `settle` is called once for each packet with the device it came from, its length when it
    /// came, and what finally became of it: a verdict that cannot be carried out becomes
    /// [`Verdict::Drop`] with its reason.
    ///
    /// Returns how many packets came.
    ///
    /// # Errors
    ///
    /// The device is gone. A full ring or queue is no error.
    fn burst(
        &mut self,
        process: impl FnOnce(&mut [Packet<'_>]),
        settle: impl FnMut(DeviceId, usize, Verdict),
    ) -> io::Result<usize>;

    /// Sends a frame that the pipeline made itself; copies it. `false` if there was no room.
    fn send(&mut self, device: DeviceId, frame: &[u8]) -> bool;

    /// Hands a copy of a frame to the host's own stack; `false` if that is not possible.
    fn to_host(&mut self, device: DeviceId, frame: &[u8]) -> bool;

    /// Gets everything queued so far under way.
    ///
    /// # Errors
    ///
    /// The device is gone.
    fn flush(&mut self) -> io::Result<()>;

    /// Tells for each device how many packets the kernel dropped since this was asked last, before the
    /// worker saw them: it was too slow. Asks the kernel, so it is not for every burst.
    ///
    /// # Errors
    ///
    /// The kernel's, which has no reason for one while the device is there.
    fn missed(&mut self, _tell: impl FnMut(DeviceId, u64)) -> io::Result<()> {
        Ok(())
    }

    /// Sleeps until a packet may have come, the worker's wake-up was rung, or `timeout` is over.
    ///
    /// # Errors
    ///
    /// The wait itself failed; an interrupted wait is no error.
    fn wait(&mut self, timeout: Duration) -> io::Result<()>;
}

/// Whether an interface with this MTU (octets of IP) can send `frame`: as in the kernel, a VLAN
/// tag does not count.
#[inline]
pub(crate) fn fits_mtu(frame: &[u8], mtu: usize) -> bool {
    let tagged = matches!(frame, [_, _, _, _, _, _, _, _, _, _, _, _, 0x81, 0, ..]);
    frame.len() <= mtu + if tagged { 18 } else { 14 }
}
