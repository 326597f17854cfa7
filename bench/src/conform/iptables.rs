//! iptables as far as it gives firewall marks: the chain PREROUTING of the table mangle.
//!
//! xvs has no packet filter in front of it, but rules of the same kind (`director::marks`). What
//! cannot be said in them makes the command one that is not understood.

use std::net::IpAddr;

use dataplane::{
    addr::{Addr, Family},
    director::spec::MarkRule,
    selector::{Ports, Prefix, Selector},
    wire::protocol,
};

/// The interface that clients' packets come by, all of them.
const CLIENT_INTERFACE: &str = "eth0";

/// What a command does to the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Edit {
    /// `-A`: rules behind the others.
    Append(Vec<MarkRule>),
    /// `-I`: rules in front of the others.
    Prepend(Vec<MarkRule>),
    /// `-D`: without the first rules like these.
    Delete(Vec<MarkRule>),
    /// `-F`: without any.
    Flush,
}

/// A command as far as it is read.
struct Draft {
    family: Family,
    protocol: Option<u8>,
    to: Option<Prefix>,
    from: Option<Prefix>,
    ports: Vec<Ports>,
    mark: Option<u32>,
}

/// Reads the arguments of `iptables` or `ip6tables`.
pub(super) fn parse(family: Family, args: &[&str]) -> Option<Edit> {
    let (mut draft, mut edit, mut mangle) = (Draft::new(family), None, false);
    let mut words = args.iter().copied();
    while let Some(word) = words.next() {
        if matches!(word, "-F" | "--flush") {
            // The chain's name may follow, and it is the only one that we know.
            edit = Some(word);
            continue;
        }
        if word == "PREROUTING" && edit.is_some() {
            continue;
        }
        let value = words.next()?;
        match (word, value) {
            ("-t" | "--table", "mangle") => mangle = true,
            ("-A" | "--append" | "-I" | "--insert" | "-D" | "--delete", "PREROUTING") => {
                edit = Some(word);
            }
            ("-j" | "--jump", "MARK") | ("-i" | "--in-interface", CLIENT_INTERFACE) => {}
            ("-m" | "--match", "tcp" | "udp" | "sctp" | "multiport") => {}
            _ => draft.option(word, value)?,
        }
    }
    if !mangle {
        return None;
    }
    let rules = || draft.rules();
    match edit? {
        "-A" | "--append" => rules().map(Edit::Append),
        "-I" | "--insert" => rules().map(Edit::Prepend),
        "-D" | "--delete" => rules().map(Edit::Delete),
        _ => draft.is_untouched().then_some(Edit::Flush),
    }
}

impl Draft {
    const fn new(family: Family) -> Self {
        Self { family, protocol: None, to: None, from: None, ports: Vec::new(), mark: None }
    }

    /// An option with its value.
    fn option(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "-d" | "--dst" | "--destination" => self.to = Some(self.prefix(value)?),
            "-s" | "--src" | "--source" => self.from = Some(self.prefix(value)?),
            "-p" | "--protocol" | "--proto" => {
                self.protocol = match value {
                    "tcp" | "6" => Some(protocol::TCP),
                    "udp" | "17" => Some(protocol::UDP),
                    "sctp" | "132" => Some(protocol::SCTP),
                    "all" | "0" => None,
                    _ => return None,
                };
            }
            "--dport" | "--destination-port" => self.ports = vec![ports(value)?],
            "--dports" | "--destination-ports" => {
                self.ports = value.split(',').map(ports).collect::<Option<_>>()?;
            }
            "--set-mark" | "--set-xmark" => self.mark = Some(mark(value)?),
            _ => return None,
        }
        Some(())
    }

    fn prefix(&self, text: &str) -> Option<Prefix> {
        let (addr, length) = match text.split_once('/') {
            Some((addr, length)) => (addr, Some(length.parse().ok()?)),
            None => (text, None),
        };
        let addr: Addr = addr.parse::<IpAddr>().ok()?.into();
        let prefix = match length {
            Some(length) => Prefix::new(addr, length)?,
            None => Prefix::host(addr),
        };
        (prefix.family() == self.family).then_some(prefix)
    }

    const fn is_untouched(&self) -> bool {
        self.protocol.is_none() && self.to.is_none() && self.from.is_none() && self.mark.is_none()
    }

    /// One rule for each range of ports.
    fn rules(&self) -> Option<Vec<MarkRule>> {
        if !self.ports.is_empty() && self.protocol.is_none() {
            return None;
        }
        let everywhere = match self.family {
            Family::V4 => Prefix::new(Addr::v4(0), 0),
            Family::V6 => Prefix::new(Addr::v6(0), 0),
        };
        let to = self.to.or(everywhere)?;
        let ports = if self.ports.is_empty() { &[Ports::ANY][..] } else { &self.ports };
        let rule = |&ports: &Ports| {
            let selector = Selector { protocol: self.protocol, to, ports, from: self.from };
            Some(MarkRule { mark: self.mark?, selector })
        };
        ports.iter().map(rule).collect()
    }
}

