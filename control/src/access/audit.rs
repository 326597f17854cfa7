//! The audit log: one line of JSON for each request that would change something, whatever came of it.
//!
//! Written when the answer is known, to the daemon's log and, if there is one, appended to a file of its
//! own. If the file cannot be written, the daemon's log says so, and has the line.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Mutex,
    time::SystemTime,
};

use serde_json::{Value, json};

use super::Caller;

/// Octets of a request that are recorded; what is beyond is only counted.
const REQUEST_MAX: usize = 16 << 10;

/// Where it is written.
#[derive(Debug, Default)]
pub struct Audit {
    file: Option<(PathBuf, Mutex<Option<File>>)>,
}

/// One request.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) caller: &'a Caller,
    /// Its path, as `/xvs.v1.LoadBalancerService/CreateService`.
    pub(super) method: &'a str,
    pub(super) request: &'a Value,
    /// What came of it: `ok`, or the status' name.
    pub(super) outcome: &'a str,
    /// Why it was refused; empty if it was not.
    pub(super) message: &'a str,
}

impl Audit {
    /// Appends to a file.
    ///
    /// # Errors
    ///
    /// It cannot be opened.
    pub fn to_file(path: &Path) -> io::Result<Self> {
        Ok(Self { file: Some((path.to_owned(), Mutex::new(Some(open(path)?)))) })
    }

    /// Opens the file anew.
    pub(super) fn reopen(&self) {
        let Some((path, file)) = &self.file else { return };
        let opened = open(path);
        if let Err(error) = &opened {
            tracing::error!("audit log {}: {error}", path.display());
        }
        *file.lock().expect("nobody panics with it") = opened.ok();
    }

    pub(super) fn record(&self, record: &Record<'_>) {
        let time = prost_types::Timestamp::from(SystemTime::now()).to_string();
        let line = json!({
            "time": time,
            "caller": record.caller.to_string(),
            "method": record.method.trim_start_matches('/'),
            "outcome": record.outcome,
            "message": record.message,
            "request": shortened(record.request),
        });
        tracing::info!(target: "audit", "{line}");
        if let Some((path, file)) = &self.file {
            let mut file = file.lock().expect("nobody panics with it");
            let written = match file.as_mut() {
                Some(file) => file.write_all(format!("{line}\n").as_bytes()),
                None => Err(io::ErrorKind::NotFound.into()),
            };
            if let Err(error) = written {
                tracing::error!("audit log {}: {error}", path.display());
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

/// A request, or how long it is if that is too much.
fn shortened(request: &Value) -> Value {
    let octets = request.to_string().len();
    if octets > REQUEST_MAX { json!({ "octets": octets }) } else { request.clone() }
}
