//! Settings have the effects that their names promise. Frames are built and judged by etherparse.
#![expect(clippy::unwrap_used, reason = "a failed step ends the test")]

mod support {
    #[expect(dead_code, reason = "other tests look at the wanted next hops too")]
    pub(crate) mod lab;
    pub(crate) mod network;
}

use etherparse::PacketBuilder;
use support::{
    lab::{Lab, read, tcp},
    network::{BACKEND, CLIENT, OWN, ROUTER},
};
use xvs_dataplane::{
    addr::Family,
    clock::{TICKS_PER_SECOND, Tick},
    director::{
        SETTINGS,
        spec::{DirectorError, MarkRule, ServiceKey, ServiceSpec},
    },
    endpoint::Method,
    flow::FlowView,
    selector::{Ports, Selector},
    verdict::DropReason,
};

const TICK_NANOS: u64 = 1_000_000_000 / TICKS_PER_SECOND as u64;
const VIP: &str = "10.0.0.1";
const REAL: &str = "10.2.0.11";

fn lab(settings: &[(&str, u32)]) -> Lab {
    let mut it = Lab::with(Method::Nat, VIP, &[REAL, "10.2.0.12"], 80);
    set(&mut it, settings);
    it
}

fn set(it: &mut Lab, settings: &[(&str, u32)]) {
    for (name, value) in settings {
        it.director.set_setting(name, *value).unwrap();
    }
    it.publish();
}

/// What came of a client's packet: whether it was passed on.
fn client(it: &mut Lab, port: u16, flags: &str) -> bool {
    it.pass(CLIENT, &tcp(("10.9.0.7", port), (VIP, 80), flags, b""))
        .iter()
        .any(|(device, _)| *device == BACKEND)
}

/// Opens a connection: SYN, SYN ACK, ACK.
fn establish(it: &mut Lab, port: u16) {
    let out = it.pass(CLIENT, &tcp(("10.9.0.7", port), (VIP, 80), "S", b""));
    let (_, real, ..) = read(&out[0].1);
    let (real, _) = real.split_once(' ').unwrap();
    it.pass(BACKEND, &tcp((real, 80), ("10.9.0.7", port), "SA", b""));
    assert!(client(it, port, "A"));
}

/// Lets time pass, with as many turns in each second as a whole sweep and more needs.
fn wait(it: &mut Lab, seconds: u64) {
    for _ in 0..seconds * 16 {
        it.worker.clock().advance_nanos(TICK_NANOS);
        for _ in 0..4 {
            it.worker.turn().unwrap();
        }
    }
}

fn flows(it: &mut Lab) -> Vec<FlowView> {
    it.worker.pipeline_mut().table_mut().table().flows(1).collect()
}

fn states(it: &mut Lab) -> Vec<&'static str> {
    let views = flows(it);
    let now = xvs_dataplane::clock::Clock::now(it.worker.clock());
    let mut states: Vec<_> =
        views.iter().filter_map(|flow| it.director.flow_info(flow, now)).map(|f| f.state).collect();
    states.sort_unstable();
    states
}

fn shown(it: &Lab, name: &str) -> u32 {
    let settings = it.director.settings_shown();
    settings.iter().find(|(known, _)| *known == name).unwrap().1
}

#[test]
fn every_name_of_the_kernel_is_known_and_none_is_taken_without_effect() {
    let mut it = Lab::new();
    let before = it.director.settings();
    for name in SETTINGS {
        match before.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => it.director.set_setting(name, *value).unwrap(),
            None => {
                for value in [0, 1, u32::MAX] {
                    let error = it.director.set_setting(name, value).unwrap_err();
                    let DirectorError::Invalid { field, reason } = error else { panic!("{error}") };
                    assert_eq!(field, name);
                    assert!(reason.len() > 20, "{name}: {reason}");
                }
            }
        }
    }
    assert_eq!(it.director.settings(), before, "its own value changes nothing");
    for name in [
        "am_droprate",
        "amemthresh",
        "backup_only",
        "cache_bypass",
        "conn_reuse_mode",
        "conntrack",
        "drop_entry",
        "drop_packet",
        "est_cpulist",
        "est_nice",
        "expire_nodest_conn",
        "expire_quiescent_template",
        "ignore_tunneled",
        "nat_icmp_send",
        "pmtu_disc",
        "run_estimation",
        "schedule_icmp",
        "secure_tcp",
        "sloppy_tcp",
        "sloppy_sctp",
        "snat_reroute",
        "sync_persist_mode",
        "sync_ports",
        "sync_qlen_max",
        "sync_refresh_period",
        "sync_retries",
        "sync_sock_size",
        "sync_threshold",
        "sync_version",
    ] {
        assert!(SETTINGS.contains(&name), "{name} of the kernel is not known");
    }
}

