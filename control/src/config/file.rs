//! The shape of the TOML file: names, types, and what the JSON schema and the manual say of them.
//!
//! Every integer is read as `i64`, so that a value out of range is refused with its range and not
//! with the name of a Rust type. Unknown fields are refused. Values are checked in [`super::check`].

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

/// The whole file.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    /// What is fixed at the start of the daemon.
    pub(super) daemon: Daemon,
    /// Interfaces that the workers receive from and send to; all are attached alike. Without any,
    /// nothing is forwarded.
    pub(super) interface: Vec<Interface>,
    /// Where gRPC listens.
    pub(super) api: Api,
    /// Metrics and the status page over HTTP.
    pub(super) http: Option<Http>,
    /// Metrics pushed to a collector by OTLP.
    pub(super) otlp: Option<Otlp>,
    /// IPVS's settings by the names of the sysctls of net.ipv4.vs, and those of xvs.
    pub(super) settings: BTreeMap<String, i64>,
    /// Time-outs of flows, as `ipvsadm --set`.
    pub(super) timeouts: Timeouts,
    /// Rules that give packets their firewall marks: all are looked at, and the last that takes a
    /// packet decides.
    pub(super) mark: Vec<Mark>,
    /// Full NAT's local addresses and ports.
    pub(super) local: Option<Local>,
    /// Services with their real servers.
    pub(super) service: Vec<Service>,
}

/// `[daemon]`: what is fixed at the start.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Daemon {
    /// How many workers. Unless given, one for each receive queue that all interfaces have, but no
    /// more than CPUs.
    #[schemars(range(min = 1, max = 64))]
    pub(super) workers: Option<i64>,
    /// The CPU of each worker; none: not pinned. Unless given, the first ones that the daemon may
    /// run on. All other threads keep to the CPUs that no worker has, if there are any.
    pub(super) cpus: Option<Vec<i64>>,
    /// Flows that fit. The table is allocated at the start and never grows. Unless given, 1048576.
    #[schemars(range(min = 1024, max = 268_435_456))]
    pub(super) flows: Option<i64>,
    /// Services and real servers that fit together. Unless given, 16384.
    #[schemars(range(min = 16, max = 1_048_576))]
    pub(super) endpoints: Option<i64>,
    /// How long an idle worker looks for packets before it sleeps. Unless given, 50.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub(super) spin_microseconds: Option<i64>,
    /// ICMP errors, resets and echo replies of its own that each worker sends at most. Unless
    /// given, 1000.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub(super) answers_per_second: Option<i64>,
    /// An absolute path: every change is written there before it is answered, and found again after
    /// a restart. Unless given, changes live as long as the daemon.
    pub(super) journal: Option<String>,
}

/// `[[interface]]`: one the workers receive from and send to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Interface {
    /// Its name.
    pub(super) name: String,
    /// auto (native, else generic, else raw), native, generic or raw. Unless given, auto.
    #[serde(default)]
    pub(super) mode: Option<String>,
}

/// `[api]`: where gRPC listens.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Api {
    /// The unix socket, an absolute path. Unless given, /run/xvs/xvsd.sock.
    pub(super) socket: Option<String>,
    /// Requests that would change something are recorded there, whatever came of them, one line of JSON
    /// each: an absolute path. They stand in the daemon's own log in any case.
    pub(super) audit: Option<String>,
    /// Who may do what. Without any, whoever gets through administers.
    pub(super) role: Vec<Grant>,
    /// gRPC over TCP as well.
    pub(super) tcp: Option<Tcp>,
}

/// `[[api.role]]`: a role, and a user, a group or a certificate that it is given to. Root and the
/// daemon's own user always administer.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Grant {
    /// read (look), operate (drain, end flows, zero counters) or administer (everything).
    pub(super) role: String,
    /// A user of this box, by name or number, over the unix socket.
    pub(super) user: Option<String>,
    /// A group of this box that a caller's process runs in, likewise.
    pub(super) group: Option<String>,
    /// A name in a client's certificate, over TCP: its common name or a DNS name.
    pub(super) certificate: Option<String>,
}

/// `[api.tcp]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Tcp {
    /// Address and port to listen on.
    pub(super) listen: String,
    /// PEM file of the daemon's certificate chain.
    pub(super) certificate: Option<String>,
    /// PEM file of its key.
    pub(super) key: Option<String>,
    /// PEM file of the authority that signs clients' certificates.
    pub(super) client_ca: Option<String>,
    /// Serve without TLS: whoever can reach the port commands the box.
    #[serde(default)]
    pub(super) insecure: bool,
}

/// `[http]`: metrics and the status page. Off unless it is there.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Http {
    /// Address and port to listen on. Whoever reaches it reads what the box does, and changes nothing.
    pub(super) listen: String,
    /// Names under which browsers may ask for the page, besides addresses and localhost.
    #[serde(default)]
    pub(super) names: Vec<String>,
}

