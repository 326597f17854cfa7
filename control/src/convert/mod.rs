//! Between gRPC messages and the dataplane's own words, in both directions.
//!
//! From a message ([`request`]) everything is checked that the types of the dataplane's words
//! cannot hold, and refused with the path of the field; what IPVS's rules say about the values is
//! the director's affair. Into a message ([`answer`]) every field is filled in, so that a listing
//! never leaves a reader to know a default.

pub mod answer;
pub mod health;
pub mod marks;
pub mod operations;
pub mod request;

#[cfg(test)]
mod tests {
    use dataplane::{
        addr::{Addr, Family},
        director::spec::{
            ClientAddress, Counters, Hold, Rates, RealInfo, RealSpec, ServiceInfo, ServiceKey,
            ServiceSpec, Share, TunnelSpec,
        },
        sched::SchedFlags,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::words::METHODS;

    fn addr(family: Family) -> BoxedStrategy<Addr> {
        match family {
            Family::V4 => any::<u32>().prop_map(Addr::v4).boxed(),
            Family::V6 => any::<u128>()
                .prop_map(Addr::v6)
                .prop_filter("mapped addresses are no IPv6", |addr| !addr.is_v4())
                .boxed(),
        }
    }

    fn family() -> impl Strategy<Value = Family> {
        prop_oneof![Just(Family::V4), Just(Family::V6)]
    }

    fn key(family: Family) -> impl Strategy<Value = ServiceKey> {
        let protocol = prop_oneof![Just(6), Just(17), Just(132)];
        prop_oneof![
            (protocol, addr(family), any::<u16>())
                .prop_map(|(protocol, addr, port)| ServiceKey::Address { protocol, addr, port }),
            (1..=u32::MAX).prop_map(move |mark| ServiceKey::Mark { mark, family }),
        ]
    }

    fn service() -> impl Strategy<Value = ServiceSpec> {
        family().prop_flat_map(|family| {
            let netmask = match family {
                Family::V4 => any::<u32>().boxed(),
                Family::V6 => (1..=128_u32).boxed(),
            };
            let flags = any::<[bool; 3]>().prop_map(|[fallback, port, flag3]| SchedFlags {
                fallback,
                port,
                flag3,
            });
            let scheduler = prop_oneof![Just("wlc"), Just("mh")].prop_map(str::to_owned);
            let engine = proptest::option::of(Just("sip".to_owned()));
            let persistence = proptest::option::of(1..=2_678_400_u32);
            (key(family), scheduler, flags, persistence, netmask, any::<bool>(), engine, 0..3_usize)
                .prop_map(
                    |(key, scheduler, flags, persistence_s, netmask, one_packet, engine, told)| {
                        ServiceSpec {
                            key,
                            scheduler,
                            flags,
                            persistence_s,
                            netmask,
                            one_packet,
                            engine,
                            client_address: [
                                ClientAddress::Hidden,
                                ClientAddress::Toa,
                                ClientAddress::Proxy,
                            ][told],
                        }
                    },
                )
        })
    }

    fn real() -> impl Strategy<Value = RealSpec> {
        let tunnel =
            (any::<u16>(), any::<bool>(), any::<bool>()).prop_map(|(port, checksum, remote)| {
                TunnelSpec { port, checksum, remote_checksum: remote }
            });
        let thresholds = (0..=65_535_u32, 0..=65_535_u32);
        let weight = 0..=request::WEIGHT_MAX;
        (family().prop_flat_map(addr), any::<u16>(), 0..METHODS.len(), tunnel, weight, thresholds)
            .prop_map(|(addr, port, method, tunnel, weight, (upper, lower))| RealSpec {
                addr,
                port,
                method: METHODS[method].1,
                tunnel,
                weight,
                upper,
                lower,
            })
    }

    fn info() -> impl Strategy<Value = ServiceInfo> {
        let counters = any::<[u64; 5]>().prop_map(|[conns, in_packets, out_packets, i, o]| {
            Counters { conns, in_packets, out_packets, in_bytes: i, out_bytes: o }
        });
        let rates = any::<[u64; 5]>().prop_map(|[cps, in_pps, out_pps, in_bps, out_bps]| Rates {
            cps,
            in_pps,
            out_pps,
            in_bps,
            out_bps,
        });
        let real =
            (real(), any::<([bool; 4], u8)>(), any::<[u32; 3]>(), counters.clone(), rates.clone());
        let real = real.prop_map(
            |(
                spec,
                ([weight, templates, present, standby], percent),
                [active, inactive, persistent],
                counters,
                rates,
            )| {
                RealInfo {
                    spec,
                    hold: Hold { weight, templates },
                    share: Share { percent: u32::from(percent % 101), templates: true, present },
                    standby,
                    active,
                    inactive,
                    persistent,
                    counters,
                    rates,
                }
            },
        );
        (service(), counters, rates, proptest::collection::vec(real, 0..4))
            .prop_map(|(spec, counters, rates, reals)| ServiceInfo { spec, counters, rates, reals })
    }

    proptest! {
        #[test]
        fn a_listed_service_comes_back_as_it_was(info in info()) {
            let message = answer::service_status(&info);
            prop_assert_eq!(request::service_info(&message), Ok(info));
        }

        #[test]
        fn a_real_server_comes_back_as_it_was(real in real(), service in key(Family::V4)) {
            let message = answer::real_server(&real);
            prop_assert_eq!(request::real_spec(&message, &service), Ok(real));
        }
    }
}
