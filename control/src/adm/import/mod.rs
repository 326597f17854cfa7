//! The verb `import`: a keepalived.conf's virtual servers as our TOML.
//!
//! The rule: what is not carried over is named, line by line, and nothing is guessed silently. What comes
//! out is what `xvsd --check` takes. VRRP, scripts of quorums, and checkers that we do not have are not
//! carried over.
//! Source: keepalived.conf(5), "LVS CONFIGURATION".

mod checks;
mod conf;

use std::{collections::BTreeMap, fmt::Write as _, fs, io, net::IpAddr, path::Path};

use clap::ValueEnum;
use dataplane::{ipvsadm::Failure, sched::Scheduler};

use self::{checks::Health, conf::Node};
use super::verbs::{failed, usage};
use crate::config::Config;

/// From what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Origin {
    /// A keepalived.conf.
    Keepalived,
}

/// What was made of a file.
#[derive(Debug, Default)]
struct Imported {
    toml: String,
    /// Lines that were not carried over, and why.
    left: Vec<(usize, String)>,
}

/// A file's services as TOML; what was left is written to `complaints`.
pub(super) fn import(
    Origin::Keepalived: Origin,
    path: &Path,
    complaints: &mut impl io::Write,
) -> Result<String, Failure> {
    let name = path.display();
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::Other(failed(&format!("{name}: {error}"))))?;
    let imported =
        keepalived(&text).map_err(|error| Failure::Other(usage(&format!("{name}: {error}"))))?;
    for (line, why) in &imported.left {
        // If nobody reads them there is nobody to tell.
        writeln!(complaints, "{name}:{line}: {why}").unwrap_or_default();
    }
    Config::parse(&imported.toml).map_err(|error| {
        Failure::Other(failed(&format!("{name}: what came out is refused: {error}")))
    })?;
    Ok(imported.toml)
}

fn keepalived(text: &str) -> Result<Imported, String> {
    let nodes = conf::parse(text)?;
    let mut out = Imported::default();
    let groups: BTreeMap<_, _> = nodes
        .iter()
        .filter(|node| node.words[0] == "virtual_server_group")
        .filter_map(|node| Some((node.words.get(1)?.as_str(), node.block.as_deref()?)))
        .collect();
    for node in &nodes {
        match node.words[0].as_str() {
            "virtual_server" => virtual_server(node, &groups, &mut out),
            "virtual_server_group" => {}
            word => {
                let block = if node.block.is_some() { " { ... }" } else { "" };
                out.leave(node, &format!("`{word}{block}` says nothing of services"));
            }
        }
    }
    Ok(out)
}

impl Imported {
    fn leave(&mut self, node: &Node, why: &str) {
        self.left.push((node.line, why.to_owned()));
    }

    /// A line that has no counterpart here.
    fn leave_word(&mut self, node: &Node) {
        let block = if node.block.is_some() { " { ... }" } else { "" };
        self.leave(node, &format!("`{}{block}` is not carried over", node.words.join(" ")));
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        self.toml.write_fmt(text).and_then(|()| self.toml.write_char('\n')).unwrap_or_default();
    }
}

/// One virtual server; one service, or one for each member of its group.
fn virtual_server(node: &Node, groups: &BTreeMap<&str, &[Node]>, out: &mut Imported) {
    let words: Vec<&str> = node.words.iter().map(String::as_str).collect();
    let body = Body::of(node.block.as_deref().unwrap_or_default(), out);
    let names = match words[1..] {
        ["group", name] => match groups.get(name) {
            Some(members) => members.iter().flat_map(|each| member(each, out)).collect(),
            None => {
                out.leave(node, &format!("there is no virtual_server_group `{name}`"));
                Vec::new()
            }
        },
        ["fwmark", mark] => vec![Name::Mark(mark.to_owned())],
        [addr, port] => vec![Name::Address(addr.to_owned(), port.to_owned())],
        [addr] => vec![Name::Address(addr.to_owned(), "0".to_owned())],
        _ => {
            out.leave_word(node);
            Vec::new()
        }
    };
    for name in names {
        body.write(&name, out);
    }
}

/// What names a service.
enum Name {
    Address(String, String),
    Mark(String),
}

