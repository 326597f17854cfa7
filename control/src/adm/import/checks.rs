//! keepalived's checkers as our health checks.
//!
//! keepalived checks each real server by itself, a service here has one policy: checkers are carried over
//! if they are the same for all of a service's real servers. A checker fails after `retry` repetitions,
//! which is our `fall`; one that passes is believed at once, which is `rise = 1`.
//! Source: keepalived.conf(5), "LVS CONFIGURATION"; defaults from its `check_*.c`.

use super::{Imported, conf::Node};

/// Seconds between two checks, and until a connection is given up, unless told otherwise.
const DELAY_LOOP: f64 = 60.0;
const CONNECT_TIMEOUT: f64 = 5.0;

/// What a virtual server's block says of health.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    /// Lines of TOML of the policy.
    lines: Vec<String>,
    /// `delay_loop`, `retry` and `connect_timeout` of the virtual server.
    common: Timing,
    sorry: Option<(String, String)>,
    sorry_method: Option<Vec<String>>,
    /// Each real server's checks, and where it stands.
    reals: Vec<(usize, Vec<Vec<String>>)>,
    inhibit: bool,
}

/// When a checker checks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Timing {
    delay_loop: Option<f64>,
    timeout: Option<f64>,
    retry: Option<u32>,
}

impl Timing {
    /// Takes a line that says something of it.
    fn take(&mut self, words: &[&str]) -> bool {
        let [name, value] = words else { return false };
        match (*name, value.parse::<f64>(), value.parse::<u32>()) {
            ("delay_loop", Ok(seconds), _) => self.delay_loop = Some(seconds),
            ("connect_timeout" | "misc_timeout", Ok(seconds), _) => self.timeout = Some(seconds),
            ("retry" | "nb_get_retry", _, Ok(times)) => self.retry = Some(times),
            _ => return false,
        }
        true
    }

    /// This, and where it says nothing what `common` says.
    fn over(self, common: Self) -> Self {
        Self {
            delay_loop: self.delay_loop.or(common.delay_loop),
            timeout: self.timeout.or(common.timeout),
            retry: self.retry.or(common.retry),
        }
    }

    fn lines(self, retry: u32) -> [String; 4] {
        let millis = |seconds: f64, least: f64, most: f64| (seconds * 1000.0).clamp(least, most);
        let interval = millis(self.delay_loop.unwrap_or(DELAY_LOOP), 100.0, 3_600_000.0);
        let timeout = millis(self.timeout.unwrap_or(CONNECT_TIMEOUT), 10.0, 60_000.0);
        let fall = self.retry.unwrap_or(retry).saturating_add(1).min(100);
        [
            format!("interval_milliseconds = {interval:.0}"),
            format!("timeout_milliseconds = {timeout:.0}"),
            "rise = 1".to_owned(),
            format!("fall = {fall}"),
        ]
    }
}

impl Health {
    /// Takes a line of the virtual server's block, if it is about health.
    pub(super) fn take(&mut self, node: &Node) -> bool {
        let words: Vec<&str> = node.words.iter().map(String::as_str).collect();
        match words[..] {
            ["alpha"] => self.lines.push("start_down = true".to_owned()),
            ["quorum", weight] => self.lines.push(format!("quorum = {weight}")),
            ["hysteresis", "0"] => {}
            ["hysteresis", weight] => self.lines.push(format!("quorum_hysteresis = {weight}")),
            ["sorry_server", addr, port] => {
                self.sorry = Some((addr.to_owned(), port.to_owned()));
            }
            ["sorry_server_lvs_method", ..] => {
                let mut renamed = node.clone();
                renamed.words[0] = "lvs_method".to_owned();
                self.sorry_method = super::method(&renamed);
                return self.sorry_method.is_some();
            }
            ["inhibit_on_failure"] => self.inhibit = true,
            _ => return self.common.take(&words),
        }
        true
    }

