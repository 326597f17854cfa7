//! The rules of the house, as tests: what nobody can break needs no reviewer.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Lines of one source file at most.
const LINES_MAX: usize = 500;

/// Every file with unsafe code: AF_XDP rings, raw sockets, the flow table's memory, CPU
/// instructions, ioctls, and the allocators that count for tests and measurements.
const UNSAFE: [&str; 10] = [
    "bench/src/alloc.rs",
    "dataplane/src/flow/cpu.rs",
    "dataplane/src/flow/mapping.rs",
    "dataplane/src/io/sys.rs",
    "dataplane/src/io/xsk/frames.rs",
    "dataplane/src/io/xsk/netdev.rs",
    "dataplane/src/io/xsk/queue.rs",
    "dataplane/src/io/xsk/sender.rs",
    "dataplane/tests/no_alloc.rs",
    "dataplane/tests/raw/main.rs",
];

/// Folders that are searched, and those in them that are not.
const FOLDERS: [&str; 5] = ["dataplane", "control", "bench", "docs", ".ci"];
const SKIPPED: [&str; 4] = ["target", "corpus", "artifacts", "fixtures"];

/// What only a machine of somebody's own has. Written apart, so that this file does not hold them.
const FOREIGN: [&str; 5] = [
    concat!("/ho", "me/"),
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("crates", ".io"),
    concat!("deb.deb", "ian.org"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every text file of the repository but fixtures, by its path from the root.
fn files() -> BTreeMap<String, String> {
    let root = root();
    let mut found = BTreeMap::new();
    let mut folders: Vec<_> = FOLDERS.iter().map(|folder| root.join(folder)).collect();
    let mut add = |path: &Path| {
        if let Ok(text) = fs::read_to_string(path) {
            let name = path.strip_prefix(root.as_path()).unwrap().to_str().unwrap();
            found.insert(name.to_owned(), text);
        }
    };
    for entry in fs::read_dir(&root).unwrap().map(Result::unwrap) {
        // A work tree of git has a file `.git` that says where its repository lies.
        let is_lock = entry.file_name() == "Cargo.lock" || entry.file_name() == ".git";
        if entry.file_type().unwrap().is_file() && !is_lock {
            add(&entry.path());
        }
    }
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().map(Result::unwrap) {
            let skipped = SKIPPED.iter().any(|&name| entry.file_name() == name);
            if entry.file_type().unwrap().is_dir() {
                folders.extend((!skipped).then(|| entry.path()));
            } else if entry.file_name() != "Cargo.lock" {
                add(&entry.path());
            }
        }
    }
    assert!(found.len() > 100, "only {} files found below {}", found.len(), root.display());
    found
}

fn sources() -> impl Iterator<Item = (String, String)> {
    files().into_iter().filter(|(path, _)| path.ends_with(".rs") || path.ends_with(".c"))
}

/// Fails with all that is wrong, not only the first.
#[track_caller]
fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n  {}\n", wrong.join("\n  "));
}

#[test]
fn files_are_short() {
    let long = sources().filter(|(_, text)| text.lines().count() >= LINES_MAX);
    let wrong: Vec<_> = long
        .map(|(path, text)| {
            format!("{path}: {} lines, {LINES_MAX} are too many", text.lines().count())
        })
        .collect();
    none(&wrong);
}

#[test]
fn nothing_is_left_to_be_done() {
    let words =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK")];
    let mut wrong = Vec::new();
    for (path, text) in files() {
        for (number, line) in text.lines().enumerate() {
            let mut parts = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            if let Some(word) = parts.find(|part| words.contains(part)) {
                wrong.push(format!("{path}:{}: {word}", number + 1));
            }
        }
    }
    none(&wrong);
}

#[test]
fn nothing_names_somebodys_own_machine() {
    let mut wrong = Vec::new();
    for (path, text) in files() {
        for (number, line) in text.lines().enumerate() {
            if let Some(name) = FOREIGN.iter().find(|name| line.contains(**name)) {
                wrong.push(format!("{path}:{}: {name}", number + 1));
            }
            if line.contains(concat!("../sha", "red")) && path != ".ci/run" {
                wrong.push(format!(
                    "{path}:{}: only .ci/run looks beside the repository",
                    number + 1
                ));
            }
        }
    }
    none(&wrong);
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let silent = sources().filter(|(path, text)| {
        let first = text.lines().next().unwrap_or_default();
        let is_module = path.contains("/src/") || path.contains("/tests/");
        is_module && path.ends_with(".rs") && !first.starts_with("//! ")
    });
    none(&silent.map(|(path, _)| format!("{path}: no head")).collect::<Vec<_>>());
}

