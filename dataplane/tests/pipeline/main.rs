//! Packets through a worker over simulated links. Frames are built and judged by etherparse.
#![expect(clippy::unwrap_used, reason = "a failed step ends the test")]

mod capture;
mod explain;
mod findings;
mod marks;

#[path = "../support"]
mod support {
    pub(crate) mod lab;
    pub(crate) mod network;
}

use proptest::prelude::*;
use support::{
    lab::{Lab, read, tcp},
    network::{BACKEND, CLIENT, ROUTER, addr, network, real_mac},
};
use xvs_dataplane::{
    director::{
        network::Neighbour,
        spec::{RealSpec, ServiceKey, ServiceSpec},
    },
    endpoint::Method,
    verdict::DropReason,
    wire::checksum,
};

#[test]
fn nat_rewrites_there_and_back() {
    for (vip, real, client, last) in
        [("10.0.0.1", "10.2.0.11", "10.9.0.7", 11), ("fd00::1", "fd02::11", "2001:db8:9::7", 11)]
    {
        let mut it = Lab::with(Method::Nat, vip, &[real], 8080);
        let out = it.pass(CLIENT, &tcp((client, 1025), (vip, 80), "S", b""));
        assert_eq!(out.len(), 1, "{vip}");
        assert_eq!(out[0].0, BACKEND);
        let (source, destination, mac, ttl) = read(&out[0].1);
        assert_eq!((source, destination), (format!("{client} 1025"), format!("{real} 8080")));
        assert_eq!((mac, ttl), (real_mac(last), 63));
        let out = it.pass(BACKEND, &tcp((real, 8080), (client, 1025), "SA", b""));
        assert_eq!(out[0].0, CLIENT);
        let (source, destination, mac, _) = read(&out[0].1);
        assert_eq!((source, destination), (format!("{vip} 80"), format!("{client} 1025")));
        assert_eq!(mac, ROUTER);
        let listed = it.director.services();
        let real = &listed[0].reals[0];
        assert_eq!((real.active, real.inactive, real.counters.conns), (1, 0, 1));
        assert_eq!((real.counters.in_packets, real.counters.out_packets), (1, 1));
    }
}

#[test]
fn what_real_servers_answer_is_counted_where_replies_pass() {
    let (client, vip, real) = ("10.9.0.7", "10.0.0.1", "10.2.0.11");
    let mut it = Lab::with(Method::Nat, vip, &[real], 8080);
    let answers = |it: &Lab| {
        let key = it.director.services()[0].spec.key;
        let id = it.director.real_endpoint(&key, (addr(real), 8080)).unwrap();
        it.stats.answers(id)
    };
    let from = |it: &mut Lab, port, flags| {
        it.pass(CLIENT, &tcp((client, port), (vip, 80), flags, b""));
    };
    let back = |it: &mut Lab, port, flags| {
        it.pass(BACKEND, &tcp((real, 8080), (client, port), flags, b""));
    };
    // Accepted; nothing later counts again.
    from(&mut it, 1025, "S");
    back(&mut it, 1025, "SA");
    back(&mut it, 1025, "SA");
    from(&mut it, 1025, "S");
    back(&mut it, 1025, "R");
    assert_eq!(answers(&it), (1, 0));
    // Refused.
    from(&mut it, 1026, "S");
    back(&mut it, 1026, "RA");
    assert_eq!(answers(&it), (1, 1));
    // Not answered: said once.
    for _ in 0..4 {
        from(&mut it, 1027, "S");
    }
    assert_eq!(answers(&it), (1, 2));
    // By dr nobody can know.
    let mut it = Lab::with(Method::Dr, vip, &[real], 80);
    for _ in 0..4 {
        from(&mut it, 1027, "S");
    }
    let key = it.director.services()[0].spec.key;
    let id = it.director.real_endpoint(&key, (addr(real), 80)).unwrap();
    assert_eq!(it.stats.answers(id), (0, 0));
}

#[test]
fn two_packets_of_one_new_flow_in_a_burst_meet_one_flow() {
    let mut it = Lab::with(Method::Nat, "10.0.0.1", &["10.2.0.11", "10.2.0.12"], 80);
    let syn = tcp(("10.9.0.7", 1025), ("10.0.0.1", 80), "S", b"");
    it.worker.io_mut().push(CLIENT, &syn);
    let out = it.pass(CLIENT, &syn);
    assert_eq!(out.len(), 2);
    assert_eq!(read(&out[0].1), read(&out[1].1));
    assert_eq!(it.director.services()[0].counters.conns, 1);
}

