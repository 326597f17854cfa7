//! Those that are measured, each started afresh on a site of its own.

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, setpriority_process};
use serde::Serialize;
use xvs_bench::lab::{Balancer, Process, process};

use super::site::{BULK_PORT, MACS, PORT, REAL, REAL_PORT, Site, VIP, spelled};

/// The CPU that user-space forwarders are pinned to while packets are generated on the other.
pub(super) const WORKER_CPU: usize = 1;

/// Flows that xvsd has room for while new ones flood it: an eighth of them may be half-open, more
/// than come meanwhile.
const FLOOD_ROOM: u32 = 1 << 24;

/// Flows that xvsd has room for by default.
const DEFAULT_ROOM: u32 = 1 << 20;

/// What a contender is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// As many packets of known flows as it takes: user-space forwarders have [`WORKER_CPU`].
    Packets,
    /// As many new flows as it takes: the same, and xvsd a table that they do not fill.
    NewFlows,
    /// Clients and servers that want the CPUs as well: nobody is pinned.
    Shared,
}

impl Load {
    const fn is_pinned(self) -> bool {
        matches!(self, Self::Packets | Self::NewFlows)
    }

    const fn room(self) -> u32 {
        match self {
            Self::NewFlows => FLOOD_ROOM,
            Self::Packets | Self::Shared => DEFAULT_ROOM,
        }
    }
}

/// A way from client to real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Contender {
    /// The kernel routes; nothing is translated.
    IpForward,
    /// The same where peers may not hand over super-segments, as they may not to an interface with an XDP
    /// program: the bound for what takes one packet at a time.
    IpForwardCut,
    /// nftables translates, as kube-proxy sets it up, with this many services.
    Nftables(u32),
    /// HAProxy in tcp mode: two connections instead of one.
    Haproxy,
    /// Our AF_XDP devices, exchanging link addresses: the bound of what xvsd can reach.
    Swap,
    /// The same, transmitting through the AF_XDP ring as AF_XDP programs commonly do.
    SwapRing,
    /// xvsd with this many services, nat.
    Xvsd(u32),
    /// xvsd over raw sockets, which take super-segments.
    XvsdRaw,
}

/// What a contender needs as long as it runs.
#[derive(Debug)]
pub(super) enum Running {
    /// Nothing.
    Kernel,
    /// A program.
    Program(Process),
    /// The daemon.
    Daemon(Balancer),
}

impl Contender {
    /// Whether it keeps flows, so that a new one costs it something.
    pub(super) const fn opens_flows(self) -> bool {
        matches!(self, Self::Nftables(_) | Self::Haproxy | Self::Xvsd(_) | Self::XvsdRaw)
    }

    /// What people call it.
    pub(super) fn name(self) -> String {
        let services = |count| if count == 1 { "1 service" } else { "5,000 services" };
        match self {
            Self::IpForward => "kernel ip_forward".to_owned(),
            Self::IpForwardCut => "kernel ip_forward, no offloads".to_owned(),
            Self::Nftables(count) => format!("nftables DNAT, {}", services(count)),
            Self::Haproxy => "HAProxy, tcp mode".to_owned(),
            Self::Swap => "AF_XDP MAC swap".to_owned(),
            Self::SwapRing => "AF_XDP MAC swap, transmit ring".to_owned(),
            Self::Xvsd(count) => format!("xvsd, {}", services(count)),
            Self::XvsdRaw => "xvsd, raw sockets".to_owned(),
        }
    }

    /// Where clients send to: the VIP, or the real server where nobody translates.
    pub(super) const fn target(self) -> (Ipv4Addr, u16) {
        match self {
            Self::IpForward | Self::IpForwardCut | Self::Swap | Self::SwapRing => (REAL, REAL_PORT),
            _ => (VIP, PORT),
        }
    }

    /// Starts it; ready when this returns.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub(super) fn start(self, site: &Site, load: Load) -> anyhow::Result<Running> {
        let running = self.begin(site, load)?;
        if load.is_pinned()
            && let Some(id) = running.id()
        {
            favour(id)?;
        }
        Ok(running)
    }

    fn begin(self, site: &Site, load: Load) -> anyhow::Result<Running> {
        match self {
            Self::IpForward => Ok(Running::Kernel),
            Self::IpForwardCut => {
                site.cut_segments()?;
                Ok(Running::Kernel)
            }
            Self::Nftables(services) => {
                nft(site, &ruleset(services))?;
                Ok(Running::Kernel)
            }
            Self::Haproxy => haproxy(site).map(Running::Program),
            Self::Swap => swap(site, "batch").map(Running::Program),
            Self::SwapRing => swap(site, "ring").map(Running::Program),
            Self::Xvsd(services) => {
                let text = configuration(services, 1, load);
                Balancer::start(&site.lb, site.folder.path(), &text).map(Running::Daemon)
            }
            Self::XvsdRaw => {
                let text = configuration(1, 1, load);
                let text = text.replace("[[interface]]\n", "[[interface]]\nmode = \"raw\"\n");
                Balancer::start(&site.lb, site.folder.path(), &text).map(Running::Daemon)
            }
        }
    }
}

