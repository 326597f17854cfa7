//! The words in which services and real servers are asked for and listed.

use crate::{
    addr::{Addr, Family},
    endpoint::Method,
    forward::{TUNNEL_CHECKSUM, TUNNEL_REMOTE_CHECKSUM},
    sched::SchedFlags,
    selector::Selector,
};

/// What names a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServiceKey {
    /// Protocol, VIP and port; port 0 takes every port and needs persistence.
    Address {
        /// IP protocol number: TCP, UDP or SCTP.
        protocol: u8,
        /// The VIP.
        addr: Addr,
        /// The port.
        port: u16,
    },
    /// A firewall mark.
    Mark {
        /// The mark, not 0.
        mark: u32,
        /// The family of its packets.
        family: Family,
    },
}

impl ServiceKey {
    /// The VIP, unless a firewall mark names the service.
    pub const fn vip(&self) -> Option<Addr> {
        match self {
            Self::Address { addr, .. } => Some(*addr),
            Self::Mark { .. } => None,
        }
    }

    /// The family of the service's packets.
    pub const fn family(&self) -> Family {
        match self {
            Self::Address { addr, .. } => addr.family(),
            Self::Mark { family, .. } => *family,
        }
    }
}

/// A rule that gives packets a firewall mark, as iptables' target MARK does: of the rules that take
/// a packet the last one decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MarkRule {
    /// The mark; 0 takes packets out of what earlier rules marked.
    pub mark: u32,
    /// The packets.
    pub selector: Selector,
}

/// A service as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// What names it.
    pub key: ServiceKey,
    /// Scheduler by its IPVS name; `wlc` is ipvsadm's default.
    pub scheduler: String,
    /// `-b`.
    pub flags: SchedFlags,
    /// `-p`: seconds a client stays with its real server; `None` without persistence.
    pub persistence_s: Option<u32>,
    /// `-M`: for IPv4 the mask's 32 bits in host order (0xffff_ffff: none), for IPv6 the prefix
    /// length (128: none). Any IPv4 mask is taken, as ipvsadm takes it.
    pub netmask: u32,
    /// `-o`: every datagram is scheduled by itself.
    pub one_packet: bool,
    /// `--pe`: persistence engine by name.
    pub engine: Option<String>,
    /// How full NAT tells its real servers the client's address.
    pub client_address: ClientAddress,
}

impl ServiceSpec {
    /// A service for which nothing else is asked.
    #[must_use]
    pub fn new(key: ServiceKey, scheduler: &str) -> Self {
        Self {
            key,
            scheduler: scheduler.to_owned(),
            flags: SchedFlags::default(),
            persistence_s: None,
            netmask: if key.family() == Family::V4 { u32::MAX } else { 128 },
            one_packet: false,
            engine: None,
            client_address: ClientAddress::Hidden,
        }
    }
}

/// How full NAT tells its real servers the client's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ClientAddress {
    /// Not at all.
    #[default]
    Hidden,
    /// `--toa`: by TCP option 254.
    Toa,
    /// `--proxy`: by version 2 of the PROXY protocol.
    Proxy,
}

impl ClientAddress {
    /// The ways of telling by name.
    pub const NAMES: [(&str, Self); 2] = [("toa", Self::Toa), ("proxy", Self::Proxy)];

    /// Its name; empty if nothing is told.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hidden => "",
            Self::Toa => "toa",
            Self::Proxy => "proxy",
        }
    }

    /// The way of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, way)| *way)
    }
}

/// `--tun-type` and its options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TunnelSpec {
    /// UDP port of gue; 0 for others.
    pub port: u16,
    /// `--tun-csum`.
    pub checksum: bool,
    /// `--tun-remcsum`.
    pub remote_checksum: bool,
}

impl TunnelSpec {
    /// As endpoints keep it: see [`crate::endpoint::Endpoint::tunnel`].
    #[must_use]
    pub fn word(self) -> u32 {
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        u32::from(self.port)
            | flag(self.checksum, TUNNEL_CHECKSUM)
            | flag(self.remote_checksum, TUNNEL_REMOTE_CHECKSUM)
    }
}

/// A real server as it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealSpec {
    /// Its address.
    pub addr: Addr,
    /// Its port.
    pub port: u16,
    /// How packets get there; the tunnels are ipip, gue and gre.
    pub method: Method,
    /// Tunnel options.
    pub tunnel: TunnelSpec,
    /// 0 to 2^31 - 1; 0 quiesces.
    pub weight: u32,
    /// `-x`: upper connection threshold, 0 to 2^31 - 1, 0 for none.
    pub upper: u32,
    /// `-y`: lower connection threshold, 0 to `upper`, 0 for none.
    pub lower: u32,
}

impl RealSpec {
    /// A real server of weight 1 for which nothing else is asked.
    #[must_use]
    pub fn new(addr: Addr, port: u16, method: Method) -> Self {
        let tunnel = TunnelSpec::default();
        Self { addr, port, method, tunnel, weight: 1, upper: 0, lower: 0 }
    }
}

/// IPVS's five counters, since the last zeroing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections scheduled.
    pub conns: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Packets to clients.
    pub out_packets: u64,
    /// Octets from clients: IP lengths, before encapsulation.
    pub in_bytes: u64,
    /// Octets to clients.
    pub out_bytes: u64,
}

