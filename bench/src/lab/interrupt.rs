//! Ctrl-C ends a laboratory in order: what waits looks here, gives up, and everything is dropped.

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use anyhow::{Context as _, bail};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Takes SIGINT, SIGTERM and SIGHUP from now on. A second one ends the process at once.
///
/// # Errors
///
/// The kernel does not let a handler be set.
pub fn watch() -> anyhow::Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let second = flag::register_conditional_shutdown(signal, 130, Arc::clone(&INTERRUPTED));
        second.and_then(|_| flag::register(signal, Arc::clone(&INTERRUPTED))).context("signals")?;
    }
    Ok(())
}

/// Whether a signal has come.
pub fn came() -> bool {
    INTERRUPTED.load(Relaxed)
}

/// # Errors
///
/// A signal has come.
pub fn check() -> anyhow::Result<()> {
    if came() {
        bail!("interrupted");
    }
    Ok(())
}
