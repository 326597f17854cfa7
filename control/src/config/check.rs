//! From the file's values to what they mean, each checked, each fault with its path.

use std::{fmt::Display, net::SocketAddr, path::PathBuf, time::Duration};

use dataplane::{
    addr::{Addr, Family},
    director::spec::{
        ClientAddress, LocalPool, MarkRule, RealSpec, ServiceKey, ServiceSpec, TimeoutSpec,
        TunnelSpec,
    },
    endpoint::Method,
    sched::SchedFlags,
    selector::{Ports, Prefix, Selector},
};
use tonic::transport::Uri;

use super::{Api, Config, Daemon, Desired, Http, Interface, Mode, Otlp, Tcp, Tls, file};
use crate::{
    access::{Grant, Grantee, Role},
    convert::request::{
        DEFAULT_SCHEDULER, PERSISTENCE_MAX_S, THRESHOLD_MAX, TIMEOUT_MAX_S, WEIGHT_MAX, each,
    },
    field::{self, FieldError},
    words,
};

/// Where gRPC listens unless told otherwise.
const DEFAULT_SOCKET: &str = "/run/xvs/xvsd.sock";

/// Flows that fit unless told otherwise: about 100 MB.
pub(super) const DEFAULT_FLOWS: u32 = 1 << 20;

/// Services and real servers that fit unless told otherwise.
const DEFAULT_ENDPOINTS: u32 = 1 << 14;

/// The most services and real servers that can be asked for.
pub(super) const ENDPOINTS_MAX: u32 = 1 << 20;

/// How long an idle worker spins unless told otherwise: long enough to meet the next packet of a
/// busy moment awake, short enough that a quiet box costs nothing.
const DEFAULT_SPIN_US: u32 = 50;

/// Answers of its own that a worker sends per second unless told otherwise: the kernel's
/// `icmp_msgs_per_sec`.
const DEFAULT_ANSWERS_PER_SECOND: u32 = 1000;

/// The most flows that can be asked for: about 27 GB.
pub(super) const FLOWS_MAX: u32 = 1 << 28;

/// The fewest flows that can be asked for; a smaller table saves nothing.
pub(super) const FLOWS_MIN: u32 = 1 << 10;

/// The most workers that can be asked for.
const WORKERS_MAX: u16 = 64;

/// Seconds from one export of metrics to the next, unless told otherwise, and at most.
const DEFAULT_EXPORT_S: u32 = 10;
const EXPORT_MAX_S: u32 = 3600;

/// The most interfaces: what steering and the counters have room for.
const INTERFACES_MAX: usize = 16;

/// Options of schedulers by name.
const FLAGS: [&str; 3] = ["fallback", "port", "flag3"];

type Result<T> = std::result::Result<T, FieldError>;

/// Checks a whole file.
pub(super) fn config(file: file::File) -> Result<Config> {
    let services = each("service", &file.service, service)?;
    let desired = Desired {
        policies: Some(super::health::policies(&file.service, &services)?),
        services,
        locals: file.local.as_ref().map(locals).transpose()?,
        timeouts: timeouts(&file.timeouts)?,
        settings: settings(&file)?,
        mark_rules: Some(each("mark", &file.mark, mark_rule)?),
    };
    Ok(Config {
        daemon: daemon(&file.daemon)?,
        interfaces: interfaces(&file.interface)?,
        api: api(file.api)?,
        http: file.http.map(http).transpose()?,
        otlp: file.otlp.map(otlp).transpose()?,
        desired,
    })
}

