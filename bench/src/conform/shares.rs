//! Judges picks that are left to chance: `twos`.
//!
//! A recording of it is one of many right ones, and so is ours. What can be judged is: a pick is a
//! real server that may be picked, nothing is refused where the kernel picks, and after all of them
//! the kernel's shares and ours may come from the same distribution. A real server's count varies by
//! at most that of independent picks by weight (choosing the less loaded of two varies less), so the
//! counts of two runs lie within [`DEVIATIONS`] standard deviations of their difference.

use std::{collections::BTreeMap, net::IpAddr};

use dataplane::{addr::Addr, director::spec::ServiceInfo};

/// Schedulers that pick at random.
const RANDOM: [&str; 1] = ["twos"];

/// Standard deviations by which two counts may differ: a right scheduler exceeds them once in
/// fifteen thousand.
const DEVIATIONS: f64 = 4.0;

/// Picks of one real server.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Share {
    kernels: u32,
    ours: u32,
    /// Of one run's count.
    variance: f64,
}

/// The picks of a recording so far.
#[derive(Debug, Default)]
pub(super) struct Shares {
    shares: BTreeMap<Addr, Share>,
    picks: usize,
}

impl Shares {
    /// Whether picks of these services are left to chance.
    pub(super) fn decide(services: &[ServiceInfo]) -> bool {
        services.iter().any(|service| RANDOM.contains(&service.spec.scheduler.as_str()))
    }

    /// How many picks were judged.
    pub(super) const fn picks(&self) -> usize {
        self.picks
    }

    /// Judges one pick; `services` are as they were before it. `Err` says what we should have done.
    pub(super) fn pick(
        &mut self,
        services: &[ServiceInfo],
        kernels: Option<IpAddr>,
        ours: Option<IpAddr>,
    ) -> Result<(), String> {
        let reals: Vec<_> = services.iter().flat_map(|service| &service.reals).collect();
        let open = |real: &dataplane::director::spec::RealInfo| {
            let full = real.spec.upper != 0 && real.active + real.inactive >= real.spec.upper;
            real.spec.weight > 0 && !full
        };
        let candidates: Vec<_> = reals.iter().filter(|real| open(real)).collect();
        let bounded = reals.iter().any(|real| real.spec.upper != 0);
        match (kernels, ours) {
            (None, None) => return Ok(()),
            (Some(_), None) | (None, Some(_)) if bounded => {}
            (Some(kernels), None) => return Err(format!("one of them, {kernels} for instance")),
            (None, Some(_)) => return Err("a refusal".to_owned()),
            (Some(_), Some(_)) => {}
        }
        if let Some(ours) = ours
            && !candidates.iter().any(|real| real.spec.addr == ours.into())
        {
            return Err("a real server that takes new flows".to_owned());
        }
        self.picks += 1;
        let total: f64 = candidates.iter().map(|real| f64::from(real.spec.weight)).sum();
        for real in &candidates {
            let p = f64::from(real.spec.weight) / total;
            self.shares.entry(real.spec.addr).or_default().variance += p * (1.0 - p);
        }
        for (picked, is_ours) in [(kernels, false), (ours, true)] {
            if let Some(addr) = picked {
                let share = self.shares.entry(addr.into()).or_default();
                *(if is_ours { &mut share.ours } else { &mut share.kernels }) += 1;
            }
        }
        Ok(())
    }

    /// Judges all picks together. `Err` is a real server's count: the kernel's, with what may lie
    /// between, and ours.
    pub(super) fn judge(&self) -> Result<(), (String, String)> {
        for (addr, share) in &self.shares {
            let apart = f64::from(share.kernels.abs_diff(share.ours));
            let bound = DEVIATIONS * (2.0 * share.variance).sqrt() + 1.0;
            if apart > bound {
                let expected =
                    format!("{} picks of {addr}, {bound:.0} more or less", share.kernels);
                return Err((expected, share.ours.to_string()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use dataplane::{
        director::spec::{Counters, Rates, RealInfo, RealSpec, ServiceKey, ServiceSpec},
        endpoint::Method,
    };

    use super::*;

    fn addr(last: u8) -> IpAddr {
        IpAddr::from([10, 2, 0, last])
    }

    fn service(weights: &[u32]) -> [ServiceInfo; 1] {
        let real = |(last, &weight): (u8, &u32)| RealInfo {
            spec: RealSpec { weight, ..RealSpec::new(addr(last).into(), 80, Method::Nat) },
            active: 0,
            inactive: 0,
            persistent: 0,
            share: dataplane::director::spec::Share::default(),
            standby: false,
            hold: dataplane::director::spec::Hold::default(),
            counters: Counters::default(),
            rates: Rates::default(),
        };
        let key = ServiceKey::Address { protocol: 6, addr: addr(1).into(), port: 80 };
        let spec = ServiceSpec::new(key, "twos");
        let reals = (11..).zip(weights).map(real).collect();
        [ServiceInfo { spec, counters: Counters::default(), rates: Rates::default(), reals }]
    }

    #[test]
    fn shares_by_weight_pass_and_a_scheduler_that_forgets_weights_does_not() {
        let services = service(&[3, 1]);
        let run = |ours: fn(u32) -> u8| {
            let mut shares = Shares::default();
            for at in 0..400 {
                let kernels = if at % 4 == 3 { 12 } else { 11 };
                shares.pick(&services, Some(addr(kernels)), Some(addr(ours(at)))).unwrap();
            }
            shares.judge()
        };
        assert_eq!(run(|at| if at % 4 == 0 { 12 } else { 11 }), Ok(()));
        assert!(run(|at| if at % 2 == 0 { 12 } else { 11 }).is_err());
        assert!(run(|_| 11).is_err());
    }

    #[test]
    fn a_drained_or_unknown_server_and_a_refusal_are_wrong() {
        let services = service(&[1, 0]);
        let mut shares = Shares::default();
        assert!(shares.pick(&services, Some(addr(11)), Some(addr(12))).is_err());
        assert!(shares.pick(&services, Some(addr(11)), Some(addr(13))).is_err());
        assert!(shares.pick(&services, Some(addr(11)), None).is_err());
        assert!(shares.pick(&service(&[0, 0]), None, Some(addr(11))).is_err());
        assert_eq!(shares.pick(&service(&[0, 0]), None, None), Ok(()));
        assert!(Shares::decide(&services) && !Shares::decide(&[]));
    }
}
