//! The persistence engine sip. Datagrams are built and judged by etherparse.
#![expect(clippy::unwrap_used, reason = "a failed step ends the test")]

mod support {
    #[expect(dead_code, reason = "other tests look at more of it")]
    pub(crate) mod lab;
    pub(crate) mod network;
}

use std::net::Ipv4Addr;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use support::{
    lab::Lab,
    network::{BACKEND, CLIENT, OWN, ROUTER, addr},
};
use xvs_dataplane::{
    clock::{Clock as _, TICKS_PER_SECOND},
    director::spec::{DirectorError, FlowInfo, RealSpec, ServiceKey, ServiceSpec},
    endpoint::Method,
    verdict::{DeviceId, DropReason},
};

const VIP: &str = "10.0.0.1";
const KEY: ServiceKey = ServiceKey::Address {
    protocol: 17,
    addr: xvs_dataplane::addr::Addr::v4(0x0a00_0001),
    port: 5060,
};

fn service(one_packet: bool, persistence_s: Option<u32>) -> ServiceSpec {
    ServiceSpec {
        persistence_s,
        one_packet,
        engine: Some("sip".to_owned()),
        ..ServiceSpec::new(KEY, "rr")
    }
}

fn lab(spec: &ServiceSpec, reals: u8) -> Lab {
    let mut it = Lab::new();
    it.director.add_service(spec).unwrap();
    for last in 0..reals {
        let real = RealSpec::new(addr(&format!("10.2.0.{}", 11 + last)), 5060, Method::Nat);
        it.director.add_real(&spec.key, &real).unwrap();
    }
    it.publish();
    it
}

fn datagram(from: (&str, u16), to: (&str, u16), payload: &str) -> Vec<u8> {
    let [source, destination] = [from.0, to.0].map(|ip| ip.parse::<Ipv4Addr>().unwrap().octets());
    let builder = PacketBuilder::ethernet2(ROUTER, OWN[0]).ipv4(source, destination, 64);
    let mut frame = Vec::new();
    builder.udp(from.1, to.1).write(&mut frame, payload.as_bytes()).unwrap();
    frame
}

fn invite(id: &str) -> String {
    format!("INVITE sip:b@example.net SIP/2.0\r\nVia: SIP/2.0/UDP x\r\nCall-ID: {id}\r\n\r\n")
}

/// Source and destination of the one datagram that came out; its checksums must be right.
fn out(frames: &[(DeviceId, Vec<u8>)]) -> Option<(DeviceId, String, String)> {
    let [(device, frame)] = frames else {
        assert!(frames.is_empty(), "one datagram at most");
        return None;
    };
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("no IPv4: {sliced:?}") };
    let Some(TransportSlice::Udp(udp)) = &sliced.transport else { panic!("no UDP: {sliced:?}") };
    let header = ip.header();
    let whole = udp.to_header();
    let sum = whole.calc_checksum_ipv4_raw(header.source(), header.destination(), udp.payload());
    assert_eq!(sum.unwrap(), udp.checksum());
    let source = format!("{}:{}", header.source_addr(), udp.source_port());
    Some((*device, source, format!("{}:{}", header.destination_addr(), udp.destination_port())))
}

/// Which real server got a client's message.
fn ask(it: &mut Lab, client: (&str, u16), payload: &str) -> Option<String> {
    let frames = it.pass(CLIENT, &datagram(client, (VIP, 5060), payload));
    out(&frames).filter(|(device, ..)| *device == BACKEND).map(|(_, _, real)| real)
}

fn flows(it: &mut Lab) -> Vec<FlowInfo> {
    let now = it.worker.clock().now();
    let views: Vec<_> = it.worker.pipeline_mut().table_mut().table().flows(1).collect();
    views.iter().filter_map(|view| it.director.flow_info(view, now)).collect()
}

fn templates(it: &mut Lab) -> Vec<FlowInfo> {
    flows(it).into_iter().filter(|flow| flow.client.1 == 0).collect()
}

fn wait(it: &mut Lab, seconds: u32) {
    for _ in 0..seconds * TICKS_PER_SECOND {
        it.worker.clock().advance_nanos(1_000_000_000 / u64::from(TICKS_PER_SECOND));
        (0..4).for_each(|_| {
            it.worker.turn().unwrap();
        });
    }
}

#[test]
fn a_call_stays_with_its_real_server_and_calls_of_one_client_spread() {
    let mut it = lab(&service(true, Some(60)), 2);
    let first = ask(&mut it, ("10.9.0.7", 5060), &invite("one@a")).unwrap();
    let second = ask(&mut it, ("10.9.0.7", 5060), &invite("two@a")).unwrap();
    assert_ne!(first, second, "two calls of one client and one port");
    for port in [5060, 5062, 5064] {
        assert_eq!(ask(&mut it, ("10.9.0.7", port), &invite("one@a")), Some(first.clone()));
        assert_eq!(ask(&mut it, ("10.9.0.7", port), &invite("two@a")), Some(second.clone()));
    }
    let listed = templates(&mut it);
    assert_eq!((listed.len(), flows(&mut it).len()), (2, 2), "-o leaves templates only");
    let template = &listed[0];
    assert_eq!((template.client, template.virt), ((addr("10.9.0.7"), 0), (addr(VIP), 5060)));
    let data = template.engine.as_ref().unwrap();
    assert_eq!((data.name.as_str(), data.data.as_str()), ("sip", "one@a"));
    assert!(templates(&mut it).iter().all(|flow| flow.protocol == 17 && flow.state == "NONE"));
}

