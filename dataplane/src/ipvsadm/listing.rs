//! Lists of services with their real servers, and of time-outs: `ipvsadm -L`.

use super::{
    command::{Columns, ListOptions},
    names::{Names, choose, endpoint},
    order,
};
use crate::{
    addr::Family,
    director::spec::{
        ClientAddress, Counters, Rates, RealInfo, ServiceInfo, ServiceKey, ServiceSpec, TimeoutSpec,
    },
    endpoint::Method,
    sched::SchedFlags,
};

/// Lists all services, given in the order in which they were added. `table_size` is how many
/// flows the head of the list says the table has rows for.
pub fn list_services(
    services: &[ServiceInfo],
    table_size: u64,
    options: &ListOptions,
    names: &dyn Names,
) -> String {
    let listed = if options.nosort {
        order::kernel_services(services)
    } else {
        order::sorted_services(services)
    };
    let mut out = format!("IP Virtual Server version 1.2.1 (size={table_size})\n");
    out.push_str(&title(options.columns));
    for service in listed {
        out.push_str(&entry(service, options, choose(options.numeric, names)));
    }
    out
}

/// Lists one service: no line with the version.
pub fn list_service(service: &ServiceInfo, options: &ListOptions, names: &dyn Names) -> String {
    title(options.columns) + &entry(service, options, choose(options.numeric, names))
}

/// Lists the three time-outs.
pub fn list_timeouts(timeouts: TimeoutSpec) -> String {
    let TimeoutSpec { tcp_s, tcp_fin_s, udp_s } = timeouts;
    format!("Timeout (tcp tcpfin udp): {tcp_s} {tcp_fin_s} {udp_s}\n")
}

/// The name of a method in listings.
pub(super) const fn method_name(method: Method) -> &'static str {
    match method {
        Method::Nat => "Masq",
        Method::Dr => "Route",
        Method::Ipip | Method::Gue | Method::Gre => "Tunnel",
        Method::Local => "Local",
        Method::FullNat => "FullNat",
    }
}

/// The flags of a scheduler by the names it has for them, divided by commas.
pub(super) fn flag_names(scheduler: &str, flags: SchedFlags) -> String {
    let named = match scheduler {
        "sh" => [(flags.fallback, "sh-fallback"), (flags.port, "sh-port"), (false, "")],
        "mh" => [(flags.fallback, "mh-fallback"), (flags.port, "mh-port"), (false, "")],
        _ => [(flags.fallback, "flag-1"), (flags.port, "flag-2"), (flags.flag3, "flag-3")],
    };
    let set: Vec<_> = named.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
    set.join(",")
}

/// Whether any flag is set.
pub(super) fn any_flag(flags: SchedFlags) -> bool {
    flags != SchedFlags::default()
}

fn title(columns: Columns) -> String {
    const LOCAL: &str = "Prot LocalAddress:Port";
    let five = |names: [&str; 5]| {
        let names: String = names.iter().map(|name| format!(" {name:>8}")).collect();
        format!("{LOCAL:<33}{names}\n  -> RemoteAddress:Port\n")
    };
    match columns {
        Columns::Stats => five(["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"]),
        Columns::Rate => five(["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"]),
        Columns::Thresholds => format!(
            "{LOCAL:<33} Uthreshold Lthreshold ActiveConn InActConn \n  -> RemoteAddress:Port\n"
        ),
        Columns::Persistent => format!(
            "{LOCAL:<33} Weight    PersistConn ActiveConn InActConn \n  -> RemoteAddress:Port\n"
        ),
        Columns::Tunnel => format!(
            "{LOCAL} Scheduler Flags\n  -> RemoteAddress:Port           \
             Forward TunnelInfo    Weight ActiveConn InActConn\n"
        ),
        Columns::Plain => format!(
            "{LOCAL} Scheduler Flags\n  -> RemoteAddress:Port           \
             Forward Weight ActiveConn InActConn\n"
        ),
    }
}

fn entry(service: &ServiceInfo, options: &ListOptions, names: &dyn Names) -> String {
    let spec = &service.spec;
    let (name, protocol) = match spec.key {
        ServiceKey::Mark { mark, family } => {
            let ipv6 = if family == Family::V6 { " IPv6" } else { "" };
            // ipvsadm prints marks as signed numbers.
            // Nor does it name their ports: they have no protocol.
            (format!("FWM  {}{ipv6}", mark.cast_signed()), 0)
        }
        ServiceKey::Address { protocol, addr, port } => {
            let name = endpoint((addr, port), protocol, names);
            let name = format!("{:<4} {name}", protocol_name(protocol));
            (if addr.is_v4() { cut(name, 33) } else { name }, protocol)
        }
    };
    let mut out = match options.columns {
        Columns::Stats => format!("{name:<33}{}", counters(&service.counters, options.exact)),
        Columns::Rate => {
            let rates = rates(&service.rates);
            let rates: String = rates.iter().map(|rate| number(*rate, options.exact)).collect();
            format!("{name:<33}{rates}")
        }
        _ => format!("{name} {}{}", spec.scheduler, remarks(spec)),
    };
    out.push('\n');
    let reals = if options.nosort {
        service.reals.iter().collect()
    } else {
        order::sorted_reals(&service.reals)
    };
    for real in reals {
        let name = endpoint((real.spec.addr, real.spec.port), protocol, names);
        let name = if real.spec.addr.is_v4() { cut(name, 28) } else { name };
        out.push_str(&format!("  -> {name:<28}{}\n", columns(real, options)));
    }
    out
}