/// A line of a group: an address, some addresses that differ in their last number, or a mark.
fn member(node: &Node, out: &mut Imported) -> Vec<Name> {
    let words: Vec<&str> = node.words.iter().map(String::as_str).collect();
    let (addrs, port) = match words[..] {
        ["fwmark", mark] => return vec![Name::Mark(mark.to_owned())],
        [addrs, port] => (addrs, port),
        [addrs] => (addrs, "0"),
        _ => {
            out.leave_word(node);
            return Vec::new();
        }
    };
    let Some((first, last)) = addrs.split_once('-') else {
        return vec![Name::Address(addrs.to_owned(), port.to_owned())];
    };
    let expanded = range(first, last);
    if expanded.is_empty() {
        out.leave(node, &format!("`{addrs}` is no range of addresses"));
    }
    expanded.into_iter().map(|addr| Name::Address(addr.to_string(), port.to_owned())).collect()
}

/// The addresses from `first` to the one whose last number is `last`.
fn range(first: &str, last: &str) -> Vec<IpAddr> {
    match first.parse() {
        Ok(IpAddr::V4(addr)) => {
            let [a, b, c, d] = addr.octets();
            let last = last.parse().unwrap_or(0);
            (d..=last).map(|d| IpAddr::from([a, b, c, d])).collect()
        }
        Ok(IpAddr::V6(addr)) => {
            let [a, b, c, d, e, f, g, h] = addr.segments();
            let last = u16::from_str_radix(last, 16).unwrap_or(0);
            let addrs = (h..=last).take(256);
            addrs.map(|h| IpAddr::from([a, b, c, d, e, f, g, h])).collect()
        }
        Err(_) => Vec::new(),
    }
}

/// What stands in a virtual server's block.
#[derive(Default)]
struct Body {
    protocol: Option<String>,
    family: Option<&'static str>,
    /// Lines of TOML of the service itself.
    lines: Vec<String>,
    flags: Vec<&'static str>,
    reals: Vec<Vec<String>>,
    method: Option<Vec<String>>,
    health: Health,
}

impl Body {
    fn of(block: &[Node], out: &mut Imported) -> Self {
        let method = block.iter().find_map(method);
        let mut body = Self { method, ..Self::default() };
        // What holds for all real servers may stand behind them.
        let mut rest = Vec::new();
        for node in block {
            if node.words[0] == "real_server" || !body.health.take(node) {
                rest.push(node);
            }
        }
        for node in rest {
            body.take(node, out);
        }
        body.health.complain(block, out);
        body
    }

    fn take(&mut self, node: &Node, out: &mut Imported) {
        let words: Vec<&str> = node.words.iter().map(String::as_str).collect();
        match words[..] {
            ["lb_algo" | "lvs_sched", name] if Scheduler::NAMES.contains(&name) => {
                self.lines.push(format!("scheduler = \"{name}\""));
            }
            ["lb_kind" | "lvs_method", ..] => {
                if method(node).is_none() {
                    out.leave_word(node);
                }
            }
            ["protocol", name] => self.protocol = Some(name.to_lowercase()),
            ["persistence_timeout"] => self.lines.push("persistence_seconds = 360".to_owned()),
            ["persistence_timeout", seconds] => {
                self.lines.push(format!("persistence_seconds = {seconds}"));
            }
            ["persistence_granularity", mask] => self.lines.push(format!("netmask = \"{mask}\"")),
            ["persistence_engine", name] => {
                self.lines.push(format!("persistence_engine = \"{name}\""));
            }
            ["ops"] => self.lines.push("one_packet = true".to_owned()),
            ["flag-1" | "sh-fallback" | "mh-fallback"] => self.flags.push("\"fallback\""),
            ["flag-2" | "sh-port" | "mh-port"] => self.flags.push("\"port\""),
            ["flag-3"] => self.flags.push("\"flag3\""),
            ["ip_family", "inet"] => self.family = Some("ipv4"),
            ["ip_family", "inet6"] => self.family = Some("ipv6"),
            ["real_server", addr, ref rest @ ..] if rest.len() < 2 => {
                let block = self.health.real(node, out);
                let port = rest.first().copied();
                let method = self.method.as_deref();
                self.reals.push(real((node, &block), (addr, port), method, out));
            }
            _ => out.leave_word(node),
        }
    }

