//! What a probe does on the wire, one file for each kind.
//!
//! A new kind is its file, its `mod` line, its variant in [`super::policy::Kind`] and its line in
//! `dispatch`. A probe never lasts longer than its check's time-out, and reads a bounded answer.

mod agent;
mod connect;
pub(super) mod dns;
mod grpc;
mod http;
mod icmp;
mod script;
mod tcp;
mod tls;
mod udp;

use std::{net::SocketAddr, sync::Arc, time::Instant};

use tokio::sync::Semaphore;

use super::{
    board::Probe,
    member::{Advice, Outcome},
    policy::{Kind, goes_through},
};

pub use connect::{Connecting, Stream, Through};

/// Octets of a body that are looked at.
pub const BODY_MAX: usize = 64 << 10;

/// Scripts that run at once; others wait, and their time counts.
const SCRIPTS: usize = 64;

/// What a probe that passed says.
#[derive(Debug, Default)]
struct Good {
    note: String,
    advice: Advice,
}

impl Good {
    fn new(note: impl Into<String>) -> Self {
        Self { note: note.into(), advice: Advice::default() }
    }
}

/// What a probe found; an error says in words what is wrong.
type Found = Result<Good, String>;

/// What all probes share.
#[derive(Debug)]
pub(super) struct Means {
    icmp: icmp::Pings,
    tls: tls::Cache,
    scripts: Semaphore,
    through: Option<Arc<dyn Through>>,
}

impl Means {
    /// With a way through the forwarding path, if there is one.
    pub(super) fn new(through: Option<Arc<dyn Through>>) -> Self {
        Self {
            icmp: icmp::Pings::default(),
            tls: tls::Cache::default(),
            scripts: Semaphore::new(SCRIPTS),
            through,
        }
    }
}

/// Where a probe goes.
fn target(probe: &Probe) -> SocketAddr {
    let addr = match (goes_through(&probe.check, &probe.real), probe.key.vip()) {
        (true, Some(vip)) => vip,
        _ => probe.real.addr,
    };
    SocketAddr::new(addr.to_ip(), probe.port)
}

/// Carries a probe out.
pub(super) async fn run(probe: &Probe, means: &Means) -> Outcome {
    let started = Instant::now();
    let limit = probe.check.timeout;
    let found = tokio::time::timeout(limit, dispatch(probe, means)).await;
    let took = started.elapsed();
    let found = found.unwrap_or_else(|_elapsed| Err(format!("no answer within {limit:?}")));
    match found {
        Ok(Good { note, advice }) => Outcome { passed: true, note, took, advice },
        Err(note) => Outcome { passed: false, note, took, advice: Advice::default() },
    }
}

async fn dispatch(probe: &Probe, means: &Means) -> Found {
    if probe.port == 0 && probe.check.kind.has_port() {
        return Err("the real server has no port: the check must give one".to_owned());
    }
    match &probe.check.kind {
        Kind::Tcp => tcp::run(probe, means).await,
        Kind::Http(asked) => http::run(probe, asked, means).await,
        Kind::Grpc { service, tls } => grpc::run(probe, (service, tls.as_ref()), means).await,
        Kind::Icmp => icmp::run(probe, &means.icmp).await,
        Kind::Udp { send, expect } => udp::run(probe, (send, expect)).await,
        Kind::Dns { name, record } => dns::run(probe, (name, record)).await,
        Kind::Script { command } => script::run(probe, command, &means.scripts).await,
        Kind::Agent => agent::run(probe, means).await,
    }
}
