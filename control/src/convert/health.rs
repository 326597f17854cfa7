//! Policies of health checks and what was found, between the engine's words and messages.

use std::{path::PathBuf, time::Duration};

use dataplane::director::spec::ServiceKey;

use super::{
    answer,
    request::{self, each},
};
use crate::{
    engine::health::Policies,
    field::{self, FieldError},
    health::{
        board::{Finding, What},
        policy::{Check, Http, Kind, OnDown, Passive, Policy, TlsPolicy},
    },
    proto::v1::{self, health_check::Kind as Asked, health_event::Kind as Told},
    words,
};

type Result<T> = std::result::Result<T, FieldError>;

/// Answers that are good unless told otherwise.
pub const DEFAULT_STATUS: (u16, u16) = (200, 399);

/// Reads a policy for the service `key`. Whether it makes sense, [`Policy::check`] says.
///
/// # Errors
///
/// A field is missing or malformed.
pub fn read(message: &v1::HealthPolicy, key: &ServiceKey) -> Result<Policy> {
    let on_down = match message.on_down.as_str() {
        "" => OnDown::Inhibit,
        name => on_down(name).map_err(|reason| FieldError::new("on_down", reason))?,
    };
    let sorry = message
        .sorry_server
        .as_ref()
        .map(|real| request::real_spec(real, key).map_err(|error| error.within("sorry_server")));
    let passive = message.passive.map(|passive| Passive {
        failures: passive.failures,
        hold: Duration::from_secs(passive.hold_seconds.into()),
    });
    Ok(Policy {
        checks: each("checks", &message.checks, check)?,
        start_down: message.start_down,
        on_down,
        slow_start: Duration::from_secs(message.slow_start_seconds.into()),
        quorum: message.quorum.max(1),
        hysteresis: message.quorum_hysteresis,
        panic_percent: message.panic_percent,
        sorry: sorry.transpose()?,
        passive,
    })
}

/// What becomes of real servers that are down, by name.
///
/// # Errors
///
/// Nothing is called so.
pub fn on_down(name: &str) -> std::result::Result<OnDown, String> {
    let found = OnDown::NAMES.iter().find(|(known, _)| *known == name);
    let names = OnDown::NAMES.iter().map(|(known, _)| *known);
    found.map(|(_, way)| *way).ok_or_else(|| field::unknown("way", name, names))
}

/// A range of HTTP answers: "200" or "200-299".
///
/// # Errors
///
/// It is none.
pub fn status(text: &str) -> std::result::Result<(u16, u16), String> {
    let number = |text: &str| text.trim().parse::<u16>().ok();
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (number(first), number(last)) {
        (Some(first), Some(last)) => Ok((first, last)),
        _ => Err(format!("`{text}` is not a status as 200 or 200-299")),
    }
}

/// How certificates are judged: by the authorities of a file, or not at all.
pub fn tls(authority: &str) -> TlsPolicy {
    match authority {
        "any" => TlsPolicy::Any,
        path => TlsPolicy::Authority(PathBuf::from(path)),
    }
}

fn check(message: &v1::HealthCheck) -> Result<Check> {
    let kind = message.kind.as_ref();
    let kind = kind.ok_or_else(|| FieldError::new("kind", "one of the kinds must be given"))?;
    let default = Check::new(self::kind(kind)?);
    let millis = |value: u32, default: Duration| match value {
        0 => default,
        value => Duration::from_millis(value.into()),
    };
    let times = |value: u32, default: u32| if value == 0 { default } else { value };
    Ok(Check {
        port: message.port.map(|port| request::port("port", port)).transpose()?,
        through: message.through,
        interval: millis(message.interval_milliseconds, default.interval),
        timeout: millis(message.timeout_milliseconds, default.timeout),
        jitter_percent: message.jitter_percent.unwrap_or(default.jitter_percent),
        rise: times(message.rise, default.rise),
        fall: times(message.fall, default.fall),
        kind: default.kind,
    })
}