#[test]
fn dr_changes_link_addresses_only() {
    let mut it = Lab::with(Method::Dr, "10.0.0.1", &["10.2.0.11"], 80);
    let syn = tcp(("10.9.0.7", 1025), ("10.0.0.1", 80), "S", b"");
    let out = it.pass(CLIENT, &syn);
    assert_eq!(out[0].0, BACKEND);
    assert_eq!(out[0].1[..6], real_mac(11));
    assert_eq!(out[0].1[34..], syn[34..], "the TCP segment is untouched");
}

#[test]
fn ipip_wraps_the_packet_whole() {
    let mut it = Lab::with(Method::Ipip, "10.0.0.1", &["fd02::11"], 80);
    let syn = tcp(("10.9.0.7", 1025), ("10.0.0.1", 80), "S", b"");
    let out = it.pass(CLIENT, &syn);
    let frame = &out[0].1;
    assert_eq!(frame.len(), syn.len() + 40);
    assert_eq!(&frame[12..14], [0x86, 0xdd]);
    assert_eq!(frame[20], 4, "the next header is IPv4");
    assert_eq!(frame[54 + 20..], syn[34..]);
}

#[test]
fn an_unfinished_checksum_is_finished() {
    let mut it = Lab::with(Method::Nat, "10.0.0.1", &["10.2.0.11"], 8080);
    let mut syn = tcp(("10.9.0.7", 1025), ("10.0.0.1", 80), "S", b"some data");
    let length = u32::try_from(syn.len() - 34).unwrap();
    let pseudo = checksum::pseudo(addr("10.9.0.7"), addr("10.0.0.1"), 6, length).fold();
    syn[50..52].copy_from_slice(&pseudo.to_be_bytes());
    let out = it.pass(CLIENT, &syn);
    read(&out[0].1);
}

#[test]
fn a_service_without_real_servers_answers_port_unreachable() {
    let mut it = Lab::with(Method::Nat, "10.0.0.1", &[], 80);
    let out = it.pass(CLIENT, &tcp(("10.9.0.7", 1025), ("10.0.0.1", 80), "S", b""));
    assert_eq!((out.len(), out[0].0), (1, CLIENT));
    assert_eq!(&out[0].1[34..36], [3, 3]);
    assert_eq!(it.dropped(DropReason::NoRealServer), 1);
}

#[test]
fn a_stray_segment_is_reset_and_a_reset_is_not() {
    let mut it = Lab::with(Method::Nat, "10.0.0.1", &["10.2.0.11"], 80);
    let out = it.pass(CLIENT, &tcp(("10.9.0.7", 1025), ("10.0.0.1", 80), "A", b""));
    let (source, destination, ..) = read(&out[0].1);
    assert_eq!((source.as_str(), destination.as_str()), ("10.0.0.1 80", "10.9.0.7 1025"));
    assert_eq!(out[0].1[47], 4, "flags: RST");
    assert!(it.pass(CLIENT, &tcp(("10.9.0.7", 1026), ("10.0.0.1", 80), "R", b"")).is_empty());
}

#[test]
fn what_is_not_for_a_service_goes_to_the_host() {
    let mut it = Lab::with(Method::Nat, "10.0.0.1", &["10.2.0.11"], 80);
    assert!(it.pass(CLIENT, &tcp(("10.9.0.7", 1025), ("10.0.0.1", 22), "S", b"")).is_empty());
    assert!(it.worker.io_mut().take_host().is_some());
    assert_eq!(it.stats.worker(0).devices[0].host.get(), 1);
}

#[test]
fn a_removed_real_servers_flows_are_dropped_until_it_returns() {
    let mut it = Lab::with(Method::Nat, "10.0.0.1", &["10.2.0.11"], 8080);
    let key = it.director.services()[0].spec.key;
    let spec = it.director.services()[0].reals[0].spec;
    it.pass(CLIENT, &tcp(("10.9.0.7", 1025), ("10.0.0.1", 80), "S", b""));
    it.director.delete_real(&key, spec.addr, spec.port).unwrap();
    it.publish();
    let ack = tcp(("10.9.0.7", 1025), ("10.0.0.1", 80), "A", b"");
    assert!(it.pass(CLIENT, &ack).is_empty());
    assert_eq!(it.dropped(DropReason::NoDestination), 1);
    let reply = tcp(("10.2.0.11", 8080), ("10.9.0.7", 1025), "SA", b"");
    assert_eq!(it.pass(BACKEND, &reply).len(), 1, "replies are still translated");
    it.director.add_real(&key, &spec).unwrap();
    it.publish();
    assert_eq!(it.pass(CLIENT, &ack).len(), 1);
}

