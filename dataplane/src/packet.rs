//! A frame on loan: the device keeps the memory, we get the octets and some room in front of them.

use crate::verdict::{DeviceId, DropReason, Verdict};

/// Packets in one burst at most.
pub const BURST: usize = 64;

/// Room in front of a received frame that every device leaves for tunnel headers, in octets:
/// outer IPv6 40, UDP 8, GUE with options 20, and a VLAN tag.
pub const HEADROOM: usize = 128;

/// A borrowed frame, from its Ethernet header to its last octet, with room in front.
#[derive(Debug)]
pub struct Packet<'a> {
    /// The memory lent by the device, up to the frame's end.
    memory: &'a mut [u8],
    /// Where the frame starts in `memory`.
    start: usize,
    /// The device it came in by.
    pub device: DeviceId,
    /// What becomes of it: set by the pipeline, carried out by the device.
    pub verdict: Verdict,
}

impl<'a> Packet<'a> {
    /// Wraps the frame `memory[start..end]`.
    ///
    /// # Panics
    ///
    /// If `start..end` does not lie within `memory`: the device's error.
    #[inline]
    pub fn new(memory: &'a mut [u8], start: usize, end: usize, device: DeviceId) -> Self {
        assert!(start <= end && end <= memory.len(), "frame outside its memory");
        Self { memory: &mut memory[..end], start, device, verdict: Verdict::Host }
    }

    /// The frame.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..]
    }

    /// The frame, to be written.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..]
    }

    /// The lent memory up to the frame's end, which starts at [`Packet::start`].
    #[inline]
    pub const fn memory(&self) -> &[u8] {
        self.memory
    }

    /// Length of the frame in octets.
    #[inline]
    pub const fn len(&self) -> usize {
        self.memory.len() - self.start
    }

    /// Whether nothing is left of it.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.start == self.memory.len()
    }

    /// Where the frame starts in the lent memory: a device that sends from a fixed offset moves
    /// the octets there.
    #[inline]
    pub const fn start(&self) -> usize {
        self.start
    }

    /// Takes `count` octets off the front.
    ///
    /// # Errors
    ///
    /// [`DropReason::Truncated`] if there are fewer.
    #[inline]
    pub const fn strip(&mut self, count: usize) -> Result<(), DropReason> {
        if count > self.len() {
            return Err(DropReason::Truncated);
        }
        self.start += count;
        Ok(())
    }

    /// Adds `N` octets in front and returns them, contents unspecified.
    ///
    /// # Errors
    ///
    /// [`DropReason::NoHeadroom`] if the device left less room.
    #[inline]
    pub fn prepend<const N: usize>(&mut self) -> Result<&mut [u8; N], DropReason> {
        self.prepend_over::<N, N>()
    }

    /// Adds `GROWTH` octets in front and returns the first `N` octets then, those that were there
    /// before among them.
    ///
    /// # Errors
    ///
    /// [`DropReason::NoHeadroom`] if the device left less room.
    #[inline(always)]
    pub fn prepend_over<const GROWTH: usize, const N: usize>(
        &mut self,
    ) -> Result<&mut [u8; N], DropReason> {
        self.start = self.start.checked_sub(GROWTH).ok_or(DropReason::NoHeadroom)?;
        self.bytes_mut().first_chunk_mut().ok_or(DropReason::NoHeadroom)
    }

    /// Adds `header` in front.
    ///
    /// # Errors
    ///
    /// [`DropReason::NoHeadroom`] if the device left less room.
    #[inline]
    pub fn prepend_slice(&mut self, header: &[u8]) -> Result<(), DropReason> {
        self.start = self.start.checked_sub(header.len()).ok_or(DropReason::NoHeadroom)?;
        self.memory[self.start..self.start + header.len()].copy_from_slice(header);
        Ok(())
    }

    /// Cuts the frame to `length` octets; a longer `length` changes nothing.
    #[inline]
    pub fn truncate(&mut self, length: usize) {
        let end = self.start + length;
        if end < self.memory.len() {
            self.memory = &mut std::mem::take(&mut self.memory)[..end];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_and_go_within_the_lent_memory() {
        let mut memory = [0u8; 16];
        memory[4..10].copy_from_slice(b"abcdef");
        let mut packet = Packet::new(&mut memory, 4, 10, DeviceId(0));
        packet.strip(2).unwrap();
        assert_eq!(packet.bytes(), b"cdef");
        *packet.prepend::<3>().unwrap() = *b"xyz";
        assert_eq!(packet.bytes(), b"xyzcdef");
        assert_eq!(*packet.prepend_over::<1, 4>().unwrap(), [0, b'x', b'y', b'z']);
        assert_eq!(packet.prepend_over::<3, 4>(), Err(DropReason::NoHeadroom));
        assert_eq!(packet.prepend::<4>(), Err(DropReason::NoHeadroom));
        let mut packet = Packet::new(&mut memory, 4, 10, DeviceId(0));
        packet.truncate(3);
        assert_eq!(packet.len(), 3);
        assert_eq!(packet.strip(4), Err(DropReason::Truncated));
    }
}