/// A source file without comments and strings' worst offenders: whole-line comments are enough.
fn code(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn unsafe_code_is_where_it_is_known_to_be() {
    let words = [concat!("uns", "afe {"), concat!("uns", "afe impl"), concat!("uns", "afe fn")];
    let is_unsafe = |text: &str| {
        let code = code(text);
        words.iter().any(|word| code.contains(word))
    };
    let found: BTreeSet<_> =
        sources().filter(|(_, text)| is_unsafe(text)).map(|(path, _)| path).collect();
    let known: BTreeSet<_> = UNSAFE.iter().map(ToString::to_string).collect();
    assert_eq!(found, known, "found on the left, known on the right");
}

#[test]
fn lints_are_expected_not_allowed() {
    let words = [concat!("#[al", "low("), concat!("#![al", "low(")];
    let found = sources().filter(|(_, text)| words.iter().any(|word| code(text).contains(word)));
    none(&found.map(|(path, _)| path).collect::<Vec<_>>());
}

/// The layers as the head of lib.rs has them: rank by module.
fn layers() -> BTreeMap<String, usize> {
    let head = fs::read_to_string(root().join("dataplane/src/lib.rs")).unwrap();
    let lines = head.lines().map_while(|line| line.strip_prefix("//!"));
    let text: Vec<_> = lines.skip_while(|line| !line.contains("lowest first")).skip(1).collect();
    let text = text.join(" ");
    let layers = text.trim().trim_end_matches('.').split('<').enumerate();
    layers
        .flat_map(|(rank, names)| names.split_whitespace().map(move |name| (name.to_owned(), rank)))
        .collect()
}

/// The modules that a file names behind `crate::`, its tests left out.
fn used(text: &str) -> BTreeSet<String> {
    let code = code(text);
    let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let mut names = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let name = |text: &str| {
            let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
            text[..end].to_owned()
        };
        let Some(list) = rest.strip_prefix('{') else {
            names.insert(name(rest));
            continue;
        };
        // The names at the first level of `use crate::{a::b, c::{d, e}}`.
        let (mut depth, mut first) = (0, true);
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => first = true,
                c if first && c.is_alphanumeric() => {
                    names.insert(name(&list[at..]));
                    first = false;
                }
                _ => {}
            }
        }
    }
    names
}

#[test]
fn modules_use_only_what_lies_below() {
    let layers = layers();
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let Some(rest) = path.strip_prefix("dataplane/src/") else {
            continue;
        };
        let module = rest.split(['/', '.']).next().unwrap();
        if module == "lib" || path.ends_with("/tests.rs") || !path.ends_with(".rs") {
            continue;
        }
        let Some(rank) = layers.get(module) else {
            wrong.push(format!("{path}: lib.rs gives `{module}` no layer"));
            continue;
        };
        for name in used(&text).iter().filter(|name| *name != module) {
            match layers.get(name) {
                Some(below) if below < rank => {}
                Some(_) => {
                    wrong.push(format!("{path}: `{module}` uses `{name}`, which is not below"))
                }
                None => wrong.push(format!("{path}: lib.rs gives `{name}` no layer")),
            }
        }
    }
    none(&wrong);
}

#[test]
fn the_layers_are_those_that_exist() {
    let text = fs::read_to_string(root().join("dataplane/src/lib.rs")).unwrap();
    let declared = text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let declared: BTreeSet<_> = declared.map(str::to_owned).collect();
    let layers: BTreeSet<_> = layers().into_keys().collect();
    assert_eq!(layers, declared, "in lib.rs's head on the left, declared on the right");
}

#[test]
fn a_use_list_is_read_at_its_first_level() {
    let text = "use crate::{\n    a::{b, c},\n    d,\n};\nlet x = crate::e::f();\n// crate::g\n";
    let names: Vec<_> = used(text).into_iter().collect();
    assert_eq!(names, ["a", "d", "e"]);
}

const fn is_name(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
}

#[test]
fn documents_name_only_make_targets_that_exist() {
    let files = files();
    let targets: BTreeSet<_> = files["Makefile"]
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name)
        .filter(|name| name.chars().all(is_name))
        .collect();
    let mut wrong = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| path.ends_with(".md") || *path == ".ci/run")
    {
        for rest in text.split("`make ").skip(1).chain(text.split("\nmake ").skip(1)) {
            let name = rest.split(|c| !is_name(c)).next().unwrap();
            if !targets.contains(name) {
                wrong.push(format!("{path}: make {name}"));
            }
        }
    }
    none(&wrong);
}

#[test]
fn documents_link_to_files_that_exist() {
    let mut wrong = Vec::new();
    for (path, text) in files().iter().filter(|(path, _)| path.ends_with(".md")) {
        let folder = root().join(path).parent().unwrap().to_owned();
        for rest in text.split("](").skip(1) {
            let link = rest.split([')', '#']).next().unwrap();
            if !link.is_empty() && !link.contains("://") && !folder.join(link).exists() {
                wrong.push(format!("{path}: {link}"));
            }
        }
    }
    none(&wrong);
}

#[test]
fn fixtures_say_where_they_come_from() {
    let folder = root().join("fixtures");
    let said = fs::read_to_string(folder.join("README.md")).unwrap();
    let mut wrong = Vec::new();
    for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().to_str().unwrap().to_owned();
        let own = entry.path().join("README.md").is_file();
        if entry.file_type().unwrap().is_dir() && !own && !said.contains(&format!("{name}/")) {
            wrong.push(format!("fixtures/{name}: no origin"));
        }
    }
    none(&wrong);
}
