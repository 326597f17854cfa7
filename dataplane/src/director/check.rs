//! What a service or a real server must hold to, before anything is changed.

use std::net::IpAddr;

use super::spec::{DirectorError, RealSpec, ServiceKey, ServiceSpec};
use crate::{
    addr::{Addr, Family},
    endpoint::Method,
    sched::Scheduler,
    service::Engine,
    wire::protocol,
};

/// Greatest weight ipvsadm takes: 2^31 - 1.
pub(super) const WEIGHT_MAX: u32 = i32::MAX as u32;

/// Greatest connection threshold the kernel takes: 2^31 - 1.
pub(super) const THRESHOLD_MAX: u32 = i32::MAX as u32;

/// Greatest persistence time-out the kernel takes: 31 days, in seconds.
pub(super) const PERSISTENCE_MAX_S: u32 = 31 * 24 * 3600;

/// Refuses a service that cannot be.
pub(super) fn service(spec: &ServiceSpec) -> Result<(), DirectorError> {
    match spec.key {
        ServiceKey::Address { protocol, port, .. } => {
            if !matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP) {
                return invalid("protocol", format!("{protocol} is not tcp, udp or sctp"));
            }
            if port == 0 && spec.persistence_s.is_none() {
                return invalid("port", "0 needs a persistent service".to_owned());
            }
        }
        ServiceKey::Mark { mark: 0, .. } => {
            return invalid("mark", "0 is the mark of packets without one".to_owned());
        }
        ServiceKey::Mark { .. } => {}
    }
    if !Scheduler::NAMES.contains(&spec.scheduler.as_str()) {
        return Err(DirectorError::NoSuchScheduler);
    }
    match spec.persistence_s {
        Some(0) => return invalid("persistence", "0 seconds; at least 1".to_owned()),
        Some(seconds @ PERSISTENCE_MAX_S..) if seconds > PERSISTENCE_MAX_S => {
            return invalid(
                "persistence",
                format!("{seconds} seconds; at most {PERSISTENCE_MAX_S}"),
            );
        }
        _ => {}
    }
    if spec.key.family() == Family::V6 && !(1..=128).contains(&spec.netmask) {
        return invalid("netmask", format!("prefix length {}; 1 to 128", spec.netmask));
    }
    if spec.engine.as_ref().is_some_and(|name| Engine::by_name(name).is_none()) {
        return Err(DirectorError::NoSuchScheduler);
    }
    Ok(())
}

/// Refuses a real server that cannot be in a service of this key.
///
/// # Errors
///
/// The field at fault, and why.
pub fn real(key: &ServiceKey, spec: &RealSpec) -> Result<(), DirectorError> {
    if spec.weight > WEIGHT_MAX {
        return invalid("weight", format!("{}; 0 to {WEIGHT_MAX}", spec.weight));
    }
    for (field, value) in [("upper", spec.upper), ("lower", spec.lower)] {
        if value > THRESHOLD_MAX {
            return invalid(field, format!("{value}; 0 to {THRESHOLD_MAX}"));
        }
    }
    if spec.lower > spec.upper {
        return invalid(
            "lower",
            format!("{} is above the upper threshold {}", spec.lower, spec.upper),
        );
    }
    if !unicast(spec.addr) {
        return invalid("addr", format!("{} is not the address of one host", spec.addr));
    }
    let tunnel = matches!(spec.method, Method::Ipip | Method::Gue | Method::Gre);
    if spec.addr.family() != key.family() && !tunnel {
        return invalid(
            "addr",
            format!("{} is of the other family; only a tunnel leads there", spec.addr),
        );
    }
    if let ServiceKey::Address { port, .. } = *key
        && spec.method != Method::Nat
        && spec.method != Method::FullNat
        && spec.port != port
    {
        return invalid(
            "port",
            format!("{} differs from the service's {port}; only nat maps ports", spec.port),
        );
    }
    if let ServiceKey::Address { port: 1.., .. } = *key
        && spec.port == 0
    {
        return invalid("port", "0 for a service with a port of its own".to_owned());
    }
    if spec.method == Method::Gue && spec.tunnel.port == 0 {
        return invalid("tunnel.port", "gue needs a UDP port".to_owned());
    }
    let every_port = spec.port == 0 || matches!(key, ServiceKey::Address { port: 0, .. });
    if spec.method == Method::FullNat && every_port {
        return invalid(
            "method",
            "fullnat needs a port, of the service and of the server".to_owned(),
        );
    }
    Ok(())
}

/// Whether packets can be sent to this address alone, as `ip_vs_new_dest` asks; what the kernel
/// knows of its own broadcast addresses is not known here.
pub(super) fn unicast(addr: Addr) -> bool {
    match addr.to_ip() {
        IpAddr::V4(ip) => ip.octets()[0] != 0 && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_unicast_link_local(),
    }
}

/// An [`DirectorError::Invalid`].
fn invalid<T>(field: &'static str, reason: String) -> Result<T, DirectorError> {
    Err(DirectorError::Invalid { field, reason })
}