fn daemon(file: &file::Daemon) -> Result<Daemon> {
    let workers = match file.workers {
        Some(count) => Some(within("daemon.workers", count, 1, WORKERS_MAX)?),
        None => None,
    };
    let cpus = match &file.cpus {
        Some(cpus) => Some(pins(cpus, workers)?),
        None => None,
    };
    let flows = or("daemon.flows", file.flows, DEFAULT_FLOWS, FLOWS_MIN, FLOWS_MAX)?;
    let endpoints = or("daemon.endpoints", file.endpoints, DEFAULT_ENDPOINTS, 16, ENDPOINTS_MAX)?;
    let spin = file.spin_microseconds;
    let spin_us = or("daemon.spin_microseconds", spin, DEFAULT_SPIN_US, 0, 1_000_000)?;
    let answers = file.answers_per_second;
    let answers_per_second =
        or("daemon.answers_per_second", answers, DEFAULT_ANSWERS_PER_SECOND, 0, 1_000_000)?;
    let journal = file.journal.as_ref().map(PathBuf::from);
    if journal.as_ref().is_some_and(|path| !path.is_absolute()) {
        return Err(FieldError::new("daemon.journal", "must be an absolute path"));
    }
    Ok(Daemon { workers, cpus, flows, endpoints, spin_us, answers_per_second, journal })
}

/// Either no worker is pinned or each has a CPU of its own.
fn pins(cpus: &[i64], workers: Option<u16>) -> Result<Vec<u16>> {
    let path = "daemon.cpus";
    let mut pins = Vec::new();
    for (index, &cpu) in cpus.iter().enumerate() {
        let cpu = within(&format!("{path}[{index}]"), cpu, 0, 4095_u16)?;
        if pins.contains(&cpu) {
            let reason = format!("CPU {cpu} is there already: each worker needs one of its own");
            return Err(FieldError::new(format!("{path}[{index}]"), reason));
        }
        pins.push(cpu);
    }
    match workers {
        Some(workers) if !pins.is_empty() && pins.len() != usize::from(workers) => {
            let reason = format!("{} CPUs for {workers} workers: one each is needed", pins.len());
            Err(FieldError::new(path, reason))
        }
        _ => Ok(pins),
    }
}

fn interfaces(file: &[file::Interface]) -> Result<Vec<Interface>> {
    if file.len() > INTERFACES_MAX {
        let reason = format!("{} interfaces; at most {INTERFACES_MAX}", file.len());
        return Err(FieldError::new("interface", reason));
    }
    let interfaces = each("interface", file, |interface| {
        // The kernel's IFNAMSIZ, less the terminating zero.
        if !(1..=15).contains(&interface.name.len()) {
            let reason = format!("`{}` does not have 1 to 15 octets", interface.name);
            return Err(FieldError::new("name", reason));
        }
        let mode = interface.mode.as_deref().map_or(Ok(Mode::Auto), mode)?;
        Ok(Interface { name: interface.name.clone(), mode })
    })?;
    for (index, interface) in interfaces.iter().enumerate() {
        if interfaces[..index].iter().any(|before| before.name == interface.name) {
            let reason = format!("`{}` is there already", interface.name);
            return Err(FieldError::new(format!("interface[{index}].name"), reason));
        }
        if interface.mode != interfaces[0].mode {
            let (mode, first) = (interface.mode.name(), interfaces[0].mode.name());
            let reason = format!("`{mode}` is not `{first}`: all interfaces are attached alike");
            return Err(FieldError::new(format!("interface[{index}].mode"), reason));
        }
    }
    Ok(interfaces)
}

fn mode(name: &str) -> Result<Mode> {
    let found = Mode::ALL.iter().find(|(known, _)| *known == name);
    let names = || Mode::ALL.iter().map(|(known, _)| *known);
    found
        .map(|(_, mode)| *mode)
        .ok_or_else(|| FieldError::new("mode", field::unknown("mode", name, names())))
}

