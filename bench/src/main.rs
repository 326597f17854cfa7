//! `xvs-bench`: replays captures, judges xvs against recordings of the kernel, measures.

mod alloc;
mod conform;
mod decap;
mod demo;
mod lb;
mod pipeline;
mod replay;
mod report;
mod rig;
mod suite;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};

/// Replays captures, judges xvs against recordings of the kernel, measures.
#[derive(Debug, Parser)]
#[command(name = "xvs-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Replay captures through the dataplane; their time is the clock.
    Replay(replay::Args),
    /// Play every recording below a folder and compare with what the kernel did.
    Conform {
        /// The folder.
        dir: PathBuf,
    },
    /// Measure the cost of a packet over synthetic flows.
    Pipeline(pipeline::Args),
    /// Measure xvsd on the wire, beside the kernel, nftables and HAProxy (root).
    Rig(rig::Rig),
    /// Measure the pipeline and the wire, and write a report with plots.
    Report(report::Report),
    /// Forward everything between two interfaces, exchanging link addresses only.
    #[command(hide = true)]
    Swap(rig::swap::Swap),
    /// Real HTTP through nat, dr, ipip and fullnat, in network namespaces of its own.
    Demo(demo::Demo),
    /// Unwrap IPIP for a real server whose kernel has no tunnel device.
    Decap(decap::Decap),
    /// Run make targets and add up what their tests counted.
    Suite(suite::Suite),
}

fn main() -> ExitCode {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let status = match Cli::parse().command {
        Command::Replay(args) => replay::run(&args, &mut out),
        Command::Conform { dir } => conform::run(&dir, &mut out).map(|passed| u8::from(!passed)),
        Command::Pipeline(args) => pipeline::run(&args, &mut out).map(|kept| u8::from(!kept)),
        Command::Report(report) => report.run(&mut out).map(|()| 0),
        Command::Rig(rig) => rig.run(&mut out),
        Command::Swap(swap) => swap.run(&mut out).map(|()| 0),
        Command::Demo(demo) => demo.run(&mut out),
        Command::Decap(decap) => decap.run(&mut out).map(|()| 0),
        Command::Suite(suite) => suite.run(&mut out),
    };
    let status = match status.and_then(|status| Ok(out.flush().map(|()| status)?)) {
        Ok(status) => status,
        // Whoever reads us has had enough.
        Err(error) if is_closed_pipe(&error) => 0,
        Err(error) => {
            drop(writeln!(io::stderr(), "xvs-bench: {error:#}"));
            2
        }
    };
    ExitCode::from(status)
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    kind == Some(io::ErrorKind::BrokenPipe)
}
