//! `xvsadm`, the program, against a daemon's API on a real unix socket.
//!
//! A link named `ipvsadm` lets the recorded command lines run as they were written, by a real shell.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output},
    sync::Arc,
};

use dataplane::{
    director::{Director, network::Network},
    endpoint::Endpoints,
    flow::{FlowTable, HashKey, Pages, TableConfig},
    stats::Stats,
    steering::{SteeringError, rules::SteeringRules},
};
use tokio::{runtime::Runtime, sync::watch};
use xvs_control::{
    engine::{
        Engine,
        fleet::{Fleet, Machine, OpenError, Opened},
        publish::Surroundings,
    },
    server::{self, listen::UnixSocket},
};

/// Services and real servers that fit; what was removed still takes its place for a while.
const ENDPOINTS: u32 = 4096;

/// Devices of a box that has none.
#[derive(Debug)]
struct NoDevices;

impl Machine for NoDevices {
    fn open(&mut self) -> Result<Opened, OpenError> {
        Ok(Opened { interfaces: vec![], workers: vec![] })
    }

    fn steer(&mut self, _: &SteeringRules) -> Result<(), SteeringError> {
        Ok(())
    }

    fn close(&mut self) {}
}

/// A daemon without workers, and programs that talk to it.
struct Daemon {
    folder: tempfile::TempDir,
    _runtime: Runtime,
    _socket: UnixSocket,
    _stop: watch::Sender<bool>,
    _network: watch::Sender<Network>,
}

impl Daemon {
    fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let stats = Stats::new(1, ENDPOINTS as usize);
        let endpoints = Arc::new(Endpoints::new(ENDPOINTS as usize));
        let director = Director::new(endpoints, stats.clone());
        let table =
            TableConfig { pages: Pages::Small, ..TableConfig::new(4096, 1, HashKey::from_seed(1)) };
        let table = Arc::new(FlowTable::new(&table).unwrap());
        let engine = Arc::new(Engine::new(director, stats.clone(), table));
        let fleet = Fleet::new(Box::new(NoDevices), stats, &[]);
        let (stop, stopped) = watch::channel(false);
        let (network, networks) = watch::channel(Network::default());
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixSocket::bind(&folder.path().join("xvsd.sock")).unwrap();
        let (_, routes) = server::routes(&engine);
        let entered = runtime.enter();
        let listener = socket.listener().unwrap();
        let surroundings = Surroundings { network: networks, hops: None };
        tokio::spawn(Arc::clone(&engine).publish(fleet, surroundings, stopped.clone()));
        tokio::spawn(server::serve_unix(listener, routes, stopped));
        drop(entered);
        symlink(env!("CARGO_BIN_EXE_xvsadm"), folder.path().join("xvsadm")).unwrap();
        symlink(env!("CARGO_BIN_EXE_xvsadm"), folder.path().join("ipvsadm")).unwrap();
        Self { folder, _runtime: runtime, _socket: socket, _stop: stop, _network: network }
    }

    /// Runs a shell's command line that finds `xvsadm` and `ipvsadm`.
    fn shell(&self, line: &str) -> Output {
        let folder = self.folder.path().display();
        let path = std::env::var("PATH").unwrap();
        Command::new("sh")
            .args(["-c", line])
            .env("PATH", format!("{folder}:{path}"))
            .env("XVS_SERVER", format!("unix:{folder}/xvsd.sock"))
            .current_dir(self.folder.path())
            .output()
            .unwrap()
    }

    /// The same for a command that succeeds; gives back what it printed.
    fn run(&self, line: &str) -> String {
        let output = self.shell(line);
        let [out, err] = [&output.stdout, &output.stderr].map(|text| text_of(text));
        assert!(output.status.success() && err.is_empty(), "$ {line}\n{out}{err}");
        out
    }
}

fn text_of(octets: &[u8]) -> String {
    String::from_utf8(octets.to_vec()).unwrap()
}

/// The steps of a recording: command line, and what it printed up to its exit status.
fn recorded(name: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/golden/text");
    let text = fs::read_to_string(folder.join(name)).unwrap();
    let step = |part: &str| {
        let (command, rest) = part.split_once('\n').unwrap();
        let end = rest.find("[exit ").unwrap();
        let end = end + rest[end..].find('\n').unwrap_or(rest.len() - end);
        (command.to_owned(), rest[..end].to_owned())
    };
    text.split("\n$ ").skip(1).map(step).collect()
}