impl Running {
    /// The daemon, if it is one.
    pub(super) const fn daemon(&self) -> Option<&Balancer> {
        match self {
            Self::Daemon(balancer) => Some(balancer),
            _ => None,
        }
    }

    /// Its process id, if it is a process.
    fn id(&self) -> Option<u32> {
        match self {
            Self::Kernel => None,
            Self::Program(process) => Some(process.id()),
            Self::Daemon(balancer) => Some(balancer.id()),
        }
    }
}

/// Gives all threads of a process the highest priority, so that what else the box does, which the
/// generator keeps off its own CPU, disturbs them little.
fn favour(id: u32) -> anyhow::Result<()> {
    for thread in fs::read_dir(format!("/proc/{id}/task"))? {
        let thread = thread?.file_name().to_string_lossy().parse()?;
        setpriority_process(Pid::from_raw(thread), -20)?;
    }
    Ok(())
}

fn nft(site: &Site, rules: &str) -> anyhow::Result<()> {
    let file = site.folder.path().join("rules.nft");
    fs::write(&file, rules)?;
    process::run(site.lb.command("nft").arg("-f").arg(&file)).map(drop)
}

/// The virtual address of a service: the one measured is the first.
pub(super) fn vip(service: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(VIP) + service)
}

/// Services that are really used: protocol, port, port of the real server.
const USED: [(&str, u16, u16); 3] =
    [("tcp", PORT, REAL_PORT), ("udp", PORT, REAL_PORT), ("tcp", BULK_PORT, BULK_PORT)];

/// What kube-proxy 1.33 writes in its nftables mode for services of type ClusterIP, less what it does
/// for node ports and for hairpins: one verdict map over all services, for each a chain that
/// draws an endpoint by `numgen`, and for each endpoint a chain that translates. Source: Kubernetes
/// pkg/proxy/nftables/proxier.go.
fn ruleset(services: u32) -> String {
    let mut chains = String::new();
    let mut elements = Vec::new();
    let mut service = |address: Ipv4Addr, (protocol, port, real_port): (&str, u16, u16)| {
        let name = format!("{address}-{protocol}-{port}").replace('.', "_");
        writeln!(
            chains,
            "chain endpoint-{name} {{ ip saddr {REAL} jump mark-for-masquerade\n\
             meta l4proto {protocol} dnat to {REAL}:{real_port}\n}}\n\
             chain service-{name} {{ numgen random mod 1 vmap {{ 0 : goto endpoint-{name} }}\n}}"
        )
        .expect("a string takes all");
        elements.push(format!("{address} . {protocol} . {port} : goto service-{name}"));
    };
    for used in USED {
        service(VIP, used);
    }
    for number in 1..services {
        service(vip(number), USED[0]);
    }
    let elements = elements.join(",\n");
    format!(
        "table ip kube-proxy {{\n\
         chain mark-for-masquerade {{ meta mark set meta mark or 0x4000\n}}\n\
         {chains}\
         map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict\n\
         elements = {{ {elements} }}\n}}\n\
         map no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict\n}}\n\
         chain services {{ ip daddr . meta l4proto . th dport vmap @service-ips\n}}\n\
         chain service-endpoints-check {{\n\
         ip daddr . meta l4proto . th dport vmap @no-endpoint-services\n}}\n\
         chain filter-forward {{ type filter hook forward priority -110\n\
         ct state new jump service-endpoints-check\n}}\n\
         chain nat-prerouting {{ type nat hook prerouting priority dstnat\njump services\n}}\n\
         chain masquerading {{ meta mark and 0x4000 == 0 return\n\
         meta mark set meta mark xor 0x4000\nmasquerade fully-random\n}}\n\
         chain nat-postrouting {{ type nat hook postrouting priority srcnat\n\
         jump masquerading\n}}\n}}\n"
    )
}

