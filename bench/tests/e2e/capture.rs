//! `xvsadm capture`: real packets, before and after, in a file that others read.

use std::{
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use dataplane::io::pcap::capture::{Capture, End};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use xvs_bench::lab::{Balancer, Family, Method, Tally};

use crate::{Bed, configuration};

/// Runs `xvsadm capture` while a client asks once; gives back what it said.
fn captured(bed: &Bed, balancer: &Balancer, arguments: &[&str]) -> String {
    let capture = Command::new(balancer.adm.program())
        .arg("capture")
        .args(arguments)
        .env("XVS_SERVER", format!("unix:{}", balancer.adm.socket().display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(500));
    let tally = Tally::take(&bed.world.client, Family::V4.vip(), 1).unwrap();
    assert_eq!(tally.answered(), 1, "{:?}", tally.failures);
    let said = capture.wait_with_output().unwrap();
    assert!(said.status.success());
    String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr)
}

/// Source and destination of a TCP packet.
fn ends(frame: &[u8]) -> Option<(String, String)> {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    match (&sliced.net, &sliced.transport) {
        (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) => {
            let (from, to) = (ip.header().source_addr(), ip.header().destination_addr());
            Some((
                format!("{from}:{}", tcp.source_port()),
                format!("{to}:{}", tcp.destination_port()),
            ))
        }
        _ => None,
    }
}

#[test]
fn a_request_is_captured_before_and_after_nat() {
    let Some(bed) = Bed::new() else { return };
    for mode in ["native", "raw"] {
        let balancer = bed.balancer(&configuration(mode));
        bed.serve(&balancer, Method::Nat, Family::V4);
        let path = bed.world.folder.path().join("capture.pcapng");
        let file = path.to_str().unwrap();
        let vip = Family::V4.vip().to_string();
        let said =
            captured(&bed, &balancer, &["-w", file, "--client", "10.1.0.2", "--seconds", "2"]);
        assert!(said.contains(" packets captured") && !said.contains("no room"), "{said}");
        let capture = Capture::open(&path).unwrap();
        let mut records = capture.records();
        let frames: Vec<_> = records.by_ref().map(|record| record.data.to_vec()).collect();
        assert_eq!(records.end(), Some(&End::Whole).copied());
        let seen: Vec<_> = frames.iter().filter_map(|frame| ends(frame)).collect();
        let is = |from: &str, to: &str| {
            seen.iter().any(|(source, destination)| {
                source.starts_with(from) && destination.starts_with(to)
            })
        };
        // Each way on both sides.
        assert!(is("10.1.0.2:", &format!("{vip}:80")), "{seen:?}");
        assert!(is("10.1.0.2:", "10.2.0.1"), "{seen:?}");
        assert!(is("10.2.0.1", "10.1.0.2:"), "{seen:?}");
        assert!(is(&format!("{vip}:80"), "10.1.0.2:"), "{seen:?}");
        let said = captured(&bed, &balancer, &["--virtual", &format!("{vip}:80"), "-c", "3"]);
        assert!(said.contains("front in  #1 sent on by back: "), "{said}");
        assert!(said.contains("back out #1 as it leaves: ") && said.contains("TCP"), "{said}");
        assert!(said.contains("3 packets captured"), "{said}");
    }
}
