//! From errors to gRPC status: the only place where one is made.
//!
//! The message is the error's own text, which for IPVS's refusals is IPVS's own. Details carry a
//! `google.rpc.ErrorInfo` with a reason for programs, and for a fault in a field a
//! `google.rpc.BadRequest` with its path in the request.

use std::collections::HashMap;

use dataplane::director::spec::DirectorError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    access::{Caller, Role},
    engine::{EngineError, apply::ApplyRefused},
    field::FieldError,
};

/// Who says so, in `ErrorInfo`.
pub const DOMAIN: &str = "xvs";

/// Key in the metadata of `ErrorInfo`: the director's own name of the field at fault.
pub const FIELD: &str = "field";

/// Octets of a text at most: it quotes the request, and clients take 16 KiB of heads.
const TEXT_MAX: usize = 1024;

/// A text, cut off if it is too long.
fn short(text: &str) -> String {
    if text.len() <= TEXT_MAX {
        return text.to_owned();
    }
    let end = (0..=TEXT_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}...", &text[..end])
}

/// A field of the request is malformed; `error` has its path.
pub(super) fn malformed(error: &FieldError) -> Status {
    let mut details = ErrorDetails::with_bad_request_violation(&error.path, short(&error.reason));
    details.set_error_info("INVALID", DOMAIN, HashMap::new());
    Status::with_error_details(Code::InvalidArgument, short(&error.to_string()), details)
}

/// A change was refused. `path` finds the field of the request that the director calls so.
pub(super) fn refused(error: &EngineError, path: impl Fn(&str) -> String) -> Status {
    match error {
        EngineError::Director(error) => director(error, &error.to_string(), path),
        EngineError::Apply(ApplyRefused::Service(apply)) => {
            let whole = apply.error.to_string();
            director(&apply.error, &whole, |field| apply_path(apply.service, apply.real, field))
        }
        EngineError::Apply(ApplyRefused::Setting { at, name, error }) => {
            let field = if matches!(error, DirectorError::Invalid { field: "setting", .. }) {
                "name"
            } else {
                "value"
            };
            let path = format!("settings[{at}].{field}");
            director(error, &format!("{name}: {error}"), |_| path.clone())
        }
        EngineError::Apply(ApplyRefused::MarkRule { at, error }) => {
            director(error, &error.to_string(), |field| {
                format!("mark_rules.rules[{at}].selector.{field}")
            })
        }
        EngineError::Apply(ApplyRefused::Locals(error)) => {
            director(error, &error.to_string(), |field| format!("local_pool.{field}"))
        }
        EngineError::Apply(ApplyRefused::Policy { at, error }) => {
            malformed(&error.clone().within(format_args!("services[{at}]")))
        }
        EngineError::Policy(error) => malformed(&error.clone().within("policy")),
        EngineError::Generation { present, .. } => {
            let metadata = HashMap::from([("generation".to_owned(), present.to_string())]);
            let details = ErrorDetails::with_error_info("GENERATION_MISMATCH", DOMAIN, metadata);
            Status::with_error_details(Code::Aborted, error.to_string(), details)
        }
        EngineError::WorkersLate { .. } => plain(Code::DeadlineExceeded, "WORKERS_LATE", error),
        EngineError::Journal(_) => plain(Code::DataLoss, "JOURNAL", error),
        EngineError::TooManyCaptures => plain(Code::ResourceExhausted, "CAPTURES", error),
        EngineError::NoSuchDrain => plain(Code::NotFound, "NO_SUCH_DRAIN", error),
        EngineError::Stopping => plain(Code::Unavailable, "STOPPING", error),
    }
}

/// The caller's role does not suffice.
pub(crate) fn not_allowed(path: &str, needed: Role, caller: &Caller) -> Status {
    let method = path.rsplit('/').next().unwrap_or_default();
    let message = format!("{method} needs the role {}, which {caller} has not", needed.name());
    let metadata = HashMap::from([("role".to_owned(), needed.name().to_owned())]);
    let details = ErrorDetails::with_error_info("ROLE_NEEDED", DOMAIN, metadata);
    Status::with_error_details(Code::PermissionDenied, message, details)
}

/// The request did not come whole, or is too long.
pub(crate) fn unreadable(error: &dyn std::error::Error) -> Status {
    let details = ErrorDetails::with_error_info("UNREADABLE", DOMAIN, HashMap::new());
    Status::with_error_details(Code::ResourceExhausted, format!("the request: {error}"), details)
}

/// There is no room for another request at the moment.
pub(crate) fn too_much() -> Status {
    let details = ErrorDetails::with_error_info("TOO_MUCH", DOMAIN, HashMap::new());
    let message = "too much is asked at a time; try again";
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

fn plain(code: Code, reason: &str, error: &EngineError) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(code, error.to_string(), details)
}

/// A refusal of the director: its code, its reason, and the field if one is at fault.
fn director(error: &DirectorError, message: &str, path: impl Fn(&str) -> String) -> Status {
    let (code, reason, field) = match error {
        DirectorError::ServiceExists => (Code::AlreadyExists, "SERVICE_EXISTS", None),
        DirectorError::NoSuchService => (Code::NotFound, "NO_SUCH_SERVICE", None),
        DirectorError::RealExists => (Code::AlreadyExists, "REAL_EXISTS", None),
        DirectorError::NoSuchReal => (Code::NotFound, "NO_SUCH_REAL", None),
        DirectorError::NoSuchMarkRule => (Code::NotFound, "NO_SUCH_MARK_RULE", None),
        DirectorError::NoSuchScheduler => {
            let field = ("scheduler", error.to_string());
            (Code::InvalidArgument, "NO_SUCH_SCHEDULER", Some(field))
        }
        DirectorError::Invalid { field, reason } => {
            (Code::InvalidArgument, "INVALID", Some((*field, reason.clone())))
        }
        DirectorError::Full { .. } => (Code::ResourceExhausted, "FULL", None),
    };
    let mut details = ErrorDetails::new();
    let mut metadata = HashMap::new();
    if let Some((field, why)) = field {
        details.add_bad_request_violation(path(field), short(&why));
        metadata.insert(FIELD.to_owned(), field.to_owned());
    }
    details.set_error_info(reason, DOMAIN, metadata);
    Status::with_error_details(code, short(message), details)
}

/// Path in an `ApplyRequest`.
fn apply_path(service: usize, real: Option<usize>, field: &str) -> String {
    match real {
        None => format!("services[{service}].service.{}", service_field(field)),
        Some(real) => {
            format!("services[{service}].real_servers[{real}].{}", real_server_field(field))
        }
    }
}

/// The path in a `Service` of what the director calls `field`.
pub(super) fn service_field(field: &str) -> &str {
    match field {
        "protocol" => "key.address.protocol",
        "addr" => "key.address.address",
        "port" => "key.address.port",
        "mark" => "key.mark.mark",
        "persistence" => "persistence_seconds",
        "engine" => "persistence_engine",
        "flags" => "scheduler_flags",
        other => other,
    }
}

/// The path in a `RealServer` of what the director calls `field`.
pub(super) fn real_server_field(field: &str) -> &str {
    match field {
        "addr" => "address",
        "upper" => "upper_threshold",
        "lower" => "lower_threshold",
        other => other,
    }
}
