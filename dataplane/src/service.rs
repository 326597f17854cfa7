//! The immutable configuration a worker reads: services, real servers, paths and settings.
//!
//! Control compiles one snapshot per change and hands it to every worker, who swaps it between
//! two bursts. Nothing in it is written on the packet path; what is shared and changes (loads,
//! a scheduler's position) is behind it in [`crate::endpoint::Endpoints`] and [`SchedState`].
//! Source of the lookup order: Linux `net/netfilter/ipvs/ip_vs_ctl.c`, `ip_vs_service_find`.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::{
    addr::{Addr, Family},
    calls::Calls,
    capture::Captures,
    endpoint::EndpointId,
    flow::{FlowKey, timeout::Timeouts},
    route::{Path, Routes},
    sched::{Candidate, SchedState, Scheduler},
    selector::{Nets, Table},
    spec::ServiceKey,
};

/// The IPVS sysctls that the packet path obeys (`net.ipv4.vs.*`), with the kernel's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Flows to a removed real server: `false` drops their packets silently, `true` lets them go
    /// at once. Default `false`.
    pub expire_nodest_conn: bool,
    /// Bit 0: a SYN in TIME_WAIT or CLOSE is scheduled anew; bit 1: in FIN_WAIT too, where no
    /// answer was seen. Default 1.
    pub conn_reuse_mode: u8,
    /// Any TCP packet but RST opens a flow. Default `false`.
    pub sloppy_tcp: bool,
    /// Any SCTP packet opens a flow. Default `false`.
    pub sloppy_sctp: bool,
    /// When TCP's stricter table is in force. Default [`Mode::OFF`].
    pub secure_tcp: Mode,
    /// When entries of flows that hardly live are dropped at random. Default [`Mode::OFF`].
    pub drop_entry: Mode,
    /// When packets that would open a flow are dropped. Default [`Mode::OFF`].
    pub drop_packet: Mode,
    /// Fewer free slots in the flow table than this are an emergency to the automatic modes (the
    /// kernel counts pages of free memory). Default 1024.
    pub amemthresh: u32,
    /// Mode 3 of `drop_packet` drops one packet in so many; 0 drops none. Default 10.
    pub am_droprate: u32,
    /// A real server's packet without a flow is answered by an ICMP error. Default `false`.
    pub nat_icmp_send: bool,
    /// Templates to a real server of weight 0 are ignored. Default `false`.
    pub expire_quiescent_template: bool,
    /// An ICMP error may open a flow. Default `false`.
    pub schedule_icmp: bool,
    /// Tunnels set DF and say "too big". Default `true`.
    pub pmtu_disc: bool,
    /// What a firewall-mark service without real servers gets for other hosts is routed on. Default
    /// `false`.
    pub cache_bypass: bool,
    /// Rates are estimated. Default `true`. Not for the packet path.
    pub run_estimation: bool,
    /// Which clients of a nat service get a local address as full NAT gives it, if there is one: 0
    /// none; 1 those that are nat real servers themselves; 2 those too that are on the link of their
    /// real server. Default 1. Not the kernel's.
    pub hairpin: u8,
}

/// When a defence is in force: the kernel's numbers, 0 to 3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode(pub u8);

impl Mode {
    /// Never.
    pub const OFF: Self = Self(0);
    /// As long as room is short. 2 says the same; the kernel shows it while room is short.
    pub const AUTO: Self = Self(1);
    /// Always.
    pub const ON: Self = Self(3);

    /// Whether it is in force; `short`: whether room is short.
    pub const fn in_force(self, short: bool) -> bool {
        match self.0 {
            0 => false,
            1 | 2 => short,
            _ => true,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            expire_nodest_conn: false,
            conn_reuse_mode: 1,
            sloppy_tcp: false,
            sloppy_sctp: false,
            secure_tcp: Mode::OFF,
            drop_entry: Mode::OFF,
            drop_packet: Mode::OFF,
            amemthresh: 1024,
            am_droprate: 10,
            nat_icmp_send: false,
            expire_quiescent_template: false,
            schedule_icmp: false,
            pmtu_disc: true,
            cache_bypass: false,
            run_estimation: true,
            hairpin: 1,
        }
    }
}

/// `--pe` of a service: what else but the client's address its templates go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The Call-ID of SIP over UDP.
    Sip,
}

impl Engine {
    /// The names of all.
    pub const NAMES: &'static [&'static str] = &["sip"];

    /// The engine of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        (name == "sip").then_some(Self::Sip)
    }
}

/// Where full NAT takes source addresses and ports from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locals {
    /// Endpoints of the local addresses of IPv4 and of IPv6.
    pub addrs: [Vec<EndpointId>; 2],
    /// The first and the last port.
    pub range: (u16, u16),
}