fn kind(message: &Asked) -> Result<Kind> {
    let or = |text: &str, default: &str| (if text.is_empty() { default } else { text }).to_owned();
    let policy = |tls: &Option<v1::TlsPolicy>| tls.as_ref().map(|tls| self::tls(&tls.authority));
    Ok(match message {
        Asked::Tcp(_) => Kind::Tcp,
        Asked::Http(http) => {
            let mut ranges = each("http.status", &http.status, |text| {
                status(text).map_err(|reason| FieldError::new("", reason))
            })?;
            if ranges.is_empty() {
                ranges.push(DEFAULT_STATUS);
            }
            Kind::Http(Http {
                path: or(&http.path, "/"),
                host: http.host.clone(),
                status: ranges,
                body: http.body.clone(),
                tls: policy(&http.tls),
            })
        }
        Asked::Grpc(grpc) => Kind::Grpc { service: grpc.service.clone(), tls: policy(&grpc.tls) },
        Asked::Icmp(_) => Kind::Icmp,
        Asked::Udp(udp) => Kind::Udp { send: udp.send.clone(), expect: udp.expect.clone() },
        Asked::Dns(dns) => Kind::Dns { name: dns.name.clone(), record: or(&dns.record, "A") },
        Asked::Script(script) => Kind::Script { command: script.command.clone() },
        Asked::Agent(_) => Kind::Agent,
    })
}

/// The policies of these services.
///
/// # Errors
///
/// As [`read`], with the service's place.
pub fn policies(entries: &[v1::ServiceEntry]) -> Result<Policies> {
    let mut policies = Policies::new();
    for (at, entry) in entries.iter().enumerate() {
        let key = entry.service.as_ref().and_then(|service| service.key.as_ref());
        let (Some(policy), Some(key)) = (&entry.health, key) else { continue };
        let within = |error: FieldError| error.within(format_args!("services[{at}].health"));
        let key = request::service_key(key)?;
        policies.insert(key, read(policy, &key).map_err(within)?);
    }
    Ok(policies)
}

/// The same fault with its path in the message: [`Policy::check`] names fields as the file does.
#[must_use]
pub fn in_message(policy: &Policy, error: &FieldError) -> FieldError {
    let path = match error.path.strip_prefix("check") {
        None => error.path.replacen("sorry", "sorry_server", 1),
        Some(rest) => {
            let at = rest.trim_start_matches('[').split(']').next().unwrap_or_default();
            let kind = at.parse().ok().and_then(|at: usize| policy.checks.get(at));
            let name = kind.map_or("", |check| match check.kind.name() {
                "https" => "http",
                name => name,
            });
            let own =
                ["path", "host", "status", "body", "service", "send", "expect", "name", "record"];
            match rest.split_once("].") {
                Some((at, field)) if own.contains(&field) || field == "command" => {
                    format!("checks{at}].{name}.{field}")
                }
                _ => format!("checks{rest}"),
            }
        }
    };
    FieldError::new(path, error.reason.clone())
}

/// Writes a policy, every field filled in.
pub fn write(policy: &Policy) -> v1::HealthPolicy {
    v1::HealthPolicy {
        checks: policy.checks.iter().map(check_message).collect(),
        start_down: policy.start_down,
        on_down: policy.on_down.name().to_owned(),
        slow_start_seconds: seconds(policy.slow_start),
        quorum: policy.quorum,
        quorum_hysteresis: policy.hysteresis,
        panic_percent: policy.panic_percent,
        sorry_server: policy.sorry.as_ref().map(answer::real_server),
        passive: policy.passive.map(|passive| v1::PassiveCheck {
            failures: passive.failures,
            hold_seconds: seconds(passive.hold),
        }),
    }
}

