//! listings.txt and empty.txt: every listing of one set of rules, and of none.

use std::net::IpAddr;

use xvs_dataplane::{
    addr::Addr,
    director::spec::{Counters, EngineData, FlowInfo, Rates, ServiceInfo},
    ipvsadm::{
        Backend as _, Numeric, PROC_APP, parse_rules, proc_conn, proc_conn_sync, proc_services,
        proc_stats, proc_stats_percpu,
    },
};

use crate::{
    golden::{Step, read, run},
    model::Model,
};

/// The recorded kernel's HZ.
const TICKS_PER_S: u32 = 100;

#[test]
fn nothing_configured_is_listed_as_recorded() {
    let (_, steps) = read("empty.txt");
    let mut model = Model::new();
    let zero = (Counters::default(), Rates::default());
    assert_eq!(steps.len(), 17);
    for step in &steps {
        assert_same(step, &mut model, zero);
    }
}

#[test]
fn every_listing_of_every_form_is_ipvsadms() {
    let (head, steps) = read("listings.txt");
    let rules: String = head.lines().skip(1).map(|rule| format!("{rule}\n")).collect();
    let mut model = Model::new();
    for rule in parse_rules(&rules, &Numeric).unwrap() {
        model.change(&rule.command).unwrap();
    }

    let none = (Counters::default(), Rates::default());
    assert_same(&steps[0], &mut model, none);
    traffic(&mut model.services);
    let totals = (counters([14, 24, 6, 3113, 240]), rates([1, 1, 0, 0x74, 9]));
    let mut compared = 1;
    for step in &steps[1..] {
        // xvs has no sync daemons to start, list and stop.
        if step.command.contains("-daemon") || step.output.contains("sync daemon (") {
            continue;
        }
        // The recording went on for two seconds.
        let passed = match step.command.as_str() {
            "ipvsadm -Lcn --sort" | "ipvsadm -Lcn --nosort" => 1,
            command if command.starts_with("cat") => 2,
            _ => 0,
        };
        model.flows = flows(passed);
        assert_same(step, &mut model, totals);
        compared += 1;
    }
    assert_eq!(compared, 50);
}

fn assert_same(step: &Step, model: &mut Model, totals: (Counters, Rates)) {
    let (counters, rates) = totals;
    let got = match step.command.strip_prefix("cat /proc/net/") {
        Some(file) => {
            let services = model.services().unwrap();
            let text = match file {
                "ip_vs" => proc_services(&services, 4096, TICKS_PER_S),
                "ip_vs_conn" => proc_conn(&model.flows),
                "ip_vs_conn_sync" => proc_conn_sync(&model.flows),
                "ip_vs_stats" => proc_stats(&counters, &rates),
                "ip_vs_stats_percpu" => proc_stats_percpu(&[counters], &counters, &rates),
                "ip_vs_app" => PROC_APP.to_owned(),
                other => panic!("{other} was not recorded"),
            };
            format!("{text}[exit 0]\n")
        }
        None if step.command.contains("| cmp - ") => save_and_restore(model),
        None => {
            let output = run(&step.command, model);
            let stderr = if output.err.is_empty() { "" } else { "[stderr]\n" };
            format!("{}{stderr}{}[exit {}]\n", output.out, output.err, output.status)
        }
    };
    assert_eq!(got, step.output, "\n$ {}\n{got}", step.command);
}

/// `ipvsadm -Sn > save; ipvsadm -C; ipvsadm -Ln; ipvsadm -R < save; ipvsadm -Sn | cmp - save`.
fn save_and_restore(model: &mut Model) -> String {
    let saved = run("ipvsadm -Sn", model).out;
    run("ipvsadm -C", model);
    let cleared = run("ipvsadm -Ln", model).out;
    let restore = format!("printf -- '{}' | ipvsadm -R", saved.replace('\n', "\\n"));
    assert_eq!(run(&restore, model).status, 0);
    let same = if run("ipvsadm -Sn", model).out == saved { "same" } else { "different" };
    format!("{cleared}{same}\n[exit 0]\n")
}

fn counters([conns, in_packets, out_packets, in_bytes, out_bytes]: [u64; 5]) -> Counters {
    Counters { conns, in_packets, out_packets, in_bytes, out_bytes }
}

fn rates([cps, in_pps, out_pps, in_bps, out_bps]: [u64; 5]) -> Rates {
    Rates { cps, in_pps, out_pps, in_bps, out_bps }
}

