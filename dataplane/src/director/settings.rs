//! IPVS's sysctls by name, the time-outs of every state, and the three of `ipvsadm --set`.
//!
//! Every name of the kernel's `net.ipv4.vs` is known here. One that can have an effect has it; one
//! whose effect is fixed by what xvs is takes just the value that it has anyway; one that belongs to
//! something xvs does not have is refused, and the refusal says what is missing. The kernel keeps
//! the time-outs of states in tables that nobody can reach since Linux 2.6; their names here are
//! those of its first versions. `hairpin` alone is not the kernel's.
//! Source: Linux `Documentation/networking/ipvs-sysctl.rst`; `net/netfilter/ipvs/ip_vs_ctl.c`,
//! `vs_vars`.

use super::{
    Director,
    spec::{DirectorError, TimeoutSpec},
};
use crate::{
    flow::timeout::{self, Timeouts},
    flow::{sctp, tcp},
    service::{Mode, Settings},
};

/// Longest time-out of a state that can be set: 31 days, as with `ipvsadm --set`, in seconds.
const TIMEOUT_S_MAX: u32 = 31 * 86_400;

/// One setting.
struct Setting {
    /// Name under `net.ipv4.vs.`.
    name: &'static str,
    /// What it is.
    kind: Kind,
}

/// What a setting is.
enum Kind {
    /// A number from 0 to `max`.
    Number {
        /// Greatest value taken.
        max: u32,
        /// Reads it.
        get: fn(&Settings) -> u32,
        /// Writes it.
        set: fn(&mut Settings, u32),
    },
    /// Seconds that flows of this time-out class live after their last packet.
    Timeout(u8),
    /// What xvs does anyway: no other value is taken.
    Fixed(u32, &'static str),
    /// It belongs to something that xvs does not have: no value is taken.
    Absent(&'static str),
}

macro_rules! switch {
    ($name:ident) => {
        number!($name, 1, u32::from, |value| value != 0)
    };
}

macro_rules! mode {
    ($name:ident) => {
        number!($name, 3, |value: Mode| u32::from(value.0), |value| Mode(octet(value)))
    };
}

macro_rules! number {
    ($name:ident, $max:expr) => {
        number!($name, $max, |value| value, |value| value)
    };
    ($name:ident, $max:expr, $read:expr, $write:expr) => {
        Setting {
            name: stringify!($name),
            kind: Kind::Number {
                max: $max,
                get: |settings| ($read)(settings.$name),
                set: |settings, value| settings.$name = ($write)(value),
            },
        }
    };
}

const fn fixed(name: &'static str, value: u32, why: &'static str) -> Setting {
    Setting { name, kind: Kind::Fixed(value, why) }
}

const fn absent(name: &'static str, why: &'static str) -> Setting {
    Setting { name, kind: Kind::Absent(why) }
}

const fn tcp(name: &'static str, state: tcp::State) -> Setting {
    Setting { name, kind: Kind::Timeout(timeout::TCP + state as u8) }
}

const fn sctp(name: &'static str, state: sctp::State) -> Setting {
    Setting { name, kind: Kind::Timeout(timeout::SCTP + state as u8) }
}

/// A value that was checked to fit.
const fn octet(value: u32) -> u8 {
    value.to_le_bytes()[0]
}

/// Greatest value of what the kernel keeps in an `int`.
const INT_MAX: u32 = i32::MAX as u32;

const NO_SYNC: &str = "xvs has no sync daemon: flows are not synchronised";
const NO_NETFILTER: &str =
    "packets of services do not pass netfilter, so no connection tracking sees them";
const BY_DESTINATION: &str =
    "replies are routed by their destination alone, which is the same before and after translation";
const NEVER_AGAIN: &str =
    "packets that come out of a tunnel on this box stay in the kernel, so services never see them";
const NO_THREADS: &str = "rates are estimated by the daemon itself and not by kernel threads";

/// All settings, by name.
const TABLE: &[Setting] = &[
    number!(am_droprate, INT_MAX),
    number!(amemthresh, INT_MAX),
    absent("backup_only", NO_SYNC),
    switch!(cache_bypass),
    number!(conn_reuse_mode, 3, u32::from, octet),
    fixed("conntrack", 0, NO_NETFILTER),
    absent("debug_level", "the daemon logs as its option --log has it"),
    mode!(drop_entry),
    mode!(drop_packet),
    absent("est_cpulist", NO_THREADS),
    absent("est_nice", NO_THREADS),
    switch!(expire_nodest_conn),
    switch!(expire_quiescent_template),
    number!(hairpin, 2, u32::from, octet),
    fixed("ignore_tunneled", 1, NEVER_AGAIN),
    switch!(nat_icmp_send),
    switch!(pmtu_disc),
    switch!(run_estimation),
    switch!(schedule_icmp),
    mode!(secure_tcp),
    switch!(sloppy_sctp),
    switch!(sloppy_tcp),
    fixed("snat_reroute", 1, BY_DESTINATION),
    absent("sync_persist_mode", NO_SYNC),
    absent("sync_ports", NO_SYNC),
    absent("sync_qlen_max", NO_SYNC),
    absent("sync_refresh_period", NO_SYNC),
    absent("sync_retries", NO_SYNC),
    absent("sync_sock_size", NO_SYNC),
    absent("sync_threshold", NO_SYNC),
    absent("sync_version", NO_SYNC),
    tcp("timeout_close", tcp::State::Close),
    tcp("timeout_closewait", tcp::State::CloseWait),
    tcp("timeout_established", tcp::State::Established),
    tcp("timeout_finwait", tcp::State::FinWait),
    tcp("timeout_lastack", tcp::State::LastAck),
    tcp("timeout_listen", tcp::State::Listen),
    sctp("timeout_sctp_closed", sctp::State::Closed),
    sctp("timeout_sctp_cookieechoed", sctp::State::CookieEchoed),
    sctp("timeout_sctp_cookiereplied", sctp::State::CookieReplied),
    sctp("timeout_sctp_cookiesent", sctp::State::CookieSent),
    sctp("timeout_sctp_cookiewait", sctp::State::CookieWait),
    sctp("timeout_sctp_established", sctp::State::Established),
    sctp("timeout_sctp_init", sctp::State::Init),
    sctp("timeout_sctp_init1", sctp::State::Init1),
    sctp("timeout_sctp_rejected", sctp::State::Rejected),
    sctp("timeout_sctp_shutdownacksent", sctp::State::ShutdownAckSent),
    sctp("timeout_sctp_shutdownreceived", sctp::State::ShutdownReceived),
    sctp("timeout_sctp_shutdownsent", sctp::State::ShutdownSent),
    tcp("timeout_synack", tcp::State::SynAck),
    tcp("timeout_synrecv", tcp::State::SynRecv),
    tcp("timeout_synsent", tcp::State::SynSent),
    tcp("timeout_timewait", tcp::State::TimeWait),
    Setting { name: "timeout_udp", kind: Kind::Timeout(timeout::UDP) },
];

/// The names of all settings, also of those that no value can be given.
pub const SETTINGS: [&str; TABLE.len()] = {
    let mut names = [""; TABLE.len()];
    let mut at = 0;
    while at < TABLE.len() {
        names[at] = TABLE[at].name;
        at += 1;
    }
    names
};

impl Kind {
    /// The value, `None` if it has none.
    fn value(&self, settings: &Settings, timeouts: &Timeouts) -> Option<u32> {
        match self {
            Self::Number { get, .. } => Some(get(settings)),
            Self::Timeout(class) => Some(timeouts.seconds(*class)),
            Self::Fixed(value, _) => Some(*value),
            Self::Absent(_) => None,
        }
    }

    /// Why this value is not taken, if it is not.
    fn objection(&self, value: u32) -> Option<String> {
        match self {
            Self::Number { max, .. } => (value > *max).then(|| format!("{value}; 0 to {max}")),
            Self::Timeout(_) => (!(1..=TIMEOUT_S_MAX).contains(&value))
                .then(|| format!("{value} seconds; 1 to {TIMEOUT_S_MAX}")),
            Self::Fixed(only, why) => {
                (value != *only).then(|| format!("{value}; always {only}: {why}"))
            }
            Self::Absent(why) => Some((*why).to_owned()),
        }
    }
}

impl Director {
    /// All settings that have a value, as they were asked for.
    pub fn settings(&self) -> Vec<(&'static str, u32)> {
        let valued = |setting: &Setting| {
            Some((setting.name, setting.kind.value(&self.settings, &self.timeouts)?))
        };
        TABLE.iter().filter_map(valued).collect()
    }

    /// All settings that have a value, as the kernel shows them: the automatic modes of the defences
    /// read 2 while they are in force, else 1.
    pub fn settings_shown(&self) -> Vec<(&'static str, u32)> {
        let short = self.stats.workers().iter().any(|worker| worker.work.room_short.get() != 0);
        let mut settings = self.settings();
        for (name, value) in &mut settings {
            let mode = matches!(*name, "drop_entry" | "drop_packet" | "secure_tcp");
            if mode && matches!(value, 1 | 2) {
                *value = 1 + u32::from(short);
            }
        }
        settings
    }

    /// Whether rates are to be estimated (`run_estimation`).
    pub const fn estimates_rates(&self) -> bool {
        self.settings.run_estimation
    }

    /// Says why [`Director::set_setting`] would refuse; changes nothing.
    ///
    /// # Errors
    ///
    /// There is no such setting, or it does not take the value.
    pub fn check_setting(&self, name: &str, value: u32) -> Result<(), DirectorError> {
        checked(name, value).map(|_| ())
    }

    /// Changes a setting.
    ///
    /// # Errors
    ///
    /// There is no such setting, or it does not take the value.
    pub fn set_setting(&mut self, name: &str, value: u32) -> Result<(), DirectorError> {
        match &checked(name, value)?.kind {
            Kind::Number { set, .. } => set(&mut self.settings, value),
            Kind::Timeout(class) => self.timeouts.set_class(*class, value),
            Kind::Fixed(..) | Kind::Absent(_) => return Ok(()),
        }
        self.generation += 1;
        Ok(())
    }

    /// The three time-outs that `ipvsadm --set` changes.
    pub const fn timeouts(&self) -> TimeoutSpec {
        let (tcp_s, tcp_fin_s, udp_s) = self.timeouts.changeable();
        TimeoutSpec { tcp_s, tcp_fin_s, udp_s }
    }

    /// Changes them; 0 keeps a value. Flows take a new time-out with their next packet.
    pub fn set_timeouts(&mut self, spec: TimeoutSpec) {
        self.timeouts.set(spec.tcp_s, spec.tcp_fin_s, spec.udp_s);
        self.generation += 1;
    }
}

/// The setting with this name, if it takes the value.
fn checked(name: &str, value: u32) -> Result<&'static Setting, DirectorError> {
    let Some(setting) = TABLE.iter().find(|setting| setting.name == name) else {
        let known = SETTINGS.join(", ");
        return Err(DirectorError::Invalid {
            field: "setting",
            reason: format!("`{name}` is not one of {known}"),
        });
    };
    match setting.kind.objection(value) {
        None => Ok(setting),
        Some(reason) => Err(DirectorError::Invalid { field: setting.name, reason }),
    }
}
