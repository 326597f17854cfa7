//! Much data: downloads that must arrive whole, and iperf3 both ways.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::Path,
    process::Command,
    time::Duration,
};

use xvs_bench::lab::{
    Balancer, Family, Method, Process,
    process::{output, run},
};

use crate::{Bed, configuration, is_long};

/// Writes `octets` that compress badly and repeat late: a 64-bit linear congruential sequence.
fn fill(path: &Path, octets: usize) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    let mut state = 1_u64;
    for _ in 0..octets / 8 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        file.write_all(&state.rotate_left(29).to_le_bytes()).unwrap();
    }
    file.flush().unwrap();
}

fn first_word(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).split_whitespace().next().unwrap_or_default().to_owned()
}

#[test]
fn a_big_download_arrives_whole() {
    let Some(bed) = Bed::new() else { return };
    let balancer = bed.balancer(&configuration("native"));
    let megabytes = if is_long() { 1000 } else { 64 };
    let file = bed.world.folder.path().join("blob");
    fill(&file, megabytes * 1_000_000);
    for web in &bed.world.webs {
        fs::hard_link(&file, web.documents().join("blob")).unwrap();
    }
    let want = first_word(&run(Command::new("sha256sum").arg(&file)).unwrap().stdout);
    assert_eq!(want.len(), 64);
    for method in Method::ALL {
        for family in Family::ALL {
            bed.serve(&balancer, method, family);
            let url = format!("http://{}/blob", family.host(family.vip()));
            let line = format!(
                "curl -sSg --noproxy '*' --max-time 300 -w '%{{stderr}}%{{speed_download}}' {url} | sha256sum"
            );
            let got = output(bed.world.client.command("sh").args(["-c", &line])).unwrap();
            let said = String::from_utf8_lossy(&got.stderr);
            let what = format!("{} over {}", method.name(), family.name());
            assert_eq!(first_word(&got.stdout), want, "{what}: {said}\n{}", balancer.log());
            eprintln!("{what}: {megabytes} MB arrived whole, {said} octets/s");
            balancer.adm.run("-C").unwrap();
        }
    }
}

/// Gbit/s that iperf3 measured at the receiver, and the segments that were sent again.
fn iperf3(bed: &Bed, family: Family, reverse: bool) -> (f64, u64) {
    let seconds = if is_long() { "10" } else { "2" };
    let mut command = bed.world.client.command("iperf3");
    command.args(["-J", "-t", seconds, "-c", &family.vip().to_string()]);
    if reverse {
        command.arg("-R");
    }
    let output = output(&mut command).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(output.status.success() && json.get("error").is_none(), "{text}");
    let end = &json["end"];
    let bits_per_s = end["sum_received"]["bits_per_second"].as_f64().unwrap();
    (bits_per_s * 1e-9, end["sum_sent"]["retransmits"].as_u64().unwrap())
}

fn iperf3_service(bed: &Bed, balancer: &Balancer, method: Method, family: Family) {
    bed.world.answer_by(method.gateway()).unwrap();
    let (vip, real) = (family.vip(), bed.world.reals[0].address(family));
    let (vip, real) = (family.host(vip), family.host(real));
    balancer.adm.run(&format!("-A -t {vip}:5201 -s rr")).unwrap();
    let option = method.option();
    if method == Method::FullNat {
        balancer.adm.run(&format!("local add {} --ports 20000-60000", family.local())).unwrap();
    }
    balancer.adm.run(&format!("-a -t {vip}:5201 -r {real}:5201 {option}")).unwrap();
}

#[test]
fn iperf3_runs_both_ways() {
    let Some(bed) = Bed::new() else { return };
    let balancer = bed.balancer(&configuration("native"));
    let real = &bed.world.reals[0].namespace;
    let log = bed.world.folder.path().join("iperf3.log");
    let mut command = real.command("iperf3");
    let mut server = Process::start("iperf3", command.args(["-s", "--forceflush"]), &log).unwrap();
    let listens = || fs::read_to_string(&log).is_ok_and(|text| text.contains("listening"));
    server.wait_until(Duration::from_secs(10), listens).unwrap();
    for method in Method::ALL {
        for family in Family::ALL {
            iperf3_service(&bed, &balancer, method, family);
            for reverse in [false, true] {
                let (speed, again) = iperf3(&bed, family, reverse);
                let way = if reverse { "from" } else { "to" };
                let what = format!("{} over {}, {way} the server", method.name(), family.name());
                assert!(speed > 0.0, "{what}");
                eprintln!("iperf3, {what}: {speed:.2} Gbit/s, {again} segments sent again");
            }
            balancer.adm.run("-C").unwrap();
        }
    }
}