/// `80` or `80:90`, either end of which may be left out.
fn ports(text: &str) -> Option<Ports> {
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    let first = if first.is_empty() { 0 } else { first.parse().ok()? };
    let last = if last.is_empty() { u16::MAX } else { last.parse().ok()? };
    (first <= last).then_some(Ports { first, last })
}

/// A decimal or hexadecimal number, with a mask of all bits at most.
fn mark(text: &str) -> Option<u32> {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
    (number(mask)? == u32::MAX).then(|| number(value)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Option<Edit> {
        let words: Vec<_> = line.split_whitespace().collect();
        let (program, args) = words.split_first()?;
        parse(if *program == "ip6tables" { Family::V6 } else { Family::V4 }, args)
    }

    fn rule(mark: u32, protocol: Option<u8>, to: &str, port: &str) -> MarkRule {
        let (to, ports) = (to.parse().unwrap(), port.parse().unwrap());
        MarkRule { mark, selector: Selector { protocol, to, ports, from: None } }
    }

    #[test]
    fn rules_are_read_whatever_the_order_and_spelling_of_options() {
        let all = |line: &str| match read(line) {
            Some(Edit::Append(rules)) => rules,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(
            all("iptables -t mangle -A PREROUTING -d 10.3.0.0/16 -j MARK --set-mark 1"),
            [rule(1, None, "10.3.0.0/16", "any")]
        );
        assert_eq!(
            all(
                "iptables -t mangle -A PREROUTING -i eth0 -p udp -m udp --dport 80:90 -d 10.0.0.1 \
                 -j MARK --set-xmark 0x10/0xffffffff"
            ),
            [rule(16, Some(17), "10.0.0.1", "80-90")]
        );
        assert_eq!(
            all("ip6tables -t mangle -A PREROUTING -p tcp -m multiport --dports 80,443 -j MARK \
                 --set-mark 7"),
            [rule(7, Some(6), "::/0", "80"), rule(7, Some(6), "::/0", "443")]
        );
        let with_source = all(
            "iptables -t mangle -A PREROUTING -s 192.0.2.0/24 -d 10.0.0.1 -j MARK --set-mark 2",
        );
        assert_eq!(with_source[0].selector.from, Some("192.0.2.0/24".parse().unwrap()));
        assert_eq!(read("iptables -t mangle -F PREROUTING"), Some(Edit::Flush));
        assert_eq!(read("iptables -t mangle -F"), Some(Edit::Flush));
        assert!(matches!(
            read("iptables -t mangle -D PREROUTING -d 10.0.0.1 -j MARK --set-mark 5"),
            Some(Edit::Delete(_))
        ));
    }

    #[test]
    fn what_xvs_cannot_say_is_not_understood() {
        for line in [
            "iptables -t nat -A PREROUTING -d 10.0.0.1 -j MARK --set-mark 1",
            "iptables -A PREROUTING -d 10.0.0.1 -j MARK --set-mark 1",
            "iptables -t mangle -A INPUT -d 10.0.0.1 -j MARK --set-mark 1",
            "iptables -t mangle -A PREROUTING ! -d 10.0.0.1 -j MARK --set-mark 1",
            "iptables -t mangle -A PREROUTING -i eth1 -d 10.0.0.1 -j MARK --set-mark 1",
            "iptables -t mangle -A PREROUTING -d 10.0.0.1 -j MARK --set-mark 1/0xff",
            "iptables -t mangle -A PREROUTING -d 10.0.0.1 --dport 80 -j MARK --set-mark 1",
            "iptables -t mangle -A PREROUTING -d fd00::1 -j MARK --set-mark 1",
            "iptables -t mangle -A PREROUTING -d 10.0.0.1 -j DROP",
            "iptables -t mangle -A PREROUTING -d 10.0.0.1 -j MARK",
        ] {
            assert_eq!(read(line), None, "{line}");
        }
    }
}
