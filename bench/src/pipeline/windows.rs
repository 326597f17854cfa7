//! How nanoseconds are measured: in short windows, of which the lower quartile counts.
//!
//! A window of 256 packets lasts some ten microseconds: most windows see no interrupt and no neighbour
//! of this machine, and the lower quartile is theirs.

use std::time::{Duration, Instant};

/// Durations of windows.
#[derive(Debug)]
pub(super) struct Windows {
    durations: Vec<Duration>,
}

impl Windows {
    /// Packets in a window.
    pub(super) const PACKETS: usize = 256;

    /// Room for so many, so that measuring allocates nothing.
    pub(super) fn with_capacity(windows: usize) -> Self {
        Self { durations: Vec::with_capacity(windows) }
    }

    /// Runs `work` over `packets` packets and takes its time, scaled to [`Windows::PACKETS`].
    pub(super) fn time(&mut self, packets: usize, work: impl FnOnce()) {
        let start = Instant::now();
        work();
        self.add(packets, start.elapsed());
    }

    /// Adds the time that `packets` packets took.
    #[expect(clippy::cast_precision_loss, reason = "windows are some hundred packets")]
    pub(super) fn add(&mut self, packets: usize, took: Duration) {
        if packets > 0 && self.durations.len() < self.durations.capacity() {
            self.durations.push(took.mul_f64(Self::PACKETS as f64 / packets as f64));
        }
    }

    /// Takes over the windows of another worker.
    pub(super) fn append(&mut self, mut other: Self) {
        self.durations.append(&mut other.durations);
    }

    /// The lower quartile, in nanoseconds for one packet; 0 if nothing was measured.
    #[expect(clippy::cast_precision_loss, reason = "windows last microseconds")]
    pub(super) fn nanos_per_packet(mut self) -> f64 {
        self.durations.sort_unstable();
        let quartile = self.durations.get(self.durations.len() / 4).copied().unwrap_or_default();
        quartile.as_nanos() as f64 / Self::PACKETS as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_quartile_counts() {
        let mut windows = Windows::with_capacity(9);
        for micros in [256, 512, 768, 1024, 1280, 256, 512, 90_000] {
            windows.add(Windows::PACKETS, Duration::from_micros(micros));
        }
        assert!((windows.nanos_per_packet() - 2000.0).abs() < 1e-6);
        let mut windows = Windows::with_capacity(1);
        windows.add(64, Duration::from_micros(64));
        assert!((windows.nanos_per_packet() - 1000.0).abs() < 1e-6);
        assert!(Windows::with_capacity(0).nanos_per_packet().abs() < 1e-9);
    }
}
