//! `[service.health]`: how the real servers of a service are checked.

use std::time::Duration;

use super::{
    check::{self, service_key, within},
    file,
};
use crate::{
    convert::{health, request::each},
    engine::health::Policies,
    field::{self, FieldError},
    health::policy::{Check, Http, Kind, Passive, Policy},
};

type Result<T> = std::result::Result<T, FieldError>;

/// The policies of these services, each checked for its own.
pub(super) fn policies(services: &[file::Service]) -> Result<Policies> {
    let mut policies = Policies::new();
    for (at, service) in services.iter().enumerate() {
        let Some(file) = &service.health else { continue };
        let of = |error: FieldError| error.within(format_args!("service[{at}].health"));
        let key = service_key(service)?;
        let policy = policy(file, service).map_err(of)?;
        let reals = each("real", &service.real, |file| check::real(file, &key))?;
        policy.check(&key, &reals).map_err(of)?;
        policies.insert(key, policy);
    }
    Ok(policies)
}

fn policy(file: &file::Health, service: &file::Service) -> Result<Policy> {
    let key = service_key(service)?;
    let default = Policy::default();
    let number = |path: &str, value: Option<i64>, least: u32, most: u32, default: u32| {
        value.map_or(Ok(default), |value| within(path, value, least, most))
    };
    let on_down = match file.on_down.as_deref() {
        None => default.on_down,
        Some(name) => health::on_down(name).map_err(|reason| FieldError::new("on_down", reason))?,
    };
    let slow_start = number("slow_start_seconds", file.slow_start_seconds, 0, 3600, 0)?;
    let sorry = file.sorry.as_ref().map(|real| check::real(real, &key));
    let passive = match &file.passive {
        None => None,
        Some(passive) => Some(Passive {
            failures: number("passive.failures", passive.failures, 1, 1_000_000, 5)?,
            hold: Duration::from_secs(
                number("passive.hold_seconds", passive.hold_seconds, 1, 3600, 10)?.into(),
            ),
        }),
    };
    Ok(Policy {
        checks: each("check", &file.check, one)?,
        start_down: file.start_down,
        on_down,
        slow_start: Duration::from_secs(slow_start.into()),
        quorum: number("quorum", file.quorum, 1, u32::MAX, default.quorum)?,
        hysteresis: number("quorum_hysteresis", file.quorum_hysteresis, 0, u32::MAX, 0)?,
        panic_percent: number("panic_percent", file.panic_percent, 0, 100, 0)?,
        sorry: sorry.transpose().map_err(|error| error.within("sorry"))?,
        passive,
    })
}

fn one(file: &file::Check) -> Result<Check> {
    let kind = kind(file)?;
    let default = Check::new(Kind::Tcp);
    let millis = |path: &str, value: Option<i64>, (least, most): (u32, u32), default: Duration| {
        value.map_or(Ok(default), |value| {
            within(path, value, least, most).map(|value| Duration::from_millis(value.into()))
        })
    };
    let times = |path: &str, value: Option<i64>, default: u32| {
        let default = if kind == Kind::Agent { 1 } else { default };
        value.map_or(Ok(default), |value| within(path, value, 1, 100))
    };
    Ok(Check {
        port: file.port.map(|port| within("port", port, 1, u16::MAX)).transpose()?,
        through: file.through,
        interval: millis(
            "interval_milliseconds",
            file.interval_milliseconds,
            (100, 3_600_000),
            default.interval,
        )?,
        timeout: millis(
            "timeout_milliseconds",
            file.timeout_milliseconds,
            (10, 60_000),
            default.timeout,
        )?,
        jitter_percent: file
            .jitter_percent
            .map_or(Ok(default.jitter_percent), |value| within("jitter_percent", value, 0, 50))?,
        rise: times("rise", file.rise, default.rise)?,
        fall: times("fall", file.fall, default.fall)?,
        kind,
    })
}

/// The kind with its own fields; those of other kinds are refused.
fn kind(file: &file::Check) -> Result<Kind> {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let own: &[&str] = match file.kind.as_str() {
        "http" => &["path", "host", "status", "body"],
        "https" => &["path", "host", "status", "body", "authority"],
        "grpc" => &["service", "authority"],
        "udp" => &["send", "expect"],
        "dns" => &["name", "record"],
        "script" => &["command"],
        _ => &[],
    };
    if let Some(other) = given(file).into_iter().find(|name| !own.contains(name)) {
        return Err(FieldError::new(other, format!("does not go with {}", file.kind)));
    }
    let tls = file.authority.as_deref().map(health::tls);
    Ok(match file.kind.as_str() {
        "tcp" => Kind::Tcp,
        "icmp" => Kind::Icmp,
        "agent" => Kind::Agent,
        "http" => Kind::Http(http(file)?),
        "https" => {
            let reason = "must be given: a PEM file, or any";
            let tls = Some(tls.ok_or_else(|| FieldError::new("authority", reason))?);
            Kind::Http(Http { tls, ..http(file)? })
        }
        "grpc" => Kind::Grpc { service: text(&file.service), tls },
        "udp" => Kind::Udp { send: text(&file.send), expect: text(&file.expect) },
        "dns" => Kind::Dns {
            name: file.name.clone().ok_or_else(|| FieldError::missing("name"))?,
            record: file.record.clone().unwrap_or_else(|| "A".to_owned()),
        },
        "script" => Kind::Script { command: file.command.clone() },
        other => {
            let reason = field::unknown("kind", other, Kind::NAMES);
            return Err(FieldError::new("kind", reason));
        }
    })
}

/// The fields that only some kinds have, as far as they are given.
fn given(file: &file::Check) -> Vec<&'static str> {
    [
        ("path", file.path.is_some()),
        ("host", file.host.is_some()),
        ("status", !file.status.is_empty()),
        ("body", file.body.is_some()),
        ("authority", file.authority.is_some()),
        ("service", file.service.is_some()),
        ("send", file.send.is_some()),
        ("expect", file.expect.is_some()),
        ("name", file.name.is_some()),
        ("record", file.record.is_some()),
        ("command", !file.command.is_empty()),
    ]
    .into_iter()
    .filter_map(|(name, given)| given.then_some(name))
    .collect()
}

fn http(file: &file::Check) -> Result<Http> {
    let mut status = each("status", &file.status, |text| {
        health::status(text).map_err(|reason| FieldError::new("", reason))
    })?;
    if status.is_empty() {
        status.push(health::DEFAULT_STATUS);
    }
    Ok(Http {
        path: file.path.clone().unwrap_or_else(|| "/".to_owned()),
        host: file.host.clone().unwrap_or_default(),
        status,
        body: file.body.clone().unwrap_or_default(),
        tls: None,
    })
}
