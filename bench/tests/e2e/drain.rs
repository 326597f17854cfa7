//! A real server taken out under load: nobody notices, and everybody who watches sees it.

use std::{
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use xvs_bench::lab::{Family, Method, Namespace, web::PORTS};

use crate::{Bed, configuration};

/// How long the load lasts: before, during and after the drain.
const LOAD_S: u32 = 9;

/// How long connections may take to end by themselves.
const DEADLINE_S: u32 = 5;

/// Load on keep-alive connections, or on a new connection for each request.
fn load(client: &Namespace, keep: bool) -> Child {
    let mut wrk = client.command("wrk");
    wrk.args(["-t", "1", "-c", "8", "--timeout", "5s", "-d", &format!("{LOAD_S}s")]);
    if !keep {
        wrk.args(["-H", "Connection: close"]);
    }
    wrk.arg(format!("http://{}/", Family::V4.vip()));
    wrk.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What it says at its end.
fn told(load: Child) -> String {
    let output = load.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_server_drained_under_load_and_removed_fails_no_request() {
    let Some(bed) = Bed::new() else { return };
    let balancer = bed.balancer(&configuration("native"));
    bed.world.answer_by(Method::Nat.gateway()).unwrap();
    let service = format!("-t {}:80", Family::V4.vip());
    balancer.adm.run(&format!("-A {service} -s rr")).unwrap();
    for real in &bed.world.reals {
        balancer.adm.run(&format!("-a {service} -r {}:{} -m", real.v4, PORTS[2])).unwrap();
    }
    let real = format!("-r {}:{}", bed.world.reals[0].v4, PORTS[2]);
    let mut watch = Command::new(balancer.adm.program())
        .arg("watch")
        .env("XVS_SERVER", format!("unix:{}", balancer.adm.socket().display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let loads = [true, false].map(|keep| load(&bed.world.client, keep));
    thread::sleep(Duration::from_secs(1));
    let drained =
        balancer.adm.run(&format!("drain {service} {real} --deadline {DEADLINE_S}s --then reset"));
    let drained = drained.unwrap();
    let listed = balancer.adm.run("-Ln").unwrap();
    balancer.adm.run(&format!("-d {service} {real}")).unwrap();
    let count = format!("flows --count --real {}", bed.world.reals[0].v4);
    let left = balancer.adm.run(&count).unwrap();
    for text in loads.map(told) {
        assert!(text.contains("Requests/sec"), "{text}");
        assert!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
        eprintln!("{}", text.lines().find(|line| line.starts_with("Requests/sec")).unwrap());
    }
    assert!(drained.contains("draining: ") && drained.contains(" left"), "{drained}");
    assert!(!drained.lines().last().unwrap().starts_with("draining"), "{drained}");
    let row = listed.lines().find(|line| line.contains(&bed.world.reals[0].v4.to_string()));
    let weight = row.unwrap().split_whitespace().nth(3);
    assert_eq!(weight, Some("0"), "{listed}");
    let total = left.lines().last().unwrap().split_whitespace().last();
    assert_eq!(total, Some("0"), "{left}");
    watch.kill().unwrap();
    let seen = watch.wait_with_output().unwrap();
    let seen = String::from_utf8_lossy(&seen.stdout);
    assert!(seen.contains("draining: ") && seen.contains(": delete real server"), "{seen}");
    eprintln!("{drained}");
}
