//! ipvsadm's language: its options, its rules format, its listings and its error texts.
//!
//! Text in, [`Command`] out; what is listed in, text out. No I/O and no name service: names are
//! asked of a [`Names`]. Commands, messages and exit codes are ipvsadm's to the letter, so that
//! scripts written for it keep working; where xvs says more than ipvsadm can, a [`Dialect`]
//! chooses.
//! Source: ipvsadm 1.31 as Debian 12 ships it, observed; popt(3) for how options are read.

mod check;
mod command;
mod draft;
mod flows;
mod help;
mod listing;
mod names;
mod number;
mod options;
mod order;
mod parse;
mod proc;
mod refusal;
mod rules;
mod save;
mod session;

pub use command::{Columns, Command, DaemonRole, DaemonSpec, Dialect, ListOptions, Listed, Usage};
pub use flows::{list_flows, list_flows_title};
pub use help::{VERSION, help};
pub use listing::{list_service, list_services, list_timeouts};
pub use names::{Names, Numeric};
pub use options::option_words;
pub use parse::parse;
pub use proc::{
    PROC_APP, PROC_NAMES, proc_conn, proc_conn_sync, proc_services, proc_stats, proc_stats_percpu,
};
pub use refusal::{Refusal, refusal};
pub use rules::{Rule, RulesError, parse_rules};
pub use save::save;
pub use session::{Backend, Failure, Session, Stream};