#[test]
fn defaults_are_the_kernels() {
    let settings = Lab::new().director.settings();
    let value = |name: &str| settings.iter().find(|(known, _)| *known == name).unwrap().1;
    for (name, expected) in [
        ("am_droprate", 10),
        ("amemthresh", 1024),
        ("cache_bypass", 0),
        ("conn_reuse_mode", 1),
        ("conntrack", 0),
        ("drop_entry", 0),
        ("drop_packet", 0),
        ("expire_nodest_conn", 0),
        ("expire_quiescent_template", 0),
        ("nat_icmp_send", 0),
        ("pmtu_disc", 1),
        ("run_estimation", 1),
        ("schedule_icmp", 0),
        ("secure_tcp", 0),
        ("sloppy_sctp", 0),
        ("sloppy_tcp", 0),
        ("snat_reroute", 1),
        ("timeout_established", 900),
        ("timeout_synsent", 120),
        ("timeout_synrecv", 60),
        ("timeout_finwait", 120),
        ("timeout_timewait", 120),
        ("timeout_close", 10),
        ("timeout_closewait", 60),
        ("timeout_lastack", 30),
        ("timeout_listen", 120),
        ("timeout_synack", 120),
        ("timeout_udp", 300),
        ("timeout_sctp_established", 900),
    ] {
        assert_eq!(value(name), expected, "{name}");
    }
}

#[test]
fn a_refused_value_says_why_and_changes_nothing() {
    let mut it = Lab::new();
    for (name, value, reason) in [
        ("drop_entry", 4, "4; 0 to 3"),
        ("conn_reuse_mode", 4, "4; 0 to 3"),
        ("conntrack", 1, "1; always 0: packets of services do not pass netfilter"),
        ("timeout_udp", 0, "0 seconds; 1 to 2678400"),
        ("sync_version", 1, "xvs has no sync daemon"),
    ] {
        let before = (it.director.settings(), it.director.generation());
        let error = it.director.set_setting(name, value).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name}: {reason}")), "{error}");
        assert_eq!((it.director.settings(), it.director.generation()), before);
    }
}

#[test]
fn drop_packet_drops_one_new_flow_in_so_many_and_no_established_one() {
    let mut it = lab(&[]);
    establish(&mut it, 1000);
    set(&mut it, &[("am_droprate", 4), ("drop_packet", 3)]);
    let passed: Vec<_> = (0..16).map(|n| client(&mut it, 2000 + n, "S")).collect();
    assert_eq!(passed.iter().filter(|passed| !**passed).count(), 4);
    assert_eq!(it.dropped(DropReason::Defence), 4);
    assert!((0..16).all(|_| client(&mut it, 1000, "A")));
    set(&mut it, &[("drop_packet", 0)]);
    assert!((0..16).all(|n| client(&mut it, 3000 + n, "S")));
}

