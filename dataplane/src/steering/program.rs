//! The steering program and its maps.
//!
//! The rule: a set of rules is refused before anything changed if it does not fit, and is put in
//! force in an order that never lets go of a packet which both the old and the new rules take.
//! Everything here vanishes with the process: maps and programs live as long as their
//! descriptors, and the hooks are links (see [`super::attach`]).
//! Source: Linux Documentation/networking/af_xdp.rst and Documentation/bpf/map_xskmap.rst.

use std::os::fd::{AsFd, AsRawFd as _};

use aya::{
    Ebpf, EbpfError, EbpfLoader, include_bytes_aligned,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, XskMap, lpm_trie::Key},
    programs::{ProgramError, SchedClassifier, Xdp},
};

use super::{
    attach::Hooks,
    ranges::RangesValue,
    rules::SteeringRules,
    tables::{AddrKey, Change, EndpointKey, PrefixKey, Tables},
};
use crate::verdict::DeviceId;

/// The compiled `steer.c`.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.o"));

/// Interfaces one program can serve; more are refused. As in `steer.c`.
pub const MAX_INTERFACES: u32 = 16;

/// Receive queues of one interface; packets of a queue beyond stay in the kernel. As in `steer.c`.
pub const MAX_QUEUES: u32 = 64;

/// Most rules of each kind. Maps have room for twice as many, for the old and the new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// VIPs, real servers and other addresses together.
    pub addrs: u32,
    /// Services, nat real servers and tunnel ends together.
    pub endpoints: u32,
    /// Destination prefixes of selectors.
    pub prefixes: u32,
}

impl Default for Limits {
    /// 65,536 of each; the kernel allocates only what is used.
    fn default() -> Self {
        Self { addrs: 1 << 16, endpoints: 1 << 16, prefixes: 1 << 16 }
    }
}

/// What went wrong with steering.
#[derive(Debug, thiserror::Error)]
pub enum SteeringError {
    /// The kernel refuses the program or a map, or we lack the right (CAP_BPF, CAP_NET_ADMIN).
    #[error("the kernel does not take the steering program: {0}")]
    Load(#[from] EbpfError),
    /// The kernel's verifier refuses a program.
    #[error("the kernel does not take the steering program: {0}")]
    Program(#[from] ProgramError),
    /// A map could not be changed.
    #[error("a steering map could not be changed: {0}")]
    Map(#[from] MapError),
    /// More rules than [`Limits`] allow. Nothing was changed.
    #[error("{count} {what} to steer, at most {limit} fit")]
    Full {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many fit.
        limit: u32,
    },
    /// A slot or queue beyond [`MAX_INTERFACES`] or [`MAX_QUEUES`].
    #[error("slot {slot} queue {queue}: at most {MAX_INTERFACES} slots and {MAX_QUEUES} queues")]
    OutOfRange {
        /// The slot.
        slot: u32,
        /// The queue.
        queue: u32,
    },
    /// There is no such interface.
    #[error("{interface}: no such interface")]
    NoSuchInterface {
        /// Its name.
        interface: String,
    },
    /// Somebody else's XDP program has the interface.
    #[error(
        "{interface}: another XDP program is attached (`ip -d link show dev {interface}` names \
         it); is another xvsd running, or another XDP tool?"
    )]
    OtherProgram {
        /// The interface.
        interface: String,
    },
    /// The hook refuses the program.
    #[error("{interface}: cannot attach the steering program in {mode} mode: {reason}")]
    Attach {
        /// The interface.
        interface: String,
        /// The mode that was asked for.
        mode: &'static str,
        /// What the kernel said.
        reason: String,
    },
    /// The kernel has no links for XDP, so the program would stay after a crash.
    #[error("{interface}: the kernel cannot attach XDP programs by link; Linux 5.9 is needed")]
    NoLink {
        /// The interface.
        interface: String,
    },
}

/// What the program counted, over all processors and interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteeringCounters {
    /// Packets the XDP program saw.
    pub seen: u64,
    /// Packets redirected to a worker. The socket may still drop one whose ring is full.
    pub redirected: u64,
    /// Packets that are not ours.
    pub passed: u64,
    /// Packets that are ours but came by a queue with no socket; they went to the kernel.
    pub unserved: u64,
    /// Packets kept from the host's stack by the shield.
    pub shielded: u64,
}

