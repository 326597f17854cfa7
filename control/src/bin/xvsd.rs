//! `xvsd`: the load balancer's daemon.

use std::{io, path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum, value_parser};
use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};
use xvs_control::daemon::{self, Sources};

/// Exit code for a configuration that is refused, as clap's for a command line.
const REFUSED: u8 = 2;

/// IP Virtual Server in user space: the daemon.
///
/// Exit codes: 0 after a stop by signal, 1 if it could not start or had to end, 2 if the command line
/// or the configuration is refused.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Args {
    /// The configuration file (TOML). SIGHUP reads it again.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Rules as `ipvsadm -S` writes them, in addition to the configuration file's services.
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,

    /// Checks the configuration, says what is wrong, and ends.
    #[arg(long)]
    check: bool,

    /// How many flows fit; wins over the configuration file.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1024..=268_435_456))]
    flows: Option<u32>,

    /// What is logged: error, warn, info, debug, trace, or a filter as `xvs_control=debug,info`.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: EnvFilter,

    /// How it is logged, to standard error.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

fn main() -> ExitCode {
    let args = Args::parse();
    log(args.log, args.log_format);
    let sources = Sources { config: args.config, rules: args.rules, flows: args.flows };
    let config = match sources.load() {
        Ok(config) => config,
        Err(error) => return fail(&error, REFUSED),
    };
    if args.check {
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("xvs-control")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, 1),
    };
    match runtime.block_on(daemon::run(sources, config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

fn log(filter: EnvFilter, format: LogFormat) {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::NONE)
        .with_target(false)
        .with_writer(io::stderr);
    match format {
        LogFormat::Text => subscriber.with_ansi(false).init(),
        LogFormat::Json => subscriber.json().init(),
    }
    // A worker's panic is one line of the log, in the log's own format.
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!("{}", panic.to_string().replace('\n', " "));
    }));
}

/// One line that names the culprit.
fn fail(error: &dyn std::error::Error, code: u8) -> ExitCode {
    use std::io::Write as _;
    // If standard error is closed there is nobody to tell.
    writeln!(io::stderr(), "xvsd: {error}").unwrap_or_default();
    ExitCode::from(code)
}