impl Locals {
    /// The local addresses of a family.
    pub fn addrs(&self, family: Family) -> &[EndpointId] {
        &self.addrs[family as usize]
    }

    /// How many ports each of them has.
    pub fn ports(&self) -> u32 {
        u32::from(self.range.1.saturating_sub(self.range.0)) + 1
    }

    /// The port of this number, which is below [`Locals::ports`].
    pub fn port(&self, number: u32) -> u16 {
        u16::try_from(u32::from(self.range.0) + number).unwrap_or(self.range.1)
    }
}

/// `-p` and `-M` of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// How long a client stays with its real server, in ticks.
    pub timeout: u32,
    /// ANDed to the client's address; all ones in the mapped prefix of IPv4.
    pub mask: u128,
}

/// A service as a worker reads it.
#[derive(Debug)]
pub struct Service {
    /// What names it.
    pub key: ServiceKey,
    /// Its virtual endpoint; flows of services with many addresses or ports have others, see
    /// [`crate::destination`].
    pub endpoint: EndpointId,
    /// What picks the real server of a new flow.
    pub scheduler: Scheduler,
    /// What the scheduler remembers, across snapshots and workers.
    pub state: Arc<SchedState>,
    /// The real servers in the kernel's list order.
    pub reals: Vec<Candidate>,
    /// Persistence, if asked for.
    pub persistence: Option<Persistence>,
    /// Every datagram is scheduled by itself.
    pub one_packet: bool,
    /// Its persistence engine.
    pub engine: Option<Engine>,
}

impl Service {
    /// The same with a scheduler and a state of its own: to try a pick that changes nothing.
    #[must_use]
    pub fn isolated(&self) -> Self {
        Self {
            key: self.key,
            endpoint: self.endpoint,
            scheduler: self.scheduler.isolated(),
            state: Arc::new(self.state.isolated()),
            reals: self.reals.clone(),
            persistence: self.persistence,
            one_packet: self.one_packet,
            engine: self.engine,
        }
    }
}

/// Everything a worker reads.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Goes up by one with each change.
    pub generation: u64,
    /// The services.
    pub services: Vec<Arc<Service>>,
    /// Protocol, VIP and port to the index of a service.
    pub exact: HashMap<(u8, Addr, u16), u32>,
    /// The firewall marks of packets.
    pub marks: Arc<Table>,
    /// Mark and family to the index of a service.
    pub marked: HashMap<(u32, Family), u32>,
    /// All VIPs.
    pub vips: HashSet<Addr>,
    /// The prefixes that are VIPs as a whole.
    pub vip_nets: Nets,
    /// Protocol, address and port of the real servers whose replies are translated.
    pub nat_reals: HashSet<(u8, Addr, u16)>,
    /// The addresses among them, whose fragments are put together.
    pub nat_addrs: HashSet<Addr>,
    /// Address and port of the real servers that may begin calls, with the index of their service.
    pub callers: HashMap<(Addr, u16), (u32, EndpointId)>,
    /// The calls, once there was a service with a persistence engine.
    pub calls: Option<Arc<Calls>>,
    /// Full NAT's local addresses and ports.
    pub locals: Locals,
    /// Those addresses, and former ones that flows still have; their fragments are put together.
    pub local_addrs: HashSet<Addr>,
    /// The real servers at each address, over all services.
    pub by_addr: HashMap<Addr, Vec<EndpointId>>,
    /// The path to each real server, by endpoint id.
    pub paths: Vec<Path>,
    /// The way to everyone else.
    pub routes: Arc<Routes>,
    /// Settings.
    pub settings: Settings,
    /// Time-outs.
    pub timeouts: Timeouts,
    /// Who wants to see packets.
    pub captures: Captures,
}

impl Snapshot {
    /// The service that takes packets with this key: that of the packet's firewall mark, then
    /// exact address and port, then port 0 of the same address.
    pub fn find(&self, key: &FlowKey) -> Option<&Service> {
        let place = |port| self.exact.get(&(key.protocol, key.destination, port));
        let marked = || self.marked.get(&(self.marks.find(key)?, key.destination.family()));
        let index = marked().or_else(|| place(key.destination_port)).or_else(|| place(0))?;
        self.services.get(*index as usize).map(Arc::as_ref)
    }

    /// Whether this is the address of a service.
    pub fn is_vip(&self, addr: Addr) -> bool {
        self.vips.contains(&addr) || self.vip_nets.cover(addr)
    }

    /// The path to a real server; [`Path::NONE`] for one that this snapshot does not know yet.
    #[inline]
    pub fn path(&self, real: EndpointId) -> &Path {
        self.paths.get(real.0 as usize).unwrap_or(&Path::NONE)
    }
}
