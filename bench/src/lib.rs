//! What `xvs-bench` shares with the end-to-end tests.

pub mod lab;