fn check_message(check: &Check) -> v1::HealthCheck {
    let tls = |policy: &Option<TlsPolicy>| {
        policy.as_ref().map(|policy| v1::TlsPolicy { authority: authority(policy) })
    };
    let kind = match &check.kind {
        Kind::Tcp => Asked::Tcp(v1::TcpCheck {}),
        Kind::Http(http) => Asked::Http(v1::HttpCheck {
            path: http.path.clone(),
            host: http.host.clone(),
            status: http.status.iter().map(|range| status_text(*range)).collect(),
            body: http.body.clone(),
            tls: tls(&http.tls),
        }),
        Kind::Grpc { service, tls: policy } => {
            Asked::Grpc(v1::GrpcCheck { service: service.clone(), tls: tls(policy) })
        }
        Kind::Icmp => Asked::Icmp(v1::IcmpCheck {}),
        Kind::Udp { send, expect } => {
            Asked::Udp(v1::UdpCheck { send: send.clone(), expect: expect.clone() })
        }
        Kind::Dns { name, record } => {
            Asked::Dns(v1::DnsCheck { name: name.clone(), record: record.clone() })
        }
        Kind::Script { command } => Asked::Script(v1::ScriptCheck { command: command.clone() }),
        Kind::Agent => Asked::Agent(v1::AgentCheck {}),
    };
    v1::HealthCheck {
        kind: Some(kind),
        port: check.port.map(u32::from),
        through: check.through,
        interval_milliseconds: millis(check.interval),
        timeout_milliseconds: millis(check.timeout),
        jitter_percent: Some(check.jitter_percent),
        rise: check.rise,
        fall: check.fall,
    }
}

/// How the judgement of certificates is written.
pub fn authority(policy: &TlsPolicy) -> String {
    match policy {
        TlsPolicy::Any => "any".to_owned(),
        TlsPolicy::Authority(path) => path.display().to_string(),
    }
}

/// How a range of HTTP answers is written.
pub fn status_text((first, last): (u16, u16)) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// Kinds of events, and what each is about.
const EVENTS: [(Told, What); 6] = [
    (Told::Up, What::Up),
    (Told::Down, What::Down),
    (Told::QuorumReached, What::QuorumReached),
    (Told::QuorumLost, What::QuorumLost),
    (Told::PanicBegan, What::PanicBegan),
    (Told::PanicEnded, What::PanicEnded),
];

/// What an event is about, in words; of a kind that a newer daemon has, nothing is known.
pub fn event_name(event: &v1::HealthEvent) -> &'static str {
    let known = EVENTS.iter().find(|(kind, _)| *kind == event.kind());
    known.map_or("?", |(_, what)| what.name())
}

/// Something that was found.
pub fn event(finding: &Finding) -> v1::HealthEvent {
    let kind = EVENTS.iter().find(|(_, what)| *what == finding.what);
    let kind = kind.map_or(Told::Unspecified, |(kind, _)| *kind);
    v1::HealthEvent {
        service: Some(answer::service_key(&finding.key)),
        real_server: finding.real.map(|real| answer::real_server_key(real.addr, real.port)),
        kind: kind.into(),
        note: finding.note.clone(),
    }
}

/// A service as its checks have found it.
pub fn service(key: &ServiceKey, group: &crate::health::group::Group) -> v1::ServiceHealth {
    let (up_weight, up, all) = group.strength();
    let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    v1::ServiceHealth {
        service: Some(answer::service_key(key)),
        policy: Some(write(&group.policy)),
        quorum: group.quorum,
        panic: group.panic,
        sorry: group.sorry,
        up_weight,
        up: count(up),
        all: count(all),
        real_servers: group.members.iter().map(|(name, member)| real(*name, member)).collect(),
    }
}