/// `[otlp]`: metrics pushed to a collector of OpenTelemetry, by gRPC. Off unless it is there.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Otlp {
    /// The collector, as http://HOST:PORT; 4317 is the usual port.
    pub(super) endpoint: String,
    /// From one export to the next. Unless given, 10.
    #[schemars(range(min = 1, max = 3600))]
    pub(super) interval_seconds: Option<i64>,
}

/// `[timeouts]`, in seconds.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Timeouts {
    /// Established TCP flows. Unless given, 900.
    #[schemars(range(min = 1, max = 2_147_483))]
    pub(super) tcp: Option<i64>,
    /// TCP flows after a FIN. Unless given, 120.
    #[schemars(range(min = 1, max = 2_147_483))]
    pub(super) tcp_fin: Option<i64>,
    /// UDP flows. Unless given, 300.
    #[schemars(range(min = 1, max = 2_147_483))]
    pub(super) udp: Option<i64>,
}

/// `[[mark]]`: packets that get a firewall mark.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Mark {
    /// The mark; 0 takes packets out of what earlier rules marked.
    #[schemars(range(min = 0, max = 4_294_967_295_u32))]
    pub(super) mark: i64,
    /// Where packets go: an address or a prefix.
    pub(super) to: String,
    /// To which ports, as 80 or 80-90. Unless given, any.
    pub(super) ports: Option<String>,
    /// tcp, udp or sctp. Unless given, all three.
    pub(super) protocol: Option<String>,
    /// Where packets come from: an address or a prefix. Unless given, anywhere.
    pub(super) from: Option<String>,
}

/// `[local]`: full NAT's local addresses.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Local {
    /// Addresses of the box that nothing else on it uses at these ports.
    pub(super) addresses: Vec<String>,
    /// The first and the last port of each, as 1024-65535.
    #[serde(default)]
    pub(super) ports: Option<String>,
}

/// `[[service]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    /// tcp, udp or sctp. With address and port.
    pub(super) protocol: Option<String>,
    /// The virtual address.
    pub(super) address: Option<String>,
    /// The port; 0 takes every port and needs persistence.
    #[schemars(range(min = 0, max = 65_535))]
    pub(super) port: Option<i64>,
    /// In place of protocol, address and port: the firewall mark of its packets.
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub(super) mark: Option<i64>,
    /// With mark: ipv4 or ipv6. Unless given, ipv4.
    pub(super) family: Option<String>,
    /// rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh or twos. Unless given, wlc.
    pub(super) scheduler: Option<String>,
    /// fallback and port, of sh and mh; flag3.
    #[serde(default)]
    pub(super) scheduler_flags: Vec<String>,
    /// A client's flows go to one real server for as long.
    #[schemars(range(min = 1, max = 2_678_400))]
    pub(super) persistence_seconds: Option<i64>,
    /// With persistence: clients of one network count as one. A mask for IPv4, a length of prefix
    /// for IPv6.
    pub(super) netmask: Option<String>,
    /// Every UDP datagram is scheduled by itself.
    #[serde(default)]
    pub(super) one_packet: bool,
    /// sip: persistence by the Call-ID.
    pub(super) persistence_engine: Option<String>,
    /// How full NAT tells real servers the client's address: toa, TCP option 254; proxy, version 2 of
    /// the PROXY protocol.
    pub(super) client_address: Option<String>,
    /// Its real servers.
    #[serde(default)]
    pub(super) real: Vec<Real>,
    /// How they are checked. Unless given, not at all.
    pub(super) health: Option<Health>,
}

/// `[service.health]`: how the real servers are checked, and what follows.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Health {
    /// A real server is up while every one of them passes; at most 8.
    pub(super) check: Vec<Check>,
    /// Real servers are down until they were found up; otherwise up until found down.
    pub(super) start_down: bool,
    /// What becomes of a real server that is down: inhibit (weight 0, it keeps its flows) or remove (it
    /// counts as removed). Unless given, inhibit.
    pub(super) on_down: Option<String>,
    /// How long the weight of a real server that came up takes to grow to its whole. A weight of 1 has
    /// no parts. Unless given, 0.
    #[schemars(range(min = 0, max = 3600))]
    pub(super) slow_start_seconds: Option<i64>,
    /// The service stands while the real servers that are up weigh at least so much together. Unless
    /// given, 1.
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub(super) quorum: Option<i64>,
    /// So much below the quorum the service falls, so much above it stands again. Unless given, 0.
    #[schemars(range(min = 0, max = 4_294_967_295_u32))]
    pub(super) quorum_hysteresis: Option<i64>,
    /// With fewer percent of the real servers up all are used. Unless given, 0: never.
    #[schemars(range(min = 0, max = 100))]
    pub(super) panic_percent: Option<i64>,
    /// Who gets the new flows while the quorum is lost.
    pub(super) sorry: Option<Real>,
    /// What flows tell about real servers of nat and fullnat. Unless given, nothing.
    pub(super) passive: Option<Passive>,
}