impl Counters {
    /// Field by field.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            conns: self.conns.wrapping_add(other.conns),
            in_packets: self.in_packets.wrapping_add(other.in_packets),
            out_packets: self.out_packets.wrapping_add(other.out_packets),
            in_bytes: self.in_bytes.wrapping_add(other.in_bytes),
            out_bytes: self.out_bytes.wrapping_add(other.out_bytes),
        }
    }

    /// What was counted since they stood at `zero`.
    #[must_use]
    pub const fn since(self, zero: Self) -> Self {
        Self {
            conns: self.conns.wrapping_sub(zero.conns),
            in_packets: self.in_packets.wrapping_sub(zero.in_packets),
            out_packets: self.out_packets.wrapping_sub(zero.out_packets),
            in_bytes: self.in_bytes.wrapping_sub(zero.in_bytes),
            out_bytes: self.out_bytes.wrapping_sub(zero.out_bytes),
        }
    }
}

/// The estimator's five rates, per second, as `ipvsadm --rate` prints them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Connections.
    pub cps: u64,
    /// Packets from clients.
    pub in_pps: u64,
    /// Packets to clients.
    pub out_pps: u64,
    /// Octets from clients.
    pub in_bps: u64,
    /// Octets to clients.
    pub out_bps: u64,
}

/// What keeps new flows from a real server whatever its weight says: it stays out of what is asked
/// for, so that neither a listing to be restored nor an apply loses or undoes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hold {
    /// Schedulers see weight 0.
    pub weight: bool,
    /// Templates send no new flows there either.
    pub templates: bool,
}

/// What health checks leave of a real server. Like a [`Hold`] it is no part of what is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Percent of its weight that schedulers see, 0 to 100; a weight above 0 stays above 0 unless
    /// this is 0.
    pub percent: u32,
    /// Templates send new flows there.
    pub templates: bool,
    /// It counts as a real server of the service. If not, the scheduler does not know it, and packets of
    /// its flows meet what those of a removed real server do.
    pub present: bool,
}

impl Default for Share {
    fn default() -> Self {
        Self { percent: 100, templates: true, present: true }
    }
}

/// A real server as it is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealInfo {
    /// As asked for.
    pub spec: RealSpec,
    /// What keeps new flows away.
    pub hold: Hold,
    /// What health checks leave of it.
    pub share: Share,
    /// It stands in for the others, and is no part of what is asked for.
    pub standby: bool,
    /// Active flows.
    pub active: u32,
    /// Inactive flows.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
    /// Counters.
    pub counters: Counters,
    /// Rates.
    pub rates: Rates,
}

impl RealInfo {
    /// The weight that schedulers see.
    pub fn weight(&self) -> u32 {
        seen_weight(&self.spec, self.hold, self.share)
    }
}

/// The weight that schedulers see of a real server.
pub(crate) fn seen_weight(spec: &RealSpec, hold: Hold, share: Share) -> u32 {
    if hold.weight || share.percent == 0 || !share.present {
        return 0;
    }
    let part = u64::from(spec.weight) * u64::from(share.percent.min(100));
    u32::try_from(part.div_ceil(100)).unwrap_or(spec.weight)
}

/// A service as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceInfo {
    /// As asked for.
    pub spec: ServiceSpec,
    /// Counters.
    pub counters: Counters,
    /// Rates.
    pub rates: Rates,
    /// Its real servers in the kernel's order: last added first.
    pub reals: Vec<RealInfo>,
}

/// A flow as it is listed (`ipvsadm -Lc`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowInfo {
    /// IP protocol number; 0 for a template of a firewall-mark service.
    pub protocol: u8,
    /// Seconds until it expires.
    pub expires_s: u32,
    /// Name of its state.
    pub state: &'static str,
    /// Client address and port; port 0 for templates.
    pub client: (Addr, u16),
    /// Virtual address and port.
    pub virt: (Addr, u16),
    /// Real server's address and port.
    pub real: (Addr, u16),
    /// Packets from and to the client.
    pub packets: (u64, u64),
    /// Octets from and to the client.
    pub bytes: (u64, u64),
    /// What its persistence engine keeps with it, if it has one.
    pub engine: Option<EngineData>,
}

/// What a persistence engine keeps with a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineData {
    /// The engine: `sip`.
    pub name: String,
    /// Its data as text: for sip the Call-ID.
    pub data: String,
}

/// Seconds of the three time-outs that `ipvsadm --set` changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutSpec {
    /// TCP ESTABLISHED; 900.
    pub tcp_s: u32,
    /// TCP FIN_WAIT; 120.
    pub tcp_fin_s: u32,
    /// UDP; 300.
    pub udp_s: u32,
}

/// Full NAT's local addresses and the ports of each, of which no two flows to one real server have
/// the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPool {
    /// Addresses of the box that nothing else uses at these ports.
    pub addrs: Vec<Addr>,
    /// The first and the last port; 1024 and 65535.
    pub ports: (u16, u16),
}

impl Default for LocalPool {
    fn default() -> Self {
        Self { addrs: Vec::new(), ports: (1024, u16::MAX) }
    }
}

/// Why a change was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectorError {
    /// IPVS: EEXIST.
    #[error("Service already exists")]
    ServiceExists,
    /// IPVS: ESRCH.
    #[error("No such service")]
    NoSuchService,
    /// IPVS: EEXIST.
    #[error("Destination already exists")]
    RealExists,
    /// IPVS: ENOENT.
    #[error("No such destination")]
    NoSuchReal,
    /// No rule of marks is like this one.
    #[error("No such mark rule")]
    NoSuchMarkRule,
    /// IPVS: ENOENT when the scheduler's module is not found.
    #[error("Scheduler or persistence engine not found")]
    NoSuchScheduler,
    /// A value out of its range or contradicting another one.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field at fault.
        field: &'static str,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// A table is full.
    #[error("no room for another {what}: at most {limit}")]
    Full {
        /// What there is no room for.
        what: &'static str,
        /// How many fit.
        limit: usize,
    },
}
