//! The control plane of xvs: what should be, and making it so.
//!
//! `xvsd` owns the desired state, compiles it into snapshots for the workers and answers gRPC;
//! `xvsadm` speaks `ipvsadm`'s language to it. Both are built from this library.

pub mod access;
pub mod adm;
pub mod arguments;
pub mod config;
pub mod convert;
pub mod cpus;
pub mod daemon;
pub mod decode;
pub mod devices;
pub mod engine;
pub mod estimator;
pub mod field;
pub mod health;
pub mod journal;
mod listeners;
pub mod nexthop;
mod pcapng;
pub mod proto;
pub mod rpc;
pub mod rules;
pub mod server;
pub mod supervisor;
pub mod web;
pub mod words;