/// What stands behind the scheduler.
fn remarks(spec: &ServiceSpec) -> String {
    let mut out = String::new();
    if any_flag(spec.flags) {
        out.push_str(&format!(" ({})", flag_names(&spec.scheduler, spec.flags)));
    }
    if let Some(seconds) = spec.persistence_s {
        out.push_str(&format!(" persistent {seconds}"));
        if let Some(mask) = mask(spec) {
            out.push_str(&format!(" mask {mask}"));
        }
        if let Some(engine) = &spec.engine {
            out.push_str(&format!(" pe {engine}"));
        }
    }
    if spec.one_packet {
        out.push_str(" ops");
    }
    if spec.client_address != ClientAddress::Hidden {
        out.push_str(&format!(" {}", spec.client_address.name()));
    }
    out
}

/// The netmask in ipvsadm's form, `None` if it groups no clients.
pub(super) fn mask(spec: &ServiceSpec) -> Option<String> {
    match (spec.key.family(), spec.netmask) {
        (Family::V4, u32::MAX) | (Family::V6, 128) => None,
        (Family::V4, mask) => Some(std::net::Ipv4Addr::from_bits(mask).to_string()),
        (Family::V6, length) => Some(length.to_string()),
    }
}

fn columns(real: &RealInfo, options: &ListOptions) -> String {
    let RealInfo { spec, active, inactive, persistent, .. } = real;
    let forward = method_name(spec.method);
    let weight = real.weight();
    match options.columns {
        Columns::Stats => counters(&real.counters, options.exact),
        Columns::Rate => {
            let [cps, in_pps, out_pps, in_bps, out_bps] = rates(&real.rates);
            let (in_bps, out_bps) = (number(in_bps, options.exact), number(out_bps, options.exact));
            format!(" {cps:>8} {in_pps:>8} {out_pps:>8}{in_bps}{out_bps}")
        }
        Columns::Thresholds => {
            format!(" {:<10} {:<10} {active:<10} {inactive:<10}", spec.upper, spec.lower)
        }
        Columns::Persistent => {
            format!(" {weight:<9} {persistent:<11} {active:<10} {inactive:<10}")
        }
        Columns::Tunnel => {
            let tunnel = tunnel_info(real);
            format!(" {forward:<7} {tunnel:<13} {weight:<6} {active:<10} {inactive:<10}")
        }
        Columns::Plain => {
            format!(" {forward:<7} {weight:<6} {active:<10} {inactive:<10}")
        }
    }
}

fn tunnel_info(real: &RealInfo) -> String {
    let tunnel = real.spec.tunnel;
    let checksum = match (tunnel.remote_checksum, tunnel.checksum) {
        (true, _) => "r+c",
        (false, true) => "+c",
        (false, false) => "-c",
    };
    match real.spec.method {
        Method::Ipip => "ipip".into(),
        Method::Gue => format!("gue:{}:{checksum}", tunnel.port),
        Method::Gre => format!("gre:{checksum}"),
        _ => "n/a".into(),
    }
}

/// How listings call a protocol.
const fn protocol_name(protocol: u8) -> &'static str {
    match protocol {
        6 => "TCP",
        17 => "UDP",
        132 => "SCTP",
        _ => "?",
    }
}

const fn rates(rates: &Rates) -> [u64; 5] {
    [rates.cps, rates.in_pps, rates.out_pps, rates.in_bps, rates.out_bps]
}

fn counters(counters: &Counters, exact: bool) -> String {
    let Counters { conns, in_packets, out_packets, in_bytes, out_bytes } = *counters;
    [conns, in_packets, out_packets, in_bytes, out_bytes].map(|count| number(count, exact)).concat()
}

/// A number in nine columns, cut to thousands, millions and so on where it would not fit; or, if
/// it shall be `exact`, in as many columns as it needs.
fn number(number: u64, exact: bool) -> String {
    const SCALES: [(u64, u64, &str); 4] = [
        (1_000_000_000, 1_000, "K"),
        (100_000_000_000, 1_000_000, "M"),
        (100_000_000_000_000, 1_000_000_000, "G"),
        (u64::MAX, 1_000_000_000_000, "T"),
    ];
    if exact || number < 100_000_000 {
        return format!(" {number:>8}");
    }
    let scale = SCALES.iter().find(|(limit, ..)| number < *limit).unwrap_or(&SCALES[3]);
    format!("{:>8}{}", number / scale.1, scale.2)
}

fn cut(mut text: String, most: usize) -> String {
    let end = text.char_indices().nth(most).map_or(text.len(), |(end, _)| end);
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_lose_digits_unless_exact() {
        for (value, short, exact) in [
            (99_999_999, " 99999999", " 99999999"),
            (100_000_000, "  100000K", " 100000000"),
            (1_000_000_000, "    1000M", " 1000000000"),
            (99_999_999_999, "   99999M", " 99999999999"),
            (100_000_000_000, "     100G", " 100000000000"),
            (100_000_000_000_000, "     100T", " 100000000000000"),
            (u64::MAX, "18446744T", " 18446744073709551615"),
        ] {
            assert_eq!(number(value, false), short);
            assert_eq!(number(value, true), exact);
        }
    }
}
