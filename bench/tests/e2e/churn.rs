//! Configuration changes under load: no request notices.

use std::{
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use xvs_bench::lab::{Adm, Family, Method, Tally, World, web::PORTS};

use crate::{Bed, configuration, is_long};

/// Ten edits a second.
const PAUSE: Duration = Duration::from_millis(100);

/// Edits that a running service must survive, one a line: schedulers, weights (also 0, but never of
/// all), a real server and a whole service coming and going.
fn edits(world: &World) -> Vec<String> {
    let vip = Family::V4.vip();
    let [first, second, ..] = &world.reals[..] else { panic!("three real servers") };
    let port = Method::Nat.port();
    let service = format!("-t {vip}:{}", PORTS[0]);
    // A second port of the second machine; it never gets a connection that could be lost with it.
    let extra = format!("{service} -r {}:{}", second.v4, PORTS[0]);
    let mut lines = Vec::new();
    for scheduler in ["wrr", "lc", "sh", "mh", "wlc", "rr"] {
        lines.push(format!("-E {service} -s {scheduler}"));
        lines.push(format!("-e {service} -r {}:{port} -m -w 0", first.v4));
        lines.push(format!("-a {extra} -m -w 0"));
        lines.push(format!("-A -t {vip}:81 -s {scheduler}"));
        lines.push(format!("-e {service} -r {}:{port} -m -w 7", first.v4));
        lines.push(format!("-a -t {vip}:81 -r {}:{port} -m", second.v4));
        lines.push(format!("-d {extra}"));
        lines.push(format!("-D -t {vip}:81"));
    }
    lines
}

/// Carries out edits, over and over, until told to stop; gives back how many.
fn edit(adm: &Adm, lines: &[String], stop: &AtomicBool) -> usize {
    let mut count = 0;
    for line in lines.iter().cycle() {
        if stop.load(Relaxed) {
            break;
        }
        adm.run(line).unwrap();
        count += 1;
        thread::sleep(PAUSE);
    }
    count
}

#[test]
fn no_request_fails_while_services_are_edited() {
    let Some(bed) = Bed::new() else { return };
    let balancer = bed.balancer(&configuration("native"));
    bed.serve(&balancer, Method::Nat, Family::V4);
    let lines = edits(&bed.world);
    let seconds = if is_long() { 10 } else { 4 };
    let mut wrk = bed.world.client.command("wrk");
    wrk.args(["-t", "1", "-c", "64", "--timeout", "5s"]);
    wrk.args(["-d", &format!("{seconds}s"), &format!("http://{}/", Family::V4.vip())]);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let editor = scope.spawn(|| edit(&balancer.adm, &lines, &stop));
        let load = wrk.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Meanwhile others open connections of their own.
        let mut opened = Tally::default();
        for _ in 0..seconds {
            let tally = Tally::take(&bed.world.client, Family::V4.vip(), 20).unwrap();
            opened.failures.extend(tally.failures);
        }
        let printed = load.wait_with_output().unwrap();
        stop.store(true, Relaxed);
        let edited = editor.join().unwrap();
        let text = String::from_utf8_lossy(&printed.stdout);
        assert!(printed.status.success() && text.contains("Requests/sec"), "{text}");
        assert!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
        assert_eq!(opened.failures, [""; 0]);
        assert!(edited > 10, "only {edited} edits");
        let rate = text.lines().find(|line| line.starts_with("Requests/sec")).unwrap();
        eprintln!("{edited} edits under load, {rate}, no request failed");
    });
}