#[test]
fn a_reply_waits_for_the_clients_link_address() {
    let mut it = Lab::with(Method::Nat, "10.0.0.1", &["10.2.0.11"], 8080);
    it.pass(CLIENT, &tcp(("10.1.0.9", 1025), ("10.0.0.1", 80), "S", b""));
    assert_eq!(it.wanted.try_recv(), Ok((CLIENT, addr("10.1.0.9"))));
    let reply = tcp(("10.2.0.11", 8080), ("10.1.0.9", 1025), "SA", b"");
    assert!(it.pass(BACKEND, &reply).is_empty());
    let mut known = network();
    known.neighbours.push(Neighbour { device: CLIENT, addr: addr("10.1.0.9"), mac: [6; 6] });
    it.director.set_network(known);
    it.publish();
    let frame = it.worker.io_mut().take(CLIENT).expect("the reply leaves with the new snapshot");
    let (source, _, mac, _) = read(&frame);
    assert_eq!((source.as_str(), mac), ("10.0.0.1 80", [6; 6]));
}

#[test]
fn flows_expire_and_leave_no_load_behind() {
    let mut it = Lab::with(Method::Nat, "10.0.0.1", &["10.2.0.11"], 8080);
    for port in 1000..1100 {
        it.pass(CLIENT, &tcp(("10.9.0.7", port), ("10.0.0.1", 80), "S", b""));
    }
    assert_eq!(it.director.services()[0].reals[0].active, 100);
    for second in 1..=63 {
        it.worker.clock().set_nanos(second * 1_000_000_000);
        for _ in 0..4 {
            it.worker.turn().unwrap();
        }
        let left = it.director.services()[0].reals[0].active;
        assert!(second >= 60 || left == 100, "{left} left after {second} s");
    }
    let real = it.director.services()[0].reals[0];
    assert_eq!((real.active, real.inactive), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nat_there_and_back_is_the_identity(
        v6: bool,
        port in 1u16..,
        payload in proptest::collection::vec(any::<u8>(), 0..1200),
    ) {
        let (vip, real, client) = if v6 {
            ("fd00::1", "fd02::11", "2001:db8:9::7")
        } else {
            ("10.0.0.1", "10.2.0.11", "10.9.0.7")
        };
        let mut it = Lab::with(Method::Nat, vip, &[real], 8080);
        let request = tcp((client, port), (vip, 80), "S", &payload);
        let out = it.pass(CLIENT, &request);
        prop_assert_eq!(out.len(), 1);
        let (source, destination, ..) = read(&out[0].1);
        prop_assert_eq!((source, destination), (format!("{client} {port}"), format!("{real} 8080")));
        prop_assert!(out[0].1.ends_with(&payload));
        let reply = tcp((real, 8080), (client, port), "SA", &payload);
        let back = it.pass(BACKEND, &reply);
        prop_assert_eq!(back.len(), 1);
        let (source, destination, ..) = read(&back[0].1);
        prop_assert_eq!((source, destination), (format!("{vip} 80"), format!("{client} {port}")));
        prop_assert!(back[0].1.ends_with(&payload));
    }

    #[test]
    fn a_tunnel_carries_the_packet_as_it_was_but_for_its_time_to_live(
        inner_v6: bool,
        outer_v6: bool,
        method in prop_oneof![Just(Method::Ipip), Just(Method::Gue), Just(Method::Gre)],
        port in 1u16..,
        payload in proptest::collection::vec(any::<u8>(), 0..1200),
    ) {
        let (vip, client) =
            if inner_v6 { ("fd00::1", "2001:db8:9::7") } else { ("10.0.0.1", "10.9.0.7") };
        let mut it =
            Lab::with(method, vip, &[if outer_v6 { "fd02::11" } else { "10.2.0.11" }], 80);
        let request = tcp((client, port), (vip, 80), "S", &payload);
        let out = it.pass(CLIENT, &request);
        prop_assert_eq!(out.len(), 1);
        let inner = &out[0].1[out[0].1.len() - (request.len() - 14)..];
        let (ttl_at, ends) = if inner_v6 { (7, 8) } else { (8, 12) };
        prop_assert_eq!(inner[ttl_at], 63);
        prop_assert_eq!(&inner[ends..], &request[14 + ends..]);
    }
}

#[test]
fn a_service_that_takes_every_port_keeps_the_clients_and_the_port() {
    let mut it = Lab::new();
    let key = ServiceKey::Address { protocol: 6, addr: addr("10.0.0.1"), port: 0 };
    it.director
        .add_service(&ServiceSpec { persistence_s: Some(60), ..ServiceSpec::new(key, "rr") })
        .unwrap();
    for last in [11, 12] {
        let spec = RealSpec::new(addr(&format!("10.2.0.{last}")), 0, Method::Nat);
        it.director.add_real(&key, &spec).unwrap();
    }
    it.publish();
    let mut seen = Vec::new();
    for (port, to) in [(1001, 80), (1002, 443), (1003, 22)] {
        let out = it.pass(CLIENT, &tcp(("10.9.0.7", port), ("10.0.0.1", to), "S", b""));
        let (_, destination, ..) = read(&out[0].1);
        let (real, real_port) = destination.split_once(' ').unwrap();
        assert_eq!(real_port, to.to_string());
        let back = it.pass(BACKEND, &tcp((real, to), ("10.9.0.7", port), "SA", b""));
        let (source, ..) = read(&back[0].1);
        assert_eq!(source, format!("10.0.0.1 {to}"));
        seen.push(real.to_owned());
    }
    seen.dedup();
    assert_eq!(seen.len(), 1, "one client, one real server: {seen:?}");
    let out = it.pass(CLIENT, &tcp(("10.9.0.8", 1001), ("10.0.0.1", 80), "S", b""));
    let (_, destination, ..) = read(&out[0].1);
    assert!(!destination.starts_with(&seen[0]), "another client, the other real server");
    let listed = it.director.services();
    let templates: u32 = listed[0].reals.iter().map(|real| real.persistent).sum();
    assert_eq!(templates, 2);
}
#[test]
fn a_client_whose_real_server_is_drained_again_and_again_is_always_served() {
    let mut it = Lab::with(Method::Nat, "10.0.0.1", &["10.2.0.11", "10.2.0.12"], 80);
    let key = it.director.services()[0].spec.key;
    let persistent =
        ServiceSpec { persistence_s: Some(600), ..it.director.services()[0].spec.clone() };
    it.director.edit_service(&persistent).unwrap();
    it.director.set_setting("expire_quiescent_template", 1).unwrap();
    let reals: Vec<_> = it.director.services()[0].reals.iter().map(|real| real.spec).collect();
    for round in 0..60 {
        let drained = usize::from(round % 2 == 1);
        for (at, real) in reals.iter().enumerate() {
            let weight = u32::from(at != drained);
            it.director.edit_real(&key, &RealSpec { weight, ..*real }).unwrap();
        }
        it.publish();
        let out = it.pass(CLIENT, &tcp(("10.9.0.7", 2000 + round), ("10.0.0.1", 80), "S", b""));
        let (_, destination, ..) = read(&out[0].1);
        assert!(destination.starts_with(&reals[1 - drained].addr.to_string()), "{destination}");
    }
    let listed = it.director.services();
    let templates: u32 = listed[0].reals.iter().map(|real| real.persistent).sum();
    assert!((2..=60).contains(&templates), "the old ones live on as far as there is room");
    let table = it.worker.pipeline_mut().table_mut();
    let views: Vec<_> = table.table().flows(1).collect();
    let now = xvs_dataplane::clock::Clock::now(it.worker.clock());
    let flows = views.iter().filter_map(|view| it.director.flow_info(view, now));
    let (old, new): (Vec<_>, Vec<_>) =
        flows.filter(|flow| flow.client.1 == 0).partition(|flow| flow.virt.1 == 65535);
    assert_eq!((new.len(), old.len()), (1, templates as usize - 1));
    assert!(old.iter().all(|flow| flow.real.1 == 65535));
}
