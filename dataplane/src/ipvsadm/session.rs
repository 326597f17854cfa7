//! Runs commands as ipvsadm does: what is printed, in which order, and the exit status.
//!
//! The services are somebody else's ([`Backend`]): a director in this process, or a daemon at the
//! other end of a socket. Standard streams are the caller's too.

use std::borrow::Cow;

use super::{
    command::{Command, Dialect, ListOptions, Listed},
    flows::{list_flows, list_flows_title},
    help::{VERSION, help},
    listing::{list_service, list_services, list_timeouts},
    names::Names,
    parse::{parse, try_help},
    refusal::{Refusal, refusal},
    rules::{unsigned_marks, words},
    save::save,
};
use crate::director::spec::{DirectorError, FlowInfo, ServiceInfo, ServiceKey, TimeoutSpec};

/// Has the services.
pub trait Backend {
    /// Carries out a command that changes something: `-A`, `-E`, `-D`, `-C`, `-a`, `-e`, `-d`,
    /// `-Z` and `--set`. Others never come here.
    ///
    /// # Errors
    ///
    /// Nothing was changed, and why.
    fn change(&mut self, command: &Command) -> Result<(), Failure>;

    /// All services in the order in which they were added.
    ///
    /// # Errors
    ///
    /// They could not be had.
    fn services(&mut self) -> Result<Vec<ServiceInfo>, Failure>;

    /// One service.
    ///
    /// # Errors
    ///
    /// There is none of this key, or it could not be had.
    fn service(&mut self, key: &ServiceKey) -> Result<ServiceInfo, Failure>;

    /// Hands all flows to `each`, some at a time, so that a full table need not be held twice.
    ///
    /// # Errors
    ///
    /// They could not be had, or not all of them.
    fn flows(&mut self, each: &mut dyn FnMut(&[FlowInfo])) -> Result<(), Failure>;

    /// The three time-outs.
    ///
    /// # Errors
    ///
    /// They could not be had.
    fn timeouts(&mut self) -> Result<TimeoutSpec, Failure>;

    /// The size that the head of a list of services shows.
    ///
    /// # Errors
    ///
    /// It could not be had.
    fn table_size(&mut self) -> Result<u64, Failure>;
}

/// Why a [`Backend`] did not do as it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The director refused.
    Refused(DirectorError),
    /// Anything else, in words, with its exit status: ipvsadm knows no such thing.
    Other(Refusal),
}

impl From<DirectorError> for Failure {
    fn from(error: DirectorError) -> Self {
        Self::Refused(error)
    }
}

/// Where a text goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// What commands are run with.
pub struct Session<'a> {
    /// What messages call the program.
    pub program: &'a str,
    /// Whose rules, and whose exit status of `-R`.
    pub dialect: Dialect,
    /// Who knows names.
    pub names: &'a dyn Names,
    /// Who has the services.
    pub backend: &'a mut dyn Backend,
    /// Takes what is printed, line's ends included.
    pub print: &'a mut dyn FnMut(Stream, &str),
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("program", &self.program).finish_non_exhaustive()
    }
}

/// Whether a `-R` goes on.
enum Next {
    /// With the next line; the exit status if it was the last one.
    Line(u8),
    /// ipvsadm would have exited.
    Exit(u8),
}

impl Session<'_> {
    /// Runs the words after the program's name; gives back the exit status. Only `-R` asks for
    /// lines of `input`.
    ///
    /// ipvsadm stops a `-R` at the first line that is no command, but goes on after one that the
    /// kernel refuses and exits with the status of the last line; so a failure in the middle goes
    /// unseen. But in [`Dialect::Ipvsadm`] the status is that of the first line that failed.
    pub fn run(&mut self, words: &[&str], input: &mut dyn Iterator<Item = String>) -> u8 {
        match parse(self.program, words, self.names) {
            Ok(Command::Restore) => self.restore(input),
            Ok(command) => match self.execute(&command) {
                Next::Line(status) | Next::Exit(status) => status,
            },
            Err(usage) => {
                self.complain(&usage.message);
                usage.exit
            }
        }
    }

    fn restore(&mut self, input: &mut dyn Iterator<Item = String>) -> u8 {
        let (mut last, mut first_failure) = (0, 0);
        for line in input {
            let line = match self.dialect {
                Dialect::Ipvsadm => Cow::Borrowed(line.as_str()),
                Dialect::Xvs | Dialect::Full => unsigned_marks(&line),
            };
            let words = words(&line);
            if words.is_empty() {
                continue;
            }
            let next = match parse(self.program, &words, self.names) {
                Ok(Command::Restore) => {
                    self.complain(&try_help(self.program).message);
                    Next::Exit(255)
                }
                Ok(command) => self.execute(&command),
                Err(usage) => {
                    self.complain(&usage.message);
                    Next::Exit(usage.exit)
                }
            };
            match next {
                Next::Exit(status) => return status,
                Next::Line(status) => last = status,
            }
            if first_failure == 0 {
                first_failure = last;
            }
        }
        if self.dialect == Dialect::Ipvsadm { last } else { first_failure }
    }

    fn execute(&mut self, command: &Command) -> Next {
        let done = match command {
            Command::Help => {
                let text = help(self.program);
                (self.print)(Stream::Out, &text);
                return Next::Exit(0);
            }
            Command::Version => {
                (self.print)(Stream::Out, VERSION);
                return Next::Exit(0);
            }
            Command::List(options) => self.list(options),
            Command::Save { numeric } => self.backend.services().map(|services| {
                let rules = save(&services, *numeric, self.dialect, self.names);
                (self.print)(Stream::Out, &rules);
            }),
            Command::StartDaemon(spec) => Err(Failure::Other(Refusal::start_daemon(spec.role))),
            Command::StopDaemon(_) => Err(Failure::Other(Refusal::stop_daemon())),
            change => self.backend.change(change),
        };
        let refused = match done {
            Ok(()) => return Next::Line(0),
            Err(Failure::Other(refusal)) => refusal,
            Err(Failure::Refused(error)) => refusal(command, &error),
        };
        self.complain(&refused.message);
        // A list that fails exits on the spot.
        if let Command::List(_) | Command::Save { .. } = command {
            Next::Exit(refused.exit)
        } else {
            Next::Line(refused.exit)
        }
    }

    fn list(&mut self, options: &ListOptions) -> Result<(), Failure> {
        let text = match &options.listed {
            Listed::Services => {
                let size = self.backend.table_size()?;
                list_services(&self.backend.services()?, size, options, self.names)
            }
            Listed::Service(key) => list_service(&self.backend.service(key)?, options, self.names),
            Listed::Timeouts => list_timeouts(self.backend.timeouts()?),
            // No daemon ever runs.
            Listed::Daemons => String::new(),
            Listed::Flows => {
                let (print, names) = (&mut *self.print, self.names);
                print(Stream::Out, &list_flows_title(options.persistent));
                return self.backend.flows(&mut |flows| {
                    print(Stream::Out, &list_flows(flows, options, names));
                });
            }
        };
        (self.print)(Stream::Out, &text);
        Ok(())
    }

    fn complain(&mut self, message: &str) {
        (self.print)(Stream::Err, &format!("{message}\n"));
    }
}
