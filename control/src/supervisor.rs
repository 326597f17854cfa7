//! What systemd is told: that the daemon is ready, reads its configuration again, stops.
//!
//! Nothing happens where nobody listens: outside a unit of `Type=notify` there is no socket.
//! Source: sd_notify(3).

use sd_notify::NotifyState;

/// The daemon forwards by its first configuration.
pub fn ready(services: usize, workers: usize) {
    tell(&[NotifyState::Ready, NotifyState::Status(&status(services, workers))]);
}

/// The configuration is read again.
pub fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// The daemon ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn status(services: usize, workers: usize) -> String {
    let plural = |count| if count == 1 { "" } else { "s" };
    format!("{services} service{}, {workers} worker{}", plural(services), plural(workers))
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("systemd cannot be told: {error}");
    }
}