#[test]
fn another_client_with_the_same_identifier_has_another_template() {
    let mut it = lab(&service(true, Some(60)), 2);
    let first = ask(&mut it, ("10.9.0.7", 5060), &invite("one@a"));
    assert_ne!(ask(&mut it, ("10.9.0.8", 5060), &invite("one@a")), first);
    assert_eq!(templates(&mut it).len(), 2);
}

#[test]
fn a_message_without_an_identifier_is_dropped_and_makes_nothing() {
    let mut it = lab(&service(false, Some(60)), 2);
    for payload in ["", "OPTIONS sip:x SIP/2.0\r\nVia: y\r\n\r\n", "Call-ID: first\r\n"] {
        assert_eq!(ask(&mut it, ("10.9.0.7", 5060), payload), None, "{payload:?}");
    }
    assert_eq!(it.dropped(DropReason::NoCallId), 3);
    assert!(flows(&mut it).is_empty());
}

#[test]
fn a_datagram_of_a_known_flow_follows_it_whatever_it_names() {
    let mut it = lab(&service(false, Some(60)), 2);
    let first = ask(&mut it, ("10.9.0.7", 5060), &invite("one@a"));
    assert_eq!(ask(&mut it, ("10.9.0.7", 5060), "keep-alive"), first);
    assert_eq!(ask(&mut it, ("10.9.0.7", 5060), &invite("two@a")), first);
    assert_eq!(templates(&mut it).len(), 1);
    let real = &it.director.services()[0].reals;
    let persistent: u32 = real.iter().map(|real| real.persistent).sum();
    assert_eq!(persistent, 1);
}

#[test]
fn the_template_of_a_silent_call_expires_and_its_room_is_used_again() {
    let mut it = lab(&service(true, Some(5)), 2);
    for round in 0..3 {
        for call in 0..100 {
            let id = format!("{round}-{call}@a");
            assert!(ask(&mut it, ("10.9.0.7", 5060), &invite(&id)).is_some());
        }
        assert_eq!(templates(&mut it).len(), 100);
        wait(&mut it, 8);
        assert!(templates(&mut it).is_empty());
    }
    assert_eq!(it.director.services()[0].reals.iter().map(|real| real.persistent).sum::<u32>(), 0);
}

#[test]
fn a_call_leaves_a_real_server_that_is_removed() {
    let mut it = lab(&service(true, Some(60)), 2);
    let first = ask(&mut it, ("10.9.0.7", 5060), &invite("one@a")).unwrap();
    let (gone, _) = first.split_once(':').unwrap();
    it.director.delete_real(&KEY, addr(gone), 5060).unwrap();
    it.publish();
    let second = ask(&mut it, ("10.9.0.7", 5060), &invite("one@a")).unwrap();
    assert_ne!(first, second);
    assert_eq!(templates(&mut it).len(), 1, "the other one is gone with its record");
}

#[test]
fn a_real_server_may_begin_a_call() {
    for (one_packet, persistence) in [(false, Some(60)), (false, None), (true, Some(60))] {
        let mut it = lab(&service(one_packet, persistence), 2);
        let message = invite("from-the-server@b");
        let ask_client = datagram(("10.2.0.11", 5060), ("10.9.0.7", 5070), &message);
        let frames = it.pass(BACKEND, &ask_client);
        let expected = (CLIENT, format!("{VIP}:5060"), "10.9.0.7:5070".to_owned());
        assert_eq!(out(&frames), Some(expected), "{one_packet} {persistence:?}");
        // The client's answer goes to the real server that asked.
        for _ in 0..3 {
            let answer = ask(&mut it, ("10.9.0.7", 5070), &message);
            if persistence.is_some() || !one_packet {
                assert_eq!(answer.as_deref(), Some("10.2.0.11:5060"));
            }
        }
        let counters = it.director.services()[0].counters;
        assert_eq!(counters.out_packets, 1);
        assert_eq!(templates(&mut it).len(), usize::from(persistence.is_some()));
    }
}

#[test]
fn what_a_real_server_sends_without_an_identifier_is_the_hosts() {
    let mut it = lab(&service(false, Some(60)), 2);
    let frames = it.pass(BACKEND, &datagram(("10.2.0.11", 5060), ("10.9.0.7", 5070), "no SIP"));
    assert!(frames.is_empty() && it.worker.io_mut().take_host().is_some());
    assert!(flows(&mut it).is_empty());
}

#[test]
fn an_engine_that_there_is_not_is_refused() {
    let mut it = Lab::new();
    let spec = ServiceSpec { engine: Some("nosuch".to_owned()), ..service(false, Some(60)) };
    assert_eq!(it.director.add_service(&spec), Err(DirectorError::NoSuchScheduler));
}
