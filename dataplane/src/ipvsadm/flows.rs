//! The list of flows: `ipvsadm -Lc`.

use super::{
    command::ListOptions,
    names::{Names, choose, endpoint},
};
use crate::director::spec::FlowInfo;

/// The head of the list. `persistent` adds the data of the persistence engine.
pub fn list_flows_title(persistent: bool) -> String {
    let engine = if persistent { "        pe name          pe_data" } else { "" };
    format!(
        "IPVS connection entries\n\
         pro expire state       source             virtual            destination{engine}\n"
    )
}

/// Lists flows in the order given, templates among them, without the head.
pub fn list_flows(flows: &[FlowInfo], options: &ListOptions, names: &dyn Names) -> String {
    let names = choose(options.numeric, names);
    let mut out = String::new();
    for flow in flows {
        let protocol = protocol_name(flow.protocol);
        let expire = format!("{:02}:{:02}", flow.expires_s / 60, flow.expires_s % 60);
        let [client, virt, real] =
            [flow.client, flow.virt, flow.real].map(|end| endpoint(end, flow.protocol, names));
        let state = flow.state;
        out.push_str(&format!("{protocol:<3} {expire:<6} {state:<11} {client:<18} {virt:<18} "));
        match &flow.engine {
            Some(engine) if options.persistent => {
                out.push_str(&format!("{real:<16} {:<18} {}\n", engine.name, engine.data));
            }
            _ => out.push_str(&format!("{real}\n")),
        }
    }
    out
}

/// How the kernel calls an IP protocol.
pub(super) fn protocol_name(protocol: u8) -> String {
    match protocol {
        0 => "IP".into(),
        1 => "ICMP".into(),
        6 => "TCP".into(),
        17 => "UDP".into(),
        58 => "ICMPv6".into(),
        132 => "SCTP".into(),
        other => format!("IP_{other}"),
    }
}