fn api(file: file::Api) -> Result<Api> {
    let socket = PathBuf::from(file.socket.unwrap_or_else(|| DEFAULT_SOCKET.to_owned()));
    if !socket.is_absolute() {
        let reason = format!("`{}` is not an absolute path", socket.display());
        return Err(FieldError::new("api.socket", reason));
    }
    let tcp = match file.tcp {
        Some(tcp) => Some(self::tcp(tcp).map_err(|error| error.within("api.tcp"))?),
        None => None,
    };
    let audit = file.audit.map(PathBuf::from);
    if audit.as_ref().is_some_and(|path| !path.is_absolute()) {
        return Err(FieldError::new("api.audit", "must be an absolute path"));
    }
    let grants = each("api.role", &file.role, grant)?;
    Ok(Api { socket, audit, grants, tcp })
}

/// A role is given to one.
fn grant(file: &file::Grant) -> Result<Grant> {
    let role = Role::NAMES.iter().find(|(name, _)| *name == file.role).map(|(_, role)| *role);
    let role = role.ok_or_else(|| {
        let names = Role::NAMES.iter().map(|(name, _)| *name);
        FieldError::new("role", field::unknown("role", &file.role, names))
    })?;
    let to = match (&file.user, &file.group, &file.certificate) {
        (Some(name), None, None) => {
            let found = uzers::get_user_by_name(name).map(|user| user.uid());
            Grantee::User(numbered("user", name, found)?)
        }
        (None, Some(name), None) => {
            let found = uzers::get_group_by_name(name).map(|group| group.gid());
            Grantee::Group(numbered("group", name, found)?)
        }
        (None, None, Some(name)) => Grantee::Certificate(name.clone()),
        _ => return Err(FieldError::new("role", "one of user, group, certificate must be given")),
    };
    Ok(Grant { to, role })
}

/// The number of a user or group: as it was found by its name, or the name is one.
fn numbered(path: &str, name: &str, found: Option<u32>) -> Result<u32> {
    found
        .or_else(|| name.parse().ok())
        .ok_or_else(|| FieldError::new(path, format!("`{name}` is not known on this box")))
}

fn http(file: file::Http) -> Result<Http> {
    let listen = socket_address(&file.listen).map_err(|error| error.within("http"))?;
    Ok(Http { listen, names: file.names })
}

/// The collector's host and port are given, and nothing behind them.
fn otlp(file: file::Otlp) -> Result<Otlp> {
    let uri = file.endpoint.parse::<Uri>().ok().filter(|uri| {
        let is_plain = uri.scheme_str() == Some("http") && uri.path() == "/";
        is_plain && uri.query().is_none() && uri.port_u16().is_some()
    });
    if uri.is_none() {
        let reason = format!("`{}` is not a collector's as http://localhost:4317", file.endpoint);
        return Err(FieldError::new("otlp.endpoint", reason));
    }
    let seconds = file.interval_seconds;
    let seconds = or("otlp.interval_seconds", seconds, DEFAULT_EXPORT_S, 1, EXPORT_MAX_S)?;
    Ok(Otlp { endpoint: file.endpoint, interval: Duration::from_secs(seconds.into()) })
}

fn socket_address(text: &str) -> Result<SocketAddr> {
    text.parse().map_err(|_unparsed| {
        let reason = format!("`{text}` is not an address and port as 192.0.2.1:7380");
        FieldError::new("listen", reason)
    })
}

/// TCP without certificates is had only by asking for it in so many words.
fn tcp(file: file::Tcp) -> Result<Tcp> {
    let listen = socket_address(&file.listen)?;
    let tls = match (file.certificate, file.key, file.client_ca) {
        (Some(certificate), Some(key), Some(client_ca)) => {
            if file.insecure {
                let reason = "contradicts the certificate: leave one of them out";
                return Err(FieldError::new("insecure", reason));
            }
            let [certificate, key, client_ca] = [certificate, key, client_ca].map(PathBuf::from);
            Some(Tls { certificate, key, client_ca })
        }
        (None, None, None) if file.insecure => None,
        (None, ..) => {
            let reason = "must be given, with key and client_ca; whoever can reach the port \
                          commands the box, so only `insecure = true` does without";
            return Err(FieldError::new("certificate", reason));
        }
        (_, None, _) => return Err(FieldError::missing("key")),
        (_, _, None) => return Err(FieldError::missing("client_ca")),
    };
    Ok(Tcp { listen, tls })
}

