//! The director under judgement: ours, in the recordings' network, driven by the recordings' commands.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use dataplane::{
    director::spec::{Counters, FlowInfo, MarkRule, Rates, ServiceInfo},
    io::sim::SimIo,
    ipvsadm::{
        Dialect, PROC_APP, Session, Stream, proc_conn, proc_conn_sync, proc_services, proc_stats,
        proc_stats_percpu,
    },
    selector::{Prefix, Selector},
    verdict::{DeviceId, DropReason, Verdict},
};

use super::{
    iptables::Edit,
    names::Few,
    network::{is_local, network, vips},
    shell::{self, After, Shell},
};
use crate::lb::{Lb, Sizes};

/// How many rows the recordings' kernel had for flows: it stands in the head of listings.
const TABLE_SIZE: u64 = 4096;
/// HZ of the recordings' kernel, in whose ticks `/proc` writes persistence.
const TICKS_PER_S: u32 = 100;
/// Time between two steps of a recording. They followed each other at once: no time-out passed.
const STEP: Duration = Duration::from_millis(1);
/// How long a command took on the recordings' director.
pub(super) const COMMAND: Duration = Duration::from_millis(200);
/// Time between a recording's last step and its listings: long enough for the kernel's estimator,
/// which sums counters up every two seconds.
pub(super) const BEFORE_STATE: Duration = Duration::from_millis(2400);
const MTU: u16 = 1500;
/// Flows that fit: more than any recording has.
const FLOWS: usize = 8192;
/// Frames that wait on a link at most: more than any packet causes.
const QUEUE: usize = 256;

/// What a command printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Printed {
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) exit: u8,
}

impl Printed {
    fn out(stdout: String) -> Self {
        Self { stdout, ..Self::default() }
    }

    fn refused(message: &str, exit: u8) -> Self {
        Self { stderr: format!("{message}\n"), exit, ..Self::default() }
    }

    /// What comes out at the other end of a pipe, with the exit status from there.
    fn through(self, after: &After, files: &mut BTreeMap<String, String>) -> Self {
        let mut lines: Vec<_> = self.stdout.lines().collect();
        let exit = match after {
            After::Nothing => return self,
            After::Sort => {
                lines.sort_unstable();
                0
            }
            After::Grep(pattern) => {
                lines.retain(|line| line.contains(pattern.as_str()));
                u8::from(lines.is_empty())
            }
            After::Into(file) => {
                files.insert(file.clone(), self.stdout);
                return Self { stdout: String::new(), ..self };
            }
            After::Same(file) => {
                let same = files.get(file) == Some(&self.stdout);
                let stdout = if same { "same\n" } else { "" }.to_owned();
                return Self { stdout, exit: u8::from(!same), ..self };
            }
        };
        let stdout = lines.iter().map(|line| format!("{line}\n")).collect();
        Self { stdout, stderr: self.stderr, exit }
    }
}

/// What a packet caused.
#[derive(Debug)]
pub(super) struct Reaction {
    /// What left, in order.
    pub(super) sent: Vec<(DeviceId, Vec<u8>)>,
    /// What the host got, in order.
    pub(super) host: Vec<Vec<u8>>,
    verdict: Option<Verdict>,
}

impl Reaction {
    /// What a real server on the director itself was given: rewritten where the method is nat.
    pub(super) fn local(&self) -> Option<&[u8]> {
        let local = self.verdict == Some(Verdict::Tx(DeviceId::HOST));
        self.host.last().filter(|_| local).map(Vec::as_slice)
    }

    /// The packet's verdict in words.
    pub(super) fn outcome(&self) -> String {
        match self.verdict {
            Some(Verdict::Tx(DeviceId::HOST)) => "given to a real server of the host".to_owned(),
            Some(Verdict::Tx(_)) => "forwarded".to_owned(),
            Some(Verdict::Host) => "given to the host".to_owned(),
            Some(Verdict::Consumed) if self.sent.is_empty() => "consumed, no answer".to_owned(),
            Some(Verdict::Consumed) => "answered".to_owned(),
            Some(Verdict::Drop(reason)) => format!("dropped: {}", reason.name()),
            None => "no verdict".to_owned(),
        }
    }
}

/// A director with the recordings' network.
pub(super) struct World {
    lb: Lb<SimIo>,
    /// Prefixes that are local: VIPs, and those that were made so.
    local: Vec<Prefix>,
    /// What iptables was told.
    marks: Vec<MarkRule>,
    /// Files that commands wrote, by name.
    files: BTreeMap<String, String>,
}

