//! How an argument vector is cut into options: popt's rules.
//!
//! Options and other words may be mixed. Short options may be joined (`-Ln`), an argument may
//! follow in the same word (`-w5`, `-w=5`) or be the next one, whatever it looks like; long
//! options take `--name=value` too. `--` ends the options. Only an optional argument (`-p`) is not
//! taken from a next word that begins with a dash.
//! Some options are ours alone, so that rules can say what the API can: `--local`,
//! `--fullnat`, `--toa`, `--proxy`.
//! Source: popt 1.19 as ipvsadm uses it, observed.

use super::check::Kind;

/// One option of ipvsadm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opt {
    AddService,
    EditService,
    DeleteService,
    Clear,
    List,
    Zero,
    AddServer,
    EditServer,
    DeleteServer,
    Set,
    Help,
    Version,
    Restore,
    Save,
    StartDaemon,
    StopDaemon,
    Tcp,
    Udp,
    Sctp,
    Mark,
    Ipv6,
    Sort,
    /// An option that the table of commands and options knows.
    Of(Kind),
    Nat,
    Ipip,
    Dr,
    /// Not ipvsadm's.
    Local,
    /// Not ipvsadm's.
    FullNat,
}

/// Whether an option has an argument.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    Word,
    MaybeWord,
}

/// Long name, short name, argument, option.
type Definition = (&'static str, Option<char>, Takes, Opt);

#[rustfmt::skip]
const DEFINITIONS: &[Definition] = {
    use Takes::{MaybeWord, Nothing, Word};
    &[
        ("add-service", Some('A'), Nothing, Opt::AddService),
        ("edit-service", Some('E'), Nothing, Opt::EditService),
        ("delete-service", Some('D'), Nothing, Opt::DeleteService),
        ("clear", Some('C'), Nothing, Opt::Clear),
        ("list", Some('L'), Nothing, Opt::List),
        ("list", Some('l'), Nothing, Opt::List),
        ("zero", Some('Z'), Nothing, Opt::Zero),
        ("add-server", Some('a'), Nothing, Opt::AddServer),
        ("edit-server", Some('e'), Nothing, Opt::EditServer),
        ("delete-server", Some('d'), Nothing, Opt::DeleteServer),
        ("set", None, Nothing, Opt::Set),
        ("help", Some('h'), Nothing, Opt::Help),
        ("version", Some('v'), Nothing, Opt::Version),
        ("restore", Some('R'), Nothing, Opt::Restore),
        ("save", Some('S'), Nothing, Opt::Save),
        ("start-daemon", None, Word, Opt::StartDaemon),
        ("stop-daemon", None, Word, Opt::StopDaemon),
        ("tcp-service", Some('t'), Word, Opt::Tcp),
        ("udp-service", Some('u'), Word, Opt::Udp),
        ("sctp-service", None, Word, Opt::Sctp),
        ("fwmark-service", Some('f'), Word, Opt::Mark),
        ("scheduler", Some('s'), Word, Opt::Of(Kind::Scheduler)),
        ("persistent", Some('p'), MaybeWord, Opt::Of(Kind::Persistent)),
        ("netmask", Some('M'), Word, Opt::Of(Kind::Netmask)),
        ("real-server", Some('r'), Word, Opt::Of(Kind::RealServer)),
        ("masquerading", Some('m'), Nothing, Opt::Nat),
        ("ipip", Some('i'), Nothing, Opt::Ipip),
        ("gatewaying", Some('g'), Nothing, Opt::Dr),
        ("local", None, Nothing, Opt::Local),
        ("fullnat", None, Nothing, Opt::FullNat),
        ("toa", None, Nothing, Opt::Of(Kind::Toa)),
        ("proxy", None, Nothing, Opt::Of(Kind::Proxy)),
        ("weight", Some('w'), Word, Opt::Of(Kind::Weight)),
        ("u-threshold", Some('x'), Word, Opt::Of(Kind::Upper)),
        ("l-threshold", Some('y'), Word, Opt::Of(Kind::Lower)),
        ("numeric", Some('n'), Nothing, Opt::Of(Kind::Numeric)),
        ("connection", Some('c'), Nothing, Opt::Of(Kind::Connection)),
        ("mcast-interface", None, Word, Opt::Of(Kind::McastInterface)),
        ("syncid", None, Word, Opt::Of(Kind::SyncId)),
        ("timeout", None, Nothing, Opt::Of(Kind::Timeout)),
        ("daemon", None, Nothing, Opt::Of(Kind::Daemon)),
        ("stats", None, Nothing, Opt::Of(Kind::Stats)),
        ("rate", None, Nothing, Opt::Of(Kind::Rate)),
        ("thresholds", None, Nothing, Opt::Of(Kind::Thresholds)),
        ("persistent-conn", None, Nothing, Opt::Of(Kind::PersistentConn)),
        ("nosort", None, Nothing, Opt::Of(Kind::NoSort)),
        ("sort", None, Nothing, Opt::Sort),
        ("exact", Some('X'), Nothing, Opt::Of(Kind::Exact)),
        ("ipv6", Some('6'), Nothing, Opt::Ipv6),
        ("ops", Some('o'), Nothing, Opt::Of(Kind::OnePacket)),
        ("pe", None, Word, Opt::Of(Kind::Engine)),
        ("sched-flags", Some('b'), Word, Opt::Of(Kind::SchedFlags)),
        ("mcast-group", None, Word, Opt::Of(Kind::McastGroup)),
        ("mcast-port", None, Word, Opt::Of(Kind::McastPort)),
        ("mcast-ttl", None, Word, Opt::Of(Kind::McastTtl)),
        ("sync-maxlen", None, Word, Opt::Of(Kind::SyncMaxLength)),
        ("tun-info", None, Nothing, Opt::Of(Kind::TunInfo)),
        ("tun-type", None, Word, Opt::Of(Kind::TunType)),
        ("tun-port", None, Word, Opt::Of(Kind::TunPort)),
        ("tun-nocsum", None, Nothing, Opt::Of(Kind::TunNoChecksum)),
        ("tun-csum", None, Nothing, Opt::Of(Kind::TunChecksum)),
        ("tun-remcsum", None, Nothing, Opt::Of(Kind::TunRemoteChecksum)),
    ]
};

/// Every option as it is written, dashes included: for those who complete command lines.
pub fn option_words() -> impl Iterator<Item = String> {
    DEFINITIONS.iter().flat_map(|(long, short, ..)| {
        let short = short.map(|letter| format!("-{letter}"));
        short.into_iter().chain(std::iter::once(format!("--{long}")))
    })
}

/// What is wrong with an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    Unknown,
    MissingArgument,
    UnwantedArgument,
}