/// `[service.health.passive]`: a real server whose connections are not accepted is down for a while.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Passive {
    /// So many TCP connections refused or not answered, with none accepted between. Unless given, 5.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) failures: Option<i64>,
    /// For so long at first; twice as long each time that it fails again soon after. Unless given, 10.
    #[schemars(range(min = 1, max = 3600))]
    pub(super) hold_seconds: Option<i64>,
}

/// `[[service.health.check]]`: one check of each real server.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Check {
    /// tcp, http, https, grpc, icmp, udp, dns, script or agent.
    pub(super) kind: String,
    /// To which port. Unless given, the real server's, or the service's if that has none.
    #[schemars(range(min = 1, max = 65_535))]
    pub(super) port: Option<i64>,
    /// Through the forwarding path: to the VIP on the real server, as clients' packets travel by dr and
    /// the tunnels. For tcp, http, https, grpc and agent.
    #[serde(default)]
    pub(super) through: bool,
    /// From the beginning of one probe to that of the next. Unless given, 2000.
    #[schemars(range(min = 100, max = 3_600_000))]
    pub(super) interval_milliseconds: Option<i64>,
    /// A probe that takes longer has failed. Unless given, 1000.
    #[schemars(range(min = 10, max = 60_000))]
    pub(super) timeout_milliseconds: Option<i64>,
    /// By how much the interval varies at most. Unless given, 10.
    #[schemars(range(min = 0, max = 50))]
    pub(super) jitter_percent: Option<i64>,
    /// So many probes must pass one after the other to bring it up. Unless given, 2; of an agent 1.
    #[schemars(range(min = 1, max = 100))]
    pub(super) rise: Option<i64>,
    /// So many must fail one after the other to take it down. Unless given, 3; of an agent 1.
    #[schemars(range(min = 1, max = 100))]
    pub(super) fall: Option<i64>,
    /// http, https: what is asked for. Unless given, /.
    pub(super) path: Option<String>,
    /// http, https: the header Host, and the name that TLS asks for. Unless given, the address.
    pub(super) host: Option<String>,
    /// http, https: good answers, as 200 or 200-299. Unless given, 200-399.
    #[serde(default)]
    pub(super) status: Vec<String>,
    /// http, https: what the first 65536 octets of the body must contain. Unless given, anything.
    pub(super) body: Option<String>,
    /// https, grpc over TLS: PEM file of the authorities that may have signed the certificate; any: any
    /// certificate will do.
    pub(super) authority: Option<String>,
    /// grpc: the service asked about. Unless given, the server as a whole.
    pub(super) service: Option<String>,
    /// udp: what is sent. Unless given, an empty datagram.
    pub(super) send: Option<String>,
    /// udp: what an answer must contain. Unless given, no answer is needed, but an ICMP error fails.
    pub(super) expect: Option<String>,
    /// dns: the name that is asked for.
    pub(super) name: Option<String>,
    /// dns: A, AAAA, SOA, NS, MX, TXT, CNAME, SRV or PTR. Unless given, A.
    pub(super) record: Option<String>,
    /// script: the program, an absolute path, and its arguments; it passes by ending with 0.
    #[serde(default)]
    pub(super) command: Vec<String>,
}

/// `[[service.real]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Real {
    /// Its address.
    pub(super) address: String,
    /// Its port, which only nat and fullnat may map. Unless given, the service's.
    #[schemars(range(min = 0, max = 65_535))]
    pub(super) port: Option<i64>,
    /// nat, dr, ipip, gue, gre, local or fullnat. Unless given, dr.
    pub(super) method: Option<String>,
    /// How to tunnel to it, with gue and gre.
    #[serde(default)]
    pub(super) tunnel: Tunnel,
    /// Its share of new flows; 0: flows stay, no new ones come. Unless given, 1.
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub(super) weight: Option<i64>,
    /// No new flows from so many on; 0: no limit. Unless given, 0.
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub(super) upper_threshold: Option<i64>,
    /// After that, new ones again below so many; 0: three quarters of the upper. Unless given, 0.
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub(super) lower_threshold: Option<i64>,
}

/// `tunnel = { ... }` of a real server.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tunnel {
    /// UDP port of gue.
    #[schemars(range(min = 0, max = 65_535))]
    pub(super) port: Option<i64>,
    /// With a checksum.
    pub(super) checksum: bool,
    /// With remote checksum offload.
    pub(super) remote_checksum: bool,
}
