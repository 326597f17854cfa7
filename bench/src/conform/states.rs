//! `states.json`: one connection per case; state, time-out and loads after every packet.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context as _;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct File {
    /// Missing in a file of another format.
    cases: Option<Vec<Case>>,
}

/// One case.
#[derive(Debug, Deserialize)]
pub(super) struct Case {
    case: String,
    /// `nat`, `dr` or `tun`.
    pub(super) mode: String,
    /// A command on the director, or nothing.
    pub(super) setup: String,
    pub(super) steps: Vec<Step>,
}

/// One packet and what became of everything.
#[derive(Debug, Deserialize)]
pub(super) struct Step {
    /// `C:` or `B:` (client or real server) and TCP flags, `udp` or an SCTP chunk.
    pub(super) pkt: String,
    /// What came out, in words.
    pub(super) out: Vec<String>,
    /// The connection as `ipvsadm -Lcn` lists it, blanks squeezed.
    pub(super) conn: Vec<String>,
    /// Active and inactive connections by real server.
    pub(super) load: BTreeMap<String, String>,
}

/// What a case needs of the director.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Service {
    /// ipvsadm's option that names a service of this protocol.
    pub(super) option: &'static str,
    /// Port of the service.
    pub(super) port: u16,
    /// Port of its real servers under nat.
    pub(super) nat_port: u16,
}

const TCP: Service = Service { option: "-t", port: 80, nat_port: 8080 };
const UDP: Service = Service { option: "-u", port: 7000, nat_port: 7001 };
const SCTP: Service = Service { option: "--sctp-service", port: 3868, nat_port: 3869 };

/// Reads the cases; `None` if this is a recording of another format.
pub(super) fn read(path: &Path) -> anyhow::Result<Option<Vec<Case>>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let file: File = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    Ok(file.cases)
}

impl Case {
    /// Its name: case, mode and, if there is one, what was set.
    pub(super) fn name(&self) -> String {
        let set = self.setup.trim_start_matches("sysctl -wq net.ipv4.vs.");
        let set = set.trim_start_matches("ipvsadm --").replace(' ', "-");
        let slash = if set.is_empty() { "" } else { "/" };
        format!("{}/{}{slash}{set}", self.case, self.mode)
    }

    /// The service it speaks to.
    pub(super) fn service(&self) -> Service {
        match self.steps.first().and_then(|step| step.pkt.split_once(':')) {
            Some((_, "udp")) => UDP,
            Some((_, payload)) if payload.chars().all(|c| "SAFRPUEC".contains(c)) => TCP,
            _ => SCTP,
        }
    }

    /// The rules that the case ran under: two real servers, `rr`.
    pub(super) fn rules(&self) -> Result<Vec<String>, String> {
        let Service { option, port, nat_port } = self.service();
        let (flag, real_port) = match self.mode.as_str() {
            "nat" => ("-m", nat_port),
            "dr" => ("-g", port),
            "tun" => ("-i", port),
            other => return Err(format!("mode `{other}`")),
        };
        let mut rules = vec![format!("-A {option} 10.0.0.1:{port} -s rr")];
        for real in ["10.2.0.11", "10.2.0.12"] {
            rules.push(format!("-a {option} 10.0.0.1:{port} -r {real}:{real_port} {flag} -w 1"));
        }
        Ok(rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(mode: &str, setup: &str, pkt: &str) -> Case {
        let step =
            Step { pkt: pkt.to_owned(), out: Vec::new(), conn: Vec::new(), load: BTreeMap::new() };
        let (mode, setup) = (mode.to_owned(), setup.to_owned());
        Case { case: "a-case".to_owned(), mode, setup, steps: vec![step] }
    }

    #[test]
    fn a_case_knows_its_service_rules_and_name() {
        let null = case("dr", "sysctl -wq net.ipv4.vs.sloppy_tcp=1", "C:");
        assert_eq!((null.service(), null.name()), (TCP, "a-case/dr/sloppy_tcp=1".to_owned()));
        let rules = null.rules().unwrap();
        assert_eq!(rules[2], "-a -t 10.0.0.1:80 -r 10.2.0.12:80 -g -w 1");
        let udp = case("nat", "ipvsadm --set 100 10 20", "C:udp");
        assert_eq!((udp.service(), udp.name()), (UDP, "a-case/nat/set-100-10-20".to_owned()));
        assert!(udp.rules().unwrap()[1].ends_with("-r 10.2.0.11:7001 -m -w 1"));
        assert_eq!(case("tun", "", "C:COOKIE_ECHO").service(), SCTP);
        assert!(case("gue", "", "C:S").rules().is_err());
    }
}