impl Bad {
    /// popt's words for it.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Unknown => "unknown option",
            Self::MissingArgument => "missing argument",
            Self::UnwantedArgument => "option does not take an argument",
        }
    }
}

/// Walks over an argument vector.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    words: &'a [&'a str],
    /// How many words were used up.
    next: usize,
    /// The rest of a word of joined short options.
    joined: Option<&'a str>,
    /// Whether `--` was met.
    ended: bool,
    /// Words that are neither options nor arguments.
    rest: Vec<&'a str>,
}

impl<'a> Scanner<'a> {
    /// Starts at the first word after the program's name.
    pub(super) const fn new(words: &'a [&'a str]) -> Self {
        Self { words, next: 0, joined: None, ended: false, rest: Vec::new() }
    }

    /// The next option and its argument, `None` at the end.
    ///
    /// # Errors
    ///
    /// What is wrong with it; [`Scanner::last`] names it.
    pub(super) fn option(&mut self) -> Result<Option<(Opt, Option<&'a str>)>, Bad> {
        loop {
            if let Some(letters) = self.joined.take() {
                return self.short(letters).map(Some);
            }
            let Some(&word) = self.words.get(self.next) else {
                return Ok(None);
            };
            self.next += 1;
            if self.ended || !word.starts_with('-') || word == "-" {
                self.rest.push(word);
            } else if word == "--" {
                self.ended = true;
            } else if let Some(long) = word.strip_prefix("--") {
                return self.long(long).map(Some);
            } else {
                self.joined = Some(&word[1..]);
            }
        }
    }

    /// The word that was looked at last.
    pub(super) fn last(&self) -> &'a str {
        self.next.checked_sub(1).map_or("", |last| self.words[last])
    }

    /// The words that are neither options nor arguments.
    pub(super) fn rest(&self) -> &[&'a str] {
        &self.rest
    }

    fn long(&mut self, word: &'a str) -> Result<(Opt, Option<&'a str>), Bad> {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let found = DEFINITIONS.iter().find(|(long, ..)| *long == name);
        let &(_, _, takes, option) = found.ok_or(Bad::Unknown)?;
        match (takes, value) {
            (Takes::Nothing, Some(_)) => Err(Bad::UnwantedArgument),
            (Takes::Nothing, None) => Ok((option, None)),
            (_, Some(value)) => Ok((option, Some(value))),
            (takes, None) => Ok((option, self.argument(takes)?)),
        }
    }

    fn short(&mut self, letters: &'a str) -> Result<(Opt, Option<&'a str>), Bad> {
        let mut rest = letters.chars();
        let letter = rest.next();
        let found = DEFINITIONS.iter().find(|(_, short, ..)| short.is_some() && *short == letter);
        let &(_, _, takes, option) = found.ok_or(Bad::Unknown)?;
        let rest = rest.as_str();
        match takes {
            Takes::Nothing if rest.starts_with('=') => Err(Bad::UnwantedArgument),
            Takes::Nothing => {
                self.joined = (!rest.is_empty()).then_some(rest);
                Ok((option, None))
            }
            takes if rest.is_empty() => Ok((option, self.argument(takes)?)),
            _ => Ok((option, Some(rest.strip_prefix('=').unwrap_or(rest)))),
        }
    }

    fn argument(&mut self, takes: Takes) -> Result<Option<&'a str>, Bad> {
        let optional = takes == Takes::MaybeWord;
        match self.words.get(self.next) {
            None if optional => Ok(None),
            None => Err(Bad::MissingArgument),
            Some(word) if optional && word.starts_with('-') => Ok(None),
            Some(word) => {
                self.next += 1;
                Ok(Some(word))
            }
        }
    }
}
