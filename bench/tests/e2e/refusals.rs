//! Bad input: a message that names the culprit, an exit code, and nothing changed.

use std::{
    ffi::OsStr,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use xvs_bench::lab::{Balancer, Family, Method, Process, Tally, process::own};

use crate::{Bed, configuration};

/// Lines for xvsadm, what the message must hold, and the exit code: ipvsadm's where ipvsadm has the
/// command, so some name the culprit by its kind alone.
const COMMANDS: [(&str, &str, i32); 16] = [
    ("-A -t 10.1.0.101:80 -s nonsense", "Scheduler or persistence engine not found", 255),
    ("-A -t 10.1.0.300:80", "illegal virtual server address[:port] specified", 2),
    ("-A -t 10.1.0.101:70000", "illegal virtual server address[:port] specified", 2),
    ("-A -t 10.1.0.101:0", "Zero port specified for non-persistent service", 2),
    ("-A -t 10.1.0.100:80", "Service already exists", 255),
    ("-A -t 10.1.0.101:80 --nonsense", "--nonsense: unknown option", 255),
    ("-E -t 10.1.0.101:80 -s rr", "No such service", 255),
    ("-D -t 10.1.0.101:80", "No such service", 255),
    ("-a -t 10.1.0.101:80 -r 10.2.0.11:80", "Service not defined", 255),
    ("-a -t 10.1.0.100:80 -r 10.2.0.11:8080 -m", "Destination already exists", 255),
    ("-a -t 10.1.0.100:80 -r 10.2.0.14:80 -m -w -1", "illegal weight specified", 2),
    ("-a -t 10.1.0.100:80 -r 10.2.0.14:80 -m -w 99999999999", "illegal weight specified", 2),
    ("-a -t 10.1.0.100:80 -r [fd02::11]:80 -m", "Different address family is allowed only", 2),
    ("-d -t 10.1.0.100:80 -r 10.2.0.14:80", "No such destination", 255),
    ("set nonsense 1", "setting: `nonsense` is not one of", 255),
    ("set conn_reuse_mode x", "setting.value: `x` is not a number", 255),
];

/// Configurations for `xvsadm apply`, and what the message must hold.
const FILES: [(&str, &str); 6] = [
    ("scheduler = \"rrr\"", "service[0].scheduler: unknown scheduler `rrr`; did you mean `rr`?"),
    ("adress = \"10.1.0.1\"", "unknown field `adress`; did you mean `address`?"),
    ("address = \"10.1.0.300\"", "service[0].address: "),
    ("port = 0", "service[0]"),
    ("port = 65536", "service[0].port: "),
    ("persistence_seconds = -1", "service[0].persistence_seconds: "),
];

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
    let file = bed.world.folder.path().join("bad.toml");
    for (wrong, message) in FILES {
        let name = wrong.split(' ').next().unwrap();
        let good = ["protocol = \"tcp\"", "address = \"10.1.0.101\"", "port = 80"];
        let others = good.iter().filter(|line| !line.starts_with(name));
        let lines: Vec<_> = others.copied().chain([wrong]).collect();
        fs::write(&file, format!("[[service]]\n{}\n", lines.join("\n"))).unwrap();
        let output = balancer.adm.output(&["apply", "-f", file.to_str().unwrap()]).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{wrong}: {said}");
        assert!(said.contains("bad.toml") && said.contains(message), "{wrong}: {said}");
        assert_eq!(balancer.adm.run("-S -n").unwrap(), before, "{wrong} changed something");
    }
    let tally = Tally::take(&bed.world.client, Family::V4.vip(), 3).unwrap();
    assert_eq!(tally.failures, [""; 0]);
}

/// Starts a daemon, its files in `folder`, that must end by itself; gives back its exit code and
/// what it said. `wrapper` is a command in front.
fn refused(bed: &Bed, folder: &Path, text: &str, wrapper: &[&str]) -> (Option<i32>, String) {
    let (_, _, file) = Balancer::prepare(&bed.world.lb, folder, text).unwrap();
    // A copy, because nobody may not reach the original everywhere.
    let program = folder.join("xvsd");
    fs::copy(own("xvsd").unwrap(), &program).unwrap();
    let mut words: Vec<&OsStr> = wrapper.iter().map(OsStr::new).collect();
    words.extend([program.as_os_str(), OsStr::new("--config"), file.as_os_str()]);
    let mut command = bed.world.lb.command(words[0]);
    let log = folder.join("refused.log");
    let mut process = Process::start("xvsd", command.args(&words[1..]), &log).unwrap();
    let status = process.wait_end(Duration::from_secs(20)).unwrap();
    (status.code(), process.printed())
}

/// A folder that everybody may use, so that a daemon without privileges fails at what it may not do
/// and not at its files.
fn folder(bed: &Bed, name: &str) -> PathBuf {
    let folder = bed.world.folder.path().join(name);
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
    folder
}

#[test]
fn xvsd_refuses_by_name_and_exits() {
    let Some(bed) = Bed::new() else { return };
    let good = configuration("native");
    let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"];
    let table: [(&str, String, &[&str], &str, i32); 5] = [
        ("unknown field", good.replace("flows", "flow"), &[], "did you mean `flows`?", 2),
        ("out of range", good.replace("65_536", "7"), &[], "daemon.flows: ", 2),
        ("missing interface", good.replace("front", "absent"), &[], "xvsd: absent: ", 1),
        ("no privileges", good.clone(), &nobody, "xvsd needs root, or CAP_NET_ADMIN", 1),
        ("no privileges, raw", configuration("raw"), &nobody, "xvsd needs root, or CAP_", 1),
    ];
    for (what, text, wrapper, message, code) in table {
        let (exit, said) = refused(&bed, &folder(&bed, what), &text, wrapper);
        assert_eq!(exit, Some(code), "{what}: {said}");
        assert!(said.contains(message), "{what}: {said}");
    }
}

#[test]
fn a_second_xvsd_on_an_interface_is_refused_and_the_first_serves_on() {
    let Some(bed) = Bed::new() else { return };
    let balancer = bed.balancer(&configuration("native"));
    bed.serve(&balancer, Method::Nat, Family::V4);
    let (exit, said) = refused(&bed, &folder(&bed, "second"), &configuration("native"), &[]);
    assert_eq!(exit, Some(1), "{said}");
    assert!(said.contains("front: another xvsd has this interface"), "{said}");
    let (exit, said) = refused(&bed, bed.world.folder.path(), &configuration("native"), &[]);
    assert_eq!(exit, Some(1), "{said}");
    assert!(said.contains("another xvsd is running there"), "{said}");
    let tally = Tally::take(&bed.world.client, Family::V4.vip(), 3).unwrap();
    assert_eq!(tally.failures, [""; 0]);
}
