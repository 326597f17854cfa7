//! Where xvs says more than ipvsadm, and the switch back.

use xvs_dataplane::ipvsadm::Dialect::{self, Full, Ipvsadm, Xvs};

use crate::{
    golden::{run, run_as},
    model::Model,
};

const RULES: &str = "printf -- '\
    -A -f 4294967295 -s rr\\n\
    -a -f 4294967295 -r 10.2.0.11 -g -x 1000 -y 500\\n\
    -a -f 4294967295 -r 10.2.0.12 -i --tun-type gue --tun-port 6080 -y 5 -x 7\\n\
    ' | ipvsadm -R";

#[test]
fn nothing_that_was_asked_for_is_lost_when_rules_are_saved() {
    let mut model = Model::new();
    assert_eq!(run(RULES, &mut model).status, 0);
    let saved = run_as(Full, "ipvsadm -Sn", &mut model).out;
    assert_eq!(
        saved,
        "-A -f 4294967295 -s rr\n\
         -a -f 4294967295 -r 10.2.0.11:0 -g -w 1 -x 1000 -y 500\n\
         -a -f 4294967295 -r 10.2.0.12:0 -i -w 1 --tun-type gue --tun-port 6080 --tun-nocsum \
         -x 7 -y 5\n"
    );

    let before = model.services.clone();
    let mut again = Model::new();
    let restore = format!("printf -- '{}' | ipvsadm -R", saved.replace('\n', "\\n"));
    assert_eq!(run(&restore, &mut again).status, 0);
    let reals = |model: &Model| model.services[0].reals.len();
    assert_eq!((reals(&again), again.services[0].spec.clone()), (2, before[0].spec.clone()));
}

#[test]
fn ipvsadm_forgets_thresholds_and_writes_large_marks_as_negative_numbers() {
    let mut model = Model::new();
    run(RULES, &mut model);
    assert_eq!(
        run_as(Xvs, "ipvsadm -Sn", &mut model).out,
        run_as(Ipvsadm, "ipvsadm -Sn", &mut model).out,
    );
    assert_eq!(
        run("ipvsadm -Sn", &mut model).out,
        "-A -f -1 -s rr\n\
         -a -f -1 -r 10.2.0.11:0 -g -w 1\n\
         -a -f -1 -r 10.2.0.12:0 -i -w 1 --tun-type gue --tun-port 6080 --tun-nocsum\n"
    );
    assert_eq!(run("ipvsadm -A -f -1 -s rr", &mut model).status, 2);
}

#[test]
fn ports_of_a_marks_real_servers_have_no_names() {
    let mut model = Model::new();
    run("printf -- '-A -f 7\\n-a -f 7 -r 10.2.0.11:80 -m\\n' | ipvsadm -R", &mut model);
    let listed = run("ipvsadm -L -f 7", &mut model).out;
    assert!(listed.contains("  -> 10.2.0.11:80  "), "{listed}");
    assert!(run("ipvsadm -S", &mut model).out.contains("-a -f 7 -r 10.2.0.11:80 -m"));
}

#[test]
fn a_refused_rule_shows_in_the_exit_status_of_a_restore() {
    let restore = |dialect: Dialect, text: &str| {
        let mut model = Model::new();
        let output = run_as(dialect, &format!("printf -- '{text}' | ipvsadm -R"), &mut model);
        (output.status, output.err, model.services.len())
    };
    let doubled = "-A -t 10.0.0.1:80\\n-A -t 10.0.0.1:80\\n-A -t 10.0.0.2:80\\n";
    let message = "Service already exists\n".to_owned();
    assert_eq!(restore(Ipvsadm, doubled), (0, message.clone(), 2));
    assert_eq!(restore(Xvs, doubled), (255, message, 2));
    // A line that is no command ends it for both.
    let malformed = "-A -t 10.0.0.1:80\\n-A -f 0\\n-A -t 10.0.0.2:80\\n";
    let message = "invalid fwmark value `0' specified\n".to_owned();
    assert_eq!(restore(Ipvsadm, malformed), (2, message.clone(), 1));
    assert_eq!(restore(Xvs, malformed), (2, message, 1));
}
