//! Which option goes with which command, and with which kind of tunnel.

use super::command::Usage;

macro_rules! kinds {
    ($($kind:ident => $name:literal,)+) => {
        /// An option as the checks see it; the forwarding methods are one, the services too.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Kind {
            $($kind,)+
        }

        impl Kind {
            /// All of them, in the order in which they are checked.
            const ALL: &'static [Self] = &[$(Self::$kind,)+];

            /// How messages call it.
            pub(super) const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)+
                }
            }
        }
    };
}

kinds! {
    Numeric => "numeric",
    Connection => "connection",
    Service => "service-address",
    Scheduler => "scheduler",
    Persistent => "persistent",
    Netmask => "netmask",
    RealServer => "real-server",
    Method => "forwarding-method",
    Weight => "weight",
    Upper => "u-threshold",
    Lower => "l-threshold",
    McastInterface => "mcast-interface",
    Timeout => "timeout",
    Daemon => "daemon",
    Stats => "stats",
    Rate => "rate",
    Thresholds => "thresholds",
    PersistentConn => "persistent-conn",
    NoSort => "nosort",
    SyncId => "syncid",
    Exact => "exact",
    OnePacket => "ops",
    Engine => "pe",
    SchedFlags => "sched-flags",
    McastGroup => "mcast-group",
    McastPort => "mcast-port",
    McastTtl => "mcast-ttl",
    SyncMaxLength => "sync-maxlen",
    TunInfo => "tun-info",
    TunType => "tun-type",
    TunPort => "tun-port",
    TunNoChecksum => "tun-nocsum",
    TunChecksum => "tun-csum",
    TunRemoteChecksum => "tun-remcsum",
    Toa => "toa",
    Proxy => "proxy",
}

/// Which options were given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Given(u64);

impl Given {
    /// Whether this one was.
    pub(super) const fn has(self, kind: Kind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }

    /// Whether any of these was.
    pub(super) fn any(self, kinds: &[Kind]) -> bool {
        kinds.iter().any(|kind| self.has(*kind))
    }

    /// Notes one.
    ///
    /// # Errors
    ///
    /// It was given before.
    pub(super) fn note(&mut self, kind: Kind) -> Result<(), Usage> {
        if self.has(kind) {
            return Err(usage(format!("multiple '{}' options specified", kind.name())));
        }
        self.0 |= 1 << kind as u8;
        Ok(())
    }
}

/// What was asked to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    AddService,
    EditService,
    DeleteService,
    Flush,
    List,
    AddReal,
    DeleteReal,
    EditReal,
    Set,
    StartDaemon,
    StopDaemon,
    Restore,
    Save,
    Zero,
}

/// What a command or a tunnel makes of options. What is in none of the three is illegal with it.
struct Policy {
    /// How messages call it.
    name: &'static str,
    /// Must be given.
    compulsory: &'static [Kind],
    /// At most one of these.
    exclusive: &'static [Kind],
    /// May be given.
    optional: &'static [Kind],
}

const fn policy(
    name: &'static str,
    compulsory: &'static [Kind],
    exclusive: &'static [Kind],
    optional: &'static [Kind],
) -> Policy {
    Policy { name, compulsory, exclusive, optional }
}

const SERVICE: &[Kind] = &[
    Kind::Scheduler,
    Kind::Persistent,
    Kind::Netmask,
    Kind::OnePacket,
    Kind::Engine,
    Kind::SchedFlags,
    Kind::Toa,
    Kind::Proxy,
];
const REAL: &[Kind] = &[
    Kind::Method,
    Kind::Weight,
    Kind::Upper,
    Kind::Lower,
    Kind::TunType,
    Kind::TunPort,
    Kind::TunNoChecksum,
    Kind::TunChecksum,
    Kind::TunRemoteChecksum,
];
const LIST: &[Kind] = &[
    Kind::Numeric,
    Kind::Stats,
    Kind::Rate,
    Kind::Thresholds,
    Kind::PersistentConn,
    Kind::NoSort,
    Kind::SyncId,
    Kind::Exact,
    Kind::TunInfo,
];
const DAEMON: &[Kind] = &[
    Kind::McastInterface,
    Kind::SyncId,
    Kind::McastGroup,
    Kind::McastPort,
    Kind::McastTtl,
    Kind::SyncMaxLength,
];

