//! xvsd killed without warning: the kernel has its packets back, and a new one serves.

use xvs_bench::lab::{
    Family, Method, Tally,
    process::{output, run},
};

use crate::{Bed, configuration};

/// Whether an XDP program is attached to an interface of the load balancer.
fn is_steered(bed: &Bed, interface: &str) -> bool {
    let shown = run(bed.world.lb.command("ip").args(["-d", "link", "show", interface])).unwrap();
    String::from_utf8_lossy(&shown.stdout).contains("xdp")
}

/// Whether the load balancer's own address answers within a second.
fn answers_ping(bed: &Bed) -> bool {
    let mut ping = bed.world.client.command("ping");
    ping.args(["-n", "-q", "-c", "1", "-W", "1", "10.1.0.1"]);
    output(&mut ping).unwrap().status.success()
}

/// A service that the file holds, so that it is there as soon as the daemon is.
fn with_service(bed: &Bed) -> String {
    let mut text = configuration("native");
    text.push_str(&format!(
        "\n[[service]]\nprotocol = \"tcp\"\naddress = \"{}\"\nport = 80\nscheduler = \"rr\"\n",
        Family::V4.vip()
    ));
    for real in &bed.world.reals {
        text.push_str(&format!(
            "\n[[service.real]]\naddress = \"{}\"\nport = {}\nmethod = \"nat\"\n",
            real.v4,
            Method::Nat.port()
        ));
    }
    text
}

#[test]
fn after_sigkill_the_kernel_has_its_packets_and_a_restart_serves() {
    let Some(bed) = Bed::new() else { return };
    bed.world.answer_by(Method::Nat.gateway()).unwrap();
    let text = with_service(&bed);
    for round in 0..3 {
        let balancer = bed.balancer(&text);
        assert!(is_steered(&bed, "front") && is_steered(&bed, "back"));
        assert!(answers_ping(&bed), "what belongs to no service stays with the kernel");
        let tally = Tally::take(&bed.world.client, Family::V4.vip(), 9).unwrap();
        assert_eq!(tally.failures, [""; 0], "round {round}:\n{}", balancer.log());
        assert_eq!(tally.answers.len(), 3, "round {round}");
        balancer.kill().unwrap();
        assert!(answers_ping(&bed), "round {round}: the kernel does not answer");
        assert!(!is_steered(&bed, "front") && !is_steered(&bed, "back"));
    }
}

#[test]
fn a_stop_by_signal_leaves_nothing_attached() {
    let Some(bed) = Bed::new() else { return };
    let balancer = bed.balancer(&with_service(&bed));
    let socket = balancer.adm.socket().to_owned();
    drop(balancer);
    assert!(!socket.exists());
    assert!(!is_steered(&bed, "front") && !is_steered(&bed, "back"));
    assert!(answers_ping(&bed));
}
