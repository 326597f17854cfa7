//! From the dataplane's words into messages. Nothing here can fail.

use dataplane::{
    addr::{Addr, Family},
    director::spec::{
        Counters, FlowInfo, LocalPool, Rates, RealInfo, RealSpec, ServiceInfo, ServiceKey,
        ServiceSpec, TimeoutSpec,
    },
};

use super::health;
use crate::{health::policy::Policy, proto::v1, words};

/// A key.
pub fn service_key(key: &ServiceKey) -> v1::ServiceKey {
    let key = match *key {
        ServiceKey::Address { protocol, addr, port } => {
            v1::service_key::Key::Address(v1::VirtualAddress {
                protocol: protocol.into(),
                address: addr.to_string(),
                port: port.into(),
            })
        }
        ServiceKey::Mark { mark, family } => {
            v1::service_key::Key::Mark(v1::FirewallMark { mark, family: self::family(family) })
        }
    };
    v1::ServiceKey { key: Some(key) }
}

/// A service.
pub fn service(spec: &ServiceSpec) -> v1::Service {
    v1::Service {
        key: Some(service_key(&spec.key)),
        scheduler: spec.scheduler.clone(),
        scheduler_flags: Some(v1::SchedulerFlags {
            fallback: spec.flags.fallback,
            port: spec.flags.port,
            flag3: spec.flags.flag3,
        }),
        persistence_seconds: spec.persistence_s,
        netmask: words::netmask_text(spec.netmask, spec.key.family()),
        one_packet: spec.one_packet,
        persistence_engine: spec.engine.clone().unwrap_or_default(),
        client_address: spec.client_address.name().to_owned(),
    }
}

/// The key of a real server.
pub fn real_server_key(addr: Addr, port: u16) -> v1::RealServerKey {
    v1::RealServerKey { address: addr.to_string(), port: Some(port.into()) }
}

/// A real server.
pub fn real_server(spec: &RealSpec) -> v1::RealServer {
    v1::RealServer {
        address: spec.addr.to_string(),
        port: Some(spec.port.into()),
        method: words::method_name(spec.method).to_owned(),
        tunnel: Some(v1::Tunnel {
            port: spec.tunnel.port.into(),
            checksum: spec.tunnel.checksum,
            remote_checksum: spec.tunnel.remote_checksum,
        }),
        weight: Some(spec.weight),
        upper_threshold: spec.upper,
        lower_threshold: spec.lower,
    }
}

/// A service with its real servers, and how they are checked.
pub fn service_entry(
    (spec, reals): &(ServiceSpec, Vec<RealSpec>),
    policy: Option<&Policy>,
) -> v1::ServiceEntry {
    v1::ServiceEntry {
        service: Some(service(spec)),
        real_servers: reals.iter().map(real_server).collect(),
        health: policy.map(health::write),
    }
}

/// A service as it is listed.
pub fn service_status(info: &ServiceInfo) -> v1::ServiceStatus {
    v1::ServiceStatus {
        service: Some(service(&info.spec)),
        counters: Some(counters(&info.counters)),
        rates: Some(rates(&info.rates)),
        real_servers: info.reals.iter().map(real_server_status).collect(),
    }
}

fn real_server_status(info: &RealInfo) -> v1::RealServerStatus {
    v1::RealServerStatus {
        real_server: Some(real_server(&info.spec)),
        active_flows: info.active,
        inactive_flows: info.inactive,
        persistent_templates: info.persistent,
        counters: Some(counters(&info.counters)),
        rates: Some(rates(&info.rates)),
        held: info.hold.weight,
        templates_held: info.hold.templates,
        share_percent: Some(info.share.percent),
        absent: !info.share.present,
        sorry_server: info.standby,
    }
}

/// Counters.
pub const fn counters(counters: &Counters) -> v1::Counters {
    v1::Counters {
        flows: counters.conns,
        in_packets: counters.in_packets,
        out_packets: counters.out_packets,
        in_bytes: counters.in_bytes,
        out_bytes: counters.out_bytes,
    }
}

