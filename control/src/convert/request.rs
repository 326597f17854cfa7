//! From messages into the dataplane's words, each field checked.
//!
//! Paths of refused fields are relative to the message at hand; the caller adds where that stands
//! in the request ([`FieldError::within`]).

use std::fmt::Display;

use dataplane::{
    addr::{Addr, Family},
    director::spec::{
        ClientAddress, Counters, Hold, LocalPool, Rates, RealInfo, RealSpec, ServiceInfo,
        ServiceKey, ServiceSpec, Share, TimeoutSpec, TunnelSpec,
    },
    endpoint::Method,
    sched::SchedFlags,
};

use crate::{
    engine::flows::{FlowFilter, FlowPage},
    field::FieldError,
    proto::v1,
    words,
};

/// The scheduler of a service that names none: ipvsadm's.
pub const DEFAULT_SCHEDULER: &str = "wlc";

/// The greatest weight IPVS takes.
pub const WEIGHT_MAX: u32 = i32::MAX.cast_unsigned();

/// The greatest connection threshold IPVS takes.
pub const THRESHOLD_MAX: u32 = i32::MAX.cast_unsigned();

/// The longest persistence ipvsadm takes, in seconds: 31 days.
pub const PERSISTENCE_MAX_S: u32 = 31 * 24 * 3600;

/// The longest time-out ipvsadm takes, in seconds.
pub const TIMEOUT_MAX_S: u32 = i32::MAX.cast_unsigned() / 1000;

/// The most flows on one page: about one megabyte of answer.
pub const FLOWS_PAGE_MAX: u32 = 10_000;

type Result<T> = std::result::Result<T, FieldError>;

/// The key of a service.
///
/// # Errors
///
/// A part of it is missing, malformed or out of range.
pub fn service_key(message: &v1::ServiceKey) -> Result<ServiceKey> {
    match &message.key {
        None => Err(FieldError::new("key", "either address or mark must be given")),
        Some(v1::service_key::Key::Address(address)) => {
            virtual_address(address).map_err(|error| error.within("address"))
        }
        Some(v1::service_key::Key::Mark(mark)) => {
            firewall_mark(*mark).map_err(|error| error.within("mark"))
        }
    }
}

fn virtual_address(message: &v1::VirtualAddress) -> Result<ServiceKey> {
    let protocol = match v1::Protocol::try_from(message.protocol) {
        Ok(v1::Protocol::Tcp) => 6,
        Ok(v1::Protocol::Udp) => 17,
        Ok(v1::Protocol::Sctp) => 132,
        Ok(v1::Protocol::Unspecified) => return Err(FieldError::missing("protocol")),
        Err(_) => {
            let reason = format!("{} is neither TCP, UDP nor SCTP", message.protocol);
            return Err(FieldError::new("protocol", reason));
        }
    };
    let addr = addr("address", &message.address)?;
    let port = port("port", message.port)?;
    Ok(ServiceKey::Address { protocol, addr, port })
}

fn firewall_mark(message: v1::FirewallMark) -> Result<ServiceKey> {
    if message.mark == 0 {
        return Err(FieldError::new("mark", "must not be 0"));
    }
    let family = match v1::Family::try_from(message.family) {
        Ok(v1::Family::Unspecified | v1::Family::Ipv4) => Family::V4,
        Ok(v1::Family::Ipv6) => Family::V6,
        Err(_) => {
            let reason = format!("{} is neither IPv4 nor IPv6", message.family);
            return Err(FieldError::new("family", reason));
        }
    };
    Ok(ServiceKey::Mark { mark: message.mark, family })
}

/// A service.
///
/// # Errors
///
/// A field is missing, malformed or out of range.
pub fn service_spec(message: &v1::Service) -> Result<ServiceSpec> {
    let key = message.key.as_ref().ok_or_else(|| FieldError::missing("key"))?;
    let key = service_key(key).map_err(|error| error.within("key"))?;
    let flags = message.scheduler_flags.unwrap_or_default();
    if let Some(seconds) = message.persistence_seconds {
        in_range("persistence_seconds", seconds, 1, PERSISTENCE_MAX_S)?;
    }
    let netmask = match message.netmask.as_str() {
        "" => words::no_netmask(key.family()),
        text => words::parse_netmask(text, key.family())
            .map_err(|reason| FieldError::new("netmask", reason))?,
    };
    let client_address = match message.client_address.as_str() {
        "" => ClientAddress::Hidden,
        way => words::parse_client_address(way)
            .map_err(|reason| FieldError::new("client_address", reason))?,
    };
    Ok(ServiceSpec {
        key,
        scheduler: or_default(&message.scheduler, DEFAULT_SCHEDULER).to_owned(),
        flags: SchedFlags { fallback: flags.fallback, port: flags.port, flag3: flags.flag3 },
        persistence_s: message.persistence_seconds,
        netmask,
        one_packet: message.one_packet,
        engine: Some(message.persistence_engine.clone()).filter(|name| !name.is_empty()),
        client_address,
    })
}

