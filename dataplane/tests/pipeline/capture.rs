//! What a capture sees of a worker.

use std::sync::Arc;

use xvs_dataplane::{
    capture::{Capture, Filter, Record, SNAP_MAX, Stage},
    endpoint::Method,
    verdict::{DropReason, Verdict},
};

use crate::support::{
    lab::{Lab, read, tcp},
    network::{BACKEND, CLIENT},
};

fn taken(capture: &Capture) -> Vec<Record> {
    std::iter::from_fn(|| capture.take()).map(|record| *record).collect()
}

#[test]
fn a_capture_shows_packets_on_both_sides_of_nat_from_its_beginning_to_its_end() {
    let (client, vip, real) = ("10.9.0.7", "10.0.0.1", "10.2.0.11");
    let mut it = Lab::with(Method::Nat, vip, &[real], 8080);
    let syn = |port| tcp((client, port), (vip, 80), "S", b"");
    it.pass(CLIENT, &syn(1025));
    let capture = Arc::new(Capture::new(Filter::default(), SNAP_MAX));
    assert!(it.director.begin_capture(&capture));
    it.publish();
    it.pass(CLIENT, &syn(1026));
    it.pass(BACKEND, &tcp((real, 8080), (client, 1026), "SA", b""));
    let kept = taken(&capture);
    let stages: Vec<_> =
        kept.iter().map(|record| (record.number, record.stage, record.device)).collect();
    assert_eq!(
        stages,
        [
            (1, Stage::Received, CLIENT),
            (1, Stage::Sent, BACKEND),
            (2, Stage::Received, BACKEND),
            (2, Stage::Sent, CLIENT)
        ]
    );
    assert_eq!(kept[0].data, syn(1026));
    assert_eq!(kept[0].verdict, Verdict::Tx(BACKEND));
    let ends = |record: &Record| {
        let (source, destination, ..) = read(&record.data);
        (source, destination)
    };
    let want = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    assert_eq!(ends(&kept[1]), want("10.9.0.7 1026", "10.2.0.11 8080"));
    assert_eq!(ends(&kept[3]), want("10.0.0.1 80", "10.9.0.7 1026"));
    // A packet that the box answers itself, and the answer.
    it.pass(CLIENT, &tcp((client, 7), (vip, 80), "A", b""));
    let kept = taken(&capture);
    assert_eq!((kept[0].stage, kept[0].verdict), (Stage::Received, Verdict::Consumed));
    assert_eq!((kept[1].stage, kept[1].device), (Stage::Originated, CLIENT));
    // A packet that is dropped.
    let mut broken = syn(1027);
    broken[24] ^= 1;
    it.pass(CLIENT, &broken);
    let kept = taken(&capture);
    assert_eq!(kept[0].verdict, Verdict::Drop(DropReason::BadHeaderChecksum));
    it.director.end_capture(&capture);
    it.publish();
    it.pass(CLIENT, &syn(1028));
    assert!(taken(&capture).is_empty() && capture.lost() == 0);
}

#[test]
fn there_are_only_so_many_captures_at_once() {
    let mut it = Lab::with(Method::Nat, "10.0.0.1", &["10.2.0.11"], 80);
    let captures: [_; 5] = std::array::from_fn(|_| Arc::new(Capture::new(Filter::default(), 64)));
    let begun = captures.each_ref().map(|capture| it.director.begin_capture(capture));
    assert_eq!(begun, [true, true, true, true, false]);
    it.director.end_capture(&captures[2]);
    assert!(it.director.begin_capture(&captures[4]));
    it.publish();
    it.pass(CLIENT, &tcp(("10.9.0.7", 1), ("10.0.0.1", 80), "S", b""));
    let kept = captures.map(|capture| taken(&capture).len());
    assert_eq!(kept, [2, 2, 0, 2, 2]);
}
