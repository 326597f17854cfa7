//! `--matrix`: every method, family and table size in one run, as a table that people can read.

use std::io::Write;

use super::{Args, Ip, Report, measure, traffic::Frames};

/// Table sizes, as far as `--flows` goes.
const FLOWS: [u32; 4] = [1000, 100_000, 1_000_000, 10_000_000];

/// Measures and prints line by line.
///
/// # Errors
///
/// As [`super::run`].
pub(super) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<()> {
    if !args.json {
        writeln!(
            out,
            "| method | IP | what | frames | flows | workers | ns | Mpps | hot | bound | ratio | without table | private |"
        )?;
        writeln!(
            out,
            "| --- | --- | --- | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |"
        )?;
    }
    for row in rows(args) {
        let report = measure(&row)?;
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&report)?)?;
        } else {
            writeln!(out, "{}", line(&report))?;
        }
        out.flush()?;
    }
    Ok(())
}

/// What is measured, one after the other.
fn rows(args: &Args) -> Vec<Args> {
    let one = |change: &dyn Fn(&mut Args)| {
        let mut row = Args { matrix: false, json: false, ..args.clone() };
        change(&mut row);
        row
    };
    let sizes: Vec<_> = FLOWS.into_iter().filter(|&flows| flows <= args.flows).collect();
    let mut rows = Vec::new();
    for &flows in &sizes {
        for method in ["nat", "dr", "ipip", "gue", "gre"] {
            for family in [Ip::V4, Ip::V6] {
                rows.push(one(&|row| {
                    (row.method, row.family, row.flows) = (method.to_owned(), family, flows);
                }));
            }
        }
        for method in ["nat", "dr"] {
            rows.push(one(&|row| {
                (row.method, row.flows, row.new) = (method.to_owned(), flows, true);
            }));
        }
        rows.push(one(&|row| (row.flows, row.frames) = (flows, Frames::Mixed)));
        rows.push(one(&|row| (row.flows, row.cold) = (flows, true)));
        rows.push(one(&|row| (row.flows, row.workers, row.private) = (flows, 2, true)));
        rows.push(one(&|row| (row.flows, row.workers, row.new) = (flows, 2, true)));
    }
    rows
}

fn line(report: &Report) -> String {
    let what = match (report.new, report.cold) {
        (true, _) => "new",
        (false, true) => "hit, cold",
        (false, false) => "hit",
    };
    let maybe = |value: Option<f64>, ratio: Option<f64>| match (value, ratio) {
        (Some(value), Some(ratio)) => format!("{value:.1} ({ratio:.2})"),
        _ => "-".to_owned(),
    };
    format!(
        "| {} | {} | {what} | {} | {} | {} | {:.1} | {:.2} | {:.1} | {:.1} | {:.2} | {} | {} |",
        report.method,
        report.family,
        report.frames,
        report.flows,
        report.workers,
        report.ns_per_packet,
        report.mpps,
        report.hot_ns,
        report.bound_ns,
        report.ratio,
        maybe(report.bare_ns, report.hot_ratio),
        maybe(report.private_ns, report.shared_ratio),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[test]
    fn a_matrix_goes_as_far_as_its_flows() {
        let args = Args::parse_from(["pipeline", "--matrix", "--flows", "100000"]);
        let rows = rows(&args);
        assert_eq!(rows.len(), 2 * 16);
        assert!(rows.iter().all(|row| row.flows <= 100_000 && !row.matrix));
        assert!(rows.iter().any(|row| row.new) && rows.iter().any(|row| row.cold));
    }
}
