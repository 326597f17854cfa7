//! Steering: which packets leave the kernel for a worker.
//!
//! [`rules`] is what should be taken, as plain data. With feature `xsk` a program of our own
//! (`steer.c`) takes just that: attached to an interface's XDP hook it hands packets to the
//! workers' AF_XDP sockets; attached behind the packet taps it keeps the host's stack from seeing
//! what a raw socket already took. Both hang on links that the kernel removes with the process,
//! however it ends.

pub mod rules;

#[cfg(any(test, feature = "xsk"))]
mod ranges;
#[cfg(any(test, feature = "xsk"))]
mod tables;

#[cfg(feature = "xsk")]
mod attach;
#[cfg(feature = "xsk")]
mod program;

#[cfg(feature = "xsk")]
pub use attach::{AttachMode, Attachment, Mode, ShieldHook};
#[cfg(feature = "xsk")]
pub use program::{Limits, MAX_INTERFACES, MAX_QUEUES, Steering, SteeringCounters, SteeringError};

#[cfg(feature = "xsk")]
#[cfg(test)]
mod decisions;
