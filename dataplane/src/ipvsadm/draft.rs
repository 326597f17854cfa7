//! What the options of one command line add up to.

use std::net::IpAddr;

use super::{
    check::{self, Given, Kind, Tunnel, Verb, usage},
    command::{Columns, Command, DaemonRole, DaemonSpec, ListOptions, Listed, Usage},
    names::Names,
    number::{self, HostPort},
    options::{Opt, Scanner},
};
use crate::{
    addr::{Addr, Family},
    director::spec::{ClientAddress, RealSpec, ServiceKey, ServiceSpec, TimeoutSpec, TunnelSpec},
    endpoint::Method,
    sched::SchedFlags,
};

/// Longest time-out in seconds: 31 days.
const TIMEOUT_S_MAX: i64 = 86_400 * 31;
/// What `-p` without a number means, in seconds.
const PERSISTENCE_S: u32 = 360;
/// IPv4 netmask that takes every client for itself.
const NO_MASK: u32 = u32::MAX;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// What the options said so far.
pub(super) struct Draft<'a> {
    names: &'a dyn Names,
    pub(super) given: Given,
    /// 0 before a service was named.
    protocol: u8,
    /// The service's address, or `None` for a mark.
    addr: Option<Addr>,
    port: u16,
    /// 0 if the service is no mark.
    mark: u32,
    /// The service's family; `None` before a service was named.
    family: Option<Family>,
    scheduler: String,
    scheduler_flags: Option<&'a str>,
    flags: SchedFlags,
    persistence_s: Option<u32>,
    netmask: u32,
    engine: Option<String>,
    real: HostPort,
    method: Method,
    weight: u32,
    upper: u32,
    lower: u32,
    tunnel: Tunnel,
    tunnel_port: u16,
    pub(super) daemon: DaemonSpec,
    timeouts: TimeoutSpec,
}

impl<'a> Draft<'a> {
    /// Before the first option.
    pub(super) fn new(names: &'a dyn Names) -> Self {
        Self {
            names,
            given: Given::default(),
            protocol: 0,
            addr: None,
            port: 0,
            mark: 0,
            family: None,
            scheduler: String::new(),
            scheduler_flags: None,
            flags: SchedFlags::default(),
            persistence_s: None,
            netmask: NO_MASK,
            engine: None,
            real: HostPort { addr: Addr::UNSPECIFIED, port: None },
            method: Method::Dr,
            weight: 1,
            upper: 0,
            lower: 0,
            tunnel: Tunnel::Ipip,
            tunnel_port: 0,
            daemon: DaemonSpec {
                role: DaemonRole::Master,
                interface: "eth0".into(),
                sync_id: 0,
                max_length: None,
                group: None,
                port: None,
                ttl: None,
            },
            timeouts: TimeoutSpec { tcp_s: 0, tcp_fin_s: 0, udp_s: 0 },
        }
    }

    /// Takes one option in.
    ///
    /// # Errors
    ///
    /// It came twice, its argument is none, or it is no option but a command.
    pub(super) fn take(
        &mut self,
        option: Opt,
        argument: Option<&'a str>,
        scanner: &Scanner<'_>,
    ) -> Result<(), Usage> {
        let word = argument.unwrap_or_default();
        match option {
            Opt::Tcp => self.service(TCP, word),
            Opt::Udp => self.service(UDP, word),
            Opt::Sctp => self.service(SCTP, word),
            Opt::Mark => self.mark(word),
            Opt::Ipv6 if self.mark == 0 => Err(usage("-6 used before -f\n")),
            Opt::Ipv6 => {
                (self.family, self.netmask) = (Some(Family::V6), 128);
                Ok(())
            }
            Opt::Sort => Ok(()),
            Opt::Nat => self.forward(Method::Nat),
            Opt::Dr => self.forward(Method::Dr),
            Opt::Ipip => self.forward(Method::Ipip),
            Opt::Local => self.forward(Method::Local),
            Opt::FullNat => self.forward(Method::FullNat),
            Opt::Of(kind) => {
                self.given.note(kind)?;
                match kind {
                    Kind::Persistent => self.persistence(argument),
                    Kind::Scheduler | Kind::Netmask | Kind::Engine | Kind::SchedFlags => {
                        self.service_option(kind, word)
                    }
                    Kind::RealServer => self.real_server(word),
                    Kind::Weight | Kind::Upper | Kind::Lower | Kind::TunType | Kind::TunPort => {
                        self.real_option(kind, word)
                    }
                    _ => self.daemon_option(kind, word),
                }
            }
            _ => Err(usage(format!("invalid option `{}'", scanner.last()))),
        }
    }

