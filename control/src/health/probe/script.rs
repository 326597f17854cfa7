//! A program ends with 0. It is started directly, without a shell, in a process group of its own that
//! is killed when its time is over. It runs as the daemon's user, without its capabilities.
//!
//! It learns what it is about from its environment: `XVS_PROTOCOL`, `XVS_VIP`, `XVS_VPORT`, `XVS_REAL`,
//! `XVS_RPORT`. The first line it prints is shown.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
    sync::Semaphore,
};

use super::{Found, Good, connect::words};
use crate::{health::board::Probe, words::protocol_name};
use dataplane::director::spec::ServiceKey;

/// Octets of what it prints that are read.
const PRINTED_MAX: u64 = 256;

pub(super) async fn run(probe: &Probe, command: &[String], places: &Semaphore) -> Found {
    let Some((program, arguments)) = command.split_first() else {
        return Err("names no program".to_owned());
    };
    let _place = places.acquire().await.map_err(|error| error.to_string())?;
    let child = Command::new(program)
        .args(arguments)
        .envs(environment(probe))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{program}: {}", words(&error)))?;
    let mut running = Running::new(child);
    let mut printed = Vec::new();
    if let Some(output) = running.child.stdout.take() {
        // What is not read is not waited for either: closing it ends a program that prints on.
        output.take(PRINTED_MAX).read_to_end(&mut printed).await.ok();
    }
    let ended = running.child.wait().await.map_err(|error| words(&error))?;
    running.group = None;
    let printed = String::from_utf8_lossy(&printed);
    let line = printed.lines().next().unwrap_or_default().trim();
    if ended.success() {
        return Ok(Good::new(if line.is_empty() { "ended with 0" } else { line }));
    }
    let colon = if line.is_empty() { "" } else { ": " };
    match ended.code() {
        Some(code) => Err(format!("ended with {code}{colon}{line}")),
        None => Err(format!("was killed{colon}{line}")),
    }
}

fn environment(probe: &Probe) -> Vec<(&'static str, String)> {
    let (protocol, vip, port) = match probe.key {
        ServiceKey::Address { protocol, addr, port } => {
            (protocol_name(protocol).to_owned(), addr.to_string(), port)
        }
        ServiceKey::Mark { mark, .. } => ("mark".to_owned(), mark.to_string(), 0),
    };
    vec![
        ("XVS_PROTOCOL", protocol),
        ("XVS_VIP", vip),
        ("XVS_VPORT", port.to_string()),
        ("XVS_REAL", probe.real.addr.to_string()),
        ("XVS_RPORT", probe.real.port.to_string()),
    ]
}

/// A program that runs; dropped early, all of its group is killed.
struct Running {
    child: Child,
    group: Option<Pid>,
}

impl Running {
    fn new(child: Child) -> Self {
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Self { child, group }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // It may have ended just now.
            kill_process_group(group, Signal::KILL).ok();
        }
    }
}