/// Rates.
pub const fn rates(rates: &Rates) -> v1::Rates {
    v1::Rates {
        flows: rates.cps,
        in_packets: rates.in_pps,
        out_packets: rates.out_pps,
        in_bytes: rates.in_bps,
        out_bytes: rates.out_bps,
    }
}

/// Full NAT's local addresses and ports.
pub fn local_pool(pool: &LocalPool) -> v1::LocalPool {
    v1::LocalPool {
        addresses: pool.addrs.iter().map(ToString::to_string).collect(),
        first_port: pool.ports.0.into(),
        last_port: pool.ports.1.into(),
    }
}

/// Time-outs.
pub const fn timeouts(timeouts: &TimeoutSpec) -> v1::Timeouts {
    v1::Timeouts {
        tcp_seconds: timeouts.tcp_s,
        tcp_fin_seconds: timeouts.tcp_fin_s,
        udp_seconds: timeouts.udp_s,
    }
}

/// A flow.
pub fn flow(info: &FlowInfo) -> v1::Flow {
    let engine = info.engine.as_ref();
    v1::Flow {
        protocol: info.protocol.into(),
        expires_seconds: info.expires_s,
        state: info.state.to_owned(),
        client: Some(socket_address(info.client)),
        r#virtual: Some(socket_address(info.virt)),
        real: Some(socket_address(info.real)),
        in_packets: info.packets.0,
        out_packets: info.packets.1,
        in_bytes: info.bytes.0,
        out_bytes: info.bytes.1,
        persistence_engine: engine.map(|engine| engine.name.clone()).unwrap_or_default(),
        persistence_data: engine.map(|engine| engine.data.clone()).unwrap_or_default(),
    }
}

fn socket_address((addr, port): (Addr, u16)) -> v1::SocketAddress {
    v1::SocketAddress { address: addr.to_string(), port: port.into() }
}

fn family(family: Family) -> i32 {
    match family {
        Family::V4 => v1::Family::Ipv4.into(),
        Family::V6 => v1::Family::Ipv6.into(),
    }
}

#[cfg(test)]
mod tests {
    use dataplane::director::spec::EngineData;

    use super::*;

    #[test]
    fn protocol_numbers_are_those_of_the_ip_header() {
        assert_eq!(v1::Protocol::Tcp as i32, 6);
        assert_eq!(v1::Protocol::Udp as i32, 17);
        assert_eq!(v1::Protocol::Sctp as i32, 132);
    }

    #[test]
    fn a_flow_shows_both_directions_apart() {
        let at = |last: u32, port| (Addr::v4(0x0a00_0000 | last), port);
        let flow = flow(&FlowInfo {
            protocol: 6,
            expires_s: 899,
            state: "ESTABLISHED",
            client: at(1, 40000),
            virt: at(2, 80),
            real: at(3, 8080),
            packets: (5, 4),
            bytes: (500, 4000),
            engine: Some(EngineData { name: "sip".to_owned(), data: "a84b4c76e66710".to_owned() }),
        });
        let want =
            |address: &str, port| Some(v1::SocketAddress { address: address.to_owned(), port });
        assert_eq!(flow.client, want("10.0.0.1", 40000));
        assert_eq!(flow.r#virtual, want("10.0.0.2", 80));
        assert_eq!(flow.real, want("10.0.0.3", 8080));
        assert_eq!((flow.in_packets, flow.out_packets), (5, 4));
        assert_eq!((flow.in_bytes, flow.out_bytes), (500, 4000));
        assert_eq!((flow.protocol, flow.expires_seconds), (6, 899));
        assert_eq!(flow.state, "ESTABLISHED");
        assert_eq!(
            (flow.persistence_engine.as_str(), flow.persistence_data.as_str()),
            ("sip", "a84b4c76e66710")
        );
    }
}
