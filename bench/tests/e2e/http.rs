//! Real HTTP through every forwarding method, over IPv4 and IPv6.

use xvs_bench::lab::{Balancer, Family, Method, Tally};

use crate::{Bed, configuration};

/// Requests for each method and family.
const REQUESTS: usize = 30;

/// Every server gets its exact share, and the daemon has counted each request.
fn serve_all(mode: &str, reached: &str) {
    let Some(bed) = Bed::new() else { return };
    let balancer = bed.balancer(&configuration(mode));
    reached_on(&balancer, &["front", "back"], reached);
    every_method(&bed, &balancer);
}

/// The same on a box whose only interface is on the link of clients and servers alike.
fn serve_one_armed(mode: &str, reached: &str) {
    let Some(bed) = Bed::new() else { return };
    bed.world.one_armed().unwrap();
    let only =
        format!("[daemon]\nflows = 65_536\n\n[[interface]]\nname = \"back\"\nmode = \"{mode}\"\n");
    let balancer = bed.balancer(&only);
    reached_on(&balancer, &["back"], reached);
    every_method(&bed, &balancer);
}

/// The mode that these interfaces reached, as `info` tells it.
fn reached_on(balancer: &Balancer, interfaces: &[&str], reached: &str) {
    let info = balancer.adm.run("info").unwrap();
    for interface in interfaces {
        let is_reached = |line: &str| line.starts_with(interface) && line.contains(reached);
        assert!(info.lines().any(is_reached), "{interface} is not {reached}:\n{info}");
    }
}

/// HTTP by every method in both families.
fn every_method(bed: &Bed, balancer: &Balancer) {
    for method in Method::ALL {
        for family in Family::ALL {
            bed.serve(balancer, method, family);
            let tally = Tally::take(&bed.world.client, family.vip(), REQUESTS).unwrap();
            let what = format!("{} over {}", method.name(), family.name());
            assert_eq!(tally.failures, [""; 0], "{what}:\n{}", balancer.log());
            let answers: Vec<_> = tally.answers.values().copied().collect();
            assert_eq!(answers, [REQUESTS / 3; 3], "{what}: rr gives equal shares");
            let listed = balancer.adm.run("-L -n --stats").unwrap();
            let row = listed.lines().find(|line| line.starts_with("TCP")).unwrap();
            let conns = row.split_whitespace().nth(2).unwrap();
            assert_eq!(conns, REQUESTS.to_string(), "{what}:\n{listed}");
            balancer.adm.run("-C").unwrap();
        }
    }
}

#[test]
fn every_method_serves_http_over_af_xdp() {
    serve_all("native", "native");
}

#[test]
fn every_method_serves_http_over_af_xdp_in_generic_mode() {
    serve_all("generic", "generic");
}

#[test]
fn every_method_serves_http_over_raw_sockets() {
    serve_all("raw", "raw");
}

#[test]
fn a_one_armed_box_serves_http_over_af_xdp() {
    serve_one_armed("native", "native");
}

#[test]
fn a_one_armed_box_serves_http_over_raw_sockets() {
    serve_one_armed("raw", "raw");
}
