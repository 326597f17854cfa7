//! What is asked for: how the real servers of a service are checked, and what follows.
//!
//! Values are checked in [`Policy::check`], the same for whoever asks: the file, gRPC, the journal.
//! Words and defaults are those of keepalived where it has them (keepalived.conf(5), "Virtual server").

use std::{path::PathBuf, time::Duration};

use dataplane::{
    addr::{Addr, Family},
    director::spec::{RealSpec, ServiceKey},
    endpoint::Method,
};

use crate::field::FieldError;

/// Checks of one service at most.
pub const CHECKS_MAX: usize = 8;

/// Most octets of a text to be sent or looked for.
pub const TEXT_MAX: usize = 1024;

/// Bounds, least and greatest: of a check's interval and its time-out in milliseconds, of its jitter in
/// percent, of rise and fall.
pub const INTERVAL_MS: (u32, u32) = (100, 3_600_000);
/// See [`INTERVAL_MS`].
pub const TIMEOUT_MS: (u32, u32) = (10, 60_000);
/// See [`INTERVAL_MS`].
pub const JITTER_PERCENT: (u32, u32) = (0, 50);
/// See [`INTERVAL_MS`].
pub const TIMES: (u32, u32) = (1, 100);
/// Bounds of a policy: slow start in seconds, quorum, the percentage of panic.
pub const SLOW_START_S: (u32, u32) = (0, 3600);
/// See [`SLOW_START_S`].
pub const QUORUM: (u32, u32) = (1, u32::MAX);
/// See [`SLOW_START_S`].
pub const PANIC_PERCENT: (u32, u32) = (0, 100);
/// Bounds of what flows tell: failures, and seconds of the first hold.
pub const FAILURES: (u32, u32) = (1, 1_000_000);
/// See [`FAILURES`].
pub const HOLD_S: (u32, u32) = (1, 3600);

/// How the real servers of a service are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A real server is up while every one of them passes.
    pub checks: Vec<Check>,
    /// Real servers are down until the checks have found them up; otherwise up until found down.
    pub start_down: bool,
    /// What becomes of a real server that is down.
    pub on_down: OnDown,
    /// How long the weight of a real server that came up takes to grow to its whole; zero: at once.
    pub slow_start: Duration,
    /// The service stands while its real servers that are up weigh at least so much together.
    pub quorum: u32,
    /// So much below the quorum the service falls, so much above it stands again.
    pub hysteresis: u32,
    /// With fewer percent of the real servers up than this, all are used: the checks are
    /// not believed. 0: never.
    pub panic_percent: u32,
    /// Who answers while the quorum is lost.
    pub sorry: Option<RealSpec>,
    /// What flows tell about real servers.
    pub passive: Option<Passive>,
}

/// What becomes of a real server that is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDown {
    /// Its weight is 0: it keeps its flows and gets no new ones (keepalived's `inhibit_on_failure`).
    #[default]
    Inhibit,
    /// It counts as removed: packets of its flows are dropped, or scheduled anew with
    /// `expire_nodest_conn`.
    Remove,
}

impl OnDown {
    /// All by name.
    pub const NAMES: [(&str, Self); 2] = [("inhibit", Self::Inhibit), ("remove", Self::Remove)];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inhibit => "inhibit",
            Self::Remove => "remove",
        }
    }
}

/// What flows tell about real servers whose replies pass through the box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passive {
    /// So many connections without an answer, or refused, one after the other with none accepted
    /// between: the real server is down.
    pub failures: u32,
    /// For how long then, at first; twice as long each time that it fails again soon after.
    pub hold: Duration,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is done.
    pub kind: Kind,
    /// To which port; `None`: the real server's, or the service's if that has none.
    pub port: Option<u16>,
    /// Through the forwarding path: to the VIP on the real server, as its clients' packets travel.
    pub through: bool,
    /// From the beginning of one probe to that of the next.
    pub interval: Duration,
    /// A probe that takes longer has failed.
    pub timeout: Duration,
    /// By how much the interval varies, so that probes do not gather; in percent of it.
    pub jitter_percent: u32,
    /// So many probes must pass one after the other to bring it up.
    pub rise: u32,
    /// So many must fail one after the other to take it down.
    pub fall: u32,
}

/// What is done. A new kind is one file below `probe`, a variant here and its line in the registry
/// there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP connection is accepted.
    Tcp,
    /// An HTTP request is answered well.
    Http(Http),
    /// The standard gRPC health service says SERVING.
    Grpc {
        /// The service asked about; empty: the server as a whole.
        service: String,
        /// Over TLS.
        tls: Option<TlsPolicy>,
    },
    /// An ICMP echo request is answered.
    Icmp,
    /// A UDP datagram is answered, or at least not refused.
    Udp {
        /// What is sent.
        send: String,
        /// What an answer must contain; empty: no answer is needed.
        expect: String,
    },
    /// A DNS query is answered without an error.
    Dns {
        /// The name.
        name: String,
        /// The type of record: "A", "AAAA", "SOA" and so on.
        record: String,
    },
    /// A program ends with 0.
    Script {
        /// The program, an absolute path, and its arguments.
        command: Vec<String>,
    },
    /// HAProxy's agent: it tells a weight in percent, or up, down, drain and so on.
    Agent,
}

