//! `xvsadm`: ipvsadm's language, and more, to a daemon.
//!
//! What begins with a dash is ipvsadm's grammar, handled by [`dataplane::ipvsadm`] to the letter;
//! what begins with a word is a verb of ours (`verbs`). Called by the name `ipvsadm` the program
//! is ipvsadm: no verbs, and what ipvsadm loses it loses too.
//!
//! Exit status: 0 done; 1 a list or a verb failed, or the daemon cannot be reached; 2 the command
//! line is wrong; 255 the daemon refused, or options could not be read at all (ipvsadm's -1).

mod apply;
mod capture;
mod client;
mod completion;
pub(crate) mod explain;
mod health;
mod import;
mod local;
mod mark;
mod names;
mod operate;
mod output;
mod show;
mod status;
mod target;
mod top;
mod verbs;

use std::{
    cell::Cell,
    io::{self, BufRead as _, Write as _},
};

use dataplane::ipvsadm::{Command, Dialect, Refusal, Session, Stream, parse};

use client::Client;
pub(crate) use names::SystemNames;
use target::Target;

/// Where the daemon listens unless told otherwise.
pub const SOCKET: &str = "unix:/run/xvs/xvsd.sock";

/// What is printed below ipvsadm's help.
const HELP: &str = include_str!("help.txt");

/// Exit status of a command line that is wrong.
const USAGE: u8 = 2;
/// Exit status when the daemon cannot be reached, and of a verb that failed.
const FAILED: u8 = 1;

/// What stands before the command.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Globals {
    /// `--server`.
    server: Option<String>,
    /// `--compat`, `--full`.
    dialect: Dialect,
}

/// Standard streams. Once a reader has gone away, nothing is written any more.
struct Streams {
    gone: Cell<bool>,
}

impl Streams {
    fn print(&self, stream: Stream, text: &str) {
        let written = match stream {
            _ if self.gone.get() => return,
            Stream::Out => io::stdout().write_all(text.as_bytes()),
            Stream::Err => io::stderr().write_all(text.as_bytes()),
        };
        self.gone.set(written.is_err());
    }

    /// Says why nothing was done; gives back the exit status.
    fn refuse(&self, refusal: &Refusal) -> u8 {
        self.print(Stream::Err, &format!("{}\n", refusal.message));
        refusal.exit
    }
}

/// Runs the program: `arguments` begin with its name. Gives back the exit status.
pub fn run(arguments: &[String]) -> u8 {
    let program = arguments.first().map_or("xvsadm", |path| base_name(path));
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    let streams = Streams { gone: Cell::new(false) };
    let (globals, words) = match globals(program, &words) {
        Ok(read) => read,
        Err(message) => {
            streams.print(Stream::Err, &format!("{program}: {message}\n"));
            return USAGE;
        }
    };
    let client = Target::choose(globals.server.as_deref())
        .and_then(|target| Client::new(target, &streams.gone));
    let mut client = match client {
        Ok(client) => client,
        Err(refusal) => return streams.refuse(&refusal),
    };
    let verb = words.first().filter(|word| program != "ipvsadm" && verbs::is_verb(word));
    if verb.is_some() {
        return verbs::run(program, words, &mut client, &streams);
    }
    let names = SystemNames::new();
    let status = Session {
        program,
        dialect: globals.dialect,
        names: &names,
        backend: &mut client,
        print: &mut |stream, text| streams.print(stream, text),
    }
    .run(words, &mut input());
    if program != "ipvsadm" && parse(program, words, &names) == Ok(Command::Help) {
        streams.print(Stream::Out, &HELP.replace("{program}", program));
    }
    status
}

/// The verbs with their arguments, for who documents them.
pub fn verbs() -> clap::Command {
    verbs::command()
}

/// The script that completes commands in a shell: bash, zsh or fish.
pub fn completion(shell: &str) -> Option<String> {
    verbs::completion(shell)
}

/// The lines of standard input.
fn input() -> impl Iterator<Item = String> {
    io::stdin()
        .lock()
        .split(b'\n')
        .map_while(Result::ok)
        .map(|line| String::from_utf8_lossy(&line).into_owned())
}

/// Takes off what stands before the command.
fn globals<'w, 'a>(
    program: &str,
    mut words: &'w [&'a str],
) -> Result<(Globals, &'w [&'a str]), String> {
    let compatible = program == "ipvsadm";
    let mut globals =
        Globals { server: None, dialect: if compatible { Dialect::Ipvsadm } else { Dialect::Xvs } };
    while let [first, rest @ ..] = words {
        if *first == "--compat" {
            (globals.dialect, words) = (Dialect::Ipvsadm, rest);
        } else if *first == "--full" {
            (globals.dialect, words) = (Dialect::Full, rest);
        } else if *first == "--server" {
            let [server, rest @ ..] = rest else {
                return Err("--server: missing argument".to_owned());
            };
            (globals.server, words) = (Some((*server).to_owned()), rest);
        } else if let Some(server) = first.strip_prefix("--server=") {
            (globals.server, words) = (Some(server.to_owned()), rest);
        } else {
            break;
        }
    }
    Ok((globals, words))
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("xvsadm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_options_stand_before_the_command() {
        assert_eq!(globals("xvsadm", &["--full", "-S"]).unwrap().0.dialect, Dialect::Full);
        let words = ["--server", "unix:/a", "--compat", "-L", "--server", "x"];
        let (read, rest) = globals("xvsadm", &words).unwrap();
        assert_eq!(read.server.as_deref(), Some("unix:/a"));
        assert_eq!(read.dialect, Dialect::Ipvsadm);
        assert_eq!(rest, ["-L", "--server", "x"]);
        assert_eq!(globals("xvsadm", &["--server=/b"]).unwrap().0.server.as_deref(), Some("/b"));
        assert_eq!(globals("xvsadm", &["--server"]).unwrap_err(), "--server: missing argument");
    }

    #[test]
    fn under_its_name_the_program_is_ipvsadm() {
        assert_eq!(base_name("/usr/sbin/ipvsadm"), "ipvsadm");
        assert_eq!(globals("ipvsadm", &[]).unwrap().0.dialect, Dialect::Ipvsadm);
        assert_eq!(globals("xvsadm", &[]).unwrap().0.dialect, Dialect::Xvs);
    }
}
