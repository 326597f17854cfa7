//! errors.txt: 130 commands, each with message and exit status.

use crate::{
    golden::{Output, Step, read, run},
    model::Model,
};

/// xvs has no sync daemons: it refuses to start one where the kernel would have done something.
const DAEMONS: &[&str] = &[
    "ipvsadm --start-daemon master",
    "ipvsadm --start-daemon master --mcast-interface nosuch0",
    "ipvsadm --start-daemon master --mcast-interface eth1 --syncid 255",
    "ipvsadm --start-daemon master --mcast-interface eth1",
    "ipvsadm --stop-daemon master",
];

/// What was there before each command.
fn before() -> Model {
    let mut model = Model::new();
    for command in [
        "ipvsadm -A -t 10.0.0.1:80 -s rr",
        "ipvsadm -a -t 10.0.0.1:80 -r 10.2.0.11:8080 -m",
        "ipvsadm -A -f 1 -s rr",
    ] {
        assert_eq!(run(command, &mut model).status, 0, "{command}");
    }
    model
}

/// The step as it was recorded: output, status, and the rule that was new afterwards.
fn as_recorded(command: &str) -> String {
    let mut model = before();
    let rules = run("ipvsadm -Sn", &mut model).out;
    let Output { out, err, status } = run(command, &mut model);
    let mut text = String::new();
    for (title, part) in [("[stdout]\n", out), ("[stderr]\n", err)] {
        if !part.is_empty() {
            text += title;
            text += &part;
        }
    }
    text += &format!("[exit {status}]\n");
    let now = run("ipvsadm -Sn", &mut model).out;
    let new: Vec<_> = now.lines().filter(|rule| !rules.contains(rule)).collect();
    // The recording looked for one new rule, and only after single commands.
    if let ([rule], false) = (&new[..], command.contains("; ")) {
        text += &format!("[rule] {rule}\n");
    }
    text
}

#[test]
fn every_message_and_exit_status_is_ipvsadms() {
    let (_, steps) = read("errors.txt");
    assert_eq!(steps.len(), 130);
    let mut wrong = Vec::new();
    for Step { command, output } in &steps {
        let got = as_recorded(command);
        if DAEMONS.contains(&command.as_str()) {
            continue;
        }
        if got != *output {
            wrong.push(format!("$ {command}\nexpected:\n{output}got:\n{got}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_sync_daemon_is_refused_in_so_many_words() {
    assert_eq!(
        as_recorded("ipvsadm --start-daemon backup"),
        "[stderr]\nxvs has no backup sync daemon: flows are not synchronised\n[exit 255]\n"
    );
}