/// An HTTP request and what its answer must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// What is asked for: "/healthz".
    pub path: String,
    /// The header Host, and the name that TLS asks for; empty: the address.
    pub host: String,
    /// Which answers are good: first and last status of each range.
    pub status: Vec<(u16, u16)>,
    /// What the first [`super::probe::BODY_MAX`] octets of the body must contain; empty: anything.
    pub body: String,
    /// Over TLS.
    pub tls: Option<TlsPolicy>,
}

/// How certificates are judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TlsPolicy {
    /// Any certificate will do: only that TLS works is checked.
    Any,
    /// It must be good for the name, and signed by an authority of this PEM file.
    Authority(PathBuf),
}

impl Kind {
    /// The kinds there are.
    pub const NAMES: [&str; 9] =
        ["tcp", "http", "https", "grpc", "icmp", "udp", "dns", "script", "agent"];

    /// Its name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http(Http { tls: None, .. }) => "http",
            Self::Http(_) => "https",
            Self::Grpc { .. } => "grpc",
            Self::Icmp => "icmp",
            Self::Udp { .. } => "udp",
            Self::Dns { .. } => "dns",
            Self::Script { .. } => "script",
            Self::Agent => "agent",
        }
    }

    /// Whether it speaks to a port.
    pub(super) const fn has_port(&self) -> bool {
        !matches!(self, Self::Icmp | Self::Script { .. })
    }

    /// Whether it can travel as clients' packets do.
    const fn can_go_through(&self) -> bool {
        matches!(self, Self::Tcp | Self::Http(_) | Self::Grpc { .. } | Self::Agent)
    }
}

impl Check {
    /// A check of this kind as it is unless told otherwise: every 2 s, given up after 1 s, two
    /// to come up, three to go down; an agent is believed at once.
    pub const fn new(kind: Kind) -> Self {
        let (rise, fall) = if matches!(kind, Kind::Agent) { (1, 1) } else { (2, 3) };
        Self {
            kind,
            port: None,
            through: false,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            jitter_percent: 10,
            rise,
            fall,
        }
    }

    fn check(&self) -> Result<(), FieldError> {
        let millis = |time: Duration| time.as_millis().try_into().unwrap_or(u64::MAX);
        within("interval_milliseconds", millis(self.interval), INTERVAL_MS)?;
        within("timeout_milliseconds", millis(self.timeout), TIMEOUT_MS)?;
        within("jitter_percent", self.jitter_percent.into(), JITTER_PERCENT)?;
        within("rise", self.rise.into(), TIMES)?;
        within("fall", self.fall.into(), TIMES)?;
        if self.port.is_some() && !self.kind.has_port() {
            return Err(FieldError::new("port", format!("{} has no port", self.kind.name())));
        }
        if self.port == Some(0) {
            return Err(FieldError::new("port", "0 is not within 1 to 65535"));
        }
        if self.through && !self.kind.can_go_through() {
            let reason = format!("{} only goes to the real server's own address", self.kind.name());
            return Err(FieldError::new("through", reason));
        }
        self.kind.check()
    }
}

impl Kind {
    fn check(&self) -> Result<(), FieldError> {
        match self {
            Self::Tcp | Self::Icmp | Self::Agent => Ok(()),
            Self::Http(http) => http.check(),
            Self::Grpc { service, .. } => text("service", service),
            Self::Udp { send, expect } => text("send", send).and_then(|()| text("expect", expect)),
            Self::Dns { name, record } => super::probe::dns::check(name, record),
            Self::Script { command } => match command.first() {
                None => Err(FieldError::new("command", "names no program")),
                Some(program) if !program.starts_with('/') => {
                    Err(FieldError::new("command", format!("`{program}` is not an absolute path")))
                }
                Some(_) => command.iter().try_for_each(|argument| text("command", argument)),
            },
        }
    }
}

