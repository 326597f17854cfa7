//! What a text of listings says about its traffic: flows, and what services and real servers counted.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::play_text::Exchange;

/// A flow as `ipvsadm -Lcn` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordedFlow {
    protocol: String,
    pub(super) state: String,
    pub(super) client: SocketAddr,
    pub(super) virt: SocketAddr,
    pub(super) real: SocketAddr,
}

/// What a service, or a real server of it, counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    /// `TCP`, `UDP`, `SCTP`.
    pub(super) protocol: String,
    /// The service.
    pub(super) to: SocketAddr,
    conns: u64,
    packets: u64,
    pub(super) octets: u64,
    /// The same of its real servers.
    reals: BTreeMap<SocketAddr, (u64, u64)>,
}

/// What is known.
#[derive(Debug)]
pub(super) struct Recorded {
    /// Rules that stand at the head of the file.
    pub(super) rules: Vec<String>,
    flows: Vec<RecordedFlow>,
    counted: Vec<Counted>,
    /// Calls by their client.
    calls: BTreeMap<IpAddr, String>,
    /// The first firewall mark of each family: IPv4, IPv6.
    marks: [Option<u32>; 2],
}

impl Recorded {
    /// Reads a text; `None` if it has no rules of its own or lists no flows.
    pub(super) fn read(text: &str, exchanges: &[Exchange]) -> Option<Self> {
        let head = text.lines().take_while(|line| !line.starts_with("$ "));
        let rules: Vec<_> = head.filter(|line| line.starts_with('-')).map(str::to_owned).collect();
        let find = |command: &str| {
            exchanges.iter().skip_while(|e| !e.after_traffic).find(|e| e.command == command)
        };
        let lists = find("ipvsadm -Lcn")?.stdout.lines().skip(2);
        let templates_and_flows: Vec<_> = lists.filter_map(flow).collect();
        let flows = templates_and_flows.into_iter().filter(|flow| flow.client.port() != 0);
        let mark = |v6: bool| {
            let words = rules.iter().map(|rule| rule.split_whitespace().collect::<Vec<_>>());
            let mut of_family =
                words.filter(|words| words.first() == Some(&"-A") && words.contains(&"-6") == v6);
            of_family.find_map(|words| {
                let at = words.iter().position(|word| *word == "-f")?;
                words.get(at + 1)?.parse().ok()
            })
        };
        let calls =
            find("cat /proc/net/ip_vs_conn").map_or_else(BTreeMap::new, |e| calls(&e.stdout));
        Some(Self {
            flows: flows.collect(),
            counted: counted(&find("ipvsadm -Ln --stats")?.stdout),
            calls,
            marks: [mark(false), mark(true)],
            rules,
        })
    }

    /// TCP flows in the order of their clients' ports.
    pub(super) fn tcp(&self) -> impl Iterator<Item = &RecordedFlow> {
        let mut flows: Vec<_> = self.flows.iter().filter(|flow| flow.protocol == "TCP").collect();
        flows.sort_by_key(|flow| flow.client.port());
        flows.into_iter()
    }

    /// UDP flows.
    pub(super) fn udp(&self) -> impl Iterator<Item = &RecordedFlow> {
        self.flows.iter().filter(|flow| flow.protocol == "UDP")
    }

    /// The service that a flow belongs to.
    fn service(&self, flow: &RecordedFlow) -> Option<&Counted> {
        let named = |port| SocketAddr::new(flow.virt.ip(), port);
        let of = |to| self.counted.iter().find(|c| c.protocol == flow.protocol && c.to == to);
        of(flow.virt).or_else(|| of(named(0)))
    }

    /// Addresses of no service, and the mark that brought packets there.
    pub(super) fn marked(&self) -> impl Iterator<Item = (u32, IpAddr)> {
        let foreign = self.flows.iter().filter(|flow| self.service(flow).is_none());
        foreign.filter_map(|flow| {
            let addr = flow.virt.ip();
            Some((self.marks[usize::from(addr.is_ipv6())]?, addr))
        })
    }

    /// Octets of a packet to a flow's service, on average.
    pub(super) fn octets_of(&self, flow: &RecordedFlow) -> u64 {
        self.service(flow)
            .and_then(|service| service.octets.checked_div(service.packets))
            .unwrap_or(0)
    }

    /// The call of a client's message.
    pub(super) fn call_of(&self, flow: &RecordedFlow) -> Option<&str> {
        let call = self.calls.get(&flow.client.ip())?;
        (flow.virt.port() == 5060).then_some(call.as_str())
    }