    fn write(&self, name: &Name, out: &mut Imported) {
        out.line(format_args!("[[service]]"));
        match name {
            Name::Address(addr, port) => {
                let protocol = self.protocol.as_deref().unwrap_or("tcp");
                out.line(format_args!("protocol = \"{protocol}\"\naddress = \"{addr}\""));
                out.line(format_args!("port = {port}"));
            }
            Name::Mark(mark) => {
                out.line(format_args!("mark = {mark}"));
                if let Some(family) = self.family {
                    out.line(format_args!("family = \"{family}\""));
                }
            }
        }
        for line in &self.lines {
            out.line(format_args!("{line}"));
        }
        if !self.flags.is_empty() {
            out.line(format_args!("scheduler_flags = [{}]", self.flags.join(", ")));
        }
        for real in &self.reals {
            out.line(format_args!("\n[[service.real]]\n{}", real.join("\n")));
        }
        self.health.write(self.method.as_deref(), out);
        out.line(format_args!(""));
    }
}

/// A forwarding method as lines of TOML.
fn method(node: &Node) -> Option<Vec<String>> {
    let words: Vec<&str> = node.words.iter().map(String::as_str).collect();
    let ["lb_kind" | "lvs_method", kind, options @ ..] = &words[..] else { return None };
    let word_behind = |name: &str| {
        let at = options.iter().position(|word| word.eq_ignore_ascii_case(name))?;
        options.get(at + 1).copied()
    };
    let has = |name: &str| options.iter().any(|word| word.eq_ignore_ascii_case(name));
    let name = match (kind.to_uppercase().as_str(), word_behind("type")) {
        ("NAT", _) => "nat",
        ("DR", _) => "dr",
        ("TUN", None) => "ipip",
        ("TUN", Some(kind)) if kind.eq_ignore_ascii_case("ipip") => "ipip",
        ("TUN", Some(kind)) if kind.eq_ignore_ascii_case("gue") => "gue",
        ("TUN", Some(kind)) if kind.eq_ignore_ascii_case("gre") => "gre",
        _ => return None,
    };
    let mut lines = vec![format!("method = \"{name}\"")];
    let mut tunnel = Vec::new();
    if let Some(port) = word_behind("port") {
        tunnel.push(format!("port = {port}"));
    }
    if has("csum") {
        tunnel.push("checksum = true".to_owned());
    }
    if has("remcsum") {
        tunnel.push("remote_checksum = true".to_owned());
    }
    if !tunnel.is_empty() {
        lines.push(format!("tunnel = {{ {} }}", tunnel.join(", ")));
    }
    Some(lines)
}