impl Http {
    fn check(&self) -> Result<(), FieldError> {
        text("body", &self.body)?;
        text("path", &self.path)?;
        if !self.path.starts_with('/') || self.path.parse::<http::uri::PathAndQuery>().is_err() {
            let reason = format!("`{}` is not a path as /healthz", self.path);
            return Err(FieldError::new("path", reason));
        }
        if !self.host.is_empty() && self.host.parse::<http::uri::Authority>().is_err() {
            return Err(FieldError::new("host", format!("`{}` is not a host", self.host)));
        }
        if self.status.is_empty() || self.status.len() > 16 {
            return Err(FieldError::new("status", "1 to 16 ranges must be given"));
        }
        for &(first, last) in &self.status {
            if first < 100 || last > 599 || first > last {
                let reason = format!("{first}-{last} is not a range within 100 to 599");
                return Err(FieldError::new("status", reason));
            }
        }
        Ok(())
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            checks: Vec::new(),
            start_down: false,
            on_down: OnDown::Inhibit,
            slow_start: Duration::ZERO,
            quorum: 1,
            hysteresis: 0,
            panic_percent: 0,
            sorry: None,
            passive: None,
        }
    }
}

impl Policy {
    /// Refuses what makes no sense, alone or for the service `key` with these real servers.
    ///
    /// # Errors
    ///
    /// The field at fault, by its path in the policy, and why.
    pub fn check(&self, key: &ServiceKey, reals: &[RealSpec]) -> Result<(), FieldError> {
        let error = |path: &str, reason: &str| Err(FieldError::new(path, reason));
        if self.checks.is_empty() && self.passive.is_none() {
            return error("check", "neither a check nor passive is given");
        }
        if self.checks.len() > CHECKS_MAX {
            let reason = format!("{} checks; at most {CHECKS_MAX}", self.checks.len());
            return Err(FieldError::new("check", reason));
        }
        for (at, check) in self.checks.iter().enumerate() {
            let sound = check.check().and_then(|()| port_for(check, key, reals));
            sound.map_err(|error| error.within(format_args!("check[{at}]")))?;
        }
        let portless = matches!(key, ServiceKey::Mark { .. });
        if portless && self.checks.iter().any(|check| check.through) {
            return error("check", "a firewall mark has no VIP to go through to");
        }
        within("slow_start_seconds", self.slow_start.as_secs(), SLOW_START_S)?;
        within("quorum", self.quorum.into(), QUORUM)?;
        if self.hysteresis >= self.quorum && self.hysteresis > 0 {
            return error(
                "quorum_hysteresis",
                "must be below the quorum, or the service never falls",
            );
        }
        within("panic_percent", self.panic_percent.into(), PANIC_PERCENT)?;
        if self.panic_percent > 0 && self.sorry.is_some() {
            return error(
                "panic_percent",
                "contradicts sorry: either all are used or the sorry server",
            );
        }
        if let Some(passive) = &self.passive {
            within("passive.failures", passive.failures.into(), FAILURES)?;
            within("passive.hold_seconds", passive.hold.as_secs(), HOLD_S)?;
        }
        if let Some(sorry) = &self.sorry {
            dataplane::director::check_real(key, sorry)
                .map_err(|error| FieldError::new("sorry", error.to_string()))?;
            let same = |real: &RealSpec| (real.addr, real.port) == (sorry.addr, sorry.port);
            if reals.iter().any(same) {
                return error("sorry", "is one of the real servers");
            }
        }
        Ok(())
    }
}

/// Every real server must have a port to be checked at.
fn port_for(check: &Check, key: &ServiceKey, reals: &[RealSpec]) -> Result<(), FieldError> {
    if !check.kind.has_port() || check.port.is_some() {
        return Ok(());
    }
    match reals.iter().find(|real| port_of(check, key, real) == 0) {
        None => Ok(()),
        Some(real) => {
            let reason = format!("must be given: {} has no port of its own", real.addr);
            Err(FieldError::new("port", reason))
        }
    }
}

/// Whether a check of a real server goes to the VIP: it is asked for, and the real server has the VIP.
pub const fn goes_through(check: &Check, real: &RealSpec) -> bool {
    check.through && matches!(real.method, Method::Dr | Method::Ipip | Method::Gue | Method::Gre)
}

/// The port at which a real server is checked; 0 if there is none.
pub fn port_of(check: &Check, key: &ServiceKey, real: &RealSpec) -> u16 {
    let own = match key {
        ServiceKey::Address { port, .. } if goes_through(check, real) => *port,
        ServiceKey::Address { port, .. } if real.port == 0 => *port,
        _ => real.port,
    };
    check.port.unwrap_or(own)
}

/// How an authority is written in URIs and the header Host.
pub fn authority(addr: Addr) -> String {
    match addr.family() {
        Family::V4 => addr.to_string(),
        Family::V6 => format!("[{addr}]"),
    }
}

fn within(path: &str, value: u64, (least, most): (u32, u32)) -> Result<(), FieldError> {
    if (least.into()..=most.into()).contains(&value) {
        return Ok(());
    }
    Err(FieldError::new(path, format!("{value} is not within {least} to {most}")))
}

fn text(path: &str, text: &str) -> Result<(), FieldError> {
    if text.len() <= TEXT_MAX {
        return Ok(());
    }
    Err(FieldError::new(path, format!("{} octets; at most {TEXT_MAX}", text.len())))
}
