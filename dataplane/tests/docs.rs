//! docs/ipvs.md is true: everything that is registered stands there, and what stands there is. So is the
//! table of drop reasons in docs/troubleshooting.md.
#![expect(clippy::unwrap_used, reason = "a page that cannot be read ends the test")]

use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

use xvs_dataplane::{
    director::{Director, SETTINGS},
    endpoint::Endpoints,
    ipvsadm::{PROC_NAMES, option_words},
    sched::Scheduler,
    service::Engine,
    stats::Stats,
    verdict::DropReason,
};

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

/// The part of the page under a heading.
fn section(heading: &str) -> String {
    let page = file("docs/ipvs.md");
    let (_, rest) = page.split_once(&format!("\n## {heading}\n")).expect(heading);
    rest.split("\n## ").next().unwrap().to_owned()
}

/// All words in backticks.
fn words(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The cells of each row of a table, without its head.
fn rows(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().filter(|line| line.starts_with("| "));
    let cells =
        |row: &str| row.trim_matches('|').split(" | ").map(|c| c.trim().to_owned()).collect();
    rows.skip(2).map(cells).collect()
}

#[test]
fn every_option_stands_in_the_page() {
    let named = words(&section("Options"));
    let missing: Vec<_> = option_words().filter(|option| !named.contains(option)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_scheduler_engine_and_method_stands_in_the_page() {
    let schedulers = words(&section("Schedulers"));
    let missing: Vec<_> = Scheduler::NAMES.iter().filter(|n| !schedulers.contains(**n)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let engines = words(&section("Services and persistence"));
    assert!(Engine::NAMES.iter().all(|name| engines.contains(*name)));
    let methods = words(&section("Forwarding"));
    let registered = file("dataplane/src/forward/mod.rs");
    let missing: Vec<_> = registered
        .lines()
        .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'))
        .filter(|module| !matches!(*module, "link" | "outer" | "tests"))
        .filter(|module| !methods.contains(*module))
        .collect();
    assert!(missing.is_empty(), "files of methods that the page does not name: {missing:?}");
}

#[test]
fn every_setting_stands_in_the_page_with_its_default() {
    let director = Director::new(Arc::new(Endpoints::new(2)), Stats::new(1, 2));
    let values = director.settings();
    let rows = rows(&section("Settings"));
    let stated: Vec<_> = rows.iter().map(|row| (row[0].trim_matches('`'), &*row[1])).collect();
    let expected: Vec<_> = SETTINGS
        .iter()
        .map(|name| {
            let value = values.iter().find(|(known, _)| known == name);
            (*name, value.map_or_else(|| "-".to_owned(), |(_, value)| value.to_string()))
        })
        .collect();
    let expected: Vec<_> = expected.iter().map(|(name, value)| (*name, &**value)).collect();
    assert_eq!(stated, expected);
    for row in rows {
        let name = row[0].trim_matches('`');
        let value = values.iter().find(|(known, _)| *known == name).map_or(0, |(_, value)| *value);
        let other = value.checked_sub(1).unwrap_or(1);
        let unchangeable = row[2].starts_with("fixed") || row[2].starts_with("absent");
        assert_eq!(director.check_setting(name, other).is_err(), unchangeable, "{name}");
    }
}

#[test]
fn every_file_below_proc_stands_in_the_page() {
    let named = words(&section("Files below /proc"));
    let missing: Vec<_> = PROC_NAMES.iter().filter(|name| !named.contains(**name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// One entry of `bench/differences.toml` as a row of the page.
fn row(kind: &str, entry: &str) -> String {
    let value = |key: &str| {
        let line = entry.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""));
        line.map(|line| line.trim_end_matches('"').to_owned())
    };
    let (name, reason) = (value("name").unwrap(), value("reason").unwrap());
    let step = value("step").map(|step| format!(", step {step}")).unwrap_or_default();
    format!("| `{name}`{step} | {kind} | {reason} |\n")
}

#[test]
fn every_difference_that_recordings_show_stands_in_the_page() {
    let exceptions = file("bench/differences.toml");
    let mut expected = String::new();
    for kind in ["differs", "skip"] {
        for entry in exceptions.split("\n[[").filter_map(|entry| entry.strip_prefix(kind)) {
            expected.push_str(&row(kind, entry));
        }
    }
    let stated: String = section("What recordings show")
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(stated == expected, "the table should be this:\n{expected}");
}

#[test]
fn every_drop_reason_stands_in_the_troubleshooting_page() {
    let page = file("docs/troubleshooting.md");
    let (_, rest) = page.split_once("\n## Packets are dropped\n").unwrap();
    let table = rest.split("\n## ").next().unwrap();
    let named: BTreeSet<_> = rows(table).iter().flat_map(|row| words(&row[0])).collect();
    let known = DropReason::ALL.iter().map(|reason| reason.name().to_owned());
    assert_eq!(named, known.collect());
}