    /// Takes what a real server's block says of health; what is left is given back.
    pub(super) fn real<'a>(&mut self, real: &'a Node, out: &mut Imported) -> Vec<&'a Node> {
        let mut left = Vec::new();
        let mut checks = Vec::new();
        let block = real.block.as_deref().unwrap_or_default();
        let mut common = self.common;
        for node in block {
            let words: Vec<&str> = node.words.iter().map(String::as_str).collect();
            if words == ["inhibit_on_failure"] {
                self.inhibit = true;
            } else if !common.take(&words) {
                match self::checks(node, common, out) {
                    Some(found) => checks.extend(found),
                    None => left.push(node),
                }
            }
        }
        self.reals.push((real.line, checks));
        left
    }

    /// The policy as TOML; nothing if nothing is checked. `method` is the virtual server's.
    pub(super) fn write(&self, method: Option<&[String]>, out: &mut Imported) {
        let first = self.reals.iter().map(|(_, checks)| checks).find(|checks| !checks.is_empty());
        let Some(first) = first else { return };
        out.line(format_args!("\n[service.health]"));
        if !self.inhibit {
            // As keepalived, which takes a real server out of the kernel's table.
            out.line(format_args!("on_down = \"remove\""));
        }
        for line in &self.lines {
            out.line(format_args!("{line}"));
        }
        if let Some((addr, port)) = &self.sorry {
            let method = self.sorry_method.as_deref().or(method).unwrap_or_default();
            let more: String = method.iter().map(|line| format!(", {line}")).collect();
            out.line(format_args!("sorry = {{ address = \"{addr}\", port = {port}{more} }}"));
        }
        for check in first {
            out.line(format_args!("\n[[service.health.check]]\n{}", check.join("\n")));
        }
    }

    /// Names what is not carried over.
    pub(super) fn complain(&self, block: &[Node], out: &mut Imported) {
        let first = self.reals.iter().map(|(_, checks)| checks).find(|checks| !checks.is_empty());
        let mut leave = |line: usize, why: &str| out.left.push((line, why.to_owned()));
        let Some(first) = first else {
            if self.sorry.is_some() || !self.lines.is_empty() {
                let line = block.first().map_or(0, |node| node.line);
                leave(line, "quorum and sorry_server need a checker to go by: not carried over");
            }
            return;
        };
        for (line, checks) in &self.reals {
            if checks != first {
                leave(
                    *line,
                    "its checkers differ from the first real server's, whose are taken for all",
                );
            }
        }
    }
}

/// The checks that a checker is; `None` if the line is no checker that is carried over.
fn checks(node: &Node, common: Timing, out: &mut Imported) -> Option<Vec<Vec<String>>> {
    let (kind, retry) = match node.words[0].as_str() {
        "TCP_CHECK" => ("tcp", 1),
        "HTTP_GET" => ("http", 3),
        "SSL_GET" => ("https", 3),
        "PING_CHECK" => ("icmp", 1),
        "UDP_CHECK" => ("udp", 1),
        "DNS_CHECK" => ("dns", 3),
        "MISC_CHECK" => ("script", 0),
        _ => return None,
    };
    let mut timing = Timing::default();
    let mut lines = vec![format!("kind = \"{kind}\"")];
    let mut urls = Vec::new();
    let (mut name, mut record) = (None, "SOA".to_owned());
    for line in node.block.as_deref().unwrap_or_default() {
        let words: Vec<&str> = line.words.iter().map(String::as_str).collect();
        match (kind, &words[..]) {
            (_, ["connect_port", port]) => lines.push(format!("port = {port}")),
            ("http" | "https", ["url"]) => urls.push(url(line, out)),
            ("https", ["enable_sni"]) => {}
            ("http" | "https", ["virtualhost", host]) => lines.push(format!("host = {host:?}")),
            ("dns", ["type", asked]) => record = asked.to_uppercase(),
            ("dns", ["name", asked]) => name = Some(asked.to_string()),
            ("script", ["misc_path", command @ ..]) => {
                let words: Vec<_> =
                    command.iter().flat_map(|word| word.split_whitespace()).collect();
                lines.push(format!("command = {words:?}"));
            }
            _ if timing.take(&words) => {}
            _ => out.leave_word(line),
        }
    }
    match kind {
        // keepalived does not look at certificates.
        "https" => lines.push("authority = \"any\"".to_owned()),
        "dns" => {
            let name = name.as_deref().unwrap_or(".");
            lines.push(format!("name = {name:?}\nrecord = {record:?}"));
        }
        _ => {}
    }
    if kind == "script" && !lines.iter().any(|line| line.starts_with("command = [\"/")) {
        out.leave(node, "a script without an absolute path is not carried over");
        return Some(Vec::new());
    }
    lines.extend(timing.over(common).lines(retry));
    if urls.is_empty() {
        urls.push(Vec::new());
    }
    Some(urls.into_iter().map(|url| [lines.clone(), url].concat()).collect())
}

/// What is asked for, and what must be answered.
fn url(node: &Node, out: &mut Imported) -> Vec<String> {
    let (mut lines, mut good) = (Vec::new(), Vec::new());
    for line in node.block.as_deref().unwrap_or_default() {
        let words: Vec<&str> = line.words.iter().map(String::as_str).collect();
        match words[..] {
            ["path", path] => lines.push(format!("path = {path:?}")),
            ["virtualhost", host] => lines.push(format!("host = {host:?}")),
            ["status_code", ref ranges @ ..] => {
                good.extend(ranges.iter().map(|range| format!("{range:?}")));
            }
            _ => out.leave_word(line),
        }
    }
    if good.is_empty() {
        good.push("\"200-299\"".to_owned());
    }
    lines.push(format!("status = [{}]", good.join(", ")));
    lines
}
