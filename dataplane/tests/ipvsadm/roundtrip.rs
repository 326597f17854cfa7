//! Saved rules read again are the same services, and no words make the reader panic.

use proptest::prelude::*;
use xvs_dataplane::{
    addr::{Addr, Family},
    director::spec::{
        Counters, Hold, Rates, RealInfo, RealSpec, ServiceInfo, ServiceKey, ServiceSpec, Share,
        TunnelSpec,
    },
    endpoint::Method,
    ipvsadm::{Backend as _, Dialect, Numeric, option_words, parse, parse_rules, save},
    sched::SchedFlags,
};

use crate::model::Model;

fn addr(family: Family) -> BoxedStrategy<Addr> {
    match family {
        Family::V4 => (0x0100_0000..0xe000_0000_u32).prop_map(Addr::v4).boxed(),
        Family::V6 => any::<u128>()
            .prop_filter("a mapped address is no IPv6", |bits| bits >> 32 != 0xffff)
            .prop_map(Addr::v6)
            .boxed(),
    }
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::V4), Just(Family::V6)]
}

fn spec() -> impl Strategy<Value = ServiceSpec> {
    let scheduler = prop_oneof![Just("wlc"), Just("sh"), Just("mh"), Just("twos")];
    (family(), scheduler, any::<[bool; 5]>(), 1..=2_678_400_u32, any::<u32>(), any::<u16>())
        .prop_flat_map(|(family, scheduler, [marked, a, b, c, persist], seconds, bits, port)| {
            let protocol = prop_oneof![Just(6_u8), Just(17), Just(132)];
            (addr(family), protocol, any::<[bool; 2]>()).prop_map(
                move |(addr, protocol, [one_packet, engine])| {
                    let key = if marked {
                        ServiceKey::Mark { mark: bits.max(1), family }
                    } else {
                        ServiceKey::Address { protocol, addr, port: port.max(1) }
                    };
                    let none = if family == Family::V4 { u32::MAX } else { 128 };
                    let mask = if family == Family::V4 { bits } else { 1 + bits % 128 };
                    // sh and mh have no name for the third flag.
                    let flag3 = c && !matches!(scheduler, "sh" | "mh");
                    ServiceSpec {
                        key,
                        scheduler: scheduler.to_owned(),
                        flags: SchedFlags { fallback: a, port: b, flag3 },
                        persistence_s: persist.then_some(seconds),
                        netmask: if persist { mask } else { none },
                        one_packet: one_packet && (marked || protocol == 17),
                        engine: engine.then(|| "sip".to_owned()),
                        client_address: Default::default(),
                    }
                },
            )
        })
}

fn real(key: ServiceKey) -> impl Strategy<Value = RealSpec> {
    let method = prop_oneof![
        Just(Method::Nat),
        Just(Method::Dr),
        Just(Method::Local),
        Just(Method::FullNat),
        Just(Method::Ipip),
        Just(Method::Gue),
        Just(Method::Gre)
    ];
    let numbers = (any::<u16>(), 1_u16.., 0..=i32::MAX.cast_unsigned(), any::<[u16; 2]>());
    (addr(key.family()), method, numbers, 0..3).prop_map(
        move |(addr, method, (port, tunnel, weight, [a, b]), checksum)| {
            let port = match key {
                ServiceKey::Address { port, .. } if method != Method::Nat => port,
                _ => port,
            };
            let checksummed = matches!(method, Method::Gue | Method::Gre);
            RealSpec {
                addr,
                port,
                method,
                tunnel: TunnelSpec {
                    port: if method == Method::Gue { tunnel } else { 0 },
                    checksum: checksummed && checksum == 1,
                    remote_checksum: method == Method::Gue && checksum == 2,
                },
                weight,
                upper: a.max(b).into(),
                lower: a.min(b).into(),
            }
        },
    )
}

fn info() -> impl Strategy<Value = ServiceInfo> {
    spec().prop_flat_map(|spec| {
        let real = real(spec.key).prop_map(|spec| RealInfo {
            spec,
            hold: Hold::default(),
            share: Share::default(),
            standby: false,
            active: 0,
            inactive: 0,
            persistent: 0,
            counters: Counters::default(),
            rates: Rates::default(),
        });
        prop::collection::vec(real, 0..4).prop_map(move |mut reals| {
            reals.sort_by_key(|real| (real.spec.addr, real.spec.port));
            reals.dedup_by_key(|real| (real.spec.addr, real.spec.port));
            let (counters, rates) = (Counters::default(), Rates::default());
            ServiceInfo { spec: spec.clone(), counters, rates, reals }
        })
    })
}

/// In an order of its own: rules are sorted as ipvsadm sorts them.
fn ordered(mut services: Vec<ServiceInfo>) -> Vec<ServiceInfo> {
    services.sort_by_key(|service| service.spec.key);
    for service in &mut services {
        service.reals.sort_by_key(|real| (real.spec.addr, real.spec.port));
    }
    services
}

proptest! {
    #[test]
    fn saved_rules_make_the_same_services(services in prop::collection::vec(info(), 0..6)) {
        let mut services = ordered(services);
        services.dedup_by_key(|service| service.spec.key);
        let rules = save(&services, true, Dialect::Full, &Numeric);
        let mut model = Model::new();
        for rule in parse_rules(&rules, &Numeric).unwrap() {
            model.change(&rule.command).unwrap();
        }
        prop_assert_eq!(ordered(model.services), services, "{}", rules);
    }

    #[test]
    fn any_words_are_read_or_refused(
        known in prop::collection::vec(prop::sample::select(option_words().collect::<Vec<_>>()), 0..4),
        words in prop::collection::vec("\\PC{0,12}", 0..4),
    ) {
        let all: Vec<_> =
            known.iter().zip(&words).flat_map(|(a, b)| [a.as_str(), b.as_str()]).collect();
        // Only that it comes back counts here: what it says is judged elsewhere.
        drop(parse("ipvsadm", &all, &Numeric));
        drop(parse_rules(&words.join(" "), &Numeric));
    }
}