#[test]
fn the_automatic_modes_come_and_go_with_the_room() {
    let mut it = lab(&[("drop_packet", 1), ("secure_tcp", 2), ("drop_entry", 1)]);
    set(&mut it, &[("amemthresh", 0)]);
    assert_eq!(["drop_packet", "secure_tcp", "drop_entry"].map(|name| shown(&it, name)), [1; 3]);
    assert!((0..64).all(|n| client(&mut it, 2000 + n, "S")));
    // 64 slots are taken: 40 are missing.
    let threshold = u32::try_from(it.flows.capacity()).unwrap() - 24;
    set(&mut it, &[("amemthresh", threshold)]);
    assert_eq!(["drop_packet", "secure_tcp", "drop_entry"].map(|name| shown(&it, name)), [2; 3]);
    assert_eq!(it.director.settings().iter().find(|s| s.0 == "drop_packet").unwrap().1, 1);
    let rate = u16::try_from(threshold / 40).unwrap();
    let dropped: Vec<_> = (0..2 * rate).filter(|n| !client(&mut it, 3000 + n, "S")).collect();
    assert_eq!(dropped, [rate - 1, 2 * rate - 1]);
    set(&mut it, &[("amemthresh", 100)]);
    assert_eq!(["drop_packet", "secure_tcp", "drop_entry"].map(|name| shown(&it, name)), [1; 3]);
}

#[test]
fn secure_tcp_believes_only_what_the_real_server_acknowledged() {
    for (mode, state) in [(0, "ESTABLISHED"), (1, "SYNACK"), (3, "SYNACK")] {
        // All slots are wanted free: the automatic mode is in force from the first flow on.
        let mut it = lab(&[("amemthresh", 1 << 20), ("secure_tcp", mode)]);
        establish(&mut it, 1000);
        assert_eq!(states(&mut it), [state], "mode {mode}");
    }
}

#[test]
fn drop_entry_takes_half_open_flows_and_quiet_ones_but_not_busy_ones() {
    let mut it = lab(&[]);
    for port in 0..20 {
        client(&mut it, 2000 + port, "S");
        establish(&mut it, 3000 + port);
        establish(&mut it, 4000 + port);
        for _ in 0..8 {
            client(&mut it, 4000 + port, "A");
        }
    }
    let count = |it: &mut Lab, name| states(it).iter().filter(|state| **state == name).count();
    assert_eq!((count(&mut it, "SYN_RECV"), count(&mut it, "ESTABLISHED")), (20, 40));
    set(&mut it, &[("drop_entry", 3), ("timeout_synrecv", 1000)]);
    wait(&mut it, 40);
    // A slot is looked at once in 32 seconds, on average.
    let left = count(&mut it, "SYN_RECV");
    assert!((1..20).contains(&left), "{left} half-open flows are left after 40 s");
    assert_eq!(count(&mut it, "ESTABLISHED"), 40, "none was silent for a minute");
    wait(&mut it, 600);
    assert_eq!(count(&mut it, "SYN_RECV"), 0);
    let left = count(&mut it, "ESTABLISHED");
    assert!((20..25).contains(&left), "{left}: those with ten packets stay, those with two go");
    let sacrificed = it.stats.worker(0).work.flows_sacrificed.get();
    assert_eq!(sacrificed, 60 - left as u64);
    let listed = it.director.services();
    let load: u32 = listed[0].reals.iter().map(|real| real.active + real.inactive).sum();
    assert_eq!(load as usize, left, "the load went with the flows");
}

#[test]
fn the_time_out_of_every_state_can_be_set() {
    let mut it = lab(&[("timeout_synrecv", 5), ("timeout_established", 20)]);
    client(&mut it, 1000, "S");
    establish(&mut it, 1001);
    wait(&mut it, 4);
    assert_eq!(states(&mut it), ["ESTABLISHED", "SYN_RECV"]);
    wait(&mut it, 3);
    assert_eq!(states(&mut it), ["ESTABLISHED"]);
    wait(&mut it, 15);
    assert!(states(&mut it).is_empty());
    let timeouts = it.director.timeouts();
    assert_eq!((timeouts.tcp_s, timeouts.tcp_fin_s, timeouts.udp_s), (20, 120, 300));
}