/// A real server as lines of TOML; its method is its own or the service's.
fn real(
    (node, block): (&Node, &[&Node]),
    (addr, port): (&str, Option<&str>),
    common: Option<&[String]>,
    out: &mut Imported,
) -> Vec<String> {
    let mut lines = vec![format!("address = \"{addr}\"")];
    lines.extend(port.map(|port| format!("port = {port}")));
    let own = block.iter().copied().find_map(method);
    match own.as_deref().or(common) {
        Some(method) => lines.extend_from_slice(method),
        None => {
            out.leave(node, "no lvs_method is given: nat is assumed");
            lines.push("method = \"nat\"".to_owned());
        }
    }
    for node in block {
        let words: Vec<&str> = node.words.iter().map(String::as_str).collect();
        match words[..] {
            ["weight", weight] => lines.push(format!("weight = {weight}")),
            ["uthreshold", flows] => lines.push(format!("upper_threshold = {flows}")),
            ["lthreshold", flows] => lines.push(format!("lower_threshold = {flows}")),
            ["lb_kind" | "lvs_method", ..] if method(node).is_some() => {}
            _ => out.leave_word(node),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r"
vrrp_instance VI_1 {
    virtual_router_id 51
}

virtual_server_group WEB {
    192.0.2.10-12 80
    fwmark 7
}

virtual_server group WEB {
    delay_loop 6
    lb_algo wrr
    lb_kind NAT
    persistence_timeout 50
    protocol TCP
    real_server 198.51.100.11 8080 {
        weight 3
        uthreshold 1000
        TCP_CHECK {
            connect_timeout 3
        }
    }
    real_server 198.51.100.12 8080 {
        lvs_method NAT
    }
}

virtual_server 2001:db8::53 53 {
    lvs_sched sh
    sh-port
    lvs_method TUN type gue port 6080 csum
    protocol UDP
    ops
    real_server 2001:db8:1::11 53 {
    }
}
";

    #[test]
    fn services_are_carried_over_and_the_rest_is_named() {
        let imported = keepalived(EXAMPLE).unwrap();
        let config = Config::parse(&imported.toml)
            .unwrap_or_else(|error| panic!("{error}\n{}", imported.toml));
        let services = &config.desired.services;
        let names: Vec<_> = services
            .iter()
            .map(|(spec, _)| crate::words::ServiceName(&spec.key).to_string())
            .collect();
        assert_eq!(
            names,
            [
                "TCP 192.0.2.10:80",
                "TCP 192.0.2.11:80",
                "TCP 192.0.2.12:80",
                "FWM 7",
                "UDP [2001:db8::53]:53"
            ]
        );
        let (spec, reals) = &services[0];
        assert_eq!((spec.scheduler.as_str(), spec.persistence_s), ("wrr", Some(50)));
        assert_eq!((reals[0].weight, reals[0].upper, reals[1].weight), (3, 1000, 1));
        let (spec, reals) = &services[4];
        assert!(spec.flags.port && spec.one_packet);
        assert_eq!((reals[0].tunnel.port, reals[0].tunnel.checksum), (6080, true));
        let left: Vec<_> =
            imported.left.iter().map(|(line, why)| format!("{line}: {why}")).collect();
        assert_eq!(
            left,
            [
                "2: `vrrp_instance { ... }` says nothing of services",
                "24: its checkers differ from the first real server's, whose are taken for all",
            ]
        );
    }

    #[test]
    fn checkers_are_carried_over() {
        let checker = "HTTP_GET {\n url {\n path /up\n status_code 200 204-206\n }\n url {\n path /db\n }\n \
                       connect_timeout 3\n retry 2\n delay_before_retry 2\n }\n MISC_CHECK {\n \
                       misc_path \"/bin/check -x\"\n }\n inhibit_on_failure\n";
        let text = format!(
            "virtual_server 10.0.0.1 80 {{\n delay_loop 6\n lvs_method NAT\n quorum 2\n hysteresis 1\n alpha\n \
             sorry_server 10.2.0.99 81\n real_server 10.2.0.1 80 {{\n{checker}}}\n real_server 10.2.0.2 80 \
             {{\n{checker}}}\n}}\n"
        );
        let imported = keepalived(&text).unwrap();
        let config = Config::parse(&imported.toml)
            .unwrap_or_else(|error| panic!("{error}\n{}", imported.toml));
        let policies = config.desired.policies.unwrap();
        let policy = policies.values().next().unwrap();
        assert!(policy.start_down && policy.on_down.name() == "inhibit");
        assert_eq!((policy.quorum, policy.hysteresis), (2, 1));
        let sorry = policy.sorry.unwrap();
        assert_eq!((sorry.addr.to_string(), sorry.port), ("10.2.0.99".to_owned(), 81));
        let kinds: Vec<_> = policy.checks.iter().map(|check| check.kind.clone()).collect();
        let http = |path: &str, status| {
            crate::health::policy::Kind::Http(crate::health::policy::Http {
                path: path.to_owned(),
                host: String::new(),
                status,
                body: String::new(),
                tls: None,
            })
        };
        assert_eq!(kinds[0], http("/up", vec![(200, 200), (204, 206)]));
        assert_eq!(kinds[1], http("/db", vec![(200, 299)]));
        let command = ["/bin/check", "-x"].map(str::to_owned).to_vec();
        assert_eq!(kinds[2], crate::health::policy::Kind::Script { command });
        let check = &policy.checks[0];
        assert_eq!((check.interval.as_secs(), check.timeout.as_secs()), (6, 3));
        assert_eq!((check.rise, check.fall), (1, 3));
        let left: Vec<_> = imported.left.iter().map(|(_, why)| why.as_str()).collect();
        assert_eq!(left, ["`delay_before_retry 2` is not carried over"; 2]);
    }

    #[test]
    fn a_method_that_is_missing_is_not_guessed_silently() {
        let imported =
            keepalived("virtual_server 10.0.0.1 80 {\nreal_server 10.2.0.1 80 {\n}\n}\n");
        let imported = imported.unwrap();
        assert_eq!(imported.left, [(2, "no lvs_method is given: nat is assumed".to_owned())]);
        assert!(imported.toml.contains("method = \"nat\""));
    }
}
