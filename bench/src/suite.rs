//! `xvs-bench suite`: several make targets, one after the other, and one summary.
//!
//! Every target runs, also after one has failed, so that one run shows all that is wrong. What the
//! runners in them counted (cargo test, nextest, `conform`) is added up; the last line is plain:
//! `N passed, M failed`. A target that fails without having counted a failure counts as one.

use std::{
    io::{BufRead as _, BufReader, Write},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;

/// Runs make targets and adds up what their tests counted.
#[derive(clap::Args, Debug)]
pub(crate) struct Suite {
    /// The targets, in order.
    #[arg(required = true)]
    targets: Vec<String>,
}

/// What tests counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// What became of a target.
struct Outcome {
    target: String,
    counts: Counts,
    succeeded: bool,
    took: Duration,
}

impl Suite {
    /// Runs it; gives back the exit status.
    ///
    /// # Errors
    ///
    /// make cannot be run, or nobody takes the output.
    pub(crate) fn run(&self, out: &mut impl Write) -> anyhow::Result<u8> {
        let mut outcomes = Vec::new();
        for target in &self.targets {
            writeln!(out, "\n== make {target}")?;
            out.flush()?;
            outcomes.push(run(target, out)?);
        }
        let total = summarise(&outcomes, out)?;
        Ok(u8::from(total.failed > 0))
    }
}

/// Runs one target, passing on what it prints.
fn run(target: &str, out: &mut impl Write) -> anyhow::Result<Outcome> {
    let start = Instant::now();
    let mut command = Command::new("make");
    command.args(["--no-print-directory", target]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context("make")?;
    let printed = BufReader::new(child.stdout.take().context("it was just piped")?);
    let mut counts = Counts::default();
    for line in printed.split(b'\n') {
        let line = line.context("make")?;
        let line = String::from_utf8_lossy(&line);
        counts.add(counted(&line));
        writeln!(out, "{line}")?;
        out.flush()?;
    }
    let succeeded = child.wait().context("make")?.success();
    if !succeeded && counts.failed == 0 {
        counts.failed = 1;
    }
    Ok(Outcome { target: target.to_owned(), counts, succeeded, took: start.elapsed() })
}

/// Prints the table of targets and the closing line.
fn summarise(outcomes: &[Outcome], out: &mut impl Write) -> anyhow::Result<Counts> {
    let mut total = Counts::default();
    writeln!(
        out,
        "\n{:<12}{:<8}{:>8}{:>8}{:>9}{:>10}",
        "", "", "passed", "failed", "skipped", "took"
    )?;
    for Outcome { target, counts, succeeded, took } in outcomes {
        total.add(*counts);
        let word = if *succeeded { "ok" } else { "FAILED" };
        let Counts { passed, failed, skipped } = counts;
        let seconds = took.as_secs();
        writeln!(out, "{target:<12}{word:<8}{passed:>8}{failed:>8}{skipped:>9}{seconds:>8} s")?;
    }
    let Counts { passed, failed, skipped } = total;
    let skipped = if skipped == 0 { String::new() } else { format!(", {skipped} skipped") };
    writeln!(out, "\n{passed} passed, {failed} failed{skipped}")?;
    Ok(total)
}

impl Counts {
    const fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// What a runner's closing line counted; nothing for any other line.
fn counted(line: &str) -> Counts {
    let line = line.trim();
    let is_cargo = line.starts_with("test result: ");
    let is_nextest = line.starts_with("Summary [") && line.contains("tests run:");
    let is_plain = is_plain(line);
    if !is_cargo && !is_nextest && !is_plain {
        return Counts::default();
    }
    let words: Vec<_> =
        line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let before = |name: &str| {
        let number = words.windows(2).find(|pair| pair[1] == name);
        number.and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
    };
    Counts {
        passed: before("passed"),
        failed: before("failed"),
        skipped: before("skipped") + before("ignored"),
    }
}

/// `N passed, M failed`, alone on a line.
fn is_plain(line: &str) -> bool {
    let Some((passed, failed)) = line.split_once(" passed, ") else {
        return false;
    };
    let failed = failed.strip_suffix(" failed").unwrap_or_default();
    [passed, failed].iter().all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runners_closing_lines_are_read() {
        let cargo = "test result: FAILED. 10 passed; 2 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.57s";
        assert_eq!(counted(cargo), Counts { passed: 10, failed: 2, skipped: 3 });
        let nextest = "     Summary [   1.2s] 15 tests run: 14 passed, 1 failed, 2 skipped";
        assert_eq!(counted(nextest), Counts { passed: 14, failed: 1, skipped: 2 });
        assert_eq!(counted("7 passed, 0 failed"), Counts { passed: 7, failed: 0, skipped: 0 });
        for other in ["", "ok sched/rr", "3 passed, then it rained", "running 10 tests"] {
            assert_eq!(counted(other), Counts::default(), "{other}");
        }
    }

    #[test]
    fn the_last_line_is_the_plain_sum() {
        let outcome = |target: &str, passed, failed| Outcome {
            target: target.to_owned(),
            counts: Counts { passed, failed, skipped: 0 },
            succeeded: failed == 0,
            took: Duration::from_secs(3),
        };
        let mut out = Vec::new();
        let total = summarise(&[outcome("unit", 5, 0), outcome("lint", 0, 1)], &mut out).unwrap();
        assert_eq!(total, Counts { passed: 5, failed: 1, skipped: 0 });
        assert_eq!(String::from_utf8(out).unwrap().lines().last(), Some("5 passed, 1 failed"));
    }
}
