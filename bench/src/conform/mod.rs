//! `conform`: judges xvs against recordings of the kernel's IPVS.
//!
//! Every recording below a folder is played through a director, the whole pipeline and simulated links,
//! and compared step by step. Nothing is passed over silently: what differs on purpose and what
//! cannot be played yet stand in `differences.toml` with a reason each, and are never counted as
//! passed.

mod frames;
mod host;
mod iptables;
mod listing;
mod local;
mod mask;
mod names;
mod network;
mod packet;
mod play_listings;
mod play_seq;
mod play_states;
mod play_text;
mod play_trace;
mod recorded;
mod seq;
mod shares;
mod shell;
mod states;
mod trace;
mod verdict;
mod world;

use std::{
    fs,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use self::verdict::{Exceptions, Excuses, Mismatch, Outcome};

/// What differs on purpose and what cannot be played yet.
const EXCEPTIONS: &str = include_str!("../../differences.toml");

/// How many recordings ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: usize,
    failed: usize,
    differ: usize,
    skipped: usize,
}

/// Plays everything below `dir` and writes one line for each recording. `true` if nothing failed.
///
/// # Errors
///
/// The folder holds no recordings or cannot be read; `out` cannot be written.
pub(crate) fn run(dir: &Path, out: &mut dyn Write) -> anyhow::Result<bool> {
    let exceptions = Exceptions::parse(EXCEPTIONS).map_err(anyhow::Error::msg)?;
    let mut judge = Judge { exceptions, tally: Tally::default(), out };
    let mut files = Vec::new();
    collect(dir, &mut files)?;
    files.sort();
    for file in &files {
        judge.file(file)?;
    }
    let Tally { passed, failed, differ, skipped } = judge.tally;
    anyhow::ensure!(
        passed + failed + differ + skipped > 0,
        "no recordings below {}",
        dir.display()
    );
    writeln!(out, "{differ} differ, {skipped} skipped")?;
    writeln!(out, "{passed} passed, {failed} failed")?;
    Ok(failed == 0)
}

/// All files below a folder.
fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry.with_context(|| dir.display().to_string())?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

struct Judge<'a> {
    exceptions: Exceptions,
    tally: Tally,
    out: &'a mut dyn Write,
}

impl Judge<'_> {
    /// Plays what is in a file, if it is a recording.
    fn file(&mut self, path: &Path) -> anyhow::Result<()> {
        let part = |part: Option<&std::ffi::OsStr>| {
            part.unwrap_or_default().to_string_lossy().into_owned()
        };
        let folder = part(path.parent().and_then(Path::file_name));
        let stem = part(path.file_stem());
        let name = format!("{folder}/{stem}");
        let text = || fs::read_to_string(path).with_context(|| path.display().to_string());
        match (part(path.extension()).as_str(), stem.as_str()) {
            ("seq", _) => {
                let text = text()?;
                self.scenario(&name, |excuses| play_seq::play(&text, excuses))
            }
            ("json", _) => match states::read(path) {
                Ok(Some(cases)) => cases.iter().try_for_each(|case| {
                    let name = format!("{folder}/{}", case.name());
                    self.scenario(&name, |excuses| play_states::play(case, excuses))
                }),
                Ok(None) => {
                    let trace = trace::Trace::read(path).map_err(|error| format!("{error:#}"));
                    self.scenario(&name, |excuses| Ok(play_trace::play(&trace?, excuses)))
                }
                Err(error) => self.scenario(&name, |_| Err(format!("{error:#}"))),
            },
            ("txt", stem) if folder == "text" && stem.starts_with("errors") => {
                for (number, exchange) in (1..).zip(play_text::parse(&text()?)) {
                    let name = format!("{name}/{number}");
                    self.scenario(&name, |excuses| Ok(play_text::play_error(&exchange, excuses)))?;
                }
                Ok(())
            }
            ("txt", _) if folder == "text" => {
                let text = text()?;
                let exchanges = play_text::parse(&text);
                self.scenario(&name, |excuses| {
                    let listings = play_listings::play(&text, &exchanges, excuses);
                    Ok(listings.unwrap_or_else(|| play_text::play(&exchanges, excuses)))
                })
            }
            _ => Ok(()),
        }
    }

    /// Plays one recording and writes its line. A recording that cannot be read, and a panic of the
    /// code under test, are failures of that recording alone.
    fn scenario(
        &mut self,
        name: &str,
        play: impl FnOnce(&mut Excuses<'_>) -> Result<Outcome, String>,
    ) -> anyhow::Result<()> {
        let outcome = match self.exceptions.skip(name) {
            Some(reason) => Outcome::Skip(reason.to_owned()),
            None => match catch_unwind(AssertUnwindSafe(|| play(&mut self.exceptions.of(name)))) {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(why)) => failure("a recording that can be read", why),
                Err(_) => failure("no panic", "a panic, printed above".to_owned()),
            },
        };
        let tally = &mut self.tally;
        match outcome {
            Outcome::Ok { host, note } => {
                tally.passed += 1;
                let host = match host {
                    0 => None,
                    1 => Some("1 step answered by the host".to_owned()),
                    _ => Some(format!("{host} steps answered by the host")),
                };
                let notes: Vec<_> = host.into_iter().chain(note).collect();
                if notes.is_empty() {
                    writeln!(self.out, "ok {name}")?;
                } else {
                    writeln!(self.out, "ok {name} ({})", notes.join("; "))?;
                }
            }
            Outcome::Fail(mismatch) => {
                tally.failed += 1;
                writeln!(self.out, "FAIL {name}: {mismatch}")?;
            }
            Outcome::Differs(reason) => {
                tally.differ += 1;
                writeln!(self.out, "differs {name}: {reason}")?;
            }
            Outcome::Skip(reason) => {
                tally.skipped += 1;
                writeln!(self.out, "skip {name}: {reason}")?;
            }
        }
        Ok(())
    }
}

fn failure(expected: &str, got: String) -> Outcome {
    Outcome::Fail(Mismatch { step: "-".to_owned(), expected: expected.to_owned(), got })
}
