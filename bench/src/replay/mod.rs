//! `replay`: captures through the dataplane, with their own time as clock.
//!
//! Every capture gets a load balancer of its own: services from `--rules` or `--config`, else derived
//! from the capture ([`derive`]); clients behind one device, real servers, which answer with the
//! capture's own replies ([`mirror`]), behind another. Workers take turns in one thread in the order
//! of the capture, so that the same seed gives the same output; only lines that begin with `time`
//! differ between runs.

mod derive;
mod load;
mod mirror;
mod play;
mod report;
mod rss;
mod services;

use std::{io::Write, path::PathBuf};

use clap::Parser;

use self::{
    load::{Source, load, sources},
    report::Report,
};

/// Options of `replay`.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// Captures (pcap or pcapng), or folders with captures below them.
    #[arg(long = "in", value_name = "FILE", num_args = 1.., required = true)]
    input: Vec<PathBuf>,
    /// Services as `ipvsadm -S` writes them.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    rules: Option<PathBuf>,
    /// Services, settings and time-outs from a configuration of xvsd.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to write what left each device, as pcap.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Workers; a hash of each frame says whose it is.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// How often to play each capture.
    #[arg(long = "loop", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    passes: u32,
    /// Seeds the flow table's hash and every choice left to chance.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Flows at most.
    #[arg(long, default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    flows: u32,
    /// Forwarding method of derived services: nat, dr, ipip.
    #[arg(long, default_value = "nat", value_parser = ["nat", "dr", "ipip"])]
    method: String,
    /// Scheduler of derived services.
    #[arg(long, default_value = "rr")]
    scheduler: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Replays and prints. The exit status: 0, or 1 if packets were lost without a verdict.
///
/// # Errors
///
/// A file that was named is no capture or cannot be read, rules or configuration are refused, or
/// something cannot be written.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<u8> {
    let given = services::given(args)?;
    let sources = sources(&args.input)
        .map_err(|(path, error)| anyhow::anyhow!("{}: cannot be read: {error}", path.display()))?;
    let several = sources.len() > 1;
    let mut total = Report::default();
    for source in &sources {
        let Source { path, named } = source;
        let loaded = match load(path) {
            Ok(loaded) => loaded,
            Err(error) if *named => anyhow::bail!("{}: {error}", path.display()),
            Err(error) => {
                total.others += 1;
                if !args.json {
                    writeln!(out, "{}: {error}: passed over", path.display())?;
                }
                continue;
            }
        };
        let folder = match (&args.out, path.file_name()) {
            (Some(folder), Some(name)) if several => Some(folder.join(name)),
            (folder, _) => folder.clone(),
        };
        let report = play::play(args, given.as_ref(), loaded, folder.as_deref())?;
        if several && !args.json {
            writeln!(out, "{}: {}", path.display(), report.line())?;
        }
        total.add(report);
    }
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&total)?)?;
    } else {
        total.print(out)?;
    }
    Ok(u8::from(!total.conserved()))
}