/// Address and port of a real server of `service`.
///
/// # Errors
///
/// One of them is missing, malformed or out of range.
pub fn real_key(message: &v1::RealServerKey, service: &ServiceKey) -> Result<(Addr, u16)> {
    Ok((addr("address", &message.address)?, real_port(message.port, service)?))
}

/// A real server of `service`.
///
/// # Errors
///
/// A field is missing, malformed or out of range.
pub fn real_spec(message: &v1::RealServer, service: &ServiceKey) -> Result<RealSpec> {
    let method = match message.method.as_str() {
        "" => Method::Dr,
        name => words::parse_method(name).map_err(|reason| FieldError::new("method", reason))?,
    };
    let tunnel = message.tunnel.unwrap_or_default();
    let weight = message.weight.unwrap_or(1);
    in_range("weight", weight, 0, WEIGHT_MAX)?;
    in_range("upper_threshold", message.upper_threshold, 0, THRESHOLD_MAX)?;
    in_range("lower_threshold", message.lower_threshold, 0, THRESHOLD_MAX)?;
    Ok(RealSpec {
        addr: addr("address", &message.address)?,
        port: real_port(message.port, service)?,
        method,
        tunnel: TunnelSpec {
            port: port("tunnel.port", tunnel.port)?,
            checksum: tunnel.checksum,
            remote_checksum: tunnel.remote_checksum,
        },
        weight,
        upper: message.upper_threshold,
        lower: message.lower_threshold,
    })
}

/// A service with its real servers.
///
/// # Errors
///
/// A field is missing, malformed or out of range.
pub fn service_entry(message: &v1::ServiceEntry) -> Result<(ServiceSpec, Vec<RealSpec>)> {
    let service = message.service.as_ref().ok_or_else(|| FieldError::missing("service"))?;
    let service = service_spec(service).map_err(|error| error.within("service"))?;
    let reals = each("real_servers", &message.real_servers, |real| real_spec(real, &service.key))?;
    Ok((service, reals))
}

/// Time-outs; 0 keeps a value, as the director takes it.
///
/// # Errors
///
/// One is too long.
pub fn timeouts(message: &v1::Timeouts) -> Result<TimeoutSpec> {
    in_range("tcp_seconds", message.tcp_seconds, 0, TIMEOUT_MAX_S)?;
    in_range("tcp_fin_seconds", message.tcp_fin_seconds, 0, TIMEOUT_MAX_S)?;
    in_range("udp_seconds", message.udp_seconds, 0, TIMEOUT_MAX_S)?;
    Ok(TimeoutSpec {
        tcp_s: message.tcp_seconds,
        tcp_fin_s: message.tcp_fin_seconds,
        udp_s: message.udp_seconds,
    })
}

/// Full NAT's local addresses and ports.
///
/// # Errors
///
/// An address is malformed, or a port is out of range.
pub fn local_pool(message: &v1::LocalPool) -> Result<LocalPool> {
    let or = |value, default: u16| if value == 0 { u32::from(default) } else { value };
    let (first, last) = LocalPool::default().ports;
    Ok(LocalPool {
        addrs: each("addresses", &message.addresses, |text| {
            words::parse_addr(text).map_err(|reason| FieldError::new("", reason))
        })?,
        ports: (
            port("first_port", or(message.first_port, first))?,
            port("last_port", or(message.last_port, last))?,
        ),
    })
}

/// A setting; values are numbers, as sysctl writes them.
///
/// # Errors
///
/// It has no name, or its value is not a number from 0 to 4294967295.
pub fn setting(message: &v1::Setting) -> Result<(String, u32)> {
    if message.name.is_empty() {
        return Err(FieldError::missing("name"));
    }
    let Ok(value) = message.value.parse() else {
        let reason = format!("`{}` is not a number from 0 to {}", message.value, u32::MAX);
        return Err(FieldError::new("value", reason));
    };
    Ok((message.name.clone(), value))
}

