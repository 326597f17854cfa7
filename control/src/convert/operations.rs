//! Between the engine's words for operating a box and messages.

use std::{sync::Arc, time::Duration};

use super::{answer, health, request};
use crate::{
    engine::{
        apply::{Change, ChangeKind},
        drain::{Drain, DrainEnd, DrainSpec, Phase, States},
        events::{Event, Happened},
    },
    field::FieldError,
    proto::v1,
    words::RealName,
};

/// The longest deadline of a drain: 30 days.
const DEADLINE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

type Result<T> = std::result::Result<T, FieldError>;

/// A service and one of its real servers.
///
/// # Errors
///
/// One of them is missing, malformed or out of range.
pub fn real_of_service(
    service: Option<&v1::ServiceKey>,
    real: Option<&v1::RealServerKey>,
) -> Result<(dataplane::director::spec::ServiceKey, RealName)> {
    let key = service.ok_or_else(|| FieldError::missing("service"))?;
    let key = request::service_key(key).map_err(|error| error.within("service"))?;
    let real = real.ok_or_else(|| FieldError::missing("real_server"))?;
    let real = request::real_key(real, &key).map_err(|error| error.within("real_server"))?;
    Ok((key, RealName { addr: real.0, port: real.1 }))
}

/// A span of time within bounds.
///
/// # Errors
///
/// It is negative, malformed or out of bounds.
pub fn duration(
    path: &str,
    message: prost_types::Duration,
    (least, most): (Duration, Duration),
) -> Result<Duration> {
    let duration = Duration::try_from(message)
        .map_err(|_negative| FieldError::new(path, "must not be negative"))?;
    if (least..=most).contains(&duration) {
        return Ok(duration);
    }
    Err(FieldError::new(path, format!("{duration:?} is not within {least:?} to {most:?}")))
}

/// A drain as it is asked for.
///
/// # Errors
///
/// A field is missing, malformed or contradicts another.
pub fn drain_spec(message: &v1::DrainRequest) -> Result<DrainSpec> {
    let (key, real) = real_of_service(message.service.as_ref(), message.real_server.as_ref())?;
    let within = (Duration::ZERO, DEADLINE_MAX);
    let deadline = message.deadline.map(|given| duration("deadline", given, within)).transpose()?;
    let end = match v1::DrainEnd::try_from(message.end) {
        Ok(v1::DrainEnd::Unspecified | v1::DrainEnd::Keep) => DrainEnd::Keep,
        Ok(v1::DrainEnd::Reset) => DrainEnd::Reset,
        Ok(v1::DrainEnd::Reschedule) => DrainEnd::Reschedule,
        Err(_) => return Err(FieldError::new("end", format!("{} is no end", message.end))),
    };
    if end != DrainEnd::Keep && deadline.is_none() {
        return Err(FieldError::new("end", "needs a deadline"));
    }
    Ok(DrainSpec { key, real, deadline, end, templates: message.templates })
}

/// A drain.
pub fn drain(drain: &Drain) -> v1::Drain {
    let phase = match drain.phase {
        Phase::Draining => v1::drain::Phase::Draining,
        Phase::Drained => v1::drain::Phase::Drained,
        Phase::Expired => v1::drain::Phase::Expired,
        Phase::Cancelled => v1::drain::Phase::Cancelled,
        Phase::Removed => v1::drain::Phase::Removed,
    };
    let end = match drain.spec.end {
        DrainEnd::Keep => v1::DrainEnd::Keep,
        DrainEnd::Reset => v1::DrainEnd::Reset,
        DrainEnd::Reschedule => v1::DrainEnd::Reschedule,
    };
    let real = drain.spec.real;
    v1::Drain {
        service: Some(answer::service_key(&drain.spec.key)),
        real_server: Some(answer::real_server_key(real.addr, real.port)),
        phase: phase.into(),
        started_at: Some(drain.started_at.into()),
        deadline: drain.deadline_at.map(Into::into),
        end: end.into(),
        templates: drain.spec.templates,
        active_flows: drain.left.0,
        inactive_flows: drain.left.1,
        persistent_templates: drain.left.2,
        states: states(&drain.states),
        reset_flows: drain.reset,
        moved_flows: drain.moved,
    }
}

/// Flows by state.
pub fn states(states: &States) -> Vec<v1::StateCount> {
    let state = |&(protocol, state, flows): &(u8, &str, u64)| v1::StateCount {
        protocol: protocol.into(),
        state: state.to_owned(),
        flows,
    };
    states.iter().map(state).collect()
}

/// A change.
pub fn change(change: &Change) -> v1::Change {
    let kind = match change.kind {
        ChangeKind::Created => v1::change::Kind::Created,
        ChangeKind::Updated => v1::change::Kind::Updated,
        ChangeKind::Deleted => v1::change::Kind::Deleted,
    };
    v1::Change {
        kind: kind.into(),
        service: change.service.as_ref().map(answer::service_key),
        real_server: change.real.map(|real| answer::real_server_key(real.addr, real.port)),
        description: change.description.clone(),
    }
}

/// Something that happened.
pub fn happened(happened: &Arc<Happened>) -> v1::WatchResponse {
    use v1::watch_response::Event as Told;
    let event = match &happened.event {
        Event::Configuration { generation, changes } => {
            Told::Configuration(v1::ConfigurationEvent {
                generation: *generation,
                changes: changes.iter().map(change).collect(),
            })
        }
        Event::Drain(told) => Told::Drain(drain(told)),
        Event::Health(finding) => Told::Health(health::event(finding)),
        Event::Overload { key, real, overloaded, flows } => Told::Overload(v1::OverloadEvent {
            service: Some(answer::service_key(key)),
            real_server: Some(answer::real_server_key(real.addr, real.port)),
            overloaded: *overloaded,
            flows: *flows,
        }),
        Event::Worker { worker, running, restarts, failure } => Told::Worker(v1::WorkerEvent {
            worker: *worker,
            running: *running,
            restarts: *restarts,
            failure: failure.clone(),
        }),
    };
    v1::WatchResponse { time: Some(happened.at.into()), event: Some(event) }
}