/// The loaded program. Dropping it takes it off every interface.
#[derive(Debug)]
pub struct Steering {
    pub(super) hooks: Hooks,
    pub(super) bpf: Ebpf,
    maps: Maps,
    limits: Limits,
    /// What the maps hold.
    current: Tables,
}

/// The maps, by name in `steer.c`.
struct Maps {
    endpoints: HashMap<MapData, EndpointKey, u8>,
    addrs: HashMap<MapData, AddrKey, u8>,
    prefixes: LpmTrie<MapData, AddrKey, RangesValue>,
    interfaces: HashMap<MapData, u32, u32>,
    sockets: XskMap<MapData>,
    counters: PerCpuArray<MapData, u64>,
    numbers: Array<MapData, u32>,
}

impl std::fmt::Debug for Maps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}

/// Names of the programs in `steer.c`; `ip -d link` and `tc filter show` print them.
pub(super) const STEER: &str = "xvs_steer";
pub(super) const SHIELD: &str = "xvs_shield";
pub(super) const HOSTED: &str = "xvs_hosted";

/// Places in the map `numbers`.
const HOST_DEVICE: u32 = 0;
const LOCAL_PORTS: u32 = 1;

impl Steering {
    /// Loads the program, attached nowhere, with no rules.
    ///
    /// # Errors
    ///
    /// [`SteeringError::Load`] or [`SteeringError::Program`] with what the kernel said.
    pub fn load(limits: Limits) -> Result<Self, SteeringError> {
        let mut bpf = EbpfLoader::new()
            .map_max_entries("endpoints", limits.endpoints.saturating_mul(2).max(1))
            .map_max_entries("addrs", limits.addrs.saturating_mul(2).max(1))
            .map_max_entries("prefixes", limits.prefixes.saturating_mul(2).max(1))
            .load(OBJECT)?;
        bpf.steer().load()?;
        bpf.shield().load()?;
        bpf.hosted().load()?;
        let maps = Maps {
            endpoints: take(&mut bpf, "endpoints").try_into()?,
            addrs: take(&mut bpf, "addrs").try_into()?,
            prefixes: take(&mut bpf, "prefixes").try_into()?,
            interfaces: take(&mut bpf, "interfaces").try_into()?,
            sockets: take(&mut bpf, "sockets").try_into()?,
            counters: take(&mut bpf, "counters").try_into()?,
            numbers: take(&mut bpf, "numbers").try_into()?,
        };
        Ok(Self { hooks: Hooks::default(), bpf, maps, limits, current: Tables::default() })
    }

    /// Sends what arrives by `queue` of the interface in `slot` to this AF_XDP socket, which must
    /// be bound to that queue. Closing the socket ends it; packets then stay in the kernel.
    ///
    /// # Errors
    ///
    /// [`SteeringError::OutOfRange`], or the kernel's [`SteeringError::Map`].
    pub fn register(
        &mut self,
        slot: DeviceId,
        queue: u32,
        socket: impl AsFd,
    ) -> Result<(), SteeringError> {
        let slot = check_slot(slot)?;
        if queue >= MAX_QUEUES {
            return Err(SteeringError::OutOfRange { slot, queue });
        }
        self.maps.sockets.set(slot * MAX_QUEUES + queue, socket.as_fd().as_raw_fd(), 0)?;
        Ok(())
    }

