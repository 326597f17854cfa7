//! Any text as rules: read line by line, and what was read is saved and read again.
//!
//! Nothing may panic, and the second reading must give the same services as the first. Options in
//! any order and number are in the seeds: golden/text/listings.txt and errors.txt.

#![no_main]

use libfuzzer_sys::fuzz_target;
use xvs_dataplane::{
    director::spec::{Counters, Rates, ServiceInfo, ServiceSpec},
    ipvsadm::{Command, Dialect, Numeric, parse_rules, save},
    sched::Scheduler,
};

fuzz_target!(|octets: &[u8]| {
    let Ok(text) = std::str::from_utf8(octets) else {
        return;
    };
    // One bad line must not hide the others.
    let first: Vec<_> = text.lines().flat_map(services).collect();
    let rules = save(&first, true, Dialect::Xvs, &Numeric);
    let again = services(&rules);
    assert_eq!(save(&again, true, Dialect::Xvs, &Numeric), rules, "{text}");
});

/// The services that rules add; none if one of them is bad.
fn services(rules: &str) -> Vec<ServiceInfo> {
    let Ok(rules) = parse_rules(rules, &Numeric) else {
        return Vec::new();
    };
    let added = rules.into_iter().filter_map(|rule| match rule.command {
        // A director refuses names that nobody has; they may hold what rules cannot.
        Command::AddService(spec) if known(&spec) => Some(ServiceInfo {
            spec,
            counters: Counters::default(),
            rates: Rates::default(),
            reals: Vec::new(),
        }),
        _ => None,
    });
    added.collect()
}

fn known(spec: &ServiceSpec) -> bool {
    Scheduler::NAMES.contains(&spec.scheduler.as_str())
        && spec.engine.as_deref().is_none_or(|engine| engine == "sip")
}