impl World {
    pub(super) fn new() -> Self {
        let sizes = Sizes { flows: FLOWS, endpoints: 256, seed: 1, table_size: TABLE_SIZE };
        // Recorded packets are never too big for the links; paths bring the recordings' MTU.
        let io = SimIo::new(&[MTU; 2], QUEUE);
        let lb = Lb::new(&sizes, network([MTU; 2]), vec![io]).expect("a small table fits");
        Self { lb, local: vips().collect(), marks: Vec::new(), files: BTreeMap::new() }
    }

    /// Whether an address is the director's own.
    pub(super) fn is_local(&self, addr: IpAddr) -> bool {
        is_local(addr) || self.local.iter().any(|prefix| prefix.contains(addr.into()))
    }

    /// Lets time pass.
    pub(super) fn advance(&mut self, time: Duration) {
        self.lb.advance(time);
    }

    /// Lets a packet come in.
    pub(super) fn inject(&mut self, device: DeviceId, frame: &[u8]) -> Reaction {
        self.lb.advance(STEP);
        let before = self.settled(device);
        let worker = &mut self.lb.workers[0];
        worker.io_mut().push(device, frame);
        worker.turn().expect("links in memory do not fail");
        let (mut sent, mut host) = (Vec::new(), Vec::new());
        for device in [DeviceId(0), DeviceId(1)] {
            while let Some(frame) = worker.io_mut().take(device) {
                sent.push((device, frame));
            }
        }
        while let Some((_, frame)) = worker.io_mut().take_host() {
            host.push(frame);
        }
        let after = self.settled(device);
        let verdict = after.iter().zip(&before).find(|(a, b)| a.1 != b.1).map(|(a, _)| a.0);
        let verdict = match verdict {
            Some(Verdict::Tx(_)) if !host.is_empty() => Some(Verdict::Tx(DeviceId::HOST)),
            other => other,
        };
        Reaction { sent, host, verdict }
    }

    /// How many packets of a device ended how.
    fn settled(&self, device: DeviceId) -> Vec<(Verdict, u64)> {
        let counters = self.lb.stats.worker(0).device(device);
        let mut settled = vec![
            (Verdict::Tx(device), counters.transmitted.get()),
            (Verdict::Host, counters.host.get()),
            (Verdict::Consumed, counters.consumed.get()),
        ];
        let dropped = DropReason::ALL.iter().zip(&counters.dropped);
        settled.extend(dropped.map(|(&reason, count)| (Verdict::Drop(reason), count.get())));
        settled
    }

    pub(super) fn services(&self) -> Vec<ServiceInfo> {
        self.lb.director.services()
    }

    /// All flows, templates among them.
    pub(super) fn flows(&self) -> Vec<FlowInfo> {
        self.lb.flows()
    }

    /// Gives a command line; returns what it printed.
    ///
    /// # Errors
    ///
    /// Why it failed.
    pub(super) fn shell(&mut self, line: &str) -> Result<String, String> {
        let mut stdout = String::new();
        for command in shell::parse(line) {
            self.advance(COMMAND);
            let printed = self.command(&command);
            if printed.exit != 0 {
                return Err(printed.stderr.trim_end().to_owned());
            }
            stdout.push_str(&printed.stdout);
        }
        Ok(stdout)
    }

    /// Gives one command as a person would; returns everything it did.
    pub(super) fn printed(&mut self, line: &str) -> Printed {
        match shell::parse(line).as_slice() {
            [command] => self.command(command),
            _ => Printed::refused("not one command", 127),
        }
    }

    /// Gives a line of commands as a person would; returns everything they printed and how the
    /// last one exited.
    pub(super) fn line(&mut self, line: &str) -> Printed {
        let mut printed = Printed::default();
        for command in line.split(';') {
            let next = self.printed(command.trim());
            printed.stdout.push_str(&next.stdout);
            printed.stderr.push_str(&next.stderr);
            printed.exit = next.exit;
        }
        printed
    }

    /// ipvsadm with the words of `line`.
    pub(super) fn ipvsadm_line(&mut self, line: &str) -> Printed {
        let words: Vec<_> = line.split_whitespace().collect();
        self.ipvsadm(&words, "")
    }