/// Which flows are asked for.
///
/// # Errors
///
/// The page is too large, its token is not one of ours, or a filter is malformed.
pub fn flow_page(message: &v1::ListFlowsRequest) -> Result<FlowPage> {
    let limit = match message.page_size {
        0 => 1000,
        limit => limit,
    };
    in_range("page_size", limit, 1, FLOWS_PAGE_MAX)?;
    let from = match message.page_token.as_str() {
        "" => 0,
        token => token.parse().map_err(|_not_a_number| {
            FieldError::new("page_token", format!("`{token}` is no token of a page before"))
        })?,
    };
    let filter = message.filter.clone().unwrap_or_default();
    let filter = flow_filter(&filter).map_err(|error| error.within("filter"))?;
    Ok(FlowPage { from, limit: limit as usize, filter })
}

/// A filter of flows.
///
/// # Errors
///
/// A field of it is malformed.
pub fn flow_filter(message: &v1::FlowFilter) -> Result<FlowFilter> {
    let protocol = match message.protocol {
        0 => None,
        number => Some(u8::try_from(number).map_err(|_not_8_bits| {
            FieldError::new("protocol", format!("{number} is no protocol"))
        })?),
    };
    let at = |name: &str, text: &str| match text {
        "" => Ok(None),
        text => addr(name, text).map(Some),
    };
    let on = |name: &str, value: Option<u32>| value.map(|value| port(name, value)).transpose();
    Ok(FlowFilter {
        protocol,
        virt: (
            at("virtual_address", &message.virtual_address)?,
            on("virtual_port", message.virtual_port)?,
        ),
        client: (
            at("client_address", &message.client_address)?,
            on("client_port", message.client_port)?,
        ),
        real: (at("real_address", &message.real_address)?, on("real_port", message.real_port)?),
        state: Some(message.state.clone()).filter(|state| !state.is_empty()),
    })
}

/// A listed service, for clients.
///
/// # Errors
///
/// A field is missing, malformed or out of range: the server is of another make.
pub fn service_info(message: &v1::ServiceStatus) -> Result<ServiceInfo> {
    let service = message.service.as_ref().ok_or_else(|| FieldError::missing("service"))?;
    let spec = service_spec(service).map_err(|error| error.within("service"))?;
    let reals = each("real_servers", &message.real_servers, |real| real_info(real, &spec.key))?;
    Ok(ServiceInfo {
        counters: counters(message.counters.unwrap_or_default()),
        rates: rates(message.rates.unwrap_or_default()),
        spec,
        reals,
    })
}

fn real_info(message: &v1::RealServerStatus, service: &ServiceKey) -> Result<RealInfo> {
    let spec = message.real_server.as_ref().ok_or_else(|| FieldError::missing("real_server"))?;
    Ok(RealInfo {
        spec: real_spec(spec, service).map_err(|error| error.within("real_server"))?,
        hold: Hold { weight: message.held, templates: message.templates_held },
        share: Share {
            percent: message.share_percent.unwrap_or(100),
            templates: true,
            present: !message.absent,
        },
        standby: message.sorry_server,
        active: message.active_flows,
        inactive: message.inactive_flows,
        persistent: message.persistent_templates,
        counters: counters(message.counters.unwrap_or_default()),
        rates: rates(message.rates.unwrap_or_default()),
    })
}

/// Counters.
pub const fn counters(message: v1::Counters) -> Counters {
    Counters {
        conns: message.flows,
        in_packets: message.in_packets,
        out_packets: message.out_packets,
        in_bytes: message.in_bytes,
        out_bytes: message.out_bytes,
    }
}

/// Rates.
pub const fn rates(message: v1::Rates) -> Rates {
    Rates {
        cps: message.flows,
        in_pps: message.in_packets,
        out_pps: message.out_packets,
        in_bps: message.in_bytes,
        out_bps: message.out_bytes,
    }
}

/// Converts each element, and says in an error which one it was.
pub(crate) fn each<M, T>(
    name: &str,
    messages: &[M],
    convert: impl Fn(&M) -> Result<T>,
) -> Result<Vec<T>> {
    let elements = messages.iter().enumerate();
    let element = |(index, message)| {
        convert(message).map_err(|error| error.within(format_args!("{name}[{index}]")))
    };
    elements.map(element).collect()
}

pub(crate) fn addr(path: &str, text: &str) -> Result<Addr> {
    if text.is_empty() {
        return Err(FieldError::missing(path));
    }
    words::parse_addr(text).map_err(|reason| FieldError::new(path, reason))
}

pub(crate) fn port(path: &str, value: u32) -> Result<u16> {
    u16::try_from(value).map_err(|_not_16_bits| out_of_range(path, value, 0, u16::MAX))
}