/// What the recorded traffic left behind: TCP with four handshakes and two FINs, and one packet to
/// each other service.
fn traffic(services: &mut [ServiceInfo]) {
    let web = &mut services[0];
    (web.counters, web.rates) = (counters([6, 16, 6, 2640, 240]), rates([0, 1, 0, 173, 15]));
    for (place, rate) in [(2, [0, 1, 0, 92, 8]), (1, [0, 0, 0, 81, 7])] {
        let real = &mut web.reals[place];
        (real.counters, real.rates) = (counters([3, 8, 3, 1320, 120]), rates(rate));
        (real.active, real.inactive) = (2, 1);
    }
    // Service, its real server in the kernel's order, octets, octets a second, and the load:
    // active, inactive, persistent.
    for (service, real, bytes, rate, load) in [
        (1, 1, 40, 3, [1, 0, 1]),
        (2, 0, 40, 3, [1, 0, 1]),
        (3, 0, 38, 3, [0, 0, 0]),
        (4, 0, 143, 10, [0, 1, 1]),
        (5, 0, 52, 4, [0, 0, 0]),
        (6, 1, 60, 4, [1, 0, 0]),
        (7, 0, 60, 4, [1, 0, 1]),
        (8, 0, 40, 3, [1, 0, 0]),
    ] {
        let (counters, rates) = (counters([1, 1, 0, bytes, 0]), rates([0, 0, 0, rate, 0]));
        let service = &mut services[service];
        (service.counters, service.rates) = (counters, rates);
        let real = &mut service.reals[real];
        (real.counters, real.rates) = (counters, rates);
        [real.active, real.inactive, real.persistent] = load;
    }
}

/// The recorded flows in the recorded order, `passed` seconds after the first list of them.
fn flows(passed: u32) -> Vec<FlowInfo> {
    let flow = |protocol, expires_s: u32, state, ends: [(&str, u16); 3]| {
        let [client, virt, real] =
            ends.map(|(addr, port)| (Addr::from(addr.parse::<IpAddr>().unwrap()), port));
        let expires_s = expires_s - passed;
        let (packets, bytes) = ((1, 0), (40, 0));
        FlowInfo { protocol, expires_s, state, client, virt, real, packets, bytes, engine: None }
    };
    let web = |expires_s, state, client: &str, port, real| {
        flow(6, expires_s, state, [(client, port), ("10.0.0.1", 80), (real, 8080)])
    };
    let [one, two] = ["10.2.0.11", "10.2.0.12"];
    let new = |ends| flow(6, 50, "SYN_RECV", ends);
    let mut flows = vec![
        flow(17, 290, "UDP", [("10.9.1.7", 5060), ("10.0.0.1", 5060), (one, 5060)]),
        flow(6, 350, "NONE", [("10.9.1.7", 0), ("10.0.0.2", 0), (one, 0)]),
        web(890, "ESTABLISHED", "10.9.0.10", 40003, two),
        web(890, "ESTABLISHED", "10.9.0.9", 40002, one),
        new([("10.9.1.7", 40106), ("10.0.0.4", 99), ("10.2.0.14", 99)]),
        web(110, "TIME_WAIT", "10.9.0.7", 40000, two),
        new([("10.9.1.7", 40100), ("10.0.0.1", 443), (one, 443)]),
        web(110, "TIME_WAIT", "10.9.0.8", 40001, one),
        new([("2001:db8:9::7", 40104), ("fd00::1", 80), ("fd02::11", 8080)]),
        new([("10.9.1.7", 40101), ("10.0.0.2", 2222), (one, 2222)]),
        flow(6, 590, "NONE", [("2001:db8:9:8::", 0), ("fd00::2", 0), ("fd02::11", 0)]),
        web(50, "SYN_RECV", "10.9.0.11", 40004, one),
        flow(6, 290, "NONE", [("10.9.1.0", 0), ("10.0.0.1", 443), (one, 443)]),
        web(50, "SYN_RECV", "10.9.0.12", 40005, two),
        new([("2001:db8:9:8:7:6:5:4", 40105), ("fd00::2", 22), ("fd02::11", 22)]),
        flow(17, 50, "NONE", [("10.9.1.7", 0), ("10.0.0.1", 5060), (one, 5060)]),
    ];
    let data = "abc123@10.9.1.7".to_owned();
    flows[15].engine = Some(EngineData { name: "sip".to_owned(), data });
    flows
}