fn haproxy(site: &Site) -> anyhow::Result<Process> {
    let file = site.folder.path().join("haproxy.cfg");
    let listen = |port: u16, real_port: u16| {
        format!("listen p{port}\n  bind {VIP}:{port}\n  server real {REAL}:{real_port}\n")
    };
    let (web, bulk) = (listen(PORT, REAL_PORT), listen(BULK_PORT, BULK_PORT));
    fs::write(
        &file,
        format!(
            "global\n  maxconn 4000\n\
             defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  \
             timeout server 60s\n  option splice-auto\n{web}{bulk}"
        ),
    )?;
    site.lb.ip(&format!("addr add {VIP}/32 dev lo"))?;
    let mut command = site.lb.command("haproxy");
    command.arg("-db").arg("-f").arg(&file);
    let mut process =
        Process::start("haproxy", &mut command, &site.folder.path().join("haproxy.log"))?;
    process.wait_until(Duration::from_secs(5), || listens(site, PORT))?;
    Ok(process)
}

/// Whether somebody listens at a TCP port of the load balancer.
fn listens(site: &Site, port: u16) -> bool {
    let mut command = site.lb.command("ss");
    command.args(["-Hltn", &format!("sport = :{port}")]);
    process::output(&mut command).is_ok_and(|output| !output.stdout.is_empty())
}

fn swap(site: &Site, transmit: &str) -> anyhow::Result<Process> {
    let mut command = site.lb.command(process::own("xvs-bench")?);
    command.args(["swap", "--cpu", &WORKER_CPU.to_string(), "--transmit", transmit]);
    let log = site.folder.path().join("swap.log");
    command.args([format!("front={}", spelled(MACS[0])), format!("back={}", spelled(MACS[3]))]);
    let mut process = Process::start("swap", &mut command, &log)?;
    process.wait_until(Duration::from_secs(5), || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("ready"))
    })?;
    Ok(process)
}

/// xvsd's configuration: `services` services of `reals` real servers each, one of them the real
/// one, for this load.
pub(super) fn configuration(services: u32, reals: u32, load: Load) -> String {
    let flows = load.room();
    let cpus = if load.is_pinned() { format!("cpus = [{WORKER_CPU}]\n") } else { String::new() };
    let endpoints = (services * (reals + 1) * 2).max(64).next_power_of_two();
    let mut text = format!(
        "[daemon]\nworkers = 1\n{cpus}flows = {flows}\nendpoints = {endpoints}\n\
         [[interface]]\nname = \"front\"\n[[interface]]\nname = \"back\"\n"
    );
    let mut service = |address: Ipv4Addr, (protocol, port, real_port): (&str, u16, u16)| {
        let head = "[[service]]\nscheduler = \"rr\"\n";
        write!(text, "{head}protocol = \"{protocol}\"\naddress = \"{address}\"\nport = {port}\n")
            .expect("a string takes all");
        for real in 0..reals {
            let real = Ipv4Addr::from(u32::from(REAL) + real);
            writeln!(
                text,
                "[[service.real]]\naddress = \"{real}\"\nport = {real_port}\nmethod = \"nat\""
            )
            .expect("a string takes all");
        }
    };
    for used in USED {
        service(VIP, used);
    }
    for number in 1..services {
        service(vip(number), USED[0]);
    }
    text
}

/// Programs the rig needs, with the Debian package of each.
const PROGRAMS: [(&str, &str); 8] = [
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("setpriv", "util-linux"),
    ("nft", "nftables"),
    ("haproxy", "haproxy"),
    ("wrk", "wrk"),
    ("iperf3", "iperf3"),
    ("apache2", "apache2-bin"),
];

/// Installs what is missing.
///
/// # Errors
///
/// Without root, or where there is no apt-get, with what has to be installed by hand.
pub(super) fn install() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("network namespaces need root");
    }
    let missing = PROGRAMS.into_iter().filter(|(program, _)| !process::is_installed(program));
    let packages: Vec<_> = missing.map(|(_, package)| package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(words).stdout(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let mut words = vec!["install", "-qq", "-y", "--no-install-recommends"];
    words.extend(&packages);
    if apt(&words) || (apt(&["update", "-qq"]) && apt(&words)) {
        thread::sleep(Duration::from_secs(1));
        return Ok(());
    }
    Err(anyhow::anyhow!("install them by hand"))
        .context(format!("missing: {}", packages.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_name_every_service_once() {
        let rules = ruleset(5000);
        assert_eq!(rules.matches("dnat to ").count(), 5002);
        assert_eq!(rules.matches(" . tcp . 80 : goto").count(), 5000);
        assert_eq!(vip(5000), Ipv4Addr::new(10, 96, 19, 137));
    }

    #[test]
    fn the_configuration_is_one_that_xvsd_takes() {
        let text = configuration(1000, 20, Load::Packets);
        let value: toml::Table = text.parse().unwrap();
        let services = value["service"].as_array().unwrap();
        assert_eq!(services.len(), 1002);
        assert_eq!(services[0]["real"].as_array().unwrap().len(), 20);
    }
}