#[test]
fn recorded_command_lines_print_and_exit_as_recorded() {
    let daemon = Daemon::start();
    let marks = daemon.shell("ipvsadm -A -f 1").status.success();
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for (command, recorded) in recorded("errors.txt") {
        daemon.shell(
            "printf -- '-C\\n-A -t 10.0.0.1:80 -s rr\\n\
             -a -t 10.0.0.1:80 -r 10.2.0.11:8080 -m\\n-A -f 1 -s rr\\n' | ipvsadm -R",
        );
        let output = daemon.shell(&command);
        let mut got = String::new();
        for (title, text) in [("[stdout]\n", &output.stdout), ("[stderr]\n", &output.stderr)] {
            if !text.is_empty() {
                got += title;
                got += &text_of(text);
            }
        }
        got += &format!("[exit {}]", output.status.code().unwrap());
        // Sync daemons, and what the director does not have yet.
        if got.contains("not available yet") || command.contains("-daemon master") {
            continue;
        }
        let recorded = if marks { recorded } else { recorded.replace("FWM  1 rr\n", "") };
        if got != recorded {
            wrong.push(format!("$ {command}\nexpected:\n{recorded}\ngot:\n{got}\n"));
        }
        compared += 1;
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 110, "only {compared} steps were compared");
}

#[test]
fn an_empty_daemon_lists_what_an_empty_kernel_lists() {
    let daemon = Daemon::start();
    let mut compared = 0;
    for (command, recorded) in recorded("empty.txt") {
        let command = match command.strip_prefix("cat /proc/net/") {
            Some("ip_vs_stats_percpu") => continue,
            Some(file) => format!("xvsadm proc {file}"),
            None => command,
        };
        let printed = daemon.run(&command);
        assert_eq!(format!("{printed}[exit 0]"), recorded, "$ {command}");
        compared += 1;
    }
    assert_eq!(compared, 16);
}

#[test]
fn rules_are_saved_restored_and_applied() {
    let daemon = Daemon::start();
    let rules = "-A -t 10.0.0.1:80 -s wrr -p 300\n\
                 -a -t 10.0.0.1:80 -r 10.2.0.11:8080 -m -w 3 -x 100 -y 50\n\
                 -a -t 10.0.0.1:80 -r 10.2.0.12:8080 -m -w 1\n\
                 -A -u [fd00::1]:53 -s sh -b sh-port\n\
                 -a -u [fd00::1]:53 -r [fd02::11]:53 -i -w 1 --tun-type gue --tun-port 6080 \
                 --tun-csum\n";
    fs::write(daemon.folder.path().join("rules"), rules).unwrap();
    daemon.run("xvsadm -R < rules");
    assert_eq!(daemon.run("xvsadm --full -Sn"), rules);
    assert!(!daemon.run("ipvsadm -Sn").contains("-x"), "ipvsadm does not save thresholds");
    assert_eq!(daemon.run("xvsadm -S -n"), daemon.run("ipvsadm -Sn"));
    assert_eq!(daemon.run("xvsadm --compat -S -n"), daemon.run("ipvsadm -Sn"));

    let changed = rules.replace("-w 3", "-w 7");
    fs::write(daemon.folder.path().join("changed"), &changed).unwrap();
    let plan = daemon.run("xvsadm apply -f changed --plan");
    assert!(plan.starts_with("~ ") && plan.contains("1 change planned"), "{plan}");
    assert_eq!(daemon.run("xvsadm --full -Sn"), rules);
    let applied = daemon.run("xvsadm apply --file changed");
    assert!(applied.contains("1 change applied"), "{applied}");
    assert_eq!(daemon.run("xvsadm --full -Sn"), changed);
    let again = daemon.run("xvsadm apply -f - < changed");
    assert!(again.starts_with("0 changes applied"), "{again}");

    let refused = daemon.shell("xvsadm apply -f rules --expect 999999");
    assert_eq!(refused.status.code(), Some(255));
    assert_eq!(daemon.run("xvsadm --full -Sn"), changed);
}

