//! Steering: which packets leave the kernel for a worker.
//!
//! [`rules`] is what should be taken, as plain data. With feature `xsk` a program of our own
//! (`steer.c`) takes just that: attached to an interface's XDP hook it hands packets to the
//! workers' AF_XDP sockets; attached behind the packet taps it keeps the host's stack from seeing
//! what a raw socket already took. Both hang on links that the kernel removes with the process,
//! however it ends.

pub mod rules;
