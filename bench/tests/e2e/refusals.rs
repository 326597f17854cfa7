//! Bad input: a message that names the culprit, an exit code, and nothing changed.

use std::{path::Path, time::Duration};

use xvs_bench::lab::{Balancer, Family, Method, Process, Tally};

use crate::{Bed, configuration};

/// Lines for xvsadm, what the message must hold, and the exit code.
const COMMANDS: [(&str, &str, i32); 1] = [("", "", 0)];

#[test]
fn xvsadm_refuses_by_name_and_changes_nothing() {
    let Some(bed) = Bed::new() else { return };
    let balancer = bed.balancer(&configuration("native"));
    bed.serve(&balancer, Method::Nat, Family::V4);
    let before = balancer.adm.run("-S -n").unwrap();
    for (line, message, code) in COMMANDS {
        let words: Vec<_> = line.split_whitespace().collect();
        let output = balancer.adm.output(&words).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "xvsadm {line}: {said}");
        assert!(said.contains(message), "xvsadm {line}: {said}");
        assert_eq!(balancer.adm.run("-S -n").unwrap(), before, "xvsadm {line} changed something");
    }
    let tally = Tally::take(&bed.world.client, Family::V4.vip(), 3).unwrap();
    assert_eq!(tally.failures, [""; 0]);
}

/// Starts a daemon that must end by itself; gives back its exit code and what it said.
fn refused(bed: &Bed, folder: &Path, text: &str, wrapper: &[&str]) -> (Option<i32>, String) {
    let (command, _, _) = Balancer::prepare(&bed.world.lb, folder, text).unwrap();
    let mut words = wrapper.to_vec();
    let own: Vec<_> = command.get_args().map(|word| word.to_str().unwrap()).collect();
    // Behind nsenter and setpriv, which every command of a namespace begins with.
    let at = own.iter().rposition(|word| *word == "--").unwrap() + 1;
    words.extend(&own[at..]);
    let mut command = bed.world.lb.command(words[0]);
    let log = folder.join("refused.log");
    std::fs::remove_file(&log).ok();
    let mut process = Process::start("xvsd", command.args(&words[1..]), &log).unwrap();
    let status = process.wait_end(Duration::from_secs(20)).unwrap();
    (status.code(), process.printed())
}

#[test]
fn xvsd_refuses_by_name_and_exits() {
    let Some(bed) = Bed::new() else { return };
    let folder = bed.world.folder.path().join("second");
    std::fs::create_dir(&folder).unwrap();
    let good = configuration("native");
    let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"];
    let table: [(&str, String, &[&str], &str, i32); 3] = [
        ("unknown field", good.replace("flows", "flow"), &[], "flow", 2),
        ("missing interface", good.replace("front", "absent"), &[], "absent", 1),
        ("no privileges", good.clone(), &nobody, "", 1),
    ];
    for (what, text, wrapper, message, code) in table {
        let (exit, said) = refused(&bed, &folder, &text, wrapper);
        assert_eq!(exit, Some(code), "{what}: {said}");
        assert!(said.contains(message), "{what}: {said}");
    }
}

#[test]
fn a_second_xvsd_on_an_interface_is_refused_and_the_first_serves_on() {
    let Some(bed) = Bed::new() else { return };
    let balancer = bed.balancer(&configuration("native"));
    bed.serve(&balancer, Method::Nat, Family::V4);
    let folder = bed.world.folder.path().join("second");
    std::fs::create_dir(&folder).unwrap();
    let (exit, said) = refused(&bed, &folder, &configuration("native"), &[]);
    assert_eq!(exit, Some(1), "{said}");
    assert!(said.contains("front"), "{said}");
    let (exit, said) = refused(&bed, bed.world.folder.path(), &configuration("native"), &[]);
    assert_eq!(exit, Some(1), "{said}");
    assert!(said.contains("another xvsd is running there"), "{said}");
    let tally = Tally::take(&bed.world.client, Family::V4.vip(), 3).unwrap();
    assert_eq!(tally.failures, [""; 0]);
}
