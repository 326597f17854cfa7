//! commands.txt: command lines made at random, and what ipvsadm made of them.

use std::{fs, path::Path};

use xvs_dataplane::{
    addr::Family,
    director::spec::{RealSpec, ServiceKey, ServiceSpec},
    endpoint::Method,
    ipvsadm::{Command, Usage, parse},
};

use crate::golden::Recorded;

fn key(key: &ServiceKey) -> String {
    match key {
        ServiceKey::Address { protocol, addr, port } => format!("{protocol} {addr} {port}"),
        ServiceKey::Mark { mark, family: Family::V4 } => format!("fwm {mark} 2"),
        ServiceKey::Mark { mark, family: Family::V6 } => format!("fwm {mark} 10"),
    }
}

/// A service as the netlink message has it: flags by IP_VS_SVC_F_*; without persistence neither its
/// time-out nor its mask means anything.
fn service(verb: &str, spec: &ServiceSpec) -> String {
    let flags = u32::from(spec.persistence_s.is_some())
        | u32::from(spec.one_packet) << 2
        | u32::from(spec.flags.fallback) << 3
        | u32::from(spec.flags.port) << 4
        | u32::from(spec.flags.flag3) << 5;
    let (timeout, mask) = spec.persistence_s.map_or((0, 0), |seconds| (seconds, spec.netmask));
    let engine = spec.engine.as_deref().unwrap_or_default();
    let (key, scheduler) = (key(&spec.key), &spec.scheduler);
    format!(
        "{verb} {key} sched={scheduler} flags={flags} timeout={timeout} mask={mask} pe={engine}"
    )
}

/// A real server likewise: IP_VS_CONN_F_*, IP_VS_CONN_F_TUNNEL_TYPE_*, IP_VS_TUNNEL_ENCAP_FLAG_*.
fn real(verb: &str, service: &ServiceKey, spec: &RealSpec) -> String {
    let (forward, tunnel) = match spec.method {
        Method::Nat => (0, 0),
        Method::Dr => (3, 0),
        Method::Ipip => (2, 0),
        Method::Gue => (2, 1),
        Method::Gre => (2, 2),
        other => panic!("ipvsadm has no {other:?}"),
    };
    let checksums = u32::from(spec.tunnel.checksum) | u32::from(spec.tunnel.remote_checksum) << 1;
    let (service, name) = (key(service), format!("{}:{}", spec.addr, spec.port));
    let RealSpec { weight, upper, lower, .. } = spec;
    let tunnel = format!("{tunnel}:{}:{checksums}", spec.tunnel.port);
    format!("{verb} {service} r={name} fwd={forward} w={weight} u={upper} l={lower} tun={tunnel}")
}

/// What was made of a command line, in the words of the recording.
fn read(words: &[&str]) -> String {
    let command = match parse("ipvsadm", words, &Recorded) {
        Err(Usage { message, exit }) => return format!("{exit} {}", message.replace('\n', "\\n")),
        Ok(command) => command,
    };
    let asked = match &command {
        Command::AddService(spec) => service("add", spec),
        Command::EditService(spec) => service("edit", spec),
        Command::DeleteService(name) => format!("del {}", key(name)),
        Command::Flush => "flush".to_owned(),
        Command::AddReal { service, real: spec } => real("addr", service, spec),
        Command::EditReal { service, real: spec } => real("editr", service, spec),
        Command::DeleteReal { service, addr, port } => {
            format!("delr {} r={addr}:{port}", key(service))
        }
        Command::Zero(name) => format!("zero {}", name.as_ref().map(key).unwrap_or_default()),
        Command::SetTimeouts(s) => format!("set {} {} {}", s.tcp_s, s.tcp_fin_s, s.udp_s),
        Command::StartDaemon(daemon) => {
            let group = daemon.group.map(|group| group.to_string()).unwrap_or_default();
            let (role, name, id) = (daemon.role, &daemon.interface, daemon.sync_id);
            let length = daemon.max_length.unwrap_or(0);
            let (port, ttl) = (daemon.port.unwrap_or(0), daemon.ttl.unwrap_or(0));
            format!("start {role:?} {name} {id} {length} {group} {port} {ttl}")
        }
        Command::StopDaemon(role) => format!("stop {role:?}"),
        Command::List(_) => "list".to_owned(),
        Command::Save { .. } => "save".to_owned(),
        Command::Restore | Command::Help | Command::Version => "nothing".to_owned(),
    };
    format!("= {asked}")
}

#[test]
fn two_thousand_command_lines_are_read_as_ipvsadm_reads_them() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/ipvsadm/commands.txt");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let lines: Vec<_> = text.lines().collect();
    let mut wrong = Vec::new();
    for pair in lines.chunks_exact(2) {
        let words: Vec<_> = pair[0].strip_prefix("ipvsadm ").unwrap().split('\t').collect();
        let got = read(&words);
        if got != pair[1] {
            wrong.push(format!("{words:?}\nexpected: {}\ngot:      {got}", pair[1]));
        }
    }
    assert_eq!(lines.len(), 4000);
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
