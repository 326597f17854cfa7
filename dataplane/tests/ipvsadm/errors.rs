//! errors.txt: 130 commands, each with message and exit status.

use xvs_dataplane::ipvsadm::Backend;

use crate::{
    golden::{Output, Step, read, run},
    model::Model,
};

/// xvs has no sync daemons: it refuses to start one where the kernel would have done something.
pub(crate) const DAEMONS: &[&str] = &[
    "ipvsadm --start-daemon master",
    "ipvsadm --start-daemon master --mcast-interface nosuch0",
    "ipvsadm --start-daemon master --mcast-interface eth1 --syncid 255",
    "ipvsadm --start-daemon master --mcast-interface eth1",
    "ipvsadm --stop-daemon master",
];

/// The step as it was recorded: output, status, and the rule that was new afterwards.
pub(crate) fn as_recorded(backend: &mut dyn Backend, command: &str) -> String {
    for before in [
        "ipvsadm -A -t 10.0.0.1:80 -s rr",
        "ipvsadm -a -t 10.0.0.1:80 -r 10.2.0.11:8080 -m",
        "ipvsadm -A -f 1 -s rr",
    ] {
        run(before, backend);
    }
    let rules = run("ipvsadm -Sn", backend).out;
    let Output { out, err, status } = run(command, backend);
    let mut text = String::new();
    for (title, part) in [("[stdout]\n", out), ("[stderr]\n", err)] {
        if !part.is_empty() {
            text += title;
            text += &part;
        }
    }
    text += &format!("[exit {status}]\n");
    let now = run("ipvsadm -Sn", backend).out;
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
        let got = as_recorded(&mut Model::new(), command);
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
        as_recorded(&mut Model::new(), "ipvsadm --start-daemon backup"),
        "[stderr]\nxvs has no backup sync daemon: flows are not synchronised\n[exit 255]\n"
    );
}
