//! `xvs-bench report`: all measurements on one page, with plots.
//!
//! Measures what the folder does not hold yet, keeps it there as JSON, and writes `report.html`: one
//! file without scripts, in light and dark. Every value is a median with its spread, every table
//! stands below its plot.

mod data;
mod page;
mod svg;

use std::{fs, io::Write, path::PathBuf, thread};

use anyhow::Context as _;
use clap::Parser;

/// Measure the pipeline and the wire, and write a report with plots.
#[derive(Debug, Parser)]
pub(crate) struct Report {
    /// Where measurements are kept and the report is written. What is there is not measured again.
    #[arg(long, default_value = "target/bench", value_name = "FOLDER")]
    out: PathBuf,
    /// Interleaved rounds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Seconds of each measurement on the wire.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=60))]
    seconds: u16,
}

impl Report {
    /// Measures and writes.
    ///
    /// # Errors
    ///
    /// A measurement fails, or the folder cannot be written.
    pub(crate) fn run(&self, out: &mut impl Write) -> anyhow::Result<()> {
        fs::create_dir_all(&self.out).with_context(|| self.out.display().to_string())?;
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let workers = u16::try_from(cpus.min(4)).unwrap_or(1);
        writeln!(out, "the pipeline, in memory: {} rounds", self.rounds)?;
        out.flush()?;
        let runs = data::kept(&self.out, "pipeline.json", || data::pipeline(self.rounds, workers))?;
        writeln!(out, "the wire: {} rounds of {} s", self.rounds, self.seconds)?;
        out.flush()?;
        let rig = data::kept(&self.out, "rig.json", || data::rig(self.rounds, self.seconds))?;
        let path = self.out.join("report.html");
        fs::write(&path, page::written(&runs, &rig))?;
        writeln!(out, "{}", path.display())?;
        Ok(())
    }
}
