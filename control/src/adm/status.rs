//! From gRPC status back to what the director said.

use dataplane::{
    director::spec::DirectorError,
    ipvsadm::{Failure, Refusal},
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Fields whose faults ipvsadm has texts of its own for.
const FIELDS: [&str; 3] = ["lower", "upper", "addr"];

/// Exit status of what a daemon refuses: ipvsadm's -1.
const REFUSED: u8 = 255;

/// What a daemon's refusal means. The message is the daemon's own where the director has no word
/// for it.
pub(super) fn failure(status: &Status) -> Failure {
    let info = status.get_details_error_info();
    let reason = info.as_ref().map_or("", |info| info.reason.as_str());
    let message = || status.message().to_owned();
    Failure::Refused(match reason {
        "SERVICE_EXISTS" => DirectorError::ServiceExists,
        "NO_SUCH_SERVICE" => DirectorError::NoSuchService,
        "REAL_EXISTS" => DirectorError::RealExists,
        "NO_SUCH_REAL" => DirectorError::NoSuchReal,
        "NO_SUCH_MARK_RULE" => DirectorError::NoSuchMarkRule,
        "NO_SUCH_SCHEDULER" => DirectorError::NoSuchScheduler,
        "INVALID" => {
            let named = info.as_ref().and_then(|info| info.metadata.get("field"));
            let known = FIELDS.into_iter().find(|field| named.is_some_and(|named| named == field));
            match known {
                Some(field) => DirectorError::Invalid { field, reason: message() },
                None => return other(message(), REFUSED),
            }
        }
        _ => return other(message(), if status.code() == Code::Unavailable { 1 } else { REFUSED }),
    })
}

/// A failure that only has words.
pub(super) fn other(message: String, exit: u8) -> Failure {
    Failure::Other(Refusal { message, exit })
}
