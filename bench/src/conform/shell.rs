//! The shell commands of the recordings, as far as they mean something to a director.
//!
//! A recording's director was a Linux box; its commands are read here and carried out on ours. What
//! cannot be read is said, never passed over: a command without effect would make a later step lie.

use std::time::Duration;

use dataplane::{addr::Family, selector::Prefix, verdict::DeviceId};

use super::iptables::{self, Edit};

/// What the commands call the two interfaces.
const INTERFACES: [(&str, DeviceId); 2] = [("eth0", DeviceId(0)), ("eth1", DeviceId(1))];

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shell {
    /// ipvsadm with its arguments.
    Ipvsadm {
        /// Without the program's own name.
        args: Vec<String>,
        /// What `printf` gives it to read.
        input: String,
        /// `< FILE`: what it reads instead.
        from: Option<String>,
        /// What happens to its output.
        after: After,
    },
    /// `sysctl net.ipv4.vs.NAME=VALUE`; `quiet` prints nothing.
    Setting {
        /// Name under `net.ipv4.vs.`.
        name: String,
        /// Its new value.
        value: u32,
        /// Whether it says nothing (`-q`).
        quiet: bool,
    },
    /// iptables gives firewall marks.
    Marks(Edit),
    /// A prefix becomes local to the director.
    LocalRoute(Prefix),
    /// An interface's MTU in octets.
    Mtu(DeviceId, u16),
    /// Time passes.
    Sleep(Duration),
    /// `cat` of a file of `/proc/net`.
    Proc(String),
    /// Something else.
    Unknown(String),
}

/// What stands behind a pipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Nothing.
    Nothing,
    /// `| sort`.
    Sort,
    /// `| grep PATTERN`, the pattern taken as it is.
    Grep(String),
    /// `> FILE`.
    Into(String),
    /// `| cmp - FILE && echo same`.
    Same(String),
}

/// Reads a line: one command, or several with `;` between them.
pub(super) fn parse(line: &str) -> Vec<Shell> {
    line.split(';').map(str::trim).filter(|part| !part.is_empty()).map(command).collect()
}

fn command(text: &str) -> Shell {
    let stages: Vec<_> = text.split('|').map(str::trim).collect();
    let known = ipvsadm(&stages).or_else(|| match stages.as_slice() {
        [only] => simple(&only.split_whitespace().collect::<Vec<_>>()),
        _ => None,
    });
    known.or_else(|| later(text)).unwrap_or_else(|| Shell::Unknown(text.to_owned()))
}

/// `[printf -- 'TEXT' |] ipvsadm ARGUMENTS [| sort or | grep PATTERN]`.
fn ipvsadm(stages: &[&str]) -> Option<Shell> {
    let text = stages.first()?.strip_prefix("printf -- '").and_then(|text| text.strip_suffix('\''));
    let (input, stages) = match text {
        Some(text) => (text.replace("\\n", "\n"), &stages[1..]),
        None => (String::new(), stages),
    };
    let (first, filters) = stages.split_first()?;
    let mut words = first.split_whitespace();
    if words.next() != Some("ipvsadm") {
        return None;
    }
    let mut args: Vec<_> = words.map(str::to_owned).collect();
    let mut redirected = |sign: &str| {
        let at = args.len().checked_sub(2).filter(|at| args[*at] == sign)?;
        args.split_off(at).pop()
    };
    let (from, into) = (redirected("<"), redirected(">"));
    let after = match (filters, into) {
        ([], Some(file)) => After::Into(file),
        ([], None) => After::Nothing,
        (_, Some(_)) => return None,
        (filters, None) => filter(filters)?,
    };
    Some(Shell::Ipvsadm { args, input, from, after })
}

/// What stands behind the first pipe.
fn filter(filters: &[&str]) -> Option<After> {
    Some(match filters {
        ["sort"] => After::Sort,
        [filter] if filter.starts_with("cmp - ") => {
            let file = filter.strip_prefix("cmp - ")?.strip_suffix(" && echo same")?;
            After::Same(file.to_owned())
        }
        [filter] => {
            let pattern = filter.strip_prefix("grep ")?.trim_start_matches("-- ");
            After::Grep(pattern.trim_matches('\'').to_owned())
        }
        _ => return None,
    })
}

fn simple(words: &[&str]) -> Option<Shell> {
    let (program, args) = words.split_first()?;
    match *program {
        "sysctl" => {
            let quiet = args.iter().any(|arg| arg.starts_with('-') && arg.contains('q'));
            let (name, value) = args.last()?.strip_prefix("net.ipv4.vs.")?.split_once('=')?;
            Some(Shell::Setting { name: name.to_owned(), value: value.parse().ok()?, quiet })
        }
        "iptables" => iptables::parse(Family::V4, args).map(Shell::Marks),
        "ip6tables" => iptables::parse(Family::V6, args).map(Shell::Marks),
        "ip" => ip(args),
        "sleep" => Some(Shell::Sleep(seconds(args.first()?)?)),
        "cat" => args.first().map(|file| Shell::Proc((*file).to_owned())),
        _ => None,
    }
}

