//! The command line of `xvsd`.

use std::path::PathBuf;

use clap::{Parser, ValueEnum, value_parser};
use tracing_subscriber::EnvFilter;

/// IP Virtual Server in user space: the daemon.
///
/// Exit codes: 0 after a stop by signal, 1 if it could not start or had to end, 2 if the command line
/// or the configuration is refused.
#[derive(Debug, Parser)]
#[command(name = "xvsd", version, max_term_width = 100)]
pub struct Args {
    /// The configuration file (TOML). SIGHUP reads it again.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Rules as `ipvsadm -S` writes them, in addition to the configuration file's services.
    #[arg(long, value_name = "FILE")]
    pub rules: Option<PathBuf>,

    /// Checks the configuration, says what is wrong, and ends.
    #[arg(long)]
    pub check: bool,

    /// Prints the JSON schema of the configuration, and ends.
    #[arg(long)]
    pub schema: bool,

    /// How many flows fit; wins over the configuration file.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1024..=268_435_456))]
    pub flows: Option<u32>,

    /// What is logged: error, warn, info, debug, trace, or a filter as `xvs_control=debug,info`.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: EnvFilter,

    /// How it is logged, to standard error.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
