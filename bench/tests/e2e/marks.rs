//! Real HTTP to many addresses behind one firewall mark.

use std::net::IpAddr;

use xvs_bench::lab::{Method, Tally, process::output};

use crate::{Bed, configuration};

/// Addresses that nobody but the mark knows.
const INSIDE: [&str; 4] = ["10.3.0.1", "10.3.77.7", "fd03::1", "fd03::abcd:1"];

/// Requests to each address.
const REQUESTS: usize = 9;

fn serve_by_mark(mode: &str, port: &str) {
    let Some(bed) = Bed::new() else { return };
    let balancer = bed.balancer(&configuration(mode));
    bed.world.answer_by(Method::Nat.gateway()).unwrap();
    bed.world
        .client
        .ip("route add 10.3.0.0/16 via 10.1.0.1 dev c0\nroute add fd03::/64 via fd01::1 dev c0")
        .unwrap();
    for line in [
        "mark add 5 --to 10.3.0.0/16 --port 80-90 --protocol tcp",
        "mark add 5 --to fd03::/64",
        "-A -f 5 -s rr",
        "-A -f 5 -6 -s rr",
    ] {
        balancer.adm.run(line).unwrap();
    }
    for real in &bed.world.reals {
        balancer.adm.run(&format!("-a -f 5 -r {}{port} -m", real.v4)).unwrap();
        let v6 = if port.is_empty() { real.v6.to_string() } else { format!("[{}]{port}", real.v6) };
        balancer.adm.run(&format!("-a -f 5 -6 -r {v6} -m")).unwrap();
    }
    let ask = |addr: &str| {
        let addr: IpAddr = addr.parse().unwrap();
        Tally::take(&bed.world.client, addr, REQUESTS).unwrap()
    };
    for addr in INSIDE {
        let tally = ask(addr);
        assert_eq!(tally.failures, [""; 0], "{addr} over {mode}:\n{}", balancer.log());
        let answers: Vec<_> = tally.answers.values().copied().collect();
        assert_eq!(answers, [REQUESTS / 3; 3], "{addr}: rr gives equal shares");
        let mut ping = bed.world.client.command("ping");
        ping.args(["-c", "1", "-W", "2", addr]);
        assert!(output(&mut ping).unwrap().status.success(), "an echo to {addr} is answered");
    }
    let listed = balancer.adm.run("-L -n").unwrap();
    assert!(listed.contains("FWM  5 rr") && listed.contains("FWM  5 IPv6 rr"), "{listed}");
    let rules = balancer.adm.run("mark list").unwrap();
    assert_eq!(rules, "5 --to 10.3.0.0/16 --ports 80-90 --protocol tcp\n5 --to fd03::/64\n");

    // A rule behind the others takes one address out again.
    balancer.adm.run("mark add 0 --to 10.3.0.1").unwrap();
    assert_eq!(ask("10.3.0.1").answered(), 0);
    assert_eq!(ask("10.3.0.2").answered(), REQUESTS);
    balancer.adm.run("mark remove 0 --to 10.3.0.1").unwrap();
    assert_eq!(ask("10.3.0.1").answered(), REQUESTS);
}

#[test]
fn a_mark_serves_prefixes_over_af_xdp() {
    serve_by_mark("native", "");
}

#[test]
fn a_mark_serves_prefixes_over_raw_sockets_and_maps_ports() {
    serve_by_mark("raw", ":8080");
}
