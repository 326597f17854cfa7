//! `[service.health]`: how the real servers of a service are checked.

use std::time::Duration;

use dataplane::director::spec::{RealSpec, ServiceKey, ServiceSpec};

use super::{
    check::{self, within},
    file,
};
use crate::{
    convert::{health, request::each},
    engine::health::Policies,
    field::{self, FieldError},
    health::policy::{
        Check, FAILURES, HOLD_S, Http, INTERVAL_MS, JITTER_PERCENT, Kind, PANIC_PERCENT, Passive,
        Policy, QUORUM, SLOW_START_S, TIMEOUT_MS, TIMES,
    },
};

type Result<T> = std::result::Result<T, FieldError>;

/// The policies of these services, each checked for its own as it was read.
pub(super) fn policies(
    files: &[file::Service],
    services: &[(ServiceSpec, Vec<RealSpec>)],
) -> Result<Policies> {
    let mut policies = Policies::new();
    for (at, (file, (spec, reals))) in files.iter().zip(services).enumerate() {
        let Some(file) = &file.health else { continue };
        let of = |error: FieldError| error.within(format_args!("service[{at}].health"));
        let policy = policy(file, &spec.key).map_err(of)?;
        policy.check(&spec.key, reals).map_err(of)?;
        policies.insert(spec.key, policy);
    }
    Ok(policies)
}

/// The number if it is given and within its bounds, else the default.
fn number(path: &str, value: Option<i64>, (least, most): (u32, u32), default: u32) -> Result<u32> {
    check::or(path, value, default, least, most)
}

fn policy(file: &file::Health, key: &ServiceKey) -> Result<Policy> {
    let default = Policy::default();
    let on_down = match file.on_down.as_deref() {
        None => default.on_down,
        Some(name) => health::on_down(name).map_err(|reason| FieldError::new("on_down", reason))?,
    };
    let slow_start = number("slow_start_seconds", file.slow_start_seconds, SLOW_START_S, 0)?;
    let sorry = file.sorry.as_ref().map(|real| check::real(real, key));
    let passive = match &file.passive {
        None => None,
        Some(passive) => Some(Passive {
            failures: number("passive.failures", passive.failures, FAILURES, 5)?,
            hold: Duration::from_secs(
                number("passive.hold_seconds", passive.hold_seconds, HOLD_S, 10)?.into(),
            ),
        }),
    };
    Ok(Policy {
        checks: each("check", &file.check, one)?,
        start_down: file.start_down,
        on_down,
        slow_start: Duration::from_secs(slow_start.into()),
        quorum: number("quorum", file.quorum, QUORUM, default.quorum)?,
        hysteresis: number("quorum_hysteresis", file.quorum_hysteresis, (0, u32::MAX), 0)?,
        panic_percent: number("panic_percent", file.panic_percent, PANIC_PERCENT, 0)?,
        sorry: sorry.transpose().map_err(|error| error.within("sorry"))?,
        passive,
    })
}

fn one(file: &file::Check) -> Result<Check> {
    let default = Check::new(kind(file)?);
    let millis = |path: &str, value: Option<i64>, bounds: (u32, u32), default: Duration| {
        let given = value.map(|value| within(path, value, bounds.0, bounds.1)).transpose()?;
        Ok::<_, FieldError>(given.map_or(default, |value| Duration::from_millis(value.into())))
    };
    let (interval, timeout) = (file.interval_milliseconds, file.timeout_milliseconds);
    let jitter = file.jitter_percent;
    Ok(Check {
        port: file.port.map(|port| within("port", port, 1, u16::MAX)).transpose()?,
        through: file.through,
        interval: millis("interval_milliseconds", interval, INTERVAL_MS, default.interval)?,
        timeout: millis("timeout_milliseconds", timeout, TIMEOUT_MS, default.timeout)?,
        jitter_percent: number("jitter_percent", jitter, JITTER_PERCENT, default.jitter_percent)?,
        rise: number("rise", file.rise, TIMES, default.rise)?,
        fall: number("fall", file.fall, TIMES, default.fall)?,
        kind: default.kind,
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
