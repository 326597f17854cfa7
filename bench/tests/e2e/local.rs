//! Real servers on the box itself: the load balancer's own web server serves too.

use xvs_bench::lab::{Family, Tally, Web};

use crate::{Bed, configuration};

/// The load balancer's own address on the real servers' side.
fn own(family: Family) -> &'static str {
    match family {
        Family::V4 => "10.2.0.1",
        Family::V6 => "[fd02::1]",
    }
}

/// The state column of the only flow.
fn state(listed: &str) -> String {
    let row = listed.lines().find(|line| line.starts_with("TCP")).unwrap_or_default();
    row.split_whitespace().nth(2).unwrap_or_default().to_owned()
}

#[test]
fn the_box_serves_itself_by_dr_and_by_nat_and_its_answers_are_seen() {
    let Some(bed) = Bed::new() else { return };
    let _web = Web::start(&bed.world.lb, bed.world.folder.path()).unwrap();
    let balancer = bed.balancer(&configuration("native"));
    for family in Family::ALL {
        let vip = family.host(family.vip());
        let nat = format!("{}:8080 -m", own(family));
        let dr = format!("{vip}:80 -g");
        for real in [nat, dr] {
            balancer.adm.run(&format!("-A -t {vip}:80 -s rr")).unwrap();
            balancer.adm.run(&format!("-a -t {vip}:80 -r {real}")).unwrap();
            let tally = Tally::take(&bed.world.client, family.vip(), 5).unwrap();
            assert_eq!(tally.failures, [""; 0], "{real}:\n{}", balancer.log());
            assert_eq!(tally.answers["lb"], 5, "{real}");
            // Client and server have both closed: who saw one of them only would say otherwise.
            let listed = balancer.adm.run("-L -n -c").unwrap();
            assert_eq!(state(&listed), "TIME_WAIT", "{real}:\n{listed}");
            let stats = balancer.adm.run("-L -n --stats").unwrap();
            let row = stats.lines().find(|line| line.starts_with("TCP")).unwrap();
            let columns: Vec<_> = row.split_whitespace().collect();
            assert_eq!(columns[2], "5", "{real}: {stats}");
            assert_ne!(columns[4], "0", "{real}: packets to clients: {stats}");
            balancer.adm.run("-C").unwrap();
        }
    }
}