fn timeouts(file: &file::Timeouts) -> Result<Option<TimeoutSpec>> {
    let seconds = |name: &str, value: Option<i64>| match value {
        Some(value) => within(&format!("timeouts.{name}"), value, 1, TIMEOUT_MAX_S),
        None => Ok(0),
    };
    let spec = TimeoutSpec {
        tcp_s: seconds("tcp", file.tcp)?,
        tcp_fin_s: seconds("tcp_fin", file.tcp_fin)?,
        udp_s: seconds("udp", file.udp)?,
    };
    let none = TimeoutSpec { tcp_s: 0, tcp_fin_s: 0, udp_s: 0 };
    Ok((spec != none).then_some(spec))
}

fn locals(file: &file::Local) -> Result<LocalPool> {
    let addrs = each("local.addresses", &file.addresses, |text| {
        words::parse_addr(text).map_err(|reason| FieldError::new("", reason))
    })?;
    let ports = match &file.ports {
        None => LocalPool::default().ports,
        Some(text) => {
            words::parse_ports(text).map_err(|reason| FieldError::new("local.ports", reason))?
        }
    };
    Ok(LocalPool { addrs, ports })
}

fn settings(file: &file::File) -> Result<Vec<(String, u32)>> {
    let setting = |(name, value): (&String, &i64)| {
        let value = within(&format!("settings.{name}"), *value, 0, u32::MAX)?;
        Ok((name.clone(), value))
    };
    file.settings.iter().map(setting).collect()
}

fn mark_rule(file: &file::Mark) -> Result<MarkRule> {
    let prefix = |path: &str, text: &str| {
        text.parse::<Prefix>().map_err(|reason| FieldError::new(path, reason))
    };
    let protocol = file.protocol.as_deref().map(words::parse_protocol).transpose();
    let ports = file.ports.as_deref().map_or(Ok(Ports::ANY), str::parse);
    let selector = Selector {
        protocol: protocol.map_err(|reason| FieldError::new("protocol", reason))?,
        to: prefix("to", &file.to)?,
        ports: ports.map_err(|reason| FieldError::new("ports", reason))?,
        from: file.from.as_deref().map(|from| prefix("from", from)).transpose()?,
    };
    Ok(MarkRule { mark: within("mark", file.mark, 0, u32::MAX)?, selector })
}

fn service(file: &file::Service) -> Result<(ServiceSpec, Vec<RealSpec>)> {
    let key = service_key(file)?;
    let persistence_s = match file.persistence_seconds {
        Some(value) => Some(within("persistence_seconds", value, 1, PERSISTENCE_MAX_S)?),
        None => None,
    };
    let netmask = match &file.netmask {
        None => words::no_netmask(key.family()),
        Some(text) => words::parse_netmask(text, key.family())
            .map_err(|reason| FieldError::new("netmask", reason))?,
    };
    let spec = ServiceSpec {
        key,
        scheduler: file.scheduler.clone().unwrap_or_else(|| DEFAULT_SCHEDULER.to_owned()),
        flags: flags(&file.scheduler_flags)?,
        persistence_s,
        netmask,
        one_packet: file.one_packet,
        engine: file.persistence_engine.clone(),
        client_address: client_address(file.client_address.as_deref())?,
    };
    let reals = each("real", &file.real, |file| real(file, &key))?;
    Ok((spec, reals))
}

/// How full NAT tells real servers their clients' addresses.
fn client_address(way: Option<&str>) -> Result<ClientAddress> {
    way.map_or(Ok(ClientAddress::Hidden), |way| {
        words::parse_client_address(way).map_err(|reason| FieldError::new("client_address", reason))
    })
}