    fn command(&mut self, command: &Shell) -> Printed {
        match command {
            Shell::Ipvsadm { args, input, from, after } => {
                let words: Vec<_> = args.iter().map(String::as_str).collect();
                let saved = from.as_ref().and_then(|file| self.files.get(file)).cloned();
                let printed = self.ipvsadm(&words, saved.as_deref().unwrap_or(input));
                printed.through(after, &mut self.files)
            }
            Shell::Setting { name, value, quiet } => {
                if let Err(error) = self.lb.director.set_setting(name, *value) {
                    return Printed::refused(&error.to_string(), 255);
                }
                self.lb.adopt();
                let echo = format!("net.ipv4.vs.{name} = {value}\n");
                Printed::out(if *quiet { String::new() } else { echo })
            }
            Shell::Marks(edit) => self.mark(edit),
            Shell::LocalRoute(prefix) => {
                self.local.push(*prefix);
                self.adopt_marks()
            }
            Shell::Mtu(_, octets) => {
                // The recordings with another MTU have it on both sides.
                self.lb.set_network(network([*octets; 2]));
                Printed::default()
            }
            Shell::Sleep(time) => {
                self.advance(*time);
                Printed::default()
            }
            Shell::Proc(file) => self.proc(file),
            Shell::Unknown(text) => Printed::refused(&format!("`{text}` is not understood"), 127),
        }
    }

    /// iptables gives marks; what it says about packets that are not for the director marks
    /// nothing that IPVS would look at.
    fn mark(&mut self, edit: &Edit) -> Printed {
        match edit {
            Edit::Append(rules) => self.marks.extend(rules),
            Edit::Prepend(rules) => {
                self.marks.splice(0..0, rules.iter().copied());
            }
            Edit::Delete(rules) => {
                for rule in rules {
                    let Some(at) = self.marks.iter().position(|known| known == rule) else {
                        return Printed::refused("iptables: Bad rule", 1);
                    };
                    self.marks.remove(at);
                }
            }
            Edit::Flush => self.marks.clear(),
        }
        self.adopt_marks()
    }

    /// Gives the director the rules, as far as they are about its own addresses.
    fn adopt_marks(&mut self) -> Printed {
        let mut rules = Vec::new();
        for rule in &self.marks {
            let to = rule.selector.to;
            let own = self.local.iter().filter(|own| own.covers(to) || to.covers(**own));
            rules.extend(own.map(|own| {
                let to = if own.covers(to) { to } else { *own };
                MarkRule { selector: Selector { to, ..rule.selector }, ..*rule }
            }));
        }
        rules.dedup();
        if let Err(error) = self.lb.director.set_mark_rules(rules) {
            return Printed::refused(&error.to_string(), 255);
        }
        self.lb.adopt();
        Printed::default()
    }

    fn proc(&self, file: &str) -> Printed {
        let (services, flows) = (self.services(), self.flows());
        match file {
            "/proc/net/ip_vs" => Printed::out(proc_services(&services, TABLE_SIZE, TICKS_PER_S)),
            "/proc/net/ip_vs_conn" => Printed::out(proc_conn(&flows)),
            "/proc/net/ip_vs_conn_sync" => Printed::out(proc_conn_sync(&flows)),
            "/proc/net/ip_vs_app" => Printed::out(PROC_APP.to_owned()),
            "/proc/net/ip_vs_stats" => {
                let counters = services.iter().map(|service| service.counters);
                let totals = counters.fold(Counters::default(), Counters::plus);
                Printed::out(proc_stats(&totals, &Rates::default()))
            }
            "/proc/net/ip_vs_stats_percpu" => {
                // One worker: what it counted is what all did.
                let counters = services.iter().map(|service| service.counters);
                let totals = counters.fold(Counters::default(), Counters::plus);
                Printed::out(proc_stats_percpu(&[totals], &totals, &Rates::default()))
            }
            _ => Printed::refused(&format!("cat: {file}: No such file or directory"), 1),
        }
    }

    fn ipvsadm(&mut self, words: &[&str], input: &str) -> Printed {
        let mut printed = Printed::default();
        let mut session = Session {
            program: "ipvsadm",
            dialect: Dialect::Ipvsadm,
            names: &Few,
            backend: &mut self.lb,
            print: &mut |stream, text| match stream {
                Stream::Out => printed.stdout.push_str(text),
                Stream::Err => printed.stderr.push_str(text),
            },
        };
        let exit = session.run(words, &mut input.lines().map(str::to_owned));
        Printed { exit, ..printed }
    }
}
