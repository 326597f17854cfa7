//! Services as rules: `ipvsadm -S`.

use super::{
    command::Dialect,
    listing::{any_flag, flag_names, mask},
    names::{Names, choose, endpoint},
    order,
};
use crate::{
    addr::Family,
    director::spec::{ClientAddress, RealSpec, ServiceInfo, ServiceKey, ServiceSpec},
    endpoint::Method,
};

/// Writes the commands that make `services`, sorted, each service followed by its real servers.
///
/// What ipvsadm loses on the way depends on `dialect`.
pub fn save(
    services: &[ServiceInfo],
    numeric: bool,
    dialect: Dialect,
    names: &dyn Names,
) -> String {
    let names = choose(numeric, names);
    let mut out = String::new();
    for service in order::sorted_services(services) {
        let (key, protocol) = key(&service.spec.key, dialect, names);
        out.push_str(&service_rule(&key, &service.spec, dialect));
        let asked = order::sorted_reals(&service.reals);
        for real in asked.into_iter().filter(|real| !real.standby) {
            let name = endpoint((real.spec.addr, real.spec.port), protocol, names);
            out.push_str(&format!("-a {key} -r {name} {}\n", real_options(&real.spec, dialect)));
        }
    }
    out
}

fn key(key: &ServiceKey, dialect: Dialect, names: &dyn Names) -> (String, u8) {
    match *key {
        ServiceKey::Mark { mark, family } => {
            let mark = match dialect {
                Dialect::Full => mark.to_string(),
                // What ipvsadm itself refuses to read again.
                Dialect::Xvs | Dialect::Ipvsadm => mark.cast_signed().to_string(),
            };
            (format!("-f {mark}{}", if family == Family::V6 { " -6" } else { "" }), 0)
        }
        ServiceKey::Address { protocol, addr, port } => {
            let option = match protocol {
                6 => "-t",
                17 => "-u",
                132 => "--sctp-service",
                _ => "--xxx-service",
            };
            (format!("{option} {}", endpoint((addr, port), protocol, names)), protocol)
        }
    }
}

fn service_rule(key: &str, spec: &ServiceSpec, dialect: Dialect) -> String {
    let mut out = format!("-A {key} -s {}", spec.scheduler);
    if let Some(seconds) = spec.persistence_s {
        out.push_str(&format!(" -p {seconds}"));
        if let Some(mask) = mask(spec) {
            out.push_str(&format!(" -M {mask}"));
        }
    }
    if let Some(engine) = &spec.engine {
        out.push_str(&format!(" --pe {engine}"));
    }
    if spec.one_packet {
        out.push_str(" -o");
    }
    if any_flag(spec.flags) {
        out.push_str(&format!(" -b {}", flag_names(&spec.scheduler, spec.flags)));
    }
    if spec.client_address != ClientAddress::Hidden && dialect != Dialect::Ipvsadm {
        out.push_str(&format!(" --{}", spec.client_address.name()));
    }
    out.push('\n');
    out
}

fn real_options(spec: &RealSpec, dialect: Dialect) -> String {
    let method = match spec.method {
        Method::FullNat if dialect != Dialect::Ipvsadm => "--fullnat",
        Method::Nat | Method::FullNat => "-m",
        Method::Local if dialect != Dialect::Ipvsadm => "--local",
        Method::Dr | Method::Local => "-g",
        Method::Ipip | Method::Gue | Method::Gre => "-i",
    };
    let mut out = format!("{method} -w {}", spec.weight);
    let checksum = match (spec.tunnel.remote_checksum, spec.tunnel.checksum) {
        (true, _) => "--tun-remcsum",
        (false, true) => "--tun-csum",
        (false, false) => "--tun-nocsum",
    };
    match spec.method {
        Method::Ipip => out.push_str(" --tun-type ipip"),
        Method::Gue => {
            let port = spec.tunnel.port;
            out.push_str(&format!(" --tun-type gue --tun-port {port} {checksum}"));
        }
        Method::Gre => out.push_str(&format!(" --tun-type gre {checksum}")),
        _ => {}
    }
    if dialect == Dialect::Full {
        for (option, threshold) in [("-x", spec.upper), ("-y", spec.lower)] {
            if threshold != 0 {
                out.push_str(&format!(" {option} {threshold}"));
            }
        }
    }
    out
}