#[test]
fn verbs_show_what_ipvsadm_cannot() {
    let daemon = Daemon::start();
    let info = daemon.run("xvsadm info");
    assert!(info.contains("4096 flows") && info.contains("wlc"), "{info}");
    let stats = daemon.run("xvsadm stats");
    assert!(stats.contains("Flow table: 0 of"), "{stats}");
    daemon.run("xvsadm set expire_nodest_conn 1");
    assert!(daemon.run("xvsadm settings").contains("expire_nodest_conn = 1\n"));
    let refused = daemon.shell("xvsadm set conntrack 1");
    assert_eq!(refused.status.code(), Some(255));
    assert!(text_of(&refused.stderr).contains("always 0"), "the reason is told");
    daemon.run("xvsadm set timeout_synrecv 5");
    assert!(daemon.run("xvsadm settings").contains("timeout_synrecv = 5\n"));
    let workers = daemon.run("xvsadm proc ip_vs_stats_percpu");
    assert!(workers.starts_with("       Total Incoming Outgoing"), "{workers}");
    assert!(workers.contains("\n  ~        0        0"), "{workers}");
    let wrong = daemon.shell("xvsadm proc ip_vs_nothing");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text_of(&wrong.stderr).contains("ip_vs_conn_sync"), "it says what there is");
    let wrong = daemon.shell("xvsadm set no_such_setting 1");
    assert_eq!(wrong.status.code(), Some(255));
    assert!(text_of(&wrong.stderr).starts_with("xvsadm: "));
    assert_eq!(daemon.run("xvsadm flows --client 10.9.0.1").lines().count(), 1);
    assert_eq!(daemon.shell("ipvsadm info").status.code(), Some(255));
    let help = daemon.run("xvsadm -h");
    assert!(help.contains("xvsadm apply -f file") && help.contains("Exit status:"));
}

#[test]
fn a_server_is_drained_watched_and_given_back_by_verbs() {
    let daemon = Daemon::start();
    daemon.run("xvsadm -A -t 10.0.0.1:80 -s rr");
    daemon.run("xvsadm -a -t 10.0.0.1:80 -r 10.2.0.11 -m -w 3");
    let drained = daemon.run("xvsadm drain -t 10.0.0.1:80 -r 10.2.0.11 --deadline 5s");
    assert_eq!(
        drained.lines().last(),
        Some("drained: 10.2.0.11:80 of TCP 10.0.0.1:80, no flows left")
    );
    // It is listed as it works, and saved as it was asked for.
    assert!(daemon.run("xvsadm -Ln").contains("10.2.0.11:80                 Masq    0"));
    assert!(daemon.run("xvsadm -Sn").contains("-r 10.2.0.11:80 -m -w 3"));
    let watched = daemon.run("timeout 20 xvsadm watch | head -n 2");
    assert!(watched.contains("1 services, 1 real servers"), "{watched}");
    assert!(watched.contains("drained: 10.2.0.11:80"), "{watched}");
    let again = daemon.run("xvsadm drain --cancel -t 10.0.0.1:80 -r 10.2.0.11:80");
    assert!(again.starts_with("cancelled, generation "), "{again}");
    assert!(daemon.run("xvsadm -Ln").contains("10.2.0.11:80                 Masq    3"));
    let wrong = daemon.shell("xvsadm drain -t 10.0.0.1:80 -r 10.2.0.99");
    assert_eq!(wrong.status.code(), Some(255));
    assert_eq!(text_of(&wrong.stderr), "xvsadm: No such destination\n");
    for line in ["drain -r 10.2.0.11", "drain -t 10.0.0.1 -r 10.2.0.11", "flows --delete --count"] {
        assert_eq!(daemon.shell(&format!("xvsadm {line}")).status.code(), Some(2), "{line}");
    }
    let counted = daemon.run("xvsadm flows --count");
    assert!(counted.lines().last().unwrap().starts_with("Total"), "{counted}");
    assert_eq!(daemon.run("xvsadm flows --delete --all"), "0 flows deleted\n");
}