fn real(name: words::RealName, member: &crate::health::member::Member) -> v1::RealServerHealth {
    let check = |judge: &crate::health::member::Judge| {
        let last = judge.last.as_ref();
        v1::CheckHealth {
            kind: judge.check.kind.name().to_owned(),
            up: judge.up,
            against: judge.against,
            last_at: last.map(|(_, at)| (*at).into()),
            last_passed: last.is_some_and(|(outcome, _)| outcome.passed),
            last_note: last.map(|(outcome, _)| outcome.note.clone()).unwrap_or_default(),
            last_took: last.and_then(|(outcome, _)| outcome.took.try_into().ok()),
            passed: judge.probes.0,
            failed: judge.probes.1,
        }
    };
    v1::RealServerHealth {
        real_server: Some(answer::real_server_key(name.addr, name.port)),
        up: member.up,
        since: Some(member.since.into()),
        share_percent: member.told.percent,
        complaints: member.complaints.clone(),
        checks: member.judges.iter().map(check).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ServiceKey {
        ServiceKey::Address { protocol: 6, addr: dataplane::addr::Addr::v4(0x0a00_0001), port: 80 }
    }

    #[test]
    fn a_policy_comes_back_as_it_was() {
        let kinds = [
            Asked::Tcp(v1::TcpCheck {}),
            Asked::Http(v1::HttpCheck {
                path: "/up".to_owned(),
                status: vec!["204".to_owned(), "300-302".to_owned()],
                tls: Some(v1::TlsPolicy { authority: "any".to_owned() }),
                ..v1::HttpCheck::default()
            }),
            Asked::Grpc(v1::GrpcCheck { service: "shop".to_owned(), tls: None }),
            Asked::Icmp(v1::IcmpCheck {}),
            Asked::Udp(v1::UdpCheck { send: "hi".to_owned(), expect: "ho".to_owned() }),
            Asked::Dns(v1::DnsCheck { name: "a.test".to_owned(), record: String::new() }),
            Asked::Script(v1::ScriptCheck { command: vec!["/bin/true".to_owned()] }),
            Asked::Agent(v1::AgentCheck {}),
        ];
        let checks = kinds.map(|kind| v1::HealthCheck {
            kind: Some(kind),
            port: None,
            rise: 7,
            ..v1::HealthCheck::default()
        });
        let message = v1::HealthPolicy {
            checks: checks.to_vec(),
            sorry_server: Some(v1::RealServer {
                address: "10.2.0.99".to_owned(),
                ..v1::RealServer::default()
            }),
            passive: Some(v1::PassiveCheck { failures: 3, hold_seconds: 9 }),
            ..v1::HealthPolicy::default()
        };
        let policy = read(&message, &key()).unwrap();
        assert_eq!(policy.check(&key(), &[]), Ok(()));
        assert_eq!(read(&write(&policy), &key()), Ok(policy.clone()));
        assert_eq!((policy.checks[0].fall, policy.checks[7].fall), (3, 1), "an agent is believed");
        assert_eq!(policy.quorum, 1);
    }

    #[test]
    fn a_fault_is_named_by_its_path_in_the_message() {
        let with = |check: v1::HealthCheck| v1::HealthPolicy {
            checks: vec![check],
            ..v1::HealthPolicy::default()
        };
        let error = |message: v1::HealthPolicy| {
            let policy = match read(&message, &key()) {
                Ok(policy) => policy,
                Err(error) => return error.to_string(),
            };
            let error = policy.check(&key(), &[]).unwrap_err();
            in_message(&policy, &error).to_string()
        };
        let tcp = || v1::HealthCheck {
            kind: Some(Asked::Tcp(v1::TcpCheck {})),
            ..v1::HealthCheck::default()
        };
        let http = |http| v1::HealthCheck { kind: Some(Asked::Http(http)), ..tcp() };
        for (message, wanted) in [
            (with(v1::HealthCheck::default()), "checks[0].kind: one of the kinds must be given"),
            (
                with(v1::HealthCheck { rise: 101, ..tcp() }),
                "checks[0].rise: 101 is not within 1 to 100",
            ),
            (
                with(http(v1::HttpCheck { path: "up".to_owned(), ..Default::default() })),
                "checks[0].http.path: `up` is not a path as /healthz",
            ),
            (
                with(http(v1::HttpCheck { status: vec!["ok".to_owned()], ..Default::default() })),
                "checks[0].http.status[0]: `ok` is not a status as 200 or 200-299",
            ),
            (v1::HealthPolicy::default(), "checks: neither a check nor passive is given"),
            (
                v1::HealthPolicy { on_down: "remov".to_owned(), ..with(tcp()) },
                "on_down: unknown way `remov`; did you mean `remove`?",
            ),
        ] {
            assert_eq!(error(message), wanted);
        }
    }
}