/// A real server without a port of its own has the service's.
fn real_port(value: Option<u32>, service: &ServiceKey) -> Result<u16> {
    match (value, service) {
        (Some(value), _) => port("port", value),
        (None, ServiceKey::Address { port, .. }) => Ok(*port),
        (None, ServiceKey::Mark { .. }) => Ok(0),
    }
}

pub(crate) fn in_range(path: &str, value: u32, least: u32, greatest: u32) -> Result<()> {
    if (least..=greatest).contains(&value) {
        return Ok(());
    }
    Err(out_of_range(path, value, least, greatest))
}

fn out_of_range(path: &str, value: u32, least: impl Display, greatest: impl Display) -> FieldError {
    FieldError::new(path, format!("{value} is not within {least} to {greatest}"))
}

fn or_default<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> v1::ServiceEntry {
        let key = v1::service_key::Key::Address(v1::VirtualAddress {
            protocol: 6,
            address: "10.0.0.1".to_owned(),
            port: 80,
        });
        let service =
            v1::Service { key: Some(v1::ServiceKey { key: Some(key) }), ..v1::Service::default() };
        let real = v1::RealServer { address: "10.2.0.11".to_owned(), ..v1::RealServer::default() };
        v1::ServiceEntry {
            service: Some(service),
            real_servers: vec![real.clone(), real],
            health: None,
        }
    }

    #[test]
    fn what_is_not_given_is_what_ipvsadm_takes() {
        let (service, reals) = service_entry(&entry()).unwrap();
        assert_eq!(service.scheduler, "wlc");
        assert_eq!(service.persistence_s, None);
        assert_eq!(service.netmask, u32::MAX);
        assert_eq!((reals[0].port, reals[0].weight), (80, 1));
        assert_eq!(reals[0].method, Method::Dr);
    }

    #[test]
    fn a_refused_field_is_named_with_its_path_and_its_value() {
        type Spoil = fn(&mut v1::ServiceEntry);
        fn service(entry: &mut v1::ServiceEntry) -> &mut v1::Service {
            entry.service.as_mut().unwrap()
        }
        fn address(entry: &mut v1::ServiceEntry) -> &mut v1::VirtualAddress {
            match &mut service(entry).key.as_mut().unwrap().key {
                Some(v1::service_key::Key::Address(address)) => address,
                other => panic!("not an address: {other:?}"),
            }
        }
        let cases: [(Spoil, &str); 14] = [
            (|e| e.service = None, "service: must be given"),
            (|e| service(e).key = None, "service.key: must be given"),
            (
                |e| service(e).key = Some(v1::ServiceKey { key: None }),
                "service.key.key: either address or mark must be given",
            ),
            (|e| address(e).protocol = 0, "service.key.address.protocol: must be given"),
            (
                |e| address(e).protocol = 47,
                "service.key.address.protocol: 47 is neither TCP, UDP nor SCTP",
            ),
            (|e| address(e).address.clear(), "service.key.address.address: must be given"),
            (
                |e| address(e).address = "10.0.0.300".to_owned(),
                "service.key.address.address: `10.0.0.300` is not an IP address",
            ),
            (
                |e| address(e).port = 65536,
                "service.key.address.port: 65536 is not within 0 to 65535",
            ),
            (
                |e| service(e).persistence_seconds = Some(0),
                "service.persistence_seconds: 0 is not within 1 to 2678400",
            ),
            (
                |e| service(e).netmask = "24".to_owned(),
                "service.netmask: `24` is not a mask as 255.255.255.0",
            ),
            (
                |e| e.real_servers[1].weight = Some(1 << 31),
                "real_servers[1].weight: 2147483648 is not within 0 to 2147483647",
            ),
            (
                |e| e.real_servers[1].method = "gua".to_owned(),
                "real_servers[1].method: unknown forwarding method `gua`; did you mean `gue`?",
            ),
            (
                |e| e.real_servers[0].upper_threshold = 1 << 31,
                "real_servers[0].upper_threshold: 2147483648 is not within 0 to 2147483647",
            ),
            (
                |e| {
                    e.real_servers[0].tunnel =
                        Some(v1::Tunnel { port: 65536, ..Default::default() })
                },
                "real_servers[0].tunnel.port: 65536 is not within 0 to 65535",
            ),
        ];
        for (spoil, want) in cases {
            let mut entry = entry();
            spoil(&mut entry);
            assert_eq!(service_entry(&entry).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn a_mark_of_0_is_refused() {
        let key = Some(v1::service_key::Key::Mark(v1::FirewallMark { mark: 0, family: 4 }));
        let error = service_key(&v1::ServiceKey { key }).unwrap_err();
        assert_eq!(error.to_string(), "mark.mark: must not be 0");
    }
}
