//! Health checks: real servers are probed, and what is found decides how much of their weight the
//! schedulers see.
//!
//! Three layers. [`policy`]: what is asked for. [`board`], with [`group`] and [`member`]: what is known and
//! what follows from it; pure, so that a simulation with a manual clock runs it. `runner` and `probe`:
//! a thread of its own that does what the board says. What follows reaches the director as a
//! [`Share`](dataplane::director::spec::Share), never as a change of what is asked for, so that neither
//! a listing to be restored, nor the journal, nor an apply ever loses or undoes anything by a check.

pub mod board;
pub mod group;
pub mod member;
pub mod policy;
pub mod probe;
pub mod runner;
pub mod through;