    /// Data that clients sent: what a real server counted beyond opening, shaking hands and closing.
    pub(super) fn data(&self) -> Vec<(&RecordedFlow, Vec<u8>)> {
        let mut data = Vec::new();
        for service in self.counted.iter().filter(|service| service.protocol == "TCP") {
            for (real, &(packets, octets)) in &service.reals {
                let flows: Vec<_> =
                    self.tcp().filter(|f| f.virt == service.to && f.real == *real).collect();
                let sent = |flow: &&RecordedFlow| match flow.state.as_str() {
                    "SYN_RECV" => 1,
                    "TIME_WAIT" => 4,
                    _ => 2,
                };
                let bare = if real.is_ipv4() { 40 } else { 60 };
                let extra = packets.saturating_sub(flows.iter().map(sent).sum());
                let Some(length) = octets.saturating_sub(packets * bare).checked_div(extra) else {
                    continue;
                };
                let open = flows.iter().find(|flow| flow.state != "SYN_RECV");
                for flow in open.into_iter().cycle().take(usize::try_from(extra).unwrap_or(0)) {
                    data.push((*flow, vec![b'x'; usize::try_from(length).unwrap_or(0)]));
                }
            }
        }
        data
    }

    /// Services that counted connections of which no flow is left.
    pub(super) fn vanished(&self) -> impl Iterator<Item = &Counted> {
        self.counted.iter().filter(|service| {
            let left = self.flows.iter().any(|flow| self.service(flow) == Some(*service));
            service.conns > 0 && !left
        })
    }
}

/// A line of `ipvsadm -Lcn`.
fn flow(line: &str) -> Option<RecordedFlow> {
    let mut words = line.split_whitespace();
    let protocol = words.next()?.to_owned();
    let state = words.nth(1)?.to_owned();
    let mut end = || words.next()?.parse().ok();
    Some(RecordedFlow { protocol, state, client: end()?, virt: end()?, real: end()? })
}

/// Calls in `/proc/net/ip_vs_conn`, by client.
fn calls(text: &str) -> BTreeMap<IpAddr, String> {
    let call = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "sip")?;
        let client = u32::from_str_radix(words.get(1)?, 16).ok()?;
        Some((IpAddr::from(client.to_be_bytes()), (*words.get(at + 1)?).to_owned()))
    };
    text.lines().filter_map(call).collect()
}

/// `ipvsadm -Ln --stats`, without firewall marks.
fn counted(text: &str) -> Vec<Counted> {
    let mut services: Vec<Counted> = Vec::new();
    let mut of_mark = false;
    for line in text.lines().skip(3) {
        let words: Vec<_> = line.split_whitespace().collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(0);
        let Some(to) = words.get(1).and_then(|word| word.parse().ok()) else {
            of_mark = words.first() == Some(&"FWM");
            continue;
        };
        if words[0] == "->" {
            if let Some(service) = services.last_mut().filter(|_| !of_mark) {
                service.reals.insert(to, (number(3), number(5)));
            }
            continue;
        }
        of_mark = false;
        services.push(Counted {
            protocol: words[0].to_owned(),
            to,
            conns: number(2),
            packets: number(3),
            octets: number(5),
            reals: BTreeMap::new(),
        });
    }
    services
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_listings_are_read() {
        let listed =
            "TCP 00:50  SYN_RECV    [2001:db8:9::7]:40104 [fd00::1]:80       [fd02::11]:8080";
        let read = flow(listed).unwrap();
        assert_eq!((read.protocol.as_str(), read.state.as_str()), ("TCP", "SYN_RECV"));
        assert_eq!(read.client, "[2001:db8:9::7]:40104".parse().unwrap());
        assert_eq!(flow("IPVS connection entries"), None);
        let stats = "a\nb\nc\nTCP  10.0.0.1:80   6  16  6  2640  240\n  -> 10.2.0.11:8080  3 8 3 1320 120\n\
                     FWM  1   1 1 0 40 0\n  -> 10.2.0.14:0  1 1 0 40 0\n";
        let services = counted(stats);
        assert_eq!((services.len(), services[0].packets, services[0].octets), (1, 16, 2640));
        assert_eq!(services[0].reals.values().next(), Some(&(8, 1320)));
        assert_eq!(services[0].reals.len(), 1);
    }
}
