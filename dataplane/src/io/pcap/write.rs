//! Writes captures: pcap with nanoseconds, Ethernet, in the machine's own byte order.
//!
//! Source: draft-ietf-opsawg-pcap.

use std::io::{self, Write};

/// Marks nanosecond time stamps.
const MAGIC: u32 = 0xa1b2_3c4d;
/// The longest record that readers take (libpcap's `MAXIMUM_SNAPLEN`).
const SNAPLEN: u32 = 262_144;
const ETHERNET: u32 = 1;

/// A capture that is being written.
#[derive(Debug)]
pub struct Writer<W: Write> {
    to: W,
}

impl<W: Write> Writer<W> {
    /// Starts a capture.
    ///
    /// # Errors
    ///
    /// Whatever `to` says.
    pub fn new(mut to: W) -> io::Result<Self> {
        // Version 2.4; no time zone, no accuracy.
        let version = u32::from_ne_bytes({
            let ([a, b], [c, d]) = (2u16.to_ne_bytes(), 4u16.to_ne_bytes());
            [a, b, c, d]
        });
        for word in [MAGIC, version, 0, 0, SNAPLEN, ETHERNET] {
            to.write_all(&word.to_ne_bytes())?;
        }
        Ok(Self { to })
    }

    /// Writes a frame that was seen at `nanos` after 1970; of a frame longer than 262,144 octets
    /// the start. Times past the year 2106 saturate.
    ///
    /// # Errors
    ///
    /// Whatever the file says.
    pub fn write(&mut self, nanos: u64, frame: &[u8]) -> io::Result<()> {
        let seconds = u32::try_from(nanos / 1_000_000_000).unwrap_or(u32::MAX);
        let original = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let length = original.min(SNAPLEN);
        for word in [seconds, (nanos % 1_000_000_000) as u32, length, original] {
            self.to.write_all(&word.to_ne_bytes())?;
        }
        self.to.write_all(&frame[..length as usize])
    }

    /// Gets everything to where it belongs and gives the file back.
    ///
    /// # Errors
    ///
    /// Whatever the file says.
    pub fn finish(mut self) -> io::Result<W> {
        self.to.flush()?;
        Ok(self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::pcap::capture::{Capture, Record};

    #[test]
    fn what_is_written_is_read_back() {
        let mut writer = Writer::new(Vec::new()).unwrap();
        writer.write(5_000_000_009, b"a frame").unwrap();
        writer.write(u64::MAX, &[7; 300_000]).unwrap();
        let capture = Capture::from_octets(writer.finish().unwrap()).unwrap();
        let records: Vec<_> = capture.records().collect();
        let first = Record { nanos: 5_000_000_009, link: 1, original: 7, data: b"a frame" };
        assert_eq!(records[0], first);
        assert_eq!((records[1].original, records[1].data.len()), (300_000, 262_144));
    }
}
