//! What a command line asks for, and how one is refused.

use crate::{
    addr::Addr,
    director::spec::{RealSpec, ServiceKey, ServiceSpec, TimeoutSpec},
};

/// One ipvsadm command, checked as ipvsadm checks it before it talks to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `-A`.
    AddService(ServiceSpec),
    /// `-E`: everything but the key and the real servers is replaced.
    EditService(ServiceSpec),
    /// `-D`.
    DeleteService(ServiceKey),
    /// `-C`.
    Flush,
    /// `-a`.
    AddReal {
        /// The service it shall belong to.
        service: ServiceKey,
        /// The real server.
        real: RealSpec,
    },
    /// `-e`: everything but address and port is replaced.
    EditReal {
        /// The service it belongs to.
        service: ServiceKey,
        /// The real server.
        real: RealSpec,
    },
    /// `-d`.
    DeleteReal {
        /// The service it belongs to.
        service: ServiceKey,
        /// Its address.
        addr: Addr,
        /// Its port.
        port: u16,
    },
    /// `-L`, and no argument at all.
    List(ListOptions),
    /// `-Z`: the counters of one service, or of all.
    Zero(Option<ServiceKey>),
    /// `-S`.
    Save {
        /// `-n`: no names.
        numeric: bool,
    },
    /// `-R`: rules from standard input.
    Restore,
    /// `--set`; 0 keeps a value.
    SetTimeouts(TimeoutSpec),
    /// `--start-daemon`.
    StartDaemon(DaemonSpec),
    /// `--stop-daemon`.
    StopDaemon(DaemonRole),
    /// `-h`.
    Help,
    /// `-v`.
    Version,
}

/// What `-L` lists, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListOptions {
    /// What.
    pub listed: Listed,
    /// Which columns.
    pub columns: Columns,
    /// `-n`: no names.
    pub numeric: bool,
    /// `--exact`: no K, M, G and T.
    pub exact: bool,
    /// `--nosort`: the kernel's own order.
    pub nosort: bool,
    /// `--persistent-conn`, which for flows means the persistence engine's data.
    pub persistent: bool,
}

impl ListOptions {
    /// What ipvsadm without arguments lists.
    pub const PLAIN: Self = Self {
        listed: Listed::Services,
        columns: Columns::Plain,
        numeric: false,
        exact: false,
        nosort: false,
        persistent: false,
    };
}

/// What `-L` lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// All services.
    Services,
    /// One service.
    Service(ServiceKey),
    /// `-c`: flows.
    Flows,
    /// `--timeout`.
    Timeouts,
    /// `--daemon`.
    Daemons,
}

/// Which columns a list of services has. Where several are asked for, the first in this order
/// wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    /// `--stats`.
    Stats,
    /// `--rate`.
    Rate,
    /// `--thresholds`.
    Thresholds,
    /// `--persistent-conn`.
    Persistent,
    /// `--tun-info`.
    Tunnel,
    /// Forward, Weight, ActiveConn, InActConn.
    Plain,
}

/// Which end of the synchronisation of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DaemonRole {
    /// Tells others.
    Master,
    /// Is told.
    Backup,
}

/// `--start-daemon` with its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonSpec {
    /// Which end.
    pub role: DaemonRole,
    /// `--mcast-interface`; `eth0` if not given.
    pub interface: String,
    /// `--syncid`, 0 to 255.
    pub sync_id: u8,
    /// `--sync-maxlen` in octets, 1 to 65507; `None` leaves it to the daemon.
    pub max_length: Option<u16>,
    /// `--mcast-group`.
    pub group: Option<Addr>,
    /// `--mcast-port`.
    pub port: Option<u16>,
    /// `--mcast-ttl`.
    pub ttl: Option<u8>,
}

/// Why a command line was refused before anybody was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Usage {
    /// ipvsadm's message, without the line's end.
    pub message: String,
    /// ipvsadm's exit status: 2, or 255 where options could not be read at all.
    pub exit: u8,
}

/// Whose rules are written where ipvsadm's own lose something, and whose exit status `-R` has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// As ipvsadm writes it, but that what ipvsadm has no words for is written in ours (`--local`);
    /// a `-R` in which a line failed fails.
    #[default]
    Xvs,
    /// The same, and nothing that was asked for is lost: thresholds (`-x`, `-y`) are saved too,
    /// marks above 2147483647 are written as they were given and not as negative numbers.
    Full,
    /// As ipvsadm, losses and exit status included.
    Ipvsadm,
}
