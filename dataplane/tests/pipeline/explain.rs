//! What `explain` says of a packet is what the data path then does with it.

use proptest::prelude::*;
use xvs_dataplane::{
    clock::Tick,
    director::spec::{RealSpec, ServiceKey, ServiceSpec},
    endpoint::Method,
    pipeline::explain::{Because, Explanation, Live, explain},
    verdict::{DeviceId, DropReason, Verdict},
};

use super::support::{
    lab::{Lab, tcp},
    network::{BACKEND, CLIENT, addr},
};

impl Lab {
    fn explain(&self, device: DeviceId, frame: &[u8]) -> Explanation {
        let live = Live {
            flows: &self.flows,
            endpoints: self.director.endpoints(),
            snapshot: self.director.compile(),
            now: Tick(0),
        };
        explain(live, frame, device).unwrap()
    }
}

/// Frames without what a worker numbers: the identification of an outer IPv4 header, and with it the
/// header's checksum.
fn unnumbered(frames: &[(DeviceId, Vec<u8>)]) -> Vec<(DeviceId, Vec<u8>)> {
    let mut frames = frames.to_vec();
    for (_, frame) in &mut frames {
        if frame[12..14] == [8, 0] {
            frame[18..20].fill(0);
            frame[24..26].fill(0);
        }
    }
    frames
}

/// Explains a packet, lets it through, and holds one to the other. `None` if it was no packet of
/// ours to see through.
fn held(it: &mut Lab, device: DeviceId, frame: &[u8]) -> Explanation {
    let said = it.explain(device, frame);
    let again = it.explain(device, frame);
    assert_eq!(unnumbered(&said.frames), unnumbered(&again.frames), "a dry run changes nothing");
    let before: Vec<_> = DropReason::ALL.iter().map(|reason| it.dropped(*reason)).collect();
    let out = it.pass(device, frame);
    assert_eq!(unnumbered(&said.frames), unnumbered(&out), "{said:?}");
    let dropped =
        DropReason::ALL.iter().zip(before).find(|(reason, before)| it.dropped(**reason) != *before);
    match said.verdict {
        Verdict::Drop(reason) => assert_eq!(dropped.map(|(reason, _)| *reason), Some(reason)),
        _ => assert_eq!(dropped, None, "{said:?}"),
    }
    if let Some(target) = said.target
        && matches!(said.verdict, Verdict::Tx(_))
    {
        let endpoints = it.director.endpoints();
        let (flow, _) = it.flows.lookup(&said.parsed.unwrap().key, endpoints).unwrap();
        assert_eq!(endpoints.get(flow.real()).addr(), target.real.0, "{said:?}");
    }
    said
}

/// A service with servers of several weights; persistent if asked for.
fn lab(scheduler: &str, method: Method, persistence: Option<u32>) -> Lab {
    let mut it = Lab::new();
    let key = ServiceKey::Address { protocol: 6, addr: addr("10.0.0.1"), port: 80 };
    it.director
        .add_service(&ServiceSpec {
            persistence_s: persistence,
            ..ServiceSpec::new(key, scheduler)
        })
        .unwrap();
    for (real, weight) in [("10.2.0.11", 1), ("10.2.0.12", 3), ("10.2.0.13", 0)] {
        let real = RealSpec {
            addr: addr(real),
            port: 80,
            method,
            tunnel: xvs_dataplane::director::spec::TunnelSpec { port: 6080, ..Default::default() },
            weight,
            upper: 4,
            lower: 2,
        };
        it.director.add_real(&key, &real).unwrap();
    }
    it.publish();
    it
}

#[test]
fn a_decision_is_told_with_its_reason() {
    let mut it = lab("wrr", Method::Nat, Some(300));
    let syn = |port| tcp(("10.9.0.7", port), ("10.0.0.1", 80), "S", b"");
    let first = held(&mut it, CLIENT, &syn(1025));
    let target = first.target.unwrap();
    assert_eq!(target.because, Because::Scheduler);
    assert_eq!(target.real, (addr("10.2.0.12"), 80));
    let (name, choices) = first.scheduler.unwrap();
    assert_eq!((name, choices.len()), ("wrr", 3));
    // The second connection of the client follows the template of the first.
    let second = held(&mut it, CLIENT, &syn(1026)).target.unwrap();
    assert_eq!((second.because, second.real), (Because::Template, target.real));
    let known = held(&mut it, CLIENT, &tcp(("10.9.0.7", 1025), ("10.0.0.1", 80), "A", b"x"));
    assert!(matches!(known.target.unwrap().because, Because::Flow(_)));
    assert_eq!(known.scheduler, None);
    let host = held(&mut it, CLIENT, &tcp(("10.9.0.7", 1025), ("10.0.0.9", 80), "S", b""));
    assert_eq!((host.verdict, host.target, host.service), (Verdict::Host, None, None));
    let mut broken = syn(1027);
    broken[24] ^= 1;
    let broken = held(&mut it, CLIENT, &broken);
    assert_eq!(broken.verdict, Verdict::Drop(DropReason::BadHeaderChecksum));
}

/// One packet: whose, to the service or back from a real server, with which flags.
fn packet() -> impl Strategy<Value = (DeviceId, Vec<u8>)> {
    let flags = prop_oneof![Just("S"), Just("A"), Just("FA"), Just("R"), Just("SA")];
    let data = proptest::collection::vec(any::<u8>(), 0..64);
    (0_u8..6, 0_u16..3, any::<bool>(), 11_u8..14, flags, data).prop_map(
        |(client, port, back, real, flags, data)| {
            let client = format!("10.9.0.{}", client + 7);
            let (port, real) = (port + 1025, format!("10.2.0.{real}"));
            if back {
                (BACKEND, tcp((&real, 80), (&client, port), flags, &data))
            } else {
                (CLIENT, tcp((&client, port), ("10.0.0.1", 80), flags, &data))
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn what_is_explained_is_what_happens(
        packets in proptest::collection::vec(packet(), 1..40),
        scheduler in prop_oneof![
            Just("rr"), Just("wrr"), Just("wlc"), Just("sh"), Just("mh"), Just("lblc"),
            Just("lblcr"), Just("sed")
        ],
        method in prop_oneof![
            Just(Method::Nat), Just(Method::Dr), Just(Method::Ipip), Just(Method::Gue),
            Just(Method::Gre)
        ],
        persistence in prop_oneof![Just(None), Just(Some(300))],
    ) {
        let mut it = lab(scheduler, method, persistence);
        for (device, frame) in &packets {
            held(&mut it, *device, frame);
        }
    }
}