    fn service(&mut self, protocol: u8, word: &str) -> Result<(), Usage> {
        self.given.note(Kind::Service)?;
        let read = number::host_port(word, protocol, self.names)
            .ok_or_else(|| usage("illegal virtual server address[:port] specified"))?;
        if !read.addr.is_v4() {
            self.netmask = 128;
        }
        self.protocol = protocol;
        self.addr = Some(read.addr);
        self.family = Some(read.addr.family());
        self.port = read.port.unwrap_or(0);
        Ok(())
    }

    fn mark(&mut self, word: &str) -> Result<(), Usage> {
        self.given.note(Kind::Service)?;
        let mark = number::bounded(word, 1, i64::from(u32::MAX));
        self.mark = mark
            .and_then(|mark| u32::try_from(mark).ok())
            .ok_or_else(|| usage(format!("invalid fwmark value `{word}' specified")))?;
        self.protocol = TCP;
        self.family = Some(Family::V4);
        Ok(())
    }

    fn forward(&mut self, method: Method) -> Result<(), Usage> {
        self.given.note(Kind::Method)?;
        self.method = method;
        Ok(())
    }

    fn persistence(&mut self, argument: Option<&str>) -> Result<(), Usage> {
        self.persistence_s = Some(match argument {
            None => PERSISTENCE_S,
            Some(word) => timeout(word, 1)?,
        });
        Ok(())
    }

    fn service_option(&mut self, kind: Kind, word: &'a str) -> Result<(), Usage> {
        match kind {
            Kind::Scheduler => self.scheduler = word.chars().take(15).collect(),
            Kind::Engine => self.engine = (!word.is_empty()).then(|| word.into()),
            Kind::SchedFlags => self.scheduler_flags = Some(word),
            _ if self.family == Some(Family::V6) => {
                let length = u32::try_from(number::leading(word)).ok();
                self.netmask = length
                    .filter(|length| (1..=128).contains(length))
                    .ok_or_else(|| usage("illegal ipv6 netmask specified"))?;
            }
            _ => {
                let mask = number::inet_aton(word).or_else(|| self.names.host_addr(word));
                let mask =
                    mask.ok_or_else(|| usage("illegal virtual server persistent mask specified"))?;
                self.netmask = mask.to_bits();
            }
        }
        Ok(())
    }

    fn real_server(&mut self, word: &str) -> Result<(), Usage> {
        let read = number::host_port(word, self.protocol, self.names)
            .ok_or_else(|| usage("illegal real server address[:port] specified"))?;
        self.real = HostPort { addr: read.addr, port: Some(read.port.unwrap_or(self.port)) };
        Ok(())
    }

    fn real_option(&mut self, kind: Kind, word: &str) -> Result<(), Usage> {
        let up_to = |max, what: &str| {
            number::bounded(word, 0, max)
                .and_then(|number| u32::try_from(number).ok())
                .ok_or_else(|| usage(format!("illegal {what} specified")))
        };
        let most = i64::from(i32::MAX);
        match kind {
            Kind::Weight => self.weight = up_to(most, "weight")?,
            Kind::Upper => self.upper = up_to(most, "u_threshold")?,
            Kind::Lower => self.lower = up_to(most, "l_threshold")?,
            Kind::TunPort => self.tunnel_port = small(word, 1, 65535, "tunnel port")?,
            _ => {
                self.tunnel = match word {
                    "ipip" => Tunnel::Ipip,
                    "gue" => Tunnel::Gue,
                    "gre" => Tunnel::Gre,
                    _ => return Err(usage("illegal tunnel type specified")),
                };
            }
        }
        Ok(())
    }

