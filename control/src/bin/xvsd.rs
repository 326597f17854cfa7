//! `xvsd`: the load balancer's daemon.

use std::{io, process::ExitCode};

use clap::Parser as _;
use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};
use xvs_control::{
    arguments::{Args, LogFormat},
    config,
    daemon::{self, Sources},
};

/// Exit code for a configuration that is refused, as clap's for a command line.
const REFUSED: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    if args.schema {
        return print_schema();
    }
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

fn print_schema() -> ExitCode {
    use std::io::Write as _;
    match writeln!(io::stdout(), "{:#}", config::schema()) {
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
