//! Time as the dataplane knows it: ticks of 1/16 s, handed in from outside.
//!
//! Only [`SystemClock`] asks the operating system, once per turn of a worker. A simulation and a
//! capture replay bring their own.

/// A point in time: 1/16 s since the clock's origin. Wraps after 8.5 years; compare by
/// [`Tick::since`] only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tick(pub u32);

/// Ticks in one second.
pub const TICKS_PER_SECOND: u32 = 16;

impl Tick {
    /// Builds a point in time from whole seconds after the origin.
    pub const fn from_secs(seconds: u32) -> Self {
        Self(seconds.wrapping_mul(TICKS_PER_SECOND))
    }

    /// The tick that a number of nanoseconds after the origin lies in.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "ticks wrap by design")]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self((nanos / (1_000_000_000 / TICKS_PER_SECOND as u64)) as u32)
    }

    /// Ticks from `earlier` to `self`; 0 if `earlier` lies in the future.
    #[inline]
    pub const fn since(self, earlier: Self) -> u32 {
        let ticks = self.0.wrapping_sub(earlier.0);
        if ticks > u32::MAX / 2 { 0 } else { ticks }
    }

    /// The point `ticks` later.
    #[inline]
    pub const fn plus(self, ticks: u32) -> Self {
        Self(self.0.wrapping_add(ticks))
    }

    /// Whether `self` is at or after `other`.
    #[inline]
    pub const fn reached(self, other: Self) -> bool {
        self.0.wrapping_sub(other.0) <= u32::MAX / 2
    }
}

/// A source of time. Read once per turn, never below the worker.
pub trait Clock {
    /// Nanoseconds since the clock's origin; never goes backwards.
    fn nanos(&self) -> u64;

    /// The same in ticks.
    fn now(&self) -> Tick {
        Tick::from_nanos(self.nanos())
    }
}

/// `CLOCK_BOOTTIME`: goes on during suspend, is the same for every process, survives a restart
/// of the daemon.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::cast_sign_loss, reason = "the boot-time clock is never negative")]
    fn nanos(&self) -> u64 {
        let now = boottime();
        now.0 as u64 * 1_000_000_000 + now.1 as u64
    }
}

/// Seconds and nanoseconds of `CLOCK_BOOTTIME`.
fn boottime() -> (i64, i64) {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    (now.tv_sec, now.tv_nsec)
}

/// A clock that stands still until it is told otherwise: for simulations, replays and tests.
#[derive(Debug, Default)]
pub struct ManualClock(std::cell::Cell<u64>);

impl ManualClock {
    /// Sets the time, in nanoseconds since the origin.
    pub fn set_nanos(&self, nanos: u64) {
        self.0.set(nanos);
    }

    /// Moves the time on by `nanos` nanoseconds.
    pub fn advance_nanos(&self, nanos: u64) {
        self.0.set(self.0.get() + nanos);
    }
}

impl Clock for ManualClock {
    fn nanos(&self) -> u64 {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_survive_the_wrap() {
        let late = Tick(5);
        let early = Tick(u32::MAX - 10);
        assert_eq!(late.since(early), 16);
        assert_eq!(early.since(late), 0);
        assert!(late.reached(early));
        assert!(!early.reached(late));
    }
}