    /// Puts `rules` in force.
    ///
    /// # Errors
    ///
    /// [`SteeringError::Full`]: nothing was changed. [`SteeringError::Map`]: the kernel failed in
    /// between (out of memory); calling again goes on from there.
    pub fn follow(&mut self, rules: &SteeringRules) -> Result<(), SteeringError> {
        let next = Tables::compile(rules);
        let limits = self.limits;
        fits("addresses", next.addrs.len(), limits.addrs)?;
        fits("endpoints", next.endpoints.len(), limits.endpoints)?;
        fits("prefixes", next.prefixes.len(), limits.prefixes)?;
        let (first, last) = rules.local_ports;
        self.maps.numbers.set(LOCAL_PORTS, u32::from(first) << 16 | u32::from(last), 0)?;
        if !rules.hosted.is_empty() || !rules.watched.is_empty() {
            self.watch_host()?;
        }
        for change in self.current.changes(&next) {
            self.maps.make(change)?;
            self.current.apply(change);
        }
        Ok(())
    }

    /// Reads the counters.
    ///
    /// # Errors
    ///
    /// The kernel's, which has no reason for one.
    pub fn counters(&self) -> Result<SteeringCounters, SteeringError> {
        let sum = |index: u32| -> Result<u64, MapError> {
            Ok(self.maps.counters.get(&index, 0)?.iter().sum())
        };
        Ok(SteeringCounters {
            seen: sum(0)?,
            redirected: sum(1)?,
            passed: sum(2)?,
            unserved: sum(3)?,
            shielded: sum(4)?,
        })
    }

    /// Tells the program which device workers read what the host's stack sends from.
    pub(super) fn name_host_device(&mut self, index: u32) -> Result<(), SteeringError> {
        Ok(self.maps.numbers.set(HOST_DEVICE, index, 0)?)
    }

    /// Tells the program which slot the interface with the kernel's number `index` has.
    pub(super) fn name_slot(&mut self, slot: DeviceId, index: u32) -> Result<(), SteeringError> {
        let slot = check_slot(slot)?;
        Ok(self.maps.interfaces.insert(index, slot, 0)?)
    }
}

impl Maps {
    fn make(&mut self, change: Change) -> Result<(), MapError> {
        let key = |(bits, addr): PrefixKey| Key::new(u32::from(bits), addr);
        match change {
            Change::SetAddr(addr, roles) => self.addrs.insert(addr, roles, 0),
            Change::RemoveAddr(addr) => self.addrs.remove(&addr),
            Change::AddEndpoint(endpoint) => self.endpoints.insert(endpoint, 0, 0),
            Change::RemoveEndpoint(endpoint) => self.endpoints.remove(&endpoint),
            Change::SetPrefix(prefix, ranges) => self.prefixes.insert(&key(prefix), ranges, 0),
            Change::RemovePrefix(prefix) => self.prefixes.remove(&key(prefix)),
        }
    }
}

/// The programs of our own object, found by name.
pub(super) trait Programs {
    fn steer(&mut self) -> &mut Xdp;
    fn shield(&mut self) -> &mut SchedClassifier;
    fn hosted(&mut self) -> &mut SchedClassifier;
}

impl Programs for Ebpf {
    fn steer(&mut self) -> &mut Xdp {
        let program = self.program_mut(STEER).expect("steer.c defines it");
        program.try_into().expect("its section says XDP")
    }

    fn shield(&mut self) -> &mut SchedClassifier {
        let program = self.program_mut(SHIELD).expect("steer.c defines it");
        program.try_into().expect("its section says classifier")
    }

    fn hosted(&mut self) -> &mut SchedClassifier {
        let program = self.program_mut(HOSTED).expect("steer.c defines it");
        program.try_into().expect("its section says classifier")
    }
}

fn take(bpf: &mut Ebpf, name: &str) -> Map {
    bpf.take_map(name).expect("steer.c defines the map")
}

fn check_slot(slot: DeviceId) -> Result<u32, SteeringError> {
    let slot = u32::from(slot.0);
    if slot < MAX_INTERFACES { Ok(slot) } else { Err(SteeringError::OutOfRange { slot, queue: 0 }) }
}

fn fits(what: &'static str, count: usize, limit: u32) -> Result<(), SteeringError> {
    if u32::try_from(count).is_ok_and(|count| count <= limit) {
        Ok(())
    } else {
        Err(SteeringError::Full { what, count, limit })
    }
}