    /// Options of the daemon; what has no argument is noted already.
    fn daemon_option(&mut self, kind: Kind, word: &str) -> Result<(), Usage> {
        let octet = |low, high, what| -> Result<u8, Usage> {
            small(word, low, high, what).map(|number| number.to_be_bytes()[1])
        };
        match kind {
            Kind::McastInterface if !word.is_empty() => {
                self.daemon.interface = word.chars().take(15).collect();
            }
            Kind::SyncId => self.daemon.sync_id = octet(0, 255, "syncid")?,
            Kind::McastGroup => self.daemon.group = Some(multicast(word)?),
            Kind::McastPort => self.daemon.port = Some(small(word, 1, 65535, "mcast-port")?),
            Kind::McastTtl => self.daemon.ttl = Some(octet(1, 255, "mcast-ttl")?),
            Kind::SyncMaxLength => {
                self.daemon.max_length = Some(small(word, 1, 65507, "sync-maxlen")?);
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes the three values of `--set`; gives back what nobody asked for.
    ///
    /// # Errors
    ///
    /// There are fewer, or one is no time-out.
    pub(super) fn positional<'w>(
        &mut self,
        verb: Verb,
        rest: &'w [&'w str],
    ) -> Result<&'w [&'w str], Usage> {
        if verb != Verb::Set {
            return Ok(rest);
        }
        let [tcp, tcp_fin, udp, rest @ ..] = rest else {
            return Err(usage("--set option requires 3 timeout values"));
        };
        self.timeouts = TimeoutSpec {
            tcp_s: timeout(tcp, 0)?,
            tcp_fin_s: timeout(tcp_fin, 0)?,
            udp_s: timeout(udp, 0)?,
        };
        Ok(rest)
    }

    /// Reads `-b` once the scheduler is known.
    ///
    /// # Errors
    ///
    /// A flag that there is not, or that another scheduler has.
    pub(super) fn scheduler_flags(&mut self) -> Result<(), Usage> {
        let Some(text) = self.scheduler_flags.filter(|text| !text.is_empty()) else {
            return Ok(());
        };
        let scheduler = if self.scheduler.is_empty() { "wlc" } else { &self.scheduler };
        for flag in text.split(',').filter(|flag| !flag.is_empty()) {
            let owner = match flag {
                "flag-1" | "flag-2" | "flag-3" => scheduler,
                "sh-fallback" | "sh-port" => "sh",
                "mh-fallback" | "mh-port" => "mh",
                _ => return Err(usage(format!("invalid scheduler flag `{flag}'"))),
            };
            if owner != scheduler {
                return Err(usage(format!("incompatible scheduler flag `{flag}'")));
            }
            match flag {
                "flag-3" => self.flags.flag3 = true,
                "flag-2" | "sh-port" | "mh-port" => self.flags.port = true,
                _ => self.flags.fallback = true,
            }
        }
        Ok(())
    }

    /// The command, once its options are checked.
    ///
    /// # Errors
    ///
    /// Options that contradict each other.
    pub(super) fn command(self, verb: Verb) -> Result<Command, Usage> {
        Ok(match verb {
            Verb::AddService => Command::AddService(self.service_spec()?),
            Verb::EditService => Command::EditService(self.service_spec()?),
            Verb::DeleteService => Command::DeleteService(self.key()),
            Verb::Flush => Command::Flush,
            Verb::AddReal => Command::AddReal { service: self.key(), real: self.real_spec()? },
            Verb::EditReal => Command::EditReal { service: self.key(), real: self.real_spec()? },
            Verb::DeleteReal => Command::DeleteReal {
                service: self.key(),
                addr: self.real.addr,
                port: self.real.port.unwrap_or(0),
            },
            Verb::List => Command::List(self.list_options()?),
            Verb::Zero => Command::Zero(self.given.has(Kind::Service).then(|| self.key())),
            Verb::Save => Command::Save { numeric: self.given.has(Kind::Numeric) },
            Verb::Restore => Command::Restore,
            Verb::Set => Command::SetTimeouts(self.timeouts),
            Verb::StartDaemon => Command::StartDaemon(self.daemon),
            Verb::StopDaemon => Command::StopDaemon(self.daemon.role),
        })
    }

    /// Only after the checks: a service was named.
    fn key(&self) -> ServiceKey {
        match self.addr {
            Some(addr) => ServiceKey::Address { protocol: self.protocol, addr, port: self.port },
            None => {
                let family = self.family.unwrap_or(Family::V4);
                ServiceKey::Mark { mark: self.mark, family }
            }
        }
    }