/// An ICMPv6 or ICMPv4 "port unreachable" from `router` about a segment that a VIP sent.
fn error(router: &str, vip: &str, client: &str, port: u16) -> Vec<u8> {
    let reply = tcp((vip, 80), (client, port), "A", b"");
    let quoted = &reply[14..];
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2(ROUTER, OWN[0]);
    match (router.parse().unwrap(), vip.parse().unwrap()) {
        (std::net::IpAddr::V4(router), std::net::IpAddr::V4(vip)) => link
            .ipv4(router.octets(), vip.octets(), 64)
            .icmpv4_raw(3, 3, [0; 4])
            .write(&mut frame, quoted)
            .unwrap(),
        (std::net::IpAddr::V6(router), std::net::IpAddr::V6(vip)) => link
            .ipv6(router.octets(), vip.octets(), 64)
            .icmpv6_raw(1, 4, [0; 4])
            .write(&mut frame, quoted)
            .unwrap(),
        _ => unreachable!("one family"),
    }
    frame
}

#[test]
fn schedule_icmp_opens_a_flow_for_an_error_about_none() {
    for (router, vip, client, real) in [
        ("10.8.0.1", VIP, "10.9.0.7", REAL),
        ("2001:db8:8::1", "fd00::1", "2001:db8:9::7", "fd02::11"),
    ] {
        let mut it = Lab::with(Method::Nat, vip, &[real], 80);
        let error = error(router, vip, client, 40_001);
        assert!(it.pass(CLIENT, &error).is_empty());
        assert!(it.worker.io_mut().take_host().is_some(), "without it the host gets the error");
        set(&mut it, &[("schedule_icmp", 1)]);
        let out = it.pass(CLIENT, &error);
        assert_eq!((out.len(), out[0].0), (1, BACKEND), "{vip}");
        assert_eq!(states(&mut it), ["NONE"]);
        let real = &it.director.services()[0].reals[0];
        assert_eq!((real.inactive, real.counters.conns, real.counters.in_packets), (1, 1, 1));
        let flow = &flows(&mut it)[0];
        let info = it.director.flow_info(flow, Tick(flow.seen.0)).unwrap();
        assert_eq!(info.client, (client.parse::<std::net::IpAddr>().unwrap().into(), 40_001));
        wait(&mut it, 5);
        assert!(states(&mut it).is_empty(), "nobody came: it is over within seconds");
    }
}

#[test]
fn schedule_icmp_answers_no_error_with_an_error() {
    let mut it = Lab::with(Method::Nat, VIP, &[], 80);
    set(&mut it, &[("schedule_icmp", 1)]);
    assert!(it.pass(CLIENT, &error("10.8.0.1", VIP, "10.9.0.7", 40_001)).is_empty());
    assert_eq!(it.dropped(DropReason::NoRealServer), 1);
}

#[test]
fn a_packet_from_the_port_of_ftp_data_opens_no_flow() {
    let mut it = lab(&[]);
    assert!(!client(&mut it, 20, "S"));
    assert!(states(&mut it).is_empty());
}

#[test]
fn cache_bypass_routes_on_what_a_mark_brings_and_no_cache_takes() {
    let mut it = lab(&[]);
    let key = ServiceKey::Mark { mark: 5, family: Family::V4 };
    let spec = ServiceSpec { key, ..it.director.services()[0].spec.clone() };
    it.director.add_service(&spec).unwrap();
    let selector = Selector {
        from: None,
        to: "198.51.100.0/24".parse().unwrap(),
        protocol: None,
        ports: Ports::ANY,
    };
    it.director.add_mark_rule(MarkRule { mark: 5, selector }).unwrap();
    it.publish();
    let remote = |flags| tcp(("10.9.0.7", 1025), ("198.51.100.9", 80), flags, b"");
    assert_eq!(it.pass(CLIENT, &remote("S")).len(), 1, "refused: port unreachable");
    set(&mut it, &[("cache_bypass", 1)]);
    for flags in ["S", "A", "FA"] {
        assert!(it.pass(CLIENT, &remote(flags)).is_empty());
        assert!(it.worker.io_mut().take_host().is_some(), "{flags}: the host routes it");
    }
    let real = it.director.services()[0].reals[0].spec;
    it.director.add_real(&key, &real).unwrap();
    it.publish();
    assert_eq!(it.pass(CLIENT, &remote("S"))[0].0, BACKEND, "a cache is there");
}