const fn command_policy(verb: Verb) -> Policy {
    use Kind::{Connection, Daemon, Numeric, RealServer, Service, SyncId, Timeout};
    match verb {
        Verb::AddService => policy("add-service", &[Service], &[], SERVICE),
        Verb::EditService => policy("edit-service", &[Service], &[], SERVICE),
        Verb::DeleteService => policy("delete-service", &[Service], &[], &[]),
        Verb::Flush => policy("flush", &[], &[], &[]),
        Verb::List => policy("list", &[], &[Connection, Service, Timeout, Daemon], LIST),
        Verb::AddReal => policy("add-server", &[Service, RealServer], &[], REAL),
        Verb::DeleteReal => policy("delete-server", &[Service, RealServer], &[], &[]),
        Verb::EditReal => policy("edit-server", &[Service, RealServer], &[], REAL),
        Verb::Set => policy("set", &[], &[], &[]),
        Verb::StartDaemon => policy("start-daemon", &[], &[], DAEMON),
        Verb::StopDaemon => policy("stop-daemon", &[], &[], &[SyncId]),
        Verb::Restore => policy("restore", &[], &[], &[]),
        Verb::Save => policy("save", &[], &[], &[Numeric]),
        Verb::Zero => policy("zero", &[], &[], &[Service]),
    }
}

/// Kinds of tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tunnel {
    #[default]
    Ipip,
    Gue,
    Gre,
}

const fn tunnel_policy(tunnel: Tunnel) -> Policy {
    use Kind::{TunChecksum, TunNoChecksum, TunPort, TunRemoteChecksum};
    match tunnel {
        Tunnel::Ipip => policy("ipip", &[], &[], &[]),
        Tunnel::Gue => {
            policy("gue", &[TunPort], &[TunNoChecksum, TunChecksum, TunRemoteChecksum], &[])
        }
        Tunnel::Gre => policy("gre", &[], &[TunNoChecksum, TunChecksum], &[]),
    }
}

/// Checks the options of a command.
///
/// # Errors
///
/// The first one that is missing, illegal or in conflict with another.
pub(super) fn command(verb: Verb, given: Given) -> Result<(), Usage> {
    obey(&command_policy(verb), "command", Kind::ALL, given)
}

/// Checks the options of a tunnel.
///
/// # Errors
///
/// The first one that is missing, illegal or in conflict with another.
pub(super) fn tunnel(tunnel: Tunnel, given: Given) -> Result<(), Usage> {
    const KINDS: &[Kind] =
        &[Kind::TunPort, Kind::TunNoChecksum, Kind::TunChecksum, Kind::TunRemoteChecksum];
    obey(&tunnel_policy(tunnel), "tunnel type", KINDS, given)
}

fn obey(policy: &Policy, of: &str, kinds: &[Kind], given: Given) -> Result<(), Usage> {
    let name = policy.name;
    let mut chosen: Option<Kind> = None;
    for &kind in kinds {
        let option = kind.name();
        if !given.has(kind) {
            if policy.compulsory.contains(&kind) {
                return Err(usage(format!(
                    "You need to supply the '{option}' option for the '{name}' {of}"
                )));
            }
        } else if policy.exclusive.contains(&kind) {
            if let Some(chosen) = chosen {
                let other = chosen.name();
                return Err(usage(format!(
                    "The option '{option}' conflicts with the '{other}' option in the '{name}' {of}"
                )));
            }
            chosen = Some(kind);
        } else if !policy.compulsory.contains(&kind) && !policy.optional.contains(&kind) {
            return Err(usage(format!("Illegal '{option}' option with the '{name}' {of}")));
        }
    }
    Ok(())
}

/// A refusal with ipvsadm's usual exit status for one.
pub(super) fn usage(message: impl Into<String>) -> Usage {
    Usage { message: message.into(), exit: 2 }
}
