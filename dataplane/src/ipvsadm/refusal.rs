//! What ipvsadm prints when the kernel refuses a command, for what the director refuses.

use super::command::{Command, DaemonRole, Listed};
use crate::director::spec::DirectorError;

/// A message and an exit status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The message, without the line's end.
    pub message: String,
    /// The exit status.
    pub exit: u8,
}

/// What to print when `command` was refused with `error`.
///
/// Where ipvsadm has only the kernel's error number, its text is kept for what the kernel would
/// refuse too; what only xvs refuses says what is wrong.
pub fn refusal(command: &Command, error: &DirectorError) -> Refusal {
    let of_real = matches!(
        command,
        Command::AddReal { .. } | Command::EditReal { .. } | Command::DeleteReal { .. }
    );
    let message = match error {
        DirectorError::NoSuchService if of_real => "Service not defined".into(),
        // The kernel's ERANGE and EINVAL.
        DirectorError::Invalid { field, .. } if field.contains("lower") => {
            "Numerical result out of range".into()
        }
        DirectorError::Invalid { field, .. } if of_real && field.contains("addr") => {
            "Invalid operation.  Possibly wrong module version, address not unicast, ...".into()
        }
        error => error.to_string(),
    };
    let listing = matches!(command, Command::List(options)
        if matches!(options.listed, Listed::Service(_) | Listed::Services));
    Refusal { message, exit: if listing { 1 } else { 255 } }
}

impl Refusal {
    /// The answer to `--start-daemon`, which xvs does not have.
    pub fn start_daemon(role: DaemonRole) -> Self {
        let role = match role {
            DaemonRole::Master => "master",
            DaemonRole::Backup => "backup",
        };
        let message = format!("xvs has no {role} sync daemon: flows are not synchronised");
        Self { message, exit: 255 }
    }

    /// The answer to `--stop-daemon`: none ever runs.
    pub fn stop_daemon() -> Self {
        Self { message: "No daemon is running".into(), exit: 255 }
    }
}
