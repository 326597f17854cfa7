//! Who may do what over gRPC, and the record of who did.
//!
//! A **caller** is known by what it cannot choose itself: over the unix socket the kernel's word for its
//! user, over TLS the names in the certificate that an authority of ours signed. A **role** is given
//! by the configuration; each includes the ones before it. Every method of the API has one, in
//! one table ([`role_of`]) that a test holds complete. Without roles in the configuration whoever
//! gets through administers: the socket is its owner's alone, and TCP asks for a certificate.
//! Source: unix(7), SO_PEERCRED; RFC 5280, section 4.2.1.6.

pub mod audit;
mod budget;
mod guard;

use std::{fmt, sync::Arc};

pub use guard::GuardLayer;

use self::{audit::Audit, budget::Budgets};

/// What a caller may do; each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Read,
    /// Drain, end flows, set counters to zero: what undoes itself or is undone easily.
    Operate,
    /// Everything.
    Administer,
}

impl Role {
    /// All roles by name.
    pub const NAMES: [(&str, Self); 3] =
        [("read", Self::Read), ("operate", Self::Operate), ("administer", Self::Administer)];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Administer => "administer",
        }
    }
}

/// Methods that change nothing.
const READING: [&str; 18] = [
    "GetInfo",
    "GetStatistics",
    "ListServices",
    "GetService",
    "GetTimeouts",
    "GetSettings",
    "ListMarkRules",
    "GetLocalPool",
    "ListFlows",
    "ListDrains",
    "Explain",
    "Plan",
    "ListHealth",
    "CountFlows",
    "Watch",
    "WatchStatistics",
    // Of the standard health service.
    "Check",
    // Of reflection.
    "ServerReflectionInfo",
];

/// Methods for those who operate.
const OPERATING: [&str; 5] = ["Drain", "CancelDrain", "DeleteFlows", "ZeroCounters", "Capture"];

/// The role that a method needs, by the path of its requests; what is not known needs the highest.
#[must_use]
pub fn role_of(path: &str) -> Role {
    let method = path.rsplit('/').next().unwrap_or_default();
    if READING.contains(&method) {
        Role::Read
    } else if OPERATING.contains(&method) {
        Role::Operate
    } else {
        Role::Administer
    }
}

/// Whom a role is given to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grantee {
    /// A user of this box, over the unix socket.
    User(u32),
    /// A group of this box, likewise: the one that the caller's process runs in.
    Group(u32),
    /// A certificate with this name, as common name or as DNS name.
    Certificate(String),
}

/// A role and whom it is given to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// To whom.
    pub to: Grantee,
    /// What.
    pub role: Role,
}

/// A caller, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Caller {
    /// A process of this box.
    Process {
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Its number, if the kernel told it.
        pid: Option<i32>,
    },
    /// The owner of a certificate with these names.
    Certificate(Vec<String>),
    /// Somebody who reached TCP without TLS.
    #[default]
    Unknown,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { uid, gid, pid } => {
                write!(f, "uid {uid} gid {gid}")?;
                pid.map_or(Ok(()), |pid| write!(f, " pid {pid}"))
            }
            Self::Certificate(names) => write!(f, "certificate {}", names.join(", ")),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// Who may do what, and where it is recorded.
#[derive(Debug, Default)]
pub struct Access {
    grants: Vec<Grant>,
    /// The daemon's own user, who administers it as root does.
    owner: u32,
    audit: Audit,
    budgets: Budgets,
}

impl Access {
    /// With these roles; an empty list gives all to everybody who gets through.
    #[must_use]
    pub fn new(grants: Vec<Grant>, audit: Audit) -> Arc<Self> {
        let owner = rustix::process::geteuid().as_raw();
        Arc::new(Self { grants, owner, audit, ..Self::default() })
    }

    /// Opens the audit log anew, after somebody moved it away.
    pub fn reopen(&self) {
        self.audit.reopen();
    }

    /// Whether a caller administers without being named: root and the daemon's own user do, and without
    /// roles everybody who gets through.
    #[must_use]
    pub fn is_master(&self, caller: &Caller) -> bool {
        let is_ours = |uid| uid == 0 || uid == self.owner;
        self.grants.is_empty() || matches!(caller, Caller::Process { uid, .. } if is_ours(*uid))
    }

    /// The highest role that a caller has.
    #[must_use]
    pub fn role(&self, caller: &Caller) -> Option<Role> {
        if self.is_master(caller) {
            return Some(Role::Administer);
        }
        let is_of = |grant: &&Grant| match (&grant.to, caller) {
            (Grantee::User(user), Caller::Process { uid, .. }) => user == uid,
            (Grantee::Group(group), Caller::Process { gid, .. }) => group == gid,
            (Grantee::Certificate(name), Caller::Certificate(names)) => names.contains(name),
            _ => false,
        };
        self.grants.iter().filter(is_of).map(|grant| grant.role).max()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost_reflect::DescriptorPool;

    use super::*;
    use crate::proto::DESCRIPTORS;

    #[test]
    fn every_method_that_is_named_exists_and_every_reader_is_named() {
        let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
        let methods: BTreeSet<_> = pool
            .services()
            .flat_map(|service| service.methods().map(|m| m.name().to_owned()).collect::<Vec<_>>())
            .collect();
        let standard = ["Check", "ServerReflectionInfo"];
        for name in READING.iter().chain(&OPERATING) {
            assert!(methods.contains(*name) || standard.contains(name), "{name} is no method");
        }
        for method in &methods {
            let reads = ["Get", "List", "Watch", "Count", "Explain", "Plan"];
            let reads = reads.iter().any(|word| method.starts_with(word));
            assert_eq!(reads, role_of(&format!("/xvs.v1.S/{method}")) == Role::Read, "{method}");
        }
    }

    #[test]
    fn a_caller_has_the_highest_role_that_is_given_to_it_and_root_has_all() {
        let grant = |to, role| Grant { to, role };
        let access = Access::new(
            vec![
                grant(Grantee::Group(20), Role::Read),
                grant(Grantee::User(1001), Role::Operate),
                grant(Grantee::Certificate("ops.example".to_owned()), Role::Operate),
            ],
            Audit::default(),
        );
        let process = |uid, gid| Caller::Process { uid, gid, pid: None };
        assert_eq!(access.role(&process(0, 0)), Some(Role::Administer));
        assert_eq!(access.role(&process(1001, 20)), Some(Role::Operate));
        assert_eq!(access.role(&process(1002, 20)), Some(Role::Read));
        assert_eq!(access.role(&process(1002, 21)), None);
        let named = |name: &str| Caller::Certificate(vec!["x".to_owned(), name.to_owned()]);
        assert_eq!(access.role(&named("ops.example")), Some(Role::Operate));
        assert_eq!(access.role(&named("ops.example.evil")), None);
        assert_eq!(access.role(&Caller::Unknown), None);
    }
}
