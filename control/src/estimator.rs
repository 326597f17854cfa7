//! The rate estimator: IPVS's arithmetic, pure.
//!
//! Every [`PERIOD`] the measured rate moves the average a quarter of the way, in fixed point:
//! flows and packets scaled by 2^10, octets by 2^5. The memory is about eight seconds. The shifts
//! round as the kernel's do (down in `Average::step`, up in `Average::read`), so that
//! `ipvsadm --rate` shows the same numbers.
//! Source: Linux `net/netfilter/ipvs/ip_vs_est.c`.

use std::time::Duration;

use dataplane::director::spec::{Counters, Rates};

/// Time between two steps.
pub const PERIOD: Duration = Duration::from_secs(2);

/// Fractional bits of an average of flows or packets.
const COUNT_BITS: u32 = 10;

/// Fractional bits of an average of octets.
const OCTET_BITS: u32 = 5;

/// An average rate with `BITS` fractional bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Average<const BITS: u32>(u64);

impl<const BITS: u32> Average<BITS> {
    /// Takes in what was counted during one period of two seconds, which is why the count is
    /// shifted by one bit less than the scale.
    const fn step(&mut self, counted: u64) {
        let rate = counted.wrapping_shl(BITS - 1);
        let difference = rate.cast_signed().wrapping_sub(self.0.cast_signed());
        self.0 = self.0.wrapping_add_signed(difference >> 2);
    }

    /// The rate per second.
    const fn read(self) -> u64 {
        (self.0 + (1 << (BITS - 1)) - 1) >> BITS
    }
}

/// The averages of one service, one real server or the whole box.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimator {
    last: Counters,
    conns: Average<COUNT_BITS>,
    in_packets: Average<COUNT_BITS>,
    out_packets: Average<COUNT_BITS>,
    in_bytes: Average<OCTET_BITS>,
    out_bytes: Average<OCTET_BITS>,
}

impl Estimator {
    /// Starts from counters as they stand, with rates of zero: for a new estimator and for one
    /// whose counters were set to zero.
    pub fn starting_at(counters: Counters) -> Self {
        Self { last: counters, ..Self::default() }
    }

    /// Takes in the counters as they stand one [`PERIOD`] after the last step.
    pub const fn step(&mut self, now: &Counters) {
        let counted = now.since(self.last);
        self.conns.step(counted.conns);
        self.in_packets.step(counted.in_packets);
        self.out_packets.step(counted.out_packets);
        self.in_bytes.step(counted.in_bytes);
        self.out_bytes.step(counted.out_bytes);
        self.last = *now;
    }

    /// The rates per second.
    pub const fn rates(&self) -> Rates {
        Rates {
            cps: self.conns.read(),
            in_pps: self.in_packets.read(),
            out_pps: self.out_packets.read(),
            in_bps: self.in_bytes.read(),
            out_bps: self.out_bytes.read(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The counters after `periods` periods at constant rates per second.
    fn constant(periods: u64) -> Counters {
        Counters {
            conns: 2 * 10 * periods,
            in_packets: 2 * 1000 * periods,
            out_packets: 0,
            in_bytes: 2 * 60_000 * periods,
            out_bytes: 2 * periods,
        }
    }

    /// The kernel's own words, in floating point: avgrate = avgrate*(1-W) + rate*W, W = 2^(-2).
    fn exact(rate: f64, periods: u64) -> f64 {
        (0..periods).fold(0.0, |average, _| average * 0.75 + rate * 0.25)
    }

    #[test]
    fn the_average_follows_the_kernels_formula() {
        let mut estimator = Estimator::default();
        for periods in 1..=40 {
            estimator.step(&constant(periods));
            let rates = estimator.rates();
            for (got, rate) in [
                (rates.cps, 10.0),
                (rates.in_pps, 1000.0),
                (rates.out_pps, 0.0),
                (rates.in_bps, 60_000.0),
                (rates.out_bps, 1.0),
            ] {
                let want = exact(rate, periods);
                // Half for rounding, and what three steps of the smallest fraction can lose.
                let slack = 0.5 + 4.0 / 32.0;
                #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                let distance = (got as f64 - want).abs();
                assert!(distance <= slack, "after {periods}: {got} for {want}");
            }
        }
    }

    #[test]
    fn the_first_steps_are_the_kernels_to_the_bit() {
        // 100 packets in two seconds: rate = 100 << 9 = 51200; 51200 >> 2 = 12800;
        // (12800 + 0x1ff) >> 10 = 12. Then 12800 + (38400 >> 2) = 22400, which reads 22.
        let mut estimator = Estimator::default();
        let mut counters = Counters { in_packets: 100, in_bytes: 6000, ..Counters::default() };
        estimator.step(&counters);
        assert_eq!(estimator.rates().in_pps, 12);
        // 6000 << 4 = 96000; >> 2 = 24000; (24000 + 0xf) >> 5 = 750.
        assert_eq!(estimator.rates().in_bps, 750);
        counters.in_packets += 100;
        estimator.step(&counters);
        assert_eq!(estimator.rates().in_pps, 22);
        // Nothing more: 24000 + ((0 - 24000) >> 2) = 18000, which reads 562 after rounding.
        assert_eq!(estimator.rates().in_bps, 562);
    }

    #[test]
    fn a_rate_falls_to_zero_and_does_not_stick() {
        let mut estimator = Estimator::default();
        estimator.step(&Counters { conns: 1_000_000, ..Counters::default() });
        for _ in 0..80 {
            estimator.step(&Counters { conns: 1_000_000, ..Counters::default() });
        }
        assert_eq!(estimator.rates(), Rates::default());
    }

    #[test]
    fn counters_set_to_zero_start_anew() {
        let counters = Counters { conns: 5_000, ..Counters::default() };
        let mut estimator = Estimator::starting_at(counters);
        estimator.step(&counters);
        assert_eq!(estimator.rates(), Rates::default());
    }
}