    fn service_spec(self) -> Result<ServiceSpec, Usage> {
        let one_packet = self.given.has(Kind::OnePacket);
        if self.mark == 0 {
            if self.port == 0 && self.persistence_s.is_none() {
                return Err(usage("Zero port specified for non-persistent service"));
            }
            if one_packet && self.protocol != UDP {
                return Err(usage("One-Packet Scheduling is only for UDP virtual services"));
            }
        }
        let key = self.key();
        // Without persistence there is nothing that a mask could group.
        let netmask = match (self.persistence_s, key.family()) {
            (Some(_), _) => self.netmask,
            (None, Family::V4) => NO_MASK,
            (None, Family::V6) => 128,
        };
        let client_address = match (self.given.has(Kind::Toa), self.given.has(Kind::Proxy)) {
            (true, true) => return Err(usage("--toa and --proxy exclude each other")),
            (true, false) => ClientAddress::Toa,
            (false, true) => ClientAddress::Proxy,
            (false, false) => ClientAddress::Hidden,
        };
        let scheduler = self.scheduler;
        Ok(ServiceSpec {
            key,
            scheduler: if scheduler.is_empty() { "wlc".into() } else { scheduler },
            flags: self.flags,
            persistence_s: self.persistence_s,
            netmask,
            one_packet,
            engine: self.engine,
            client_address,
        })
    }

    fn real_spec(self) -> Result<RealSpec, Usage> {
        const TUNNEL: &[Kind] = &[
            Kind::TunType,
            Kind::TunPort,
            Kind::TunNoChecksum,
            Kind::TunChecksum,
            Kind::TunRemoteChecksum,
        ];
        let tunnels = self.method == Method::Ipip;
        if !tunnels && Some(self.real.addr.family()) != self.family {
            return Err(usage("Different address family is allowed only for tunneling servers"));
        }
        if !tunnels && self.given.any(TUNNEL) {
            return Err(usage("Tunnel options conflict with forward method"));
        }
        check::tunnel(self.tunnel, self.given)?;
        // Only nat can change the port; the others silently take the service's.
        let own_port = self.mark != 0 || matches!(self.method, Method::Nat | Method::FullNat);
        Ok(RealSpec {
            addr: self.real.addr,
            port: if own_port { self.real.port.unwrap_or(0) } else { self.port },
            method: match (self.method, self.tunnel) {
                (Method::Ipip, Tunnel::Gue) => Method::Gue,
                (Method::Ipip, Tunnel::Gre) => Method::Gre,
                (method, _) => method,
            },
            tunnel: TunnelSpec {
                port: self.tunnel_port,
                checksum: self.given.has(Kind::TunChecksum),
                remote_checksum: self.given.has(Kind::TunRemoteChecksum),
            },
            weight: self.weight,
            upper: self.upper,
            lower: self.lower,
        })
    }

    fn list_options(&self) -> Result<ListOptions, Usage> {
        let has = |kind| self.given.has(kind);
        let other = has(Kind::Timeout) || has(Kind::Daemon);
        let counted = self.given.any(&[Kind::Stats, Kind::Rate, Kind::Thresholds]);
        let persistent = has(Kind::PersistentConn);
        if (other || has(Kind::Connection)) && counted || other && persistent {
            return Err(usage("options conflicts in the list command"));
        }
        let listed = match () {
            () if has(Kind::Connection) => Listed::Flows,
            () if has(Kind::Service) => Listed::Service(self.key()),
            () if has(Kind::Timeout) => Listed::Timeouts,
            () if has(Kind::Daemon) => Listed::Daemons,
            () => Listed::Services,
        };
        let columns = [
            (Kind::Stats, Columns::Stats),
            (Kind::Rate, Columns::Rate),
            (Kind::Thresholds, Columns::Thresholds),
            (Kind::PersistentConn, Columns::Persistent),
            (Kind::TunInfo, Columns::Tunnel),
        ];
        let columns = columns.iter().find(|(kind, _)| has(*kind));
        Ok(ListOptions {
            listed,
            columns: columns.map_or(Columns::Plain, |(_, columns)| *columns),
            numeric: has(Kind::Numeric),
            exact: has(Kind::Exact),
            nosort: has(Kind::NoSort),
            persistent,
        })
    }
}

fn timeout(word: &str, least: i64) -> Result<u32, Usage> {
    number::bounded(word, least, TIMEOUT_S_MAX)
        .and_then(|seconds| u32::try_from(seconds).ok())
        .ok_or_else(|| usage(format!("invalid timeout value `{word}' specified")))
}

fn small(word: &str, low: i64, high: i64, what: &str) -> Result<u16, Usage> {
    number::bounded(word, low, high)
        .and_then(|number| u16::try_from(number).ok())
        .ok_or_else(|| usage(format!("illegal {what} specified")))
}

fn multicast(word: &str) -> Result<Addr, Usage> {
    let family = if word.contains(':') { "IPv6" } else { "IPv4" };
    let group = word.parse::<IpAddr>().ok().filter(|group| group.is_multicast());
    group.map(Addr::from).ok_or_else(|| usage(format!("invalid {family} mcast-group `{word}'")))
}