fn service_key(file: &file::Service) -> Result<ServiceKey> {
    let Some(mark) = file.mark else {
        if file.family.is_some() {
            return Err(FieldError::new("family", "goes with mark, not with address"));
        }
        let protocol = file.protocol.as_deref().ok_or_else(|| FieldError::missing("protocol"))?;
        let protocol = words::parse_protocol(protocol)
            .map_err(|reason| FieldError::new("protocol", reason))?;
        let address = file.address.as_deref().ok_or_else(|| FieldError::missing("address"))?;
        let port = file.port.ok_or_else(|| FieldError::missing("port"))?;
        let port = within("port", port, 0, u16::MAX)?;
        return Ok(ServiceKey::Address { protocol, addr: addr(address)?, port });
    };
    let others = [
        ("protocol", file.protocol.is_some()),
        ("address", file.address.is_some()),
        ("port", file.port.is_some()),
    ];
    if let Some((name, _)) = others.iter().find(|(_, given)| *given) {
        return Err(FieldError::new(*name, "contradicts mark: a service has either"));
    }
    let family = match file.family.as_deref() {
        None | Some("ipv4") => Family::V4,
        Some("ipv6") => Family::V6,
        Some(name) => {
            let reason = field::unknown("family", name, ["ipv4", "ipv6"]);
            return Err(FieldError::new("family", reason));
        }
    };
    Ok(ServiceKey::Mark { mark: within("mark", mark, 1, u32::MAX)?, family })
}

fn flags(names: &[String]) -> Result<SchedFlags> {
    let mut flags = SchedFlags::default();
    for (index, name) in names.iter().enumerate() {
        match name.as_str() {
            "fallback" => flags.fallback = true,
            "port" => flags.port = true,
            "flag3" => flags.flag3 = true,
            _ => {
                let reason = field::unknown("scheduler flag", name, FLAGS);
                return Err(FieldError::new(format!("scheduler_flags[{index}]"), reason));
            }
        }
    }
    Ok(flags)
}

pub(super) fn real(file: &file::Real, service: &ServiceKey) -> Result<RealSpec> {
    let port = match (file.port, service) {
        (Some(port), _) => within("port", port, 0, u16::MAX)?,
        (None, ServiceKey::Address { port, .. }) => *port,
        (None, ServiceKey::Mark { .. }) => 0,
    };
    let method = match file.method.as_deref() {
        None => Method::Dr,
        Some(name) => {
            words::parse_method(name).map_err(|reason| FieldError::new("method", reason))?
        }
    };
    let tunnel_port = file.tunnel.port.unwrap_or(0);
    Ok(RealSpec {
        addr: addr(&file.address)?,
        port,
        method,
        tunnel: TunnelSpec {
            port: within("tunnel.port", tunnel_port, 0, u16::MAX)?,
            checksum: file.tunnel.checksum,
            remote_checksum: file.tunnel.remote_checksum,
        },
        weight: or("weight", file.weight, 1, 0, WEIGHT_MAX)?,
        upper: or("upper_threshold", file.upper_threshold, 0, 0, THRESHOLD_MAX)?,
        lower: or("lower_threshold", file.lower_threshold, 0, 0, THRESHOLD_MAX)?,
    })
}

fn addr(text: &str) -> Result<Addr> {
    words::parse_addr(text).map_err(|reason| FieldError::new("address", reason))
}

/// The value if it is given and within its bounds, else the default.
pub(super) fn or(
    path: &str,
    value: Option<i64>,
    default: u32,
    least: u32,
    greatest: u32,
) -> Result<u32> {
    value.map_or(Ok(default), |value| within(path, value, least, greatest))
}

/// The value in its own type if it is within its bounds.
pub(super) fn within<T>(path: &str, value: i64, least: T, greatest: T) -> Result<T>
where
    T: TryFrom<i64> + PartialOrd + Display,
{
    let fits = T::try_from(value).ok().filter(|value| *value >= least && *value <= greatest);
    fits.ok_or_else(|| {
        FieldError::new(path, format!("{value} is not within {least} to {greatest}"))
    })
}
