//! `xvs-bench` as it is called from outside: exit statuses, last lines, and that a seed repeats a run.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Runs `xvs-bench`.
fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xvs-bench")).args(args).output().expect("the program runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("the program writes text")
}

fn fixtures(below: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(below);
    root.to_str().expect("the path is text").to_owned()
}

/// An empty folder of this test's own.
fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    drop(std::fs::remove_dir_all(&path));
    std::fs::create_dir_all(&path).expect("the folder can be made");
    path
}

/// What does not differ between two runs.
fn without_time(output: &Output) -> String {
    let text = stdout(output);
    let lines = text.lines().filter(|line| !line.starts_with("time"));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn every_recording_is_met() {
    let output = bench(&["conform", &fixtures("golden")]);
    let text = stdout(&output);
    let failures: Vec<_> = text.lines().filter(|line| line.starts_with("FAIL")).collect();
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(output.status.success());
    let last = text.lines().last().unwrap_or_default();
    assert!(last.ends_with(" passed, 0 failed"), "{last}");
}

#[test]
fn a_folder_without_recordings_is_no_success() {
    let empty = scratch("no-recordings");
    let output = bench(&["conform", empty.to_str().expect("the path is text")]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_changed_recording_fails_by_name_and_step() {
    let folder = scratch("changed").join("sched");
    std::fs::create_dir_all(&folder).expect("the folder can be made");
    let text = std::fs::read_to_string(fixtures("golden/sched/rr-eq-syn.seq"))
        .expect("the fixture is there");
    let changed = text.replacen("= 10.2.0.14:80", "= 10.2.0.11:80", 1);
    assert_ne!(changed, text);
    std::fs::write(folder.join("rr-eq-syn.seq"), changed).expect("the folder can be written to");
    let output = bench(&["conform", folder.to_str().expect("the path is text")]);
    let text = stdout(&output);
    assert!(text.contains("FAIL sched/rr-eq-syn: step "), "{text}");
    assert!(text.contains("expected 10.2.0.11:80, got 10.2.0.14:80"), "{text}");
    assert!(text.ends_with("0 passed, 1 failed\n"), "{text}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_folder_of_captures_is_replayed_and_counted() {
    let output = bench(&["replay", "--in", &fixtures("golden/fwd"), "--workers", "2"]);
    assert!(output.status.success());
    let text = stdout(&output);
    assert!(text.contains("nat4.json: is neither a pcap nor a pcapng file: passed over"), "{text}");
    let last = text.lines().last().unwrap_or_default();
    assert!(last.ends_with(" packets") && last.contains(" files, "), "{last}");
}

#[test]
fn what_is_no_capture_ends_with_status_2_and_one_line() {
    for file in [fixtures("README.md"), fixtures("no-such-file")] {
        let output = bench(&["replay", "--in", &file]);
        assert_eq!(output.status.code(), Some(2));
        let errors = String::from_utf8(output.stderr).expect("the program writes text");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(errors.contains(&file), "{errors}");
    }
}

#[test]
fn a_seed_repeats_a_run_and_what_left_can_be_replayed() {
    let capture = fixtures("golden/fwd/nat4.in.pcap");
    let rules = scratch("rules").join("rules");
    std::fs::write(&rules, "-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.2.0.11:8080 -m\n")
        .expect("the folder can be written to");
    let out = scratch("left");
    let args = |folder: &str| -> Vec<String> {
        let rules = rules.to_str().expect("the path is text");
        [
            "replay", "--in", &capture, "--rules", rules, "--seed", "5", "--loop", "2", "--out",
            folder,
        ]
        .map(str::to_owned)
        .into()
    };
    let run = |folder: &Path| {
        let args = args(folder.to_str().expect("the path is text"));
        bench(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let (first, second) = (run(&out.join("1")), run(&out.join("2")));
    assert!(first.status.success());
    assert_eq!(without_time(&first), without_time(&second));
    assert!(stdout(&first).contains("10.2.0.11:8080: "));
    for device in ["client.pcap", "backend.pcap"] {
        let left = |run: &str| std::fs::read(out.join(run).join(device)).expect("it was written");
        assert_eq!(left("1"), left("2"));
    }
    let again = out.join("1/backend.pcap");
    let output = bench(&["replay", "--in", again.to_str().expect("the path is text")]);
    assert!(output.status.success());
}

#[test]
fn rules_that_are_refused_are_told_with_their_line() {
    let rules = scratch("bad-rules").join("rules");
    std::fs::write(&rules, "-A -t 10.0.0.1:80 -s rr\n-A -t 10.0.0.1:80 -s rr\n")
        .expect("the folder can be written to");
    let rules = rules.to_str().expect("the path is text");
    let capture = fixtures("golden/fwd/nat4.in.pcap");
    let output = bench(&["replay", "--in", &capture, "--rules", rules]);
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8(output.stderr).expect("the program writes text");
    assert!(errors.contains("line 2") && errors.contains("already exists"), "{errors}");
}

#[test]
fn the_pipeline_report_has_the_keys_that_others_read() {
    let output = bench(&["pipeline", "--flows", "2000", "--json"]);
    assert!(output.status.success());
    let report: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("one JSON object");
    let keys: Vec<_> = report.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "method",
            "flows",
            "workers",
            "ns_per_packet",
            "mpps",
            "hot_ns",
            "bound_ns",
            "ratio",
            "bytes_per_flow",
            "allocations",
            "family",
            "new",
            "frames",
            "cold",
            "rounds",
            "bare_ns",
            "hot_ratio",
            "private_ns",
            "shared_ratio",
            "flood_ratio",
            "flood_beside_ratio",
            "sweep_percent",
            "pages",
            "floor_ns",
            "alone_ratio"
        ]
    );
    assert_eq!(report["allocations"], 0);
}