#[test]
fn a_packet_is_explained_from_a_tuple_a_dump_and_a_capture() {
    let daemon = Daemon::start();
    daemon.run("xvsadm -A -t 10.0.0.1:80 -s rr");
    daemon.run("xvsadm -a -t 10.0.0.1:80 -r 10.2.0.11:8080 -m -w 3");
    let told = daemon.run("xvsadm explain tcp 10.9.0.1:4711 10.0.0.1:80");
    for line in [
        "service    TCP 10.0.0.1:80",
        "because    scheduler rr picked it",
        "10.2.0.11:8080 weight 3, 0 active, 0 inactive",
        "real       10.2.0.11:8080 by nat",
        "path       no route leads there",
        "verdict    dropped: no-route",
    ] {
        assert!(told.contains(line), "{line}:\n{told}");
    }
    // A SYN to the service, as a dump shows it.
    let dump = "0x0000:  0200 0000 0002 0200 0000 0001 0800 4500  ..............E.\n\
                0x0010:  0028 0000 0000 4006 66b6 0a09 0001 0a00  .(....@.........\n\
                0x0020:  0001 1267 0050 0000 0000 0000 0000 5002  ...g.P........P.\n\
                0x0030:  ffff 0000 0000  ......\n";
    fs::write(daemon.folder.path().join("dump"), dump).unwrap();
    let dumped = daemon.run("xvsadm explain --hex - < dump");
    assert!(dumped.contains("IPv4 10.9.0.1 > 10.0.0.1") && dumped.contains("S 0 oct"), "{dumped}");
    let captures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/pcaps");
    let capture = fs::read_dir(captures).unwrap().map(|entry| entry.unwrap().path());
    let capture = capture.filter(|path| path.extension().is_some_and(|e| e == "pcap")).min();
    let capture = capture.unwrap();
    let told = daemon.run(&format!("xvsadm explain --pcap {} --number 2", capture.display()));
    assert!(told.contains("verdict    "), "{told}");
    let wrong = daemon.shell(&format!("xvsadm explain --pcap {} --number 0", capture.display()));
    assert_eq!(wrong.status.code(), Some(1));
    for line in ["explain", "explain tcp 10.9.0.1 10.0.0.1:80", "explain --hex 0g"] {
        assert_eq!(daemon.shell(&format!("xvsadm {line}")).status.code(), Some(2), "{line}");
    }
}

#[test]
fn a_daemon_that_is_not_there_is_named() {
    let daemon = Daemon::start();
    let output = daemon.shell("xvsadm --server unix:./nowhere -Ln");
    assert_eq!(output.status.code(), Some(1));
    let message = text_of(&output.stderr);
    assert!(message.starts_with("xvsadm: cannot reach xvsd at unix:./nowhere: No such file"));
    // What is wrong in itself needs no daemon to be refused.
    let output = daemon.shell("xvsadm --server unix:./nowhere -A -t 10.0.0.1:80 -w 1");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn every_verb_that_shows_something_shows_it_to_programs_too() {
    let daemon = Daemon::start();
    daemon.run("xvsadm -A -t 10.0.0.1:80 -s wlc");
    daemon.run("xvsadm -a -t 10.0.0.1:80 -r 10.2.0.11:8080 -m -w 3");
    daemon.run("xvsadm mark add 5 --to 10.3.0.0/16");
    fs::write(daemon.folder.path().join("rules"), "-A -t 10.0.0.2:80 -s rr\n").unwrap();
    let verbs = [
        ("info", "/version"),
        ("get", "/service/scheduler"),
        ("stats", "/flow_table/capacity"),
        ("flows --count", "/total"),
        ("flows --delete --all", "/deleted"),
        ("explain tcp 10.9.0.1:4711 10.0.0.1:80", "/service/address/port"),
        ("settings", "/settings/0/name"),
        ("mark list", "/rules/rules/0/mark"),
        ("local show", "/first_port"),
        ("apply -f rules --plan", "/changes/0/description"),
        ("drain -t 10.0.0.1:80 -r 10.2.0.11:8080 --detach", "/real_server/address"),
    ];
    for (verb, place) in verbs {
        let json: serde_json::Value =
            serde_json::from_str(&daemon.run(&format!("xvsadm {verb} -o json"))).unwrap();
        assert!(json.pointer(place).is_some(), "{verb}: no {place} in {json:#}");
        let yaml = daemon.run(&format!("xvsadm {verb} --output yaml"));
        let last = place.rsplit('/').next().unwrap();
        assert!(yaml.contains(&format!("{last}: ")), "{verb}: no {last} in\n{yaml}");
        assert!(!daemon.run(&format!("xvsadm {verb} -o table")).starts_with('{'), "{verb}");
    }
    assert_eq!(daemon.run("xvsadm get"), daemon.run("xvsadm -L -n"));
    assert_eq!(daemon.run("xvsadm flows -o json"), "", "there are none");
}