/// `(3 s later)`: how some recordings write that they waited.
fn later(text: &str) -> Option<Shell> {
    let words = text.strip_prefix('(')?.strip_suffix(" s later)")?;
    seconds(words).map(Shell::Sleep)
}

fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.parse().ok()?).ok()
}

/// `ip route replace local PREFIX dev lo` and `ip link set DEVICE mtu OCTETS`.
fn ip(args: &[&str]) -> Option<Shell> {
    let args = args.strip_prefix(&["-6"]).unwrap_or(args);
    match args {
        ["route", "replace" | "add", "local", prefix_text, "dev", "lo"] => {
            prefix(prefix_text).map(Shell::LocalRoute)
        }
        ["link", "set", name, "mtu", octets] => {
            let (_, device) = INTERFACES.iter().find(|(interface, _)| interface == name)?;
            Some(Shell::Mtu(*device, octets.parse().ok()?))
        }
        _ => None,
    }
}

fn prefix(text: &str) -> Option<Prefix> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use dataplane::{
        director::spec::MarkRule,
        selector::{Ports, Selector},
    };

    use super::*;

    #[test]
    fn commands_of_the_recordings_are_understood() {
        let ipvsadm = |args: &str, input: &str, after| Shell::Ipvsadm {
            args: args.split(' ').map(str::to_owned).collect(),
            input: input.to_owned(),
            from: None,
            after,
        };
        assert_eq!(parse("ipvsadm -Lcn | sort"), [ipvsadm("-Lcn", "", After::Sort)]);
        let dash = After::Grep("-p".to_owned());
        assert_eq!(
            parse("printf -- '-C\\n-A -f 1\\n' | ipvsadm -R; ipvsadm -S -n | grep -- '-p'"),
            [ipvsadm("-R", "-C\n-A -f 1\n", After::Nothing), ipvsadm("-S -n", "", dash)]
        );
        let (from, after) = (Some("/tmp/a".to_owned()), After::Into("/tmp/a".to_owned()));
        let restore = Shell::Ipvsadm {
            args: vec!["-R".to_owned()],
            input: String::new(),
            from,
            after: After::Nothing,
        };
        let same = After::Same("/tmp/a".to_owned());
        assert_eq!(
            parse(
                "ipvsadm -Sn > /tmp/a; ipvsadm -R < /tmp/a; ipvsadm -Sn | cmp - /tmp/a && echo same"
            ),
            [ipvsadm("-Sn", "", after), restore, ipvsadm("-Sn", "", same)]
        );
        let setting = |quiet| Shell::Setting { name: "sloppy_tcp".to_owned(), value: 1, quiet };
        assert_eq!(parse("sysctl -wq net.ipv4.vs.sloppy_tcp=1"), [setting(true)]);
        assert_eq!(parse("sysctl -w net.ipv4.vs.sloppy_tcp=1"), [setting(false)]);
        let prefix: Prefix = "10.3.0.0/16".parse().unwrap();
        let selector = Selector { protocol: None, to: prefix, ports: Ports::ANY, from: None };
        assert_eq!(
            parse(
                "ip route replace local 10.3.0.0/16 dev lo; \
                 iptables -t mangle -A PREROUTING -d 10.3.0.0/16 -j MARK --set-mark 1"
            ),
            [
                Shell::LocalRoute(prefix),
                Shell::Marks(Edit::Append(vec![MarkRule { mark: 1, selector }]))
            ]
        );
        assert_eq!(parse("ip link set eth1 mtu 1400"), [Shell::Mtu(DeviceId(1), 1400)]);
        assert_eq!(parse("sleep 2"), [Shell::Sleep(Duration::from_secs(2))]);
        assert_eq!(parse("(3 s later)"), [Shell::Sleep(Duration::from_secs(3))]);
        assert_eq!(
            parse("cat /proc/net/ip_vs_conn"),
            [Shell::Proc("/proc/net/ip_vs_conn".to_owned())]
        );
    }

    #[test]
    fn what_is_not_understood_is_kept_as_it_is() {
        for line in [
            "(60 connections, see below)",
            "ip link set eth9 mtu 1400",
            "iptables -t nat -A PREROUTING -d 10.0.0.1 -j MARK --set-mark 1",
            "sysctl -w net.ipv4.ip_forward=1",
            "cat /proc/net/ip_vs_conn_sync | sort | head -40",
        ] {
            assert_eq!(parse(line), [Shell::Unknown(line.to_owned())]);
        }
    }
}
