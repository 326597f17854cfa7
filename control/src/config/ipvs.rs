//! IPVS's rules over a whole file, asked of a director of its own: the same that will apply it.

use std::sync::Arc;

use dataplane::{
    addr::Addr,
    director::{
        ApplyError, Director, SETTINGS,
        spec::{DirectorError, LocalPool},
    },
    endpoint::Endpoints,
    sched::Scheduler,
    stats::Stats,
};

use super::Desired;
use crate::field::{self, FieldError};

/// A director with room for `endpoints` services and real servers, for trying things out.
pub(crate) fn scratch(endpoints: u32) -> Director {
    // Id 0 is never given out.
    let ids = endpoints as usize + 1;
    Director::new(Arc::new(Endpoints::new(ids)), Stats::new(1, ids))
}

/// Refuses what a director would refuse.
pub(super) fn check(desired: &Desired, endpoints: u32) -> Result<(), FieldError> {
    let director = scratch(endpoints);
    for (name, value) in &desired.settings {
        director.check_setting(name, *value).map_err(|error| setting(name, &error))?;
    }
    Director::check_mark_rules(desired.mark_rules.as_deref().unwrap_or_default())
        .map_err(|(at, error)| mark_rule(at, &error))?;
    if let Some(pool) = &desired.locals {
        director.check_locals(pool).map_err(|error| match error {
            DirectorError::Invalid { field, reason } => {
                FieldError::new(format!("local.{field}"), reason)
            }
            other => FieldError::new("local.addresses", other.to_string()),
        })?;
        if let Some((at, addr)) = own_service(desired, pool) {
            let reason = format!("{addr} is the address of service[{at}]");
            return Err(FieldError::new("local.addresses", reason));
        }
    }
    director.plan(&desired.services).map(drop).map_err(|error| service(desired, &error))
}

/// A service whose address is to be a local one too.
fn own_service(desired: &Desired, pool: &LocalPool) -> Option<(usize, Addr)> {
    let vips = desired.services.iter().enumerate();
    let mut vips = vips.filter_map(|(at, (spec, _))| Some((at, spec.key.vip()?)));
    vips.find(|(_, vip)| pool.addrs.contains(vip))
}

fn setting(name: &str, error: &DirectorError) -> FieldError {
    let reason = match error {
        DirectorError::Invalid { field: "setting", .. } => {
            field::unknown("setting", name, SETTINGS)
        }
        DirectorError::Invalid { reason, .. } => reason.clone(),
        other => other.to_string(),
    };
    FieldError::new(format!("settings.{name}"), reason)
}

fn mark_rule(at: usize, error: &DirectorError) -> FieldError {
    match error {
        DirectorError::Invalid { field, reason } => {
            FieldError::new(format!("mark[{at}].{field}"), reason.clone())
        }
        other => FieldError::new(format!("mark[{at}]"), other.to_string()),
    }
}

fn service(desired: &Desired, error: &ApplyError) -> FieldError {
    let (spec, _) = &desired.services[error.service];
    let at = match error.real {
        None => format!("service[{}]", error.service),
        Some(real) => format!("service[{}].real[{real}]", error.service),
    };
    match &error.error {
        DirectorError::NoSuchScheduler => {
            let reason =
                field::unknown("scheduler", &spec.scheduler, Scheduler::NAMES.iter().copied());
            FieldError::new(format!("{at}.scheduler"), reason)
        }
        DirectorError::Invalid { field, reason } => {
            FieldError::new(format!("{at}.{}", name(field)), reason)
        }
        other => FieldError::new(at, other.to_string()),
    }
}

/// The file's name of what the director calls `field`.
fn name(field: &str) -> &str {
    match field {
        "addr" => "address",
        "persistence" => "persistence_seconds",
        "engine" => "persistence_engine",
        "upper" => "upper_threshold",
        "lower" => "lower_threshold",
        other => other,
    }
}
