//! The shape of the TOML file: names and types, nothing else.
//!
//! Every integer is read as `i64`, so that a value out of range is refused with its range and not
//! with the name of a Rust type. Unknown fields are refused. Values are checked in [`super::check`].

use std::collections::BTreeMap;

use serde::Deserialize;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) daemon: Daemon,
    pub(super) interface: Vec<Interface>,
    pub(super) api: Api,
    pub(super) settings: BTreeMap<String, i64>,
    pub(super) timeouts: Timeouts,
    pub(super) mark: Vec<Mark>,
    pub(super) local: Option<Local>,
    pub(super) service: Vec<Service>,
}

/// `[daemon]`: what is fixed at the start.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Daemon {
    pub(super) workers: Option<i64>,
    pub(super) cpus: Option<Vec<i64>>,
    pub(super) flows: Option<i64>,
    pub(super) endpoints: Option<i64>,
    pub(super) spin_microseconds: Option<i64>,
    pub(super) answers_per_second: Option<i64>,
    pub(super) journal: Option<String>,
}

/// `[[interface]]`: one the workers receive from and send to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Interface {
    pub(super) name: String,
    #[serde(default)]
    pub(super) mode: Option<String>,
}

/// `[api]`: where gRPC listens.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Api {
    pub(super) socket: Option<String>,
    pub(super) tcp: Option<Tcp>,
}

/// `[api.tcp]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tcp {
    pub(super) listen: String,
    pub(super) certificate: Option<String>,
    pub(super) key: Option<String>,
    pub(super) client_ca: Option<String>,
    #[serde(default)]
    pub(super) insecure: bool,
}

/// `[timeouts]`, in seconds.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Timeouts {
    pub(super) tcp: Option<i64>,
    pub(super) tcp_fin: Option<i64>,
    pub(super) udp: Option<i64>,
}

/// `[[mark]]`: packets that get a firewall mark.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mark {
    pub(super) mark: i64,
    pub(super) to: String,
    pub(super) ports: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) from: Option<String>,
}

/// `[local]`: full NAT's local addresses.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Local {
    pub(super) addresses: Vec<String>,
    #[serde(default)]
    pub(super) ports: Option<String>,
}

/// `[[service]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    pub(super) protocol: Option<String>,
    pub(super) address: Option<String>,
    pub(super) port: Option<i64>,
    pub(super) mark: Option<i64>,
    pub(super) family: Option<String>,
    pub(super) scheduler: Option<String>,
    #[serde(default)]
    pub(super) scheduler_flags: Vec<String>,
    pub(super) persistence_seconds: Option<i64>,
    pub(super) netmask: Option<String>,
    #[serde(default)]
    pub(super) one_packet: bool,
    pub(super) persistence_engine: Option<String>,
    pub(super) client_address: Option<String>,
    #[serde(default)]
    pub(super) real: Vec<Real>,
}

/// `[[service.real]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Real {
    pub(super) address: String,
    pub(super) port: Option<i64>,
    pub(super) method: Option<String>,
    #[serde(default)]
    pub(super) tunnel: Tunnel,
    pub(super) weight: Option<i64>,
    pub(super) upper_threshold: Option<i64>,
    pub(super) lower_threshold: Option<i64>,
}

/// `tunnel = { ... }` of a real server.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tunnel {
    pub(super) port: Option<i64>,
    pub(super) checksum: bool,
    pub(super) remote_checksum: bool,
}
