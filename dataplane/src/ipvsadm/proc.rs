//! The texts of the kernel's files below /proc/net: `ip_vs`, `ip_vs_conn`, `ip_vs_conn_sync`,
//! `ip_vs_stats` and `ip_vs_stats_percpu`.
//!
//! Addresses, ports, masks and counters are hexadecimal.
//! Source: Linux `net/netfilter/ipvs/ip_vs_ctl.c` and `ip_vs_conn.c`.

use super::{flows::protocol_name, listing::method_name, order};
use crate::{
    addr::{Addr, Family},
    director::spec::{Counters, FlowInfo, Rates, ServiceInfo, ServiceKey, ServiceSpec},
};

/// /proc/net/ip_vs_app: application helpers, of which there are none.
pub const PROC_APP: &str = "prot port    usecnt name\n";

/// /proc/net/ip_vs: services, given in the order in which they were added.
///
/// `ticks_per_s` is the kernel's HZ, in whose ticks persistence is written.
pub fn proc_services(services: &[ServiceInfo], table_size: u64, ticks_per_s: u32) -> String {
    let mut out = format!(
        "IP Virtual Server version 1.2.1 (size={table_size})\n\
         Prot LocalAddress:Port Scheduler Flags\n  \
         -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n"
    );
    for service in order::kernel_services(services) {
        out.push_str(&head(&service.spec));
        match service.spec.persistence_s {
            Some(seconds) => {
                let ticks = u64::from(seconds) * u64::from(ticks_per_s);
                out.push_str(&format!("persistent {ticks} {:08X}\n", mask(&service.spec)));
            }
            None => out.push('\n'),
        }
        for real in &service.reals {
            let spec = &real.spec;
            let addr = if spec.addr.is_v4() {
                format!("{:08X}", spec.addr.low32())
            } else {
                format!("[{}]", hex(spec.addr))
            };
            out.push_str(&format!(
                "  -> {addr}:{:04X}      {:<7} {:<6} {:<10} {:<10}\n",
                spec.port,
                method_name(spec.method),
                spec.weight,
                real.active,
                real.inactive,
            ));
        }
    }
    out
}

/// /proc/net/ip_vs_conn: flows, in the order given.
pub fn proc_conn(flows: &[FlowInfo]) -> String {
    let mut out = String::from(
        "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n",
    );
    for flow in flows {
        let engine = flow.engine.as_ref();
        let engine = engine.map_or_else(String::new, |e| format!(" {} {}", e.name, e.data));
        let ends = ends(flow);
        out.push_str(&format!("{ends} {:<11} {:7}{engine}\n", flow.state, flow.expires_s));
    }
    out
}

/// /proc/net/ip_vs_conn_sync: flows and where they come from, which is always here.
pub fn proc_conn_sync(flows: &[FlowInfo]) -> String {
    let mut out =
        String::from("Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Origin Expires\n");
    for flow in flows {
        let ends = ends(flow);
        out.push_str(&format!("{ends} {:<11} LOCAL  {:7}\n", flow.state, flow.expires_s));
    }
    out
}

/// The names of all these files.
pub const PROC_NAMES: [&str; 6] =
    ["ip_vs", "ip_vs_app", "ip_vs_conn", "ip_vs_conn_sync", "ip_vs_stats", "ip_vs_stats_percpu"];

/// /proc/net/ip_vs_stats: all services together.
pub fn proc_stats(totals: &Counters, rates: &Rates) -> String {
    format!(
        "   Total Incoming Outgoing         Incoming         Outgoing\n   \
         Conns  Packets  Packets            Bytes            Bytes\n\
         {}\n\n \
         Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s\n\
         {}\n",
        counted(totals),
        rated(rates),
    )
}

/// /proc/net/ip_vs_stats_percpu: each worker, then all of them, whose counters begin at the last
/// zeroing while the workers' go on.
pub fn proc_stats_percpu(workers: &[Counters], totals: &Counters, rates: &Rates) -> String {
    let mut out = String::from(
        "       Total Incoming Outgoing         Incoming         Outgoing\n\
         CPU    Conns  Packets  Packets            Bytes            Bytes\n",
    );
    for (worker, counters) in workers.iter().enumerate() {
        out.push_str(&format!("{worker:3X} {}\n", counted(counters)));
    }
    out.push_str(&format!("  ~ {}\n\n", counted(totals)));
    out.push_str("     Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s\n");
    out.push_str(&format!("    {}\n", rated(rates)));
    out
}

fn head(spec: &ServiceSpec) -> String {
    let scheduler = &spec.scheduler;
    let one_packet = if spec.one_packet { "ops " } else { "" };
    match spec.key {
        ServiceKey::Mark { mark, .. } => format!("FWM  {mark:08X} {scheduler} {one_packet}"),
        ServiceKey::Address { protocol, addr, port } => {
            let protocol = protocol_name(protocol);
            if addr.is_v4() {
                format!("{protocol}  {:08X}:{port:04X} {scheduler} {one_packet} ", addr.low32())
            } else {
                format!("{protocol}  [{}]:{port:04X} {scheduler} ", hex(addr))
            }
        }
    }
}

/// The netmask as the kernel writes it: an IPv6 prefix length is taken for a number in network
/// order.
const fn mask(spec: &ServiceSpec) -> u32 {
    match spec.key.family() {
        Family::V4 => spec.netmask,
        Family::V6 => spec.netmask.swap_bytes(),
    }
}

fn ends(flow: &FlowInfo) -> String {
    let hex = |addr: Addr| if addr.is_v4() { format!("{:08X}", addr.low32()) } else { hex(addr) };
    format!(
        "{:<3} {} {:04X} {} {:04X} {} {:04X}",
        protocol_name(flow.protocol),
        hex(flow.client.0),
        flow.client.1,
        hex(flow.virt.0),
        flow.virt.1,
        hex(flow.real.0),
        flow.real.1,
    )
}

/// An IPv6 address in full.
fn hex(addr: Addr) -> String {
    let digits = format!("{:032x}", addr.bits());
    let groups: Vec<_> = (0..8).map(|group| &digits[4 * group..4 * group + 4]).collect();
    groups.join(":")
}

fn counted(counters: &Counters) -> String {
    let Counters { conns, in_packets, out_packets, in_bytes, out_bytes } = counters;
    format!("{conns:8X} {in_packets:8X} {out_packets:8X} {in_bytes:16X} {out_bytes:16X}")
}

fn rated(rates: &Rates) -> String {
    let Rates { cps, in_pps, out_pps, in_bps, out_bps } = rates;
    format!("{cps:8X} {in_pps:8X} {out_pps:8X} {in_bps:16X} {out_bps:16X}")
}
