//! From an argument vector to a command, with ipvsadm's messages for what is wrong with it.
//!
//! Options take effect in the order in which they are written, as in ipvsadm: `-r` without a port
//! takes the port of a service named before it, `-6` needs a mark before it, and of several
//! mistakes the one that ipvsadm would find first is reported.

use super::{
    check::{self, Verb, usage},
    command::{Command, DaemonRole, ListOptions, Usage},
    draft::Draft,
    names::Names,
    options::{Opt, Scanner},
};

/// Reads the words after the program's name. No words at all list all services.
///
/// `program` is what messages call the program. Names are asked of `names`.
///
/// # Errors
///
/// ipvsadm's message and exit status.
pub fn parse(program: &str, words: &[&str], names: &dyn Names) -> Result<Command, Usage> {
    if words.is_empty() {
        return Ok(Command::List(ListOptions::PLAIN));
    }
    let mut scanner = Scanner::new(words);
    let verb = match verb(&mut scanner).ok_or_else(|| try_help(program))?? {
        Start::Verb(verb) => verb,
        Start::Done(command) => return Ok(command),
    };
    let mut draft = Draft::new(names);
    if let Verb::StartDaemon | Verb::StopDaemon = verb.0 {
        draft.daemon.role = verb.1;
    }
    loop {
        match scanner.option() {
            Ok(None) => break,
            Ok(Some((option, argument))) => {
                draft.take(option, argument, &scanner)?;
            }
            Err(bad) => {
                let message = format!("{}: {}", scanner.last(), bad.text());
                return Err(Usage { message, exit: 255 });
            }
        }
    }
    let rest = draft.positional(verb.0, scanner.rest())?;
    if let Some(word) = rest.first() {
        return Err(usage(format!("unexpected argument {word}")));
    }
    draft.scheduler_flags()?;
    check::command(verb.0, draft.given)?;
    draft.command(verb.0)
}

/// The refusal of a line that does not begin with a command.
pub(super) fn try_help(program: &str) -> Usage {
    let message = format!("Try `{program} -h' or '{program} --help' for more information.");
    Usage { message, exit: 255 }
}

/// What the first option asks for.
enum Start {
    /// To read on. The role means something for the daemon verbs only.
    Verb((Verb, DaemonRole)),
    /// Nothing more to read.
    Done(Command),
}

/// The command, which is the first option; `None` if that is none.
fn verb(scanner: &mut Scanner<'_>) -> Option<Result<Start, Usage>> {
    let (option, argument) = scanner.option().ok().flatten()?;
    let role = match argument {
        Some("backup") => Some(DaemonRole::Backup),
        Some("master") | None => Some(DaemonRole::Master),
        Some(_) => None,
    };
    let verb = match option {
        Opt::AddService => Verb::AddService,
        Opt::EditService => Verb::EditService,
        Opt::DeleteService => Verb::DeleteService,
        Opt::Clear => Verb::Flush,
        Opt::List => Verb::List,
        Opt::Zero => Verb::Zero,
        Opt::AddServer => Verb::AddReal,
        Opt::EditServer => Verb::EditReal,
        Opt::DeleteServer => Verb::DeleteReal,
        Opt::Set => Verb::Set,
        Opt::Restore => Verb::Restore,
        Opt::Save => Verb::Save,
        Opt::StartDaemon if role.is_none() => {
            return Some(Err(usage("illegal start-daemon parameter specified")));
        }
        Opt::StopDaemon if role.is_none() => {
            return Some(Err(usage("illegal start_daemon specified")));
        }
        Opt::StartDaemon => Verb::StartDaemon,
        Opt::StopDaemon => Verb::StopDaemon,
        Opt::Help => return Some(Ok(Start::Done(Command::Help))),
        Opt::Version => return Some(Ok(Start::Done(Command::Version))),
        _ => return None,
    };
    Some(Ok(Start::Verb((verb, role.unwrap_or(DaemonRole::Master)))))
}
